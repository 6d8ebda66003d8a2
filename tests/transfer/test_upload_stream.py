"""Streams into objects: bounded memory, any size, and every buffer given back."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator

import pytest

from model_registry.errors import Unavailable, UploadTooLarge
from model_registry.object_store.blob_store import Body
from model_registry.object_store.s3 import S3BlobStore
from model_registry.transfer.upload_stream import SLOT_BYTES, PartBuffers, store_stream
from tests.support.bucket import Bucket

MIB = 1024**2


async def chunks_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def ignore(_multipart_id: str) -> None:
    return None


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES - 1, SLOT_BYTES, SLOT_BYTES + 1, 5 * SLOT_BYTES, 5 * SLOT_BYTES + 7])
@pytest.mark.parametrize("slots", [1, 2, 12])
async def test_an_object_is_what_the_stream_was(
    blobs: S3BlobStore, bucket: Bucket, fresh: None, size: int, slots: int
) -> None:
    content = os.urandom(size)
    buffers = PartBuffers(slots)

    blob = await asyncio.wait_for(
        store_stream(
            chunks_of(content, 300_001),
            key="blobs/x",
            blobs=blobs,
            buffers=buffers,
            at_most_bytes=size,
            limit_bytes=2**40,
            began_multipart=ignore,
        ),
        60,
    )

    assert (blob.size_bytes, blob.sha256.raw) == (size, hashlib.sha256(content).digest())
    assert await bucket.read("blobs/x") == content


async def test_uploads_that_wait_for_buffers_all_finish(blobs: S3BlobStore, bucket: Bucket, fresh: None) -> None:
    buffers = PartBuffers(3)
    content = os.urandom(3 * SLOT_BYTES)

    async def one(number: int) -> bytes:
        blob = await store_stream(
            chunks_of(content, MIB),
            key=f"blobs/{number}",
            blobs=blobs,
            buffers=buffers,
            at_most_bytes=None,
            limit_bytes=2**40,
            began_multipart=ignore,
        )
        return blob.sha256.raw

    digests = await asyncio.wait_for(asyncio.gather(*(one(number) for number in range(6))), 60)

    assert set(digests) == {hashlib.sha256(content).digest()}


class _Broken:
    """The real store, until the second part."""

    def __init__(self, blobs: S3BlobStore) -> None:
        self._blobs = blobs

    def __getattr__(self, name: str) -> object:
        return getattr(self._blobs, name)

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        if number == 2:
            raise Unavailable("The object store")
        return await self._blobs.put_part(key, multipart_id, number, body)


async def test_buffers_come_back_after_every_kind_of_failure(blobs: S3BlobStore, fresh: None) -> None:
    buffers = PartBuffers(2)
    content = bytes(6 * SLOT_BYTES)

    async def broken_off() -> AsyncIterator[bytes]:
        yield content[: 2 * SLOT_BYTES]
        raise ConnectionResetError

    async def attempt(chunks: AsyncIterator[bytes], store: object, limit_bytes: int) -> None:
        await store_stream(
            chunks,
            key="blobs/x",
            blobs=store,  # type: ignore[arg-type]
            buffers=buffers,
            at_most_bytes=None,
            limit_bytes=limit_bytes,
            began_multipart=ignore,
        )

    with pytest.raises(UploadTooLarge):
        await attempt(chunks_of(content, MIB), blobs, 3 * SLOT_BYTES)
    with pytest.raises(ConnectionResetError):
        await attempt(broken_off(), blobs, 2**40)
    with pytest.raises(Unavailable):
        await attempt(chunks_of(content, MIB), _Broken(blobs), 2**40)
    cancelled = asyncio.create_task(attempt(chunks_of(content, MIB), blobs, 2**40))
    await asyncio.sleep(0.02)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled

    both = await asyncio.wait_for(asyncio.gather(buffers.take(1), buffers.take(1)), 1)
    assert [len(part) for part in both] == [0, 0]


def test_parts_grow_with_the_file_so_that_ten_thousand_are_enough() -> None:
    buffers = PartBuffers(12)

    assert buffers.slots_for(None) == 1
    assert buffers.slots_for(10_000 * SLOT_BYTES) == 1
    assert buffers.slots_for(10_000 * SLOT_BYTES + 1) == 2
    assert buffers.slots_for(200 * 1024**3) == 3
    assert 10_000 * buffers.slots_for(200 * 1024**3) * SLOT_BYTES >= 200 * 1024**3
