"""Whether the object store can be trusted with bytes that this service does not see."""

import asyncio
from uuid import uuid4

import structlog

from model_registry.database.engine import Database
from model_registry.object_store.blob_store import BlobStore, storage_key

log = structlog.get_logger(__name__)

_PROBE_SECONDS = 60


class ChecksumProbe:
    """Sends one PUT whose bytes do not match its checksum, once in a process."""

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._enforces_checksums: bool | None = None
        self._probing = asyncio.Lock()

    async def store_enforces_checksums(self) -> bool:
        """Return whether the store refuses such a PUT. If it does not, every file is sent through this service."""
        async with self._probing:
            if self._enforces_checksums is None:
                key = storage_key(uuid4())
                await self._database.run(lambda tx: tx.garbage.add([key], delay_seconds=_PROBE_SECONDS))
                self._enforces_checksums = await self._blobs.enforces_checksums(key)
                if self._enforces_checksums:
                    await self._database.run(lambda tx: tx.garbage.remove([key]))
                else:
                    log.warning("store.does_not_check", reason="it stored a body that does not match its checksum")
        return self._enforces_checksums
