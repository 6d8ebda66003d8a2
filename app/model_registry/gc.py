"""The collector: reclaims what failures, crashes and removals leave behind. Any number may run, online.

Every step takes what no other collector holds, changes the database in one short transaction, and touches the
object store only outside of it. A row is always removed before its object, so an object is never missed.
"""

import asyncio
from dataclasses import dataclass

import structlog

from model_registry.access import SYSTEM
from model_registry.errors import Unavailable
from model_registry.storage.blobstore import BlobStore
from model_registry.storage.database import Database
from model_registry.storage.garbage import GarbageItem
from model_registry.unfinished import discard_unfinished, purge

log = structlog.get_logger(__name__)

_BATCH = 200
_CLAIM_SECONDS = 300
_IDEMPOTENCY_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Collected:
    """What one run did."""

    expired_versions: int = 0
    expired_uploads: int = 0
    purged_versions: int = 0
    deleted_objects: int = 0
    forgotten_keys: int = 0

    @property
    def is_nothing(self) -> bool:
        return self == Collected()


class Collector:
    def __init__(self, *, database: Database, blobs: BlobStore, grace_seconds: float) -> None:
        self._database = database
        self._blobs = blobs
        self._grace_seconds = grace_seconds

    async def collect(self) -> Collected:
        """One run over everything that is due. Safe to interrupt anywhere and to repeat.

        A step that fails keeps no other from its work; the first failure is raised at the end.
        """
        steps = {
            "expired_versions": self._expire_versions,
            "expired_uploads": self._expire_uploads,
            "purged_versions": self._purge_versions,
            "deleted_objects": self._delete_garbage,
            "forgotten_keys": self._forget_idempotency_keys,
        }
        counts: dict[str, int] = {}
        failure: Exception | None = None
        for name, step in steps.items():
            try:
                counts[name] = await step()
            except Exception as error:
                failure = failure or error
        collected = Collected(**counts)
        if not collected.is_nothing:
            log.info("gc.collected", **counts)
        if failure is not None:
            raise failure
        return collected

    async def run_for_ever(self, interval_seconds: float) -> None:
        """Collect, wait, and so on; a database or store that is away is tried again at the next turn."""
        while True:
            try:
                await self.collect()
            except Unavailable as error:
                log.warning("gc.skipped", reason=error.detail, cause=repr(error.__cause__))
            except Exception:
                log.exception("gc.failed")
            await asyncio.sleep(interval_seconds)

    async def _expire_versions(self) -> int:
        """Versions whose registration stopped renewing its lease: their labels become free."""
        expired = 0
        while True:
            async with self._database.reading() as tx:
                lapsed = await tx.versions.lapsed(_BATCH)
            for version_id, model_name in lapsed:
                async with self._database.transaction() as tx:
                    await tx.models.lock(model_name)
                    expired += await discard_unfinished(
                        tx, version_id, only_lapsed=True, delay_seconds=self._grace_seconds
                    )
                    await tx.models.drop_if_unused(model_name)
            if len(lapsed) < _BATCH:
                return expired

    async def _expire_uploads(self) -> int:
        expired = 0
        while True:
            async with self._database.transaction() as tx:
                lapsed = await tx.uploads.lapsed_without_version(_BATCH)
                await tx.uploads.give_up(lapsed, delay_seconds=self._grace_seconds)
            expired += len(lapsed)
            if len(lapsed) < _BATCH:
                return expired

    async def _purge_versions(self) -> int:
        """Removed versions past their time: their files go, their rows stay, so that no label is used twice."""
        purged = 0
        while await self._purge_one():
            purged += 1
        return purged

    async def _purge_one(self) -> bool:
        # One to a transaction: blobs are locked in digest order, and a second version would begin that order anew.
        async with self._database.transaction() as tx:
            due = await tx.versions.due_for_purge()
            if due is None:
                return False
            version_id, ref = due
            await purge(tx, version_id, ref, grace_seconds=self._grace_seconds, actor=SYSTEM)
            return True

    async def _delete_garbage(self) -> int:
        deleted = 0
        while True:
            async with self._database.transaction() as tx:
                items = await tx.garbage.claim(_BATCH, _CLAIM_SECONDS)
            if not items:
                return deleted
            keys = [item.storage_key for item in items if await self._has_no_parts(item)]
            refused = await self._blobs.delete(keys)
            if refused:
                # They are tried again, ever more seldom, and keep nobody else waiting.
                log.warning("gc.refused", keys=sorted(refused)[:10], count=len(refused))
            gone = set(keys) - set(refused)
            async with self._database.transaction() as tx:
                await tx.garbage.remove(gone)
            deleted += len(gone)

    async def _has_no_parts(self, item: GarbageItem) -> bool:
        """Abort what an upload left unfinished; `False` where the store would not."""
        if not item.is_upload:
            return True
        try:
            await self._blobs.abort_multipart(item.storage_key, item.multipart_id)
        except Unavailable as error:
            log.warning("gc.refused", keys=[item.storage_key], cause=repr(error.__cause__))
            return False
        return True

    async def _forget_idempotency_keys(self) -> int:
        async with self._database.transaction() as tx:
            return await tx.idempotency.forget_older_than(_IDEMPOTENCY_SECONDS)
