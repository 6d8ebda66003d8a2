"""The bucket, read without the service's code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioboto3

from model_registry.settings import Settings


class Bucket:
    def __init__(self, client: Any, name: str) -> None:
        self.client = client
        self.name = name

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: Settings) -> AsyncIterator["Bucket"]:
        assert settings.s3_secret_access_key is not None
        session = aioboto3.Session(
            aws_access_key_id=settings.s3_access_key_id,
            aws_secret_access_key=settings.s3_secret_access_key.get_secret_value(),
            region_name=settings.s3_region,
        )
        async with session.client("s3", endpoint_url=settings.s3_endpoint_url) as client:
            yield cls(client, settings.s3_bucket)

    async def keys(self) -> set[str]:
        found: set[str] = set()
        async for page in self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name):
            found |= {item["Key"] for item in page.get("Contents", ())}
        return found

    async def unfinished(self) -> list[dict[str, Any]]:
        """Return the multipart uploads that were neither completed nor aborted."""
        answer = await self.client.list_multipart_uploads(Bucket=self.name)
        uploads: list[dict[str, Any]] = answer.get("Uploads", [])
        return uploads

    async def read(self, key: str) -> bytes:
        answer = await self.client.get_object(Bucket=self.name, Key=key)
        content: bytes = await answer["Body"].read()
        return content

    async def write(self, key: str, content: bytes) -> None:
        await self.client.put_object(Bucket=self.name, Key=key, Body=content)

    async def empty(self) -> None:
        for key in await self.keys():
            await self.client.delete_object(Bucket=self.name, Key=key)
        for upload in await self.unfinished():
            await self.client.abort_multipart_upload(Bucket=self.name, Key=upload["Key"], UploadId=upload["UploadId"])
