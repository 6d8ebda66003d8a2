"""The sha256 of a stream, taken in a thread beside it; in the event loop only what is short."""

import asyncio
import hashlib

from model_registry.domain.entities import Digest

_AT_ONCE_BYTES = 512 * 1024  # the way into a thread costs as much as 128 KiB of hashing
_INLINE_BYTES = 256 * 1024


class StreamDigest:
    """Takes chunks in order; of what is not hashed yet it holds twice `_AT_ONCE_BYTES` and two chunks at most."""

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
        """Of all so far; more may follow."""
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
