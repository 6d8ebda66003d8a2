"""The collector reclaims what failures, crashes and removals leave behind. Any number can run at once, online.

Each step takes rows that no other collector holds, and changes the database in one short transaction. It calls the
object store outside of that transaction. An object is deleted before its `garbage` row, so no object is missed.
"""

import asyncio
from dataclasses import asdict, dataclass

import structlog

from model_registry.auth.permissions import SYSTEM
from model_registry.database.engine import Database
from model_registry.database.garbage import GarbageItem
from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.failpoints import failpoint
from model_registry.services.version_transitions import discard_unfinished, purge

log = structlog.get_logger(__name__)

_BATCH = 200
_CLAIM_SECONDS = 300
_IDEMPOTENCY_SECONDS = 7 * 24 * 3600


@dataclass(slots=True)
class Collected:
    """What one run did, or would do. `freed_bytes` counts objects of known size, which are all but broken uploads."""

    expired_versions: int = 0
    expired_uploads: int = 0
    purged_versions: int = 0
    deleted_objects: int = 0
    freed_bytes: int = 0
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
        """Do everything that is due, once. You can interrupt it anywhere and repeat it.

        A step that fails does not prevent the others. The first failure is raised at the end.
        """
        collected = Collected()
        failure: Exception | None = None
        for step in (
            self._expire_versions,
            self._expire_uploads,
            self._purge_versions,
            self._delete_garbage,
            self._forget_idempotency_keys,
        ):
            try:
                await step(collected)
            except Exception as error:
                failure = failure or error
        if not collected.is_nothing:
            log.info("gc.collected", **asdict(collected))
        if failure is not None:
            raise failure
        return collected

    async def preview(self) -> Collected:
        """What a run would do now; nothing is changed. Objects that would wait for their grace time are counted."""
        async with self._database.reading() as tx:
            versionless, uploads, upload_bytes = await tx.uploads.count_expired()
            unshown, unshown_bytes = await tx.blobs.freed_by_purge()
            due, due_bytes = await tx.garbage.due()
            return Collected(
                expired_versions=await tx.version_cleanup.count_expired(),
                expired_uploads=versionless,
                purged_versions=await tx.version_cleanup.count_due_for_purge(),
                deleted_objects=uploads + unshown + due,
                freed_bytes=upload_bytes + unshown_bytes + due_bytes,
                forgotten_keys=await tx.idempotency.count_older_than(_IDEMPOTENCY_SECONDS),
            )

    async def run_forever(self, interval_seconds: float) -> None:
        """Collect and wait in turns. If the database or the store cannot be used, the next turn tries again."""
        while True:
            try:
                await self.collect()
            except Unavailable as error:
                log.warning("gc.skipped", reason=error.detail, cause=repr(error.__cause__))
            except Exception:
                log.exception("gc.failed")
            await asyncio.sleep(interval_seconds)

    async def _expire_versions(self, collected: Collected) -> None:
        """Delete unfinished versions whose lease has expired. Their labels are free again."""
        while True:
            async with self._database.reading() as tx:
                expired = await tx.version_cleanup.expired(_BATCH)
            for version_id, model_name in expired:
                async with self._database.transaction() as tx:
                    await tx.models.lock(model_name)
                    collected.expired_versions += await discard_unfinished(
                        tx, version_id, only_expired=True, delay_seconds=self._grace_seconds
                    )
                    await tx.models.drop_if_unused(model_name)
                failpoint("g-lease")
            if len(expired) < _BATCH:
                return

    async def _expire_uploads(self, collected: Collected) -> None:
        while True:
            async with self._database.transaction() as tx:
                expired = await tx.uploads.expired_without_version(_BATCH)
                await tx.uploads.discard(expired, delay_seconds=self._grace_seconds)
            collected.expired_uploads += len(expired)
            if len(expired) < _BATCH:
                return

    async def _purge_versions(self, collected: Collected) -> None:
        """Delete the files of removed versions that are due. Their rows stay, so that no label is used twice."""
        while await self._purge_one():
            collected.purged_versions += 1

    async def _purge_one(self) -> bool:
        # One version per transaction: blobs are locked in digest order, and a second version would restart the order.
        async with self._database.transaction() as tx:
            due = await tx.version_cleanup.due_for_purge()
            if due is None:
                return False
            version_id, ref = due
            await purge(tx, version_id, ref, grace_seconds=self._grace_seconds, actor=SYSTEM)
            failpoint("g-in-tx")
            return True

    async def _delete_garbage(self, collected: Collected) -> None:
        while True:
            async with self._database.transaction() as tx:
                items = await tx.garbage.claim(_BATCH, _CLAIM_SECONDS)
            if not items:
                return
            keys = [item.storage_key for item in items if await self._has_no_parts(item)]
            refused = await self._blobs.delete(keys)
            failpoint("g-s3-deleted")
            if refused:
                # They are tried again at growing intervals, and do not delay others.
                log.warning("gc.refused", keys=sorted(refused)[:10], count=len(refused))
            gone = set(keys) - set(refused)
            async with self._database.transaction() as tx:
                await tx.garbage.remove(gone)
            collected.deleted_objects += len(gone)
            collected.freed_bytes += sum(item.size_bytes for item in items if item.storage_key in gone)

    async def _has_no_parts(self, item: GarbageItem) -> bool:
        """Abort unfinished multipart uploads of a key. Returns `False` if the store refuses."""
        if not item.is_upload:
            return True
        try:
            await self._blobs.abort_multipart(item.storage_key, item.multipart_id)
        except Unavailable as error:
            log.warning("gc.refused", keys=[item.storage_key], cause=repr(error.__cause__))
            return False
        return True

    async def _forget_idempotency_keys(self, collected: Collected) -> None:
        async with self._database.transaction() as tx:
            collected.forgotten_keys += await tx.idempotency.forget_older_than(_IDEMPOTENCY_SECONDS)
