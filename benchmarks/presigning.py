"""How long a thousand download URLs take: the S3 library's own signer against ours, in turns.

Run it from the repository: `python benchmarks/presigning.py`. Nothing is connected to.
"""

import asyncio
import statistics
import sys
import time
from uuid import uuid4

import aioboto3
from aiobotocore.config import AioConfig

from model_registry.storage.blobstore import storage_key
from model_registry.storage.s3 import S3BlobStore, S3Options

ROUNDS = 15
URLS = 1_000
DISPOSITION = 'attachment; filename="model.safetensors"'
ENDPOINT_URL, KEY_ID, NO_SECRET = "http://storage.example:9000", "AKIDEXAMPLE", "not one"


async def measure() -> tuple[list[float], list[float]]:
    """Seconds for each round, the library's and ours."""
    keys = [storage_key(uuid4()) for _ in range(URLS)]
    options = S3Options("models", ENDPOINT_URL, access_key_id=KEY_ID, secret_access_key=NO_SECRET)
    session = aioboto3.Session(aws_access_key_id=KEY_ID, aws_secret_access_key=NO_SECRET, region_name=options.region)
    config = AioConfig(signature_version="s3v4", s3={"addressing_style": "path"})
    library, ours = [], []
    async with S3BlobStore(options) as store, session.client("s3", endpoint_url=ENDPOINT_URL, config=config) as client:
        for _ in range(ROUNDS):
            started = time.perf_counter()
            for key in keys:
                await client.generate_presigned_url(
                    "get_object",
                    Params={
                        "Bucket": options.bucket,
                        "Key": key,
                        "ResponseContentType": "application/octet-stream",
                        "ResponseContentDisposition": DISPOSITION,
                    },
                    ExpiresIn=900,
                )
            between = time.perf_counter()
            await store.presign_gets([(key, DISPOSITION) for key in keys], expires_in_seconds=900)
            library.append(between - started)
            ours.append(time.perf_counter() - between)
    return library, ours


def main() -> None:
    library, ours = (statistics.median(seconds) for seconds in asyncio.run(measure()))
    sys.stdout.write(
        f"library {URLS / library:9,.0f} URLs a second ({library * 1e3:6.1f} ms for {URLS:,})\n"
        f"ours    {URLS / ours:9,.0f} URLs a second ({ours * 1e3:6.1f} ms for {URLS:,})\n"
        f"ratio   {library / ours:9.1f}\n"
    )


if __name__ == "__main__":
    main()
