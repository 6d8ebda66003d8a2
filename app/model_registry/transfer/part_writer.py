"""Writing one object in parts, with a few of them on their way to the store at the same time."""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Awaitable, Callable

from model_registry.domain.entities import Digest, StoredBlob
from model_registry.errors import RegistryError, Unavailable, UploadTooLarge
from model_registry.object_store.blob_store import MAX_PARTS, BlobStore, PartsRefused
from model_registry.runtime.failpoints import failpoint
from model_registry.transfer.part_buffers import PARTS_IN_FLIGHT, SLOT_BYTES, Part, PartBuffers


async def store_in_parts(
    beginning: bytearray,
    rest: AsyncIterable[bytes],
    *,
    key: str,
    blobs: BlobStore,
    buffers: PartBuffers,
    at_most_bytes: int | None,
    limit_bytes: int,
    began_multipart: Callable[[str], Awaitable[None]],
) -> StoredBlob:
    """Write a stream to one object, hashing it on the way.

    A stream that fits into one part is a single PUT. Otherwise it is a multipart upload with a few parts in flight.

    Parameters
    ----------
    at_most_bytes
        An upper bound of the length, or `None`; see `PartBuffers.slots_for`.
    limit_bytes
        Reading stops with `UploadTooLarge` beyond this.
    began_multipart
        Called with the store's id of the upload before the first part is sent.
    """
    slots = buffers.slots_for(at_most_bytes)
    try:
        async with asyncio.TaskGroup() as tasks:
            writer = _PartWriter(key, blobs, buffers, slots, limit_bytes, began_multipart, tasks)
            try:
                await writer.write(beginning)
                async for chunk in rest:
                    await writer.write(chunk)
                return await writer.finish()
            finally:
                writer.release()
    except BaseExceptionGroup as group:
        error = _cause(group)
        raise error from error.__cause__


class _PartWriter:
    """Fills parts in order, and sends and hashes the full ones in the background.

    It owns the part that is being filled; a part that is sent goes back to the pool when the store has it.
    """

    def __init__(
        self,
        key: str,
        blobs: BlobStore,
        buffers: PartBuffers,
        slots: int,
        limit_bytes: int,
        began_multipart: Callable[[str], Awaitable[None]],
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._key = key
        self._blobs = blobs
        self._buffers = buffers
        self._slots = slots
        self._limit_bytes = min(limit_bytes, MAX_PARTS * slots * SLOT_BYTES)
        self._began_multipart = began_multipart
        self._tasks = tasks
        self._size_bytes = 0
        self._part = Part([])
        self._multipart_id: str | None = None
        self._etags: list[asyncio.Task[str]] = []
        self._in_flight = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._digest = hashlib.sha256()
        self._hashed: asyncio.Task[None] | None = None

    async def write(self, data: bytes | bytearray) -> None:
        """Take bytes in. Waits for a buffer, and while too many parts are in flight."""
        self._size_bytes += len(data)
        if self._size_bytes > self._limit_bytes:
            raise UploadTooLarge(self._limit_bytes)
        rest = memoryview(data)
        while rest:
            if self._part.is_full:
                if full := self._taken():
                    await self._send(full)
                self._part = await self._buffers.take(self._slots)
            rest = rest[self._part.fill(rest) :]

    async def finish(self) -> StoredBlob:
        """Send the last part and make the object whole."""
        if self._multipart_id is None:
            await self._hash(self._part, after=None)
            await self._blobs.put(self._key, self._part)
            failpoint("u-put")
        else:
            await self._send(self._taken())
            etags = [await etag for etag in self._etags]
            try:
                await self._blobs.complete_multipart(self._key, self._multipart_id, etags, self._size_bytes)
            except PartsRefused as error:
                # We sent every part, with the etags that the store gave. It has lost some.
                raise Unavailable("The object store") from error
            failpoint("u-mpu-complete")
        return StoredBlob(Digest(self._digest.digest()), self._size_bytes, self._key)

    def release(self) -> None:
        """Give the part that is being filled back to the pool."""
        self._buffers.release(self._taken())

    def _taken(self) -> Part:
        part, self._part = self._part, Part([])
        return part

    async def _send(self, part: Part) -> None:
        try:
            if self._multipart_id is None:
                self._multipart_id = await self._blobs.create_multipart(self._key)
                failpoint("u-mpu-created")
                await self._began_multipart(self._multipart_id)
            await self._in_flight.acquire()
        except BaseException:
            self._buffers.release(part)
            raise
        self._hashed = self._tasks.create_task(self._hash(part, after=self._hashed))
        number = len(self._etags) + 1
        transfer = self._tasks.create_task(self._transfer(self._multipart_id, number, part, self._hashed))
        # Not in a `finally` of the task: a task that is cancelled before it starts never runs one.
        transfer.add_done_callback(lambda _task: self._is_done_with(part))
        self._etags.append(transfer)

    async def _transfer(self, multipart_id: str, number: int, part: Part, hashed: asyncio.Task[None]) -> str:
        etag = await self._blobs.put_part(self._key, multipart_id, number, part)
        failpoint("u-part")
        await hashed
        return etag

    def _is_done_with(self, part: Part) -> None:
        self._buffers.release(part)
        self._in_flight.release()

    async def _hash(self, part: Part, *, after: asyncio.Task[None] | None) -> None:
        """Hash a part in a thread, after the part before it."""
        if after is not None:
            await after
        for piece in part.pieces:
            await asyncio.to_thread(self._digest.update, piece)


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that tells what happened: one of ours, if there is one."""
    leaves = [_cause(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RegistryError)), leaves[0])
