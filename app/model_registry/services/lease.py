"""Leases: an unfinished version lives as long as somebody renews it, by the database's clock."""

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

    def __init__(self, database: Database, lease_seconds: float) -> None:
        self._database = database
        self._seconds = lease_seconds
        self._keeper: asyncio.Task[None] | None = None
        self.version_id: int | None = None
        self.upload_ids: list[UUID] = []
        self.is_lost = False

    def keep(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._renew_for_ever())

    def end(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()

    def check(self) -> None:
        """Raise `LeaseLost` once somebody else may have taken over."""
        if self.is_lost:
            raise LeaseLost

    async def while_held(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self.check()
            yield chunk

    async def _renew_for_ever(self) -> None:
        renewed_at = time.monotonic()
        while not self.is_lost:
            await asyncio.sleep(self._seconds / 3)
            try:
                async with self._database.transaction() as tx:
                    if self.version_id is not None and not await tx.versions.renew(self.version_id, self._seconds):
                        self.is_lost = True
                    await tx.uploads.renew(self.upload_ids, self._seconds)
                renewed_at = time.monotonic()
            except Exception as error:
                log.warning("lease.not_renewed", version_id=self.version_id, cause=repr(error))
                # By now somebody else may have it.
                self.is_lost = time.monotonic() - renewed_at > self._seconds
