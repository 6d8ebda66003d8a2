"""Streams become objects: in bounded memory, of any size, and every buffer is given back."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.database.engine import Database
from model_registry.db_models import UploadDB
from model_registry.domain.entities import Digest, FileEntry, StoredBlob
from model_registry.errors import Unavailable, UploadTooLarge
from model_registry.object_store.blob_store import Body
from model_registry.object_store.s3 import S3BlobStore
from model_registry.settings import Settings
from model_registry.transfer.lease import Lease
from model_registry.transfer.object_writer import SMALL_BYTES, ObjectWriter
from model_registry.transfer.part_buffers import SLOT_BYTES, PartBuffers
from model_registry.wiring import open_database
from tests.support.bucket import Bucket

MIB = 1024**2


async def chunks_of(content: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.fixture
async def database(settings: Settings) -> AsyncIterator[Database]:
    database = open_database(settings)
    yield database
    await database.close()


@asynccontextmanager
async def a_writer(database: Database, store: object, buffers: PartBuffers) -> AsyncIterator[ObjectWriter]:
    writer = ObjectWriter(
        database=database,
        blobs=store,  # type: ignore[arg-type]
        buffers=buffers,
        lease=Lease(database, 900),
    )
    try:
        yield writer
    finally:
        await writer.stop()


async def written(
    writer: ObjectWriter,
    chunks: AsyncIterator[bytes],
    at_most_bytes: int | None = None,
    *,
    limit_bytes: int = 2**40,
) -> StoredBlob:
    stored: list[StoredBlob] = []
    await writer.write_behind("f", chunks, stored.append, limit_bytes=limit_bytes, at_most_bytes=at_most_bytes)
    await writer.flush()
    [blob] = stored
    return blob


@pytest.mark.parametrize(
    "size",
    [
        0,
        1,
        SMALL_BYTES,
        SMALL_BYTES + 1,
        SLOT_BYTES - 1,
        SLOT_BYTES,
        SLOT_BYTES + 1,
        5 * SLOT_BYTES,
        5 * SLOT_BYTES + 7,
    ],
)
@pytest.mark.parametrize("slots", [1, 2, 12])
async def test_an_object_is_what_the_stream_was(
    database: Database, blobs: S3BlobStore, bucket: Bucket, fresh: None, size: int, slots: int
) -> None:
    content = os.urandom(size)

    async with a_writer(database, blobs, PartBuffers(slots)) as writer:
        blob = await asyncio.wait_for(written(writer, chunks_of(content, 300_001), size), 60)

    assert (blob.size_bytes, blob.sha256.raw) == (size, hashlib.sha256(content).digest())
    assert await bucket.read(blob.storage_key) == content


async def test_an_object_has_a_row_before_its_first_byte_is_sent(
    database: Database, blobs: S3BlobStore, database_session: AsyncSession, fresh: None
) -> None:
    noted: list[str] = []

    class Watched(_Wrapped):
        async def put(self, key: str, body: Body) -> None:
            noted.extend((await database_session.scalars(select(UploadDB.storage_key))).all())
            await self._blobs.put(key, body)

    async with a_writer(database, Watched(blobs), PartBuffers(1)) as writer:
        blob = await written(writer, chunks_of(b"small", 2))

    assert noted == [blob.storage_key]


@pytest.mark.parametrize("size", [10, SMALL_BYTES, 2 * MIB])
async def test_a_stream_that_is_longer_than_declared_is_refused(
    database: Database, blobs: S3BlobStore, bucket: Bucket, fresh: None, size: int
) -> None:
    declared = FileEntry("f", size, Digest(bytes(32)), "application/octet-stream")

    async with a_writer(database, blobs, PartBuffers(1)) as writer:
        with pytest.raises(UploadTooLarge):
            await writer.write("f", chunks_of(bytes(size + 1), 100_000), declared=declared)

    assert await bucket.keys() == set()


async def test_uploads_that_wait_for_buffers_all_finish(database: Database, blobs: S3BlobStore, fresh: None) -> None:
    buffers = PartBuffers(3)
    content = os.urandom(3 * SLOT_BYTES)

    async def one() -> bytes:
        async with a_writer(database, blobs, buffers) as writer:
            return (await written(writer, chunks_of(content, MIB))).sha256.raw

    digests = await asyncio.wait_for(asyncio.gather(*(one() for _ in range(6))), 60)

    assert set(digests) == {hashlib.sha256(content).digest()}


class _Wrapped:
    """The real store, for what a test does not replace."""

    def __init__(self, blobs: S3BlobStore) -> None:
        self._blobs = blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blobs, name)


class _Broken(_Wrapped):
    """The real store, until the second part."""

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        if number == 2:
            raise Unavailable("The object store")
        return await self._blobs.put_part(key, multipart_id, number, body)


class _Reached(_Wrapped):
    """The real store, which says when the first part has reached it."""

    def __init__(self, blobs: S3BlobStore) -> None:
        super().__init__(blobs)
        self.is_reached = asyncio.Event()

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        self.is_reached.set()
        return await self._blobs.put_part(key, multipart_id, number, body)


async def test_buffers_come_back_after_every_kind_of_failure(
    database: Database, blobs: S3BlobStore, fresh: None
) -> None:
    buffers = PartBuffers(2)
    content = bytes(6 * SLOT_BYTES)

    async def broken_off() -> AsyncIterator[bytes]:
        yield content[: 2 * SLOT_BYTES]
        raise ConnectionResetError

    async def attempt(chunks: AsyncIterator[bytes], store: object, limit_bytes: int = 2**40) -> None:
        async with a_writer(database, store, buffers) as writer:
            await written(writer, chunks, limit_bytes=limit_bytes)

    with pytest.raises(UploadTooLarge):
        await attempt(chunks_of(content, MIB), blobs, 3 * SLOT_BYTES)
    with pytest.raises(ConnectionResetError):
        await attempt(broken_off(), blobs)
    with pytest.raises(Unavailable):
        await attempt(chunks_of(content, MIB), _Broken(blobs))
    reached = _Reached(blobs)
    cancelled = asyncio.create_task(attempt(chunks_of(content, MIB), reached))
    await reached.is_reached.wait()
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled

    both = await asyncio.wait_for(asyncio.gather(buffers.take(1), buffers.take(1)), 10)
    assert [len(part) for part in both] == [0, 0]


def test_parts_grow_with_the_file_so_that_ten_thousand_are_enough() -> None:
    buffers = PartBuffers(12)

    assert buffers.slots_for(None) == 1
    assert buffers.slots_for(10_000 * SLOT_BYTES) == 1
    assert buffers.slots_for(10_000 * SLOT_BYTES + 1) == 2
    assert buffers.slots_for(200 * 1024**3) == 3
    assert 10_000 * buffers.slots_for(200 * 1024**3) * SLOT_BYTES >= 200 * 1024**3
