"""Leases: an unfinished version lives as long as a process renews its lease, by the database's clock."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from uuid import UUID

import structlog

from model_registry.database.engine import Database
from model_registry.errors import LeaseLost

log = structlog.get_logger(__name__)


class Lease:
    """Renews the leases of one version and of its uploads, three times in each period, until `end`."""

    def __init__(self, database: Database, lease_seconds: float, version_id: int | None = None) -> None:
        self._database = database
        self._keeper: asyncio.Task[None] | None = None
        self._is_lost = False
        self.seconds = lease_seconds
        self.version_id = version_id
        self.upload_ids: list[UUID] = []

    def keep(self) -> None:
        """Begin to renew, unless this has begun before."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._renew_forever())

    def end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()

    def require_held(self) -> None:
        """Return, or raise `LeaseLost` if another process may have taken over."""
        if self._is_lost:
            raise LeaseLost

    async def while_held(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks, and raise `LeaseLost` before the next one once the lease is lost."""
        async for chunk in chunks:
            self.require_held()
            yield chunk

    async def _renew_forever(self) -> None:
        renewed_at = time.monotonic()
        while not self._is_lost:
            await asyncio.sleep(self.seconds / 3)
            try:
                async with self._database.transaction() as tx:
                    if self.version_id is not None and not await tx.versions.renew(self.version_id, self.seconds):
                        self._is_lost = True
                    await tx.uploads.renew(self.upload_ids, self.seconds)
                renewed_at = time.monotonic()
            except Exception as error:
                log.warning("lease.not_renewed", version_id=self.version_id, cause=repr(error))
                # After a whole period another process may have taken over.
                self._is_lost = time.monotonic() - renewed_at > self.seconds
