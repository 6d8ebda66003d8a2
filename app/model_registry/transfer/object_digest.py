"""The digest of stored objects, to compare them with what they should be."""

import asyncio

import structlog

from model_registry.domain.entities import Digest
from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import BlobDamaged, BlobMissing, BlobStore
from model_registry.transfer.stream_digest import StreamDigest

log = structlog.get_logger(__name__)

_READS_AT_ONCE = 4
_TRIES = 4
_PAUSE_SECONDS = 0.2


class ObjectHasher:
    """Reads objects back and hashes them, a few at a time. Memory does not grow with the objects."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._turn = asyncio.Semaphore(_READS_AT_ONCE)

    async def digest(self, key: str, size_bytes: int) -> Digest | None:
        """The digest of `size_bytes` bytes at `key`; `None` if there is no object, or fewer bytes can be read.

        A transfer that breaks continues where it broke. It is given up after four failures without progress between
        them.
        Raises `Unavailable` if the store cannot be used.
        """
        digest = StreamDigest()
        position = failures = 0
        async with self._turn:
            while position < size_bytes:
                began_at = position
                try:
                    async with self._blobs.read(key, position, size_bytes) as chunks:
                        async for chunk in chunks:
                            await digest.update(chunk)
                            position += len(chunk)
                except BlobMissing:
                    return None
                except (BlobDamaged, Unavailable) as error:
                    failures = failures + 1 if position == began_at else 1
                    log.warning("check.broken_off", key=key, position=position, failures=failures, cause=repr(error))
                    if failures == _TRIES:
                        if isinstance(error, Unavailable):
                            raise
                        return None
                    await asyncio.sleep(_PAUSE_SECONDS * failures)
        return await digest.digest()
