"""The way of bytes into the object store: each stream becomes one object.

Memory does not grow with the stream. An object of up to 64 KiB is one PUT from memory of its own; everything else goes
through the process's pool of buffers.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from model_registry.database.engine import Database
from model_registry.domain.entities import Digest, FileEntry, NewUpload, StoredBlob
from model_registry.errors import UploadTooLarge
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.failpoints import failpoint
from model_registry.transfer.lease import Lease
from model_registry.transfer.part_buffers import PartBuffers
from model_registry.transfer.part_writer import store_in_parts
from model_registry.transfer.upload_intents import UploadIntents

SMALL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Stream:
    """A stream of which at least `SMALL_BYTES` have been read, or all of it."""

    beginning: bytearray
    rest: AsyncIterable[bytes]
    limit_bytes: int

    @property
    def is_small(self) -> bool:
        return len(self.beginning) <= SMALL_BYTES


class _SmallBody:
    """A whole object that needs no buffer of the pool."""

    def __init__(self, content: bytearray) -> None:
        self._content = content

    @property
    def pieces(self) -> Sequence[memoryview]:
        return [memoryview(self._content)]

    def __len__(self) -> int:
        return len(self._content)


class ObjectWriter:
    """Writes the objects of one version, while its lease is held.

    Each object has a row in `uploads` before its first byte is sent. A failed write leaves the row, and perhaps an
    object or unfinished parts: give them up with `uploads.give_up`. Call `stop` after `write_behind`.
    """

    def __init__(self, *, database: Database, blobs: BlobStore, buffers: PartBuffers, lease: Lease) -> None:
        self._blobs = blobs
        self._buffers = buffers
        self._lease = lease
        self._in_background: set[asyncio.Task[None]] = set()
        self.uploads = UploadIntents(database, lease)

    async def write(self, path: str, chunks: AsyncIterable[bytes], *, declared: FileEntry) -> StoredBlob:
        """Write a stream of a declared size to one object, and return its digest.

        Raises `UploadTooLarge` as soon as there are more bytes than declared. Fewer bytes, or others, are returned as
        they are: compare them.
        """
        upload = await self.uploads.open(path, declared)
        stream = await self._peek(chunks, declared.size_bytes)
        return await self._store(upload, stream, at_most_bytes=declared.size_bytes)

    async def write_behind(
        self,
        path: str,
        chunks: AsyncIterable[bytes],
        on_stored: Callable[[StoredBlob], None],
        *,
        limit_bytes: int,
        at_most_bytes: int | None,
    ) -> None:
        """Write a stream to one object, and call `on_stored`. A small object can still be on its way on return.

        Up to eight small objects of the process are stored in this way while their clients send more. The next call,
        or `flush`, raises the error if one of them fails.

        Parameters
        ----------
        limit_bytes
            Maximum length. A longer stream raises `UploadTooLarge`.
        at_most_bytes
            An upper bound of the length, which determines the size of parts. `None` means unknown; then 10 000 parts
            of 8 MiB (78 GiB) are the maximum.
        """
        stream = await self._peek(chunks, limit_bytes)
        for ended in [task for task in self._in_background if task.done()]:
            self._in_background.discard(ended)
            ended.result()

        async def store() -> None:
            upload = await self.uploads.open(path)
            on_stored(await self._store(upload, stream, at_most_bytes=at_most_bytes))

        if not stream.is_small or self._buffers.small.locked():
            await store()
            return
        await self._buffers.small.acquire()
        task = asyncio.create_task(store())
        task.add_done_callback(lambda _task: self._buffers.small.release())
        self._in_background.add(task)

    async def flush(self) -> None:
        """Wait until all objects are stored. Raises the first error."""
        await asyncio.gather(*self._in_background)

    async def stop(self) -> None:
        """End the lease and cancel what is still on its way."""
        self._lease.end()
        for task in self._in_background:
            task.cancel()
        await asyncio.gather(*self._in_background, return_exceptions=True)

    async def _peek(self, chunks: AsyncIterable[bytes], limit_bytes: int) -> _Stream:
        """Read until it is known whether the stream is small.

        No buffer is taken before that, so clients that begin and then send nothing keep no other client waiting.
        """
        rest = self._lease.while_held(chunks)
        stream = _Stream(bytearray(), rest, limit_bytes)
        async for chunk in rest:
            stream.beginning.extend(chunk)
            if len(stream.beginning) > limit_bytes:
                raise UploadTooLarge(limit_bytes)
            if not stream.is_small:
                break
        return stream

    async def _store(self, upload: NewUpload, stream: _Stream, *, at_most_bytes: int | None) -> StoredBlob:
        if stream.is_small:
            return await self._store_small(upload, stream.beginning)
        return await store_in_parts(
            stream.beginning,
            stream.rest,
            key=upload.storage_key,
            blobs=self._blobs,
            buffers=self._buffers,
            at_most_bytes=at_most_bytes,
            limit_bytes=stream.limit_bytes,
            began_multipart=partial(self.uploads.began_multipart, upload),
        )

    async def _store_small(self, upload: NewUpload, content: bytearray) -> StoredBlob:
        digest = Digest(hashlib.sha256(content).digest())
        await self._blobs.put(upload.storage_key, _SmallBody(content))
        failpoint("u-put")
        return StoredBlob(digest, len(content), upload.storage_key)
