"""The end of a push: the uploads are verified and the version is published."""

import asyncio

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import RESTART_SECONDS, Database, Transaction
from model_registry.domain.entities import ModelInfo, PushUpload, UploadState, VersionRef, VersionSelector, VersionState
from model_registry.errors import (
    CommitInProgress,
    LeaseLost,
    Unavailable,
    UploadIncomplete,
    UploadUnknown,
    VersionNotAvailable,
)
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.failpoints import failpoint
from model_registry.services.not_found import missing
from model_registry.services.push.multipart_completion import Parts
from model_registry.services.push.verification import Verification, mismatch
from model_registry.services.version_transitions import already_exists, announce, keep_blobs
from model_registry.transfer.lease import Lease
from model_registry.transfer.upload_limits import UploadLimits

log = structlog.get_logger(__name__)


class Commits:
    """One instance serves a whole process."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        limits: UploadLimits,
        background_tasks: BackgroundTasks,
        wait_seconds: float,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._verification = Verification(database=database, blobs=blobs)
        self._limits = limits
        self._background_tasks = background_tasks
        self._wait_seconds = wait_seconds
        self._running: dict[int, tuple[Parts, asyncio.Task[ModelInfo]]] = {}

    async def commit(self, ref: VersionRef, parts: Parts, *, actor: Actor) -> ModelInfo:
        """Verify every declared file and publish the version. After `wait_seconds`, return the version as it is then.

        Every sha256 is proven: by the checksum that the store enforced on a single PUT, or by reading the object back.
        Verification continues after `wait_seconds`, and if the caller leaves; the state is `verifying` meanwhile.
        A repeated commit is safe. It joins a commit that runs in this process, and resumes one of another process.

        Raises
        ------
        UploadIncomplete
            With the files, and the parts of files, that are missing.
        DigestMismatch, SizeMismatch
            The version stays pending; reserving again gives the file a fresh key.
        UploadUnknown, InvalidField
            If `parts` are of another version, or are not those which were sent.
        VersionExists
            If another actor pushes this version, or a form registers it.
        VersionNotFound, VersionNotAvailable, CommitInProgress, PartsChanged, LeaseLost
        """
        require(actor, Permission.WRITE, ref.model_name)
        async with self._database.reading() as tx:
            existing = await tx.versions.find(ref)
            if existing is None or existing.is_expired:
                raise await missing(tx, VersionSelector(ref.model_name, ref.version))
            if existing.state == VersionState.READY:
                return await tx.versions.info_by_id(existing.id)
        if existing.state == VersionState.REMOVED:
            raise VersionNotAvailable(ref.model_name, ref.version, existing.state)
        # Only a push has a digest before the version is ready.
        if not actor.owns(existing.created_by) or existing.digest is None:
            raise already_exists(ref, existing)
        task = self._join_or_begin(ref, existing.id, parts, actor)
        while True:
            await asyncio.wait({task}, timeout=self._wait_seconds)
            if task.done():
                return task.result()
            async with self._database.reading() as tx:
                now = await tx.versions.find(ref)
                # In any other state the task waits for a lock, or is about to end.
                if now is not None and now.state in {VersionState.VERIFYING, VersionState.READY}:
                    return await tx.versions.info_by_id(now.id)

    def _join_or_begin(self, ref: VersionRef, version_id: int, parts: Parts, actor: Actor) -> asyncio.Task[ModelInfo]:
        running_parts, task = self._running.get(version_id, (parts, None))
        if task is None:
            task = self._background_tasks.run(self._commit(ref, version_id, parts, actor))
            self._running[version_id] = (parts, task)
            task.add_done_callback(lambda done: self._ended(version_id, done))
        elif parts and parts != running_parts:
            raise CommitInProgress(ref.model_name, ref.version)
        return task

    def _ended(self, version_id: int, task: asyncio.Task[ModelInfo]) -> None:
        del self._running[version_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Perhaps no request waits for it. A repeated commit raises the error again.
            log.info("commit.failed", version_id=version_id, reason=str(error))

    async def _commit(self, ref: VersionRef, version_id: int, parts: Parts, actor: Actor) -> ModelInfo:
        lease = Lease(self._database, self._limits.lease_seconds, version_id)
        # Renew the lease whatever comes of the commit: the client is still there.
        await self._database.run(
            lambda tx: tx.versions.renew(version_id, self._limits.lease_seconds), is_one_statement=True
        )
        lease.keep()
        try:
            uploads = await self._database.run(lambda tx: self._begin(tx, ref, version_id, parts))
            failpoint("c-began")
            await self._verification.verify(ref, uploads, parts, lease)
            # All the bytes have arrived, so it is worth waiting for a database that is being restarted.
            info = await self._database.run(
                lambda tx: self._publish(tx, ref, version_id, actor), patience_seconds=RESTART_SECONDS
            )
            failpoint("v-after-commit")
        except BaseException:
            await asyncio.shield(self._background_tasks.run(self._back_to_pending(version_id)))
            raise
        finally:
            lease.end()
        log.info(
            "version.registered",
            model_name=ref.model_name,
            version=ref.version,
            digest=str(info.digest),
            size_bytes=info.size_bytes,
            files=info.file_count,
        )
        return info

    async def _begin(self, tx: Transaction, ref: VersionRef, version_id: int, parts: Parts) -> list[PushUpload]:
        """Set the state to `verifying`. Returns the uploads that are not verified yet, one for each digest."""
        state = await tx.versions.lock(version_id)
        if state == VersionState.READY:
            return []
        if state is None or not state.is_unfinished:
            raise LeaseLost
        uploads = await tx.push_uploads.effective(version_id)
        in_parts = {upload.id for upload in uploads.values() if upload.part_size is not None}
        for upload_id in parts:
            if upload_id not in in_parts:
                raise UploadUnknown(str(upload_id))
        missing_files = await tx.declared.missing(version_id)
        if absent := [file.path for digest, file in missing_files.items() if digest not in uploads]:
            raise UploadIncomplete(ref.model_name, ref.version, dict.fromkeys(sorted(absent), ()))
        to_do = [uploads[digest] for digest in missing_files if uploads[digest].state != UploadState.STORED]
        for upload in to_do:
            if upload.state == UploadState.REFUSED:
                raise mismatch(upload, upload.found_size_bytes or 0, upload.found_sha256)
        await tx.versions.set_state(version_id, VersionState.VERIFYING, instead_of=VersionState.PENDING)
        return to_do

    async def _publish(self, tx: Transaction, ref: VersionRef, version_id: int, actor: Actor) -> ModelInfo:
        await tx.models.lock(ref.model_name)
        state = await tx.versions.lock(version_id)
        failpoint("v-locked")
        if state == VersionState.READY:
            # An earlier attempt committed and its reply was lost, or another process committed.
            return await tx.versions.info_by_id(version_id)
        if state is None or not state.is_unfinished:
            raise LeaseLost
        uploads = await tx.push_uploads.effective(version_id)
        stored = [upload for upload in uploads.values() if upload.state == UploadState.STORED]
        await tx.push_uploads.close([upload.id for upload in stored])
        others = await tx.uploads.of_version(version_id)
        await tx.uploads.discard(others, delay_seconds=self._limits.late_write_seconds)
        await keep_blobs(tx, [upload.blob for upload in stored], self._blobs.location, actor=actor)
        failpoint("v-blobs")
        file_count = await tx.declared.publish(version_id)
        failpoint("v-files")
        file_path = None
        if file_count == 1:
            [file] = await tx.version_files.all(version_id)
            file_path = self._blobs.location(file.blob.storage_key)
        info = await tx.versions.publish(version_id, file_path=file_path)
        await announce(tx, info, actor=actor)
        failpoint("v-before-commit")
        return info

    async def _back_to_pending(self, version_id: int) -> None:
        try:
            await self._database.run(
                lambda tx: tx.versions.set_state(version_id, VersionState.PENDING, instead_of=VersionState.VERIFYING),
                patience_seconds=RESTART_SECONDS,
            )
        except Unavailable:
            # The state stays `verifying`. A repeated commit raises the same error.
            log.warning("commit.state_not_written", version_id=version_id)
