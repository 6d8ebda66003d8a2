"""Taking bytes in: from a stream, through a bounded pool of buffers, into one object.

Memory does not grow with the file. Buffers are kept and used again, because the page faults of fresh ones cost
more than the hashing.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence

from model_registry.domain.entities import Digest, StoredBlob
from model_registry.errors import RegistryError, Unavailable, UploadTooLarge
from model_registry.object_store.blob_store import MAX_PARTS, BlobStore, PartsRefused
from model_registry.runtime.failpoints import failpoint

SLOT_BYTES = 8 * 1024**2
PARTS_IN_FLIGHT = 4
SMALL_BYTES = 64 * 1024
_SMALL_IN_FLIGHT = 8
_WAIT_SECONDS = 30


class AllBuffersBusy(Unavailable):
    """More uploads are going on than the process has buffers for."""

    slug = "all-buffers-busy"

    def __init__(self) -> None:
        super().__init__(
            "All upload buffers",
            detail="More uploads are going on than this service has buffers for; try again.",
            retry_after_seconds=10,
        )


class Part:
    """Up to so many slots of bytes, filled front to back."""

    def __init__(self, slots: list[bytearray]) -> None:
        self._slots = slots
        self._length = 0

    def fill(self, data: memoryview) -> int:
        """Take as much of `data` as fits into the current slot; returns how much that was."""
        index, offset = divmod(self._length, SLOT_BYTES)
        taken = min(len(data), SLOT_BYTES - offset)
        self._slots[index][offset : offset + taken] = data[:taken]
        self._length += taken
        return taken

    @property
    def is_full(self) -> bool:
        return self._length == len(self._slots) * SLOT_BYTES

    @property
    def pieces(self) -> Sequence[memoryview]:
        return [memoryview(slot)[: max(0, self._length - index * SLOT_BYTES)] for index, slot in enumerate(self._slots)]

    @property
    def slots(self) -> list[bytearray]:
        return self._slots

    def __len__(self) -> int:
        return self._length


class _Small:
    """A whole object that never needed a buffer of the pool."""

    def __init__(self, content: bytearray) -> None:
        self._content = content

    @property
    def pieces(self) -> Sequence[memoryview]:
        return [memoryview(self._content)]

    def __len__(self) -> int:
        return len(self._content)


class PartBuffers:
    """The process's buffers for parts: `slots` of `SLOT_BYTES` each, made when first needed and then kept.

    A part takes all the slots that it needs in one go, first come, first served, so that no two uploads ever wait
    for each other's.
    """

    def __init__(self, slots: int) -> None:
        self._free: list[bytearray] = []
        self._left = slots
        self._queue = asyncio.Lock()
        self._returned = asyncio.Event()
        self.max_slots_per_part = max(1, slots // PARTS_IN_FLIGHT)
        self.small = asyncio.Semaphore(_SMALL_IN_FLIGHT)
        """Of objects that need no buffer, to be stored while their clients go on sending."""

    def slots_for(self, size_bytes: int | None) -> int:
        """How many slots each part of an object takes, all parts alike: `max(8 MiB, size / 10 000)`, rounded up."""
        if size_bytes is None:
            return 1
        return min(self.max_slots_per_part, max(1, -(-size_bytes // (MAX_PARTS * SLOT_BYTES))))

    async def take(self, slots: int) -> Part:
        """An empty part; give it back with `release`. Raises `AllBuffersBusy` after half a minute."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS), self._queue:
                while self._left < slots:
                    self._returned.clear()
                    await self._returned.wait()
                self._left -= slots
        except TimeoutError:
            raise AllBuffersBusy from None
        return Part([self._free.pop() if self._free else bytearray(SLOT_BYTES) for _ in range(slots)])

    def release(self, part: Part) -> None:
        self._free.extend(part.slots)
        self._left += len(part.slots)
        self._returned.set()


async def split_off_small(chunks: AsyncIterable[bytes]) -> tuple[bytes, bool]:
    """The first bytes of a stream, and whether they are all of it: an object that needs no buffer."""
    beginning = bytearray()
    async for chunk in chunks:
        beginning += chunk
        if len(beginning) > SMALL_BYTES:
            return bytes(beginning), False
    return bytes(beginning), True


