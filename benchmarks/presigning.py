"""A thousand download URLs: our signer against the S3 library's own. Neither opens a connection."""

import asyncio
import time
from uuid import uuid4

import aioboto3
from aiobotocore.config import AioConfig

from benchmarks.harness import OURS, Report
from model_registry.object_store.blob_store import storage_key
from model_registry.object_store.s3 import S3BlobStore
from model_registry.object_store.s3_client import S3Options
from model_registry_devstack import StackAddresses

URLS = 1_000
_DISPOSITION = 'attachment; filename="model.safetensors"'
_OPTIONS = S3Options("models", "http://storage.example:9000", access_key_id="AKIDEXAMPLE", secret_access_key="not one")  # noqa: S106
_KEYS = [storage_key(uuid4()) for _ in range(URLS)]


def run(report: Report, _stack: StackAddresses) -> None:
    report.contest(
        "presigning",
        f"{URLS:,} download URLs",
        {OURS: lambda: asyncio.run(_ours()), "botocore": lambda: asyncio.run(_botocore())},
        unit="/s",
        more_is_better=True,
    )


async def _ours() -> float:
    async with S3BlobStore(_OPTIONS) as store:
        began = time.perf_counter()
        urls = await store.presign_gets([(key, _DISPOSITION) for key in _KEYS], expires_in_seconds=900)
        return len(set(urls)) / (time.perf_counter() - began)


async def _botocore() -> float:
    session = aioboto3.Session(_OPTIONS.access_key_id, _OPTIONS.secret_access_key, region_name=_OPTIONS.region)
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    async with session.client("s3", endpoint_url=_OPTIONS.endpoint_url, config=config) as client:
        began = time.perf_counter()
        urls = [
            await client.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": _OPTIONS.bucket,
                    "Key": key,
                    "ResponseContentType": "application/octet-stream",
                    "ResponseContentDisposition": _DISPOSITION,
                },
                ExpiresIn=900,
            )
            for key in _KEYS
        ]
        return len(set(urls)) / (time.perf_counter() - began)
