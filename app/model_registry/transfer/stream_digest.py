"""The sha256 of a stream. Long pieces are hashed in a thread, short ones on the event loop."""

import asyncio
import hashlib
from collections.abc import AsyncIterable

from model_registry.domain.entities import Digest, StoredBlob
from model_registry.errors import UploadTooLarge

_AT_ONCE_BYTES = 512 * 1024  # a switch to a thread costs as much as hashing 128 KiB
_INLINE_BYTES = 256 * 1024


class StreamDigest:
    """Hashes chunks in order. It holds at most twice `_AT_ONCE_BYTES` and two chunks that are not hashed yet."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self._job: asyncio.Future[None] | None = None

    async def update(self, chunk: bytes) -> None:
        self._waiting.append(chunk)
        self._waiting_bytes += len(chunk)
        if self._waiting_bytes >= _AT_ONCE_BYTES:
            await self._begin()

    async def digest(self) -> Digest:
        """The digest of all chunks so far. More can follow."""
        if self._waiting_bytes >= _INLINE_BYTES:
            await self._begin()
        await self._end()
        self._hash(self._taken())
        return Digest(self._digest.digest())

    async def _begin(self) -> None:
        await self._end()
        self._job = asyncio.get_running_loop().run_in_executor(None, self._hash, self._taken())

    async def _end(self) -> None:
        if self._job is not None:
            await self._job
            self._job = None

    def _taken(self) -> list[bytes]:
        taken, self._waiting, self._waiting_bytes = self._waiting, [], 0
        return taken

    def _hash(self, chunks: list[bytes]) -> None:
        for chunk in chunks:
            self._digest.update(chunk)


async def digest_stream(chunks: AsyncIterable[bytes], limit_bytes: int) -> StoredBlob:
    """The sha256 and the length of a stream. Nothing is stored, so the key is empty."""
    digest = hashlib.sha256()
    size_bytes = 0
    async for chunk in chunks:
        size_bytes += len(chunk)
        if size_bytes > limit_bytes:
            raise UploadTooLarge(limit_bytes)
        digest.update(chunk)
    return StoredBlob(Digest(digest.digest()), size_bytes, "")