async def store_stream(
    chunks: AsyncIterable[bytes],
    *,
    key: str,
    blobs: BlobStore,
    buffers: PartBuffers,
    at_most_bytes: int | None,
    limit_bytes: int,
    began_multipart: Callable[[str], Awaitable[None]],
) -> StoredBlob:
    """Write a stream to one object, hashing as it passes.

    What fits into one part is a single PUT, the rest a multipart upload with a few parts in flight; the sha256 is
    taken in a thread meanwhile.

    Parameters
    ----------
    at_most_bytes
        An upper bound of the length, for the size of parts; `None` means unknown, and then 10 000 parts of 8 MiB
        (78 GiB) are the most we can take.
    limit_bytes
        Where `UploadTooLarge` is raised; reading stops there.
    began_multipart
        Called with the store's upload id before the first part is sent, to write it down.
    """
    slots = buffers.slots_for(at_most_bytes)
    limit_bytes = min(limit_bytes, MAX_PARTS * slots * SLOT_BYTES)
    size_bytes = 0
    # A buffer is taken only once there is something to fill it with: clients that begin and then say nothing,
    # however many, keep nobody from uploading.
    beginning = bytearray()
    try:
        async with asyncio.TaskGroup() as tasks:
            sender = _PartSender(key, blobs, buffers, tasks, began_multipart)
            part = Part([])
            try:
                async for chunk in chunks:
                    size_bytes += len(chunk)
                    if size_bytes > limit_bytes:
                        raise UploadTooLarge(limit_bytes)
                    if size_bytes <= SMALL_BYTES:
                        beginning += chunk
                        continue
                    if not part.slots:
                        part = await buffers.take(slots)
                        part.fill(memoryview(beginning))
                    rest = memoryview(chunk)
                    while rest:
                        if part.is_full:
                            full, part = part, Part([])
                            await sender.send(full)
                            part = await buffers.take(slots)
                        rest = rest[part.fill(rest) :]
                if size_bytes <= SMALL_BYTES:
                    digest = Digest(hashlib.sha256(beginning).digest())
                    await blobs.put(key, _Small(beginning))
                    failpoint("u-put")
                else:
                    last, part = part, Part([])
                    digest = await sender.finish(last, size_bytes)
            finally:
                buffers.release(part)
    except BaseExceptionGroup as group:
        error = _cause(group)
        raise error from error.__cause__
    return StoredBlob(digest, size_bytes, key)


class _PartSender:
    """Sends parts and hashes them, in the background and in order; owns the parts that it is given."""

    def __init__(
        self,
        key: str,
        blobs: BlobStore,
        buffers: PartBuffers,
        tasks: asyncio.TaskGroup,
        began_multipart: Callable[[str], Awaitable[None]],
    ) -> None:
        self._key = key
        self._blobs = blobs
        self._buffers = buffers
        self._tasks = tasks
        self._began_multipart = began_multipart
        self._multipart_id: str | None = None
        self._etags: list[asyncio.Task[str]] = []
        self._in_flight = asyncio.Semaphore(PARTS_IN_FLIGHT)
        self._digest = hashlib.sha256()
        self._hashed: asyncio.Task[None] | None = None

    async def send(self, part: Part) -> None:
        """Begin to send a part; waits while enough of them are on their way."""
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
        # Not in a `finally` of the task: one that is cancelled before it began never gets there.
        transfer.add_done_callback(lambda _task: self._is_done_with(part))
        self._etags.append(transfer)

    async def finish(self, part: Part, size_bytes: int) -> Digest:
        """Send the last part and make the object whole."""
        if self._multipart_id is None:
            try:
                await self._hash(part, after=None)
                await self._blobs.put(self._key, part)
                failpoint("u-put")
            finally:
                self._buffers.release(part)
        else:
            await self.send(part)
            etags = [await etag for etag in self._etags]
            try:
                await self._blobs.complete_multipart(self._key, self._multipart_id, etags, size_bytes)
            except PartsRefused as error:
                # We sent them all, with the etags that it gave: it has lost some, or does not know its own.
                raise Unavailable("The object store") from error
            failpoint("u-mpu-complete")
        return Digest(self._digest.digest())

    async def _transfer(self, multipart_id: str, number: int, part: Part, hashed: asyncio.Task[None]) -> str:
        etag = await self._blobs.put_part(self._key, multipart_id, number, part)
        failpoint("u-part")
        await hashed
        return etag

    def _is_done_with(self, part: Part) -> None:
        self._buffers.release(part)
        self._in_flight.release()

    async def _hash(self, part: Part, *, after: asyncio.Task[None] | None) -> None:
        if after is not None:
            await after
        for piece in part.pieces:
            await asyncio.to_thread(self._digest.update, piece)


async def digest_stream(chunks: AsyncIterable[bytes], limit_bytes: int) -> StoredBlob:
    """Only the sha256 and the length of a stream; nothing is kept, so there is no key."""
    digest = hashlib.sha256()
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise UploadTooLarge(limit_bytes)
        digest.update(chunk)
    return StoredBlob(Digest(digest.digest()), size_bytes, "")


def _cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one error that tells what happened: ours before anybody else's."""
    leaves = [_cause(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((leaf for leaf in leaves if isinstance(leaf, RegistryError)), leaves[0])
