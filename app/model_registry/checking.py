"""Reading stored bytes back, to know what they are."""

import asyncio
import hashlib

import structlog

from model_registry.domain import Digest
from model_registry.errors import Unavailable
from model_registry.storage.blobstore import BlobDamaged, BlobMissing, BlobStore

log = structlog.get_logger(__name__)

_READS_AT_ONCE = 4
_TRIES = 4


class Checker:
    """Takes the sha256 of objects in the store, a few at a time, in memory that does not grow with them."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._turn = asyncio.Semaphore(_READS_AT_ONCE)

    async def digest(self, key: str, size_bytes: int) -> Digest | None:
        """The digest of `size_bytes` bytes at `key`; `None` when there are none, or not so many.

        A transfer that breaks goes on where it broke, a few times. Raises `Unavailable` when the store is away.
        """
        async with self._turn:
            digest = hashlib.sha256()
            position = 0
            for attempt in range(1, _TRIES + 1):
                try:
                    while position < size_bytes:
                        async with self._blobs.read(key, position, size_bytes) as chunks:
                            async for chunk in chunks:
                                await asyncio.to_thread(digest.update, chunk)
                                position += len(chunk)
                    return Digest(digest.digest())
                except (BlobMissing, BlobDamaged):
                    return None
                except Unavailable:
                    if attempt == _TRIES:
                        raise
                    log.warning("check.goes_on", key=key, position=position, attempt=attempt)
            raise AssertionError("unreachable")
