"""Files of a push that are sent through this service."""

import asyncio
from collections.abc import AsyncIterable
from uuid import uuid4

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import (
    Digest,
    FileEntry,
    NewUpload,
    StoredBlob,
    UploadState,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.domain.naming_rules import validate_path
from model_registry.errors import (
    DigestMismatch,
    FileNotFound,
    LeaseLost,
    SizeMismatch,
    Unavailable,
    UploadTooLarge,
    VersionNotAvailable,
)
from model_registry.object_store.blob_store import BlobStore, storage_key
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.services.lease import Lease
from model_registry.services.not_found import missing
from model_registry.services.version_transitions import UploadLimits, already_exists
from model_registry.transfer.upload_stream import PartBuffers, digest_stream, store_stream

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 10


class ProxiedUploads:
    """One instance serves a whole process."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        buffers: PartBuffers,
        limits: UploadLimits,
        background_tasks: BackgroundTasks,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._buffers = buffers
        self._limits = limits
        self._background_tasks = background_tasks

    async def put_file(
        self, ref: VersionRef, path: str, chunks: AsyncIterable[bytes], *, size_bytes: int | None, actor: Actor
    ) -> FileEntry:
        """Store one declared file of a pending version, hashing it on the way. Other bytes are not kept.

        Raises
        ------
        SizeMismatch, DigestMismatch
            The first before a byte is read, if `size_bytes`, the announced length, is wrong.
        VersionNotFound, FileNotFound, VersionExists, VersionNotAvailable, LeaseLost
        """
        require(actor, Permission.WRITE, ref.model_name)
        validate_path(path)
        async with self._database.reading() as tx:
            version_id = await self._pending(tx, ref, actor)
            declared = await tx.declared.find(version_id, path)
            if declared is None:
                raise FileNotFound(ref.model_name, ref.version, path)
            file, is_stored = declared
            uploads = await tx.uploads.pushed_of(version_id, file.sha256)
        if size_bytes is not None and size_bytes != file.size_bytes:
            raise SizeMismatch(path, file.size_bytes, size_bytes)
        lease = Lease(self._database, self._limits.lease_seconds)
        lease.version_id = version_id
        self._background_tasks.begin()
        lease.keep()
        try:
            if is_stored or any(upload.state == UploadState.STORED for upload in uploads):
                await self._compare(version_id, file, lease.while_held(chunks))
            else:
                await self._store(ref, version_id, file, lease, chunks, actor)
        except UploadTooLarge:
            raise SizeMismatch(path, file.size_bytes, None) from None
        finally:
            lease.end()
            self._background_tasks.end()
        return file

    async def _pending(self, tx: Transaction, ref: VersionRef, actor: Actor) -> int:
        taken = await tx.versions.taken(ref)
        if taken is None or taken.is_expired:
            raise await missing(tx, VersionSelector(ref.model_name, ref.version))
        if taken.state in {VersionState.READY, VersionState.REMOVED} or not actor.owns(taken.created_by):
            raise already_exists(ref, taken)
        if taken.state != VersionState.PENDING:
            raise VersionNotAvailable(ref.model_name, ref.version, taken.state)
        return taken.id

    async def _compare(self, version_id: int, file: FileEntry, chunks: AsyncIterable[bytes]) -> None:
        """Compare bytes that are already stored; they are not stored again."""
        if not await self._database.run(lambda tx: tx.versions.renew(version_id, self._limits.lease_seconds)):
            raise LeaseLost
        _require_declared(file, await digest_stream(chunks, file.size_bytes))

    async def _store(
        self,
        ref: VersionRef,
        version_id: int,
        file: FileEntry,
        lease: Lease,
        chunks: AsyncIterable[bytes],
        actor: Actor,
    ) -> None:
        upload = NewUpload(upload_id := uuid4(), storage_key(upload_id), file.path, declared=file)
        lease.upload_ids.append(upload.id)

        async def began_multipart(multipart_id: str) -> None:
            if not await self._database.run(lambda tx: tx.uploads.began_multipart(upload.id, multipart_id)):
                raise LeaseLost

        is_kept = False
        try:
            if not await self._database.run(
                lambda tx: tx.uploads.open([upload], version_id, self._limits.lease_seconds),
                patience_seconds=_PATIENCE_SECONDS,
                is_one_statement=True,
            ):
                raise LeaseLost
            blob = await store_stream(
                lease.while_held(chunks),
                key=upload.storage_key,
                blobs=self._blobs,
                buffers=self._buffers,
                at_most_bytes=file.size_bytes,
                limit_bytes=file.size_bytes,
                began_multipart=began_multipart,
            )
            _require_declared(file, blob)
            is_kept = await self._database.run(
                lambda tx: self._keep(tx, ref, version_id, upload, file.sha256, actor),
                patience_seconds=_PATIENCE_SECONDS,
            )
        finally:
            if not is_kept:
                await asyncio.shield(self._background_tasks.run(self._give_up(version_id, upload)))

    async def _keep(
        self, tx: Transaction, ref: VersionRef, version_id: int, upload: NewUpload, sha256: Digest, actor: Actor
    ) -> bool:
        """Count these bytes for the push. Returns `False` if a concurrent request has stored the same bytes."""
        if await tx.versions.lock(version_id) is None:
            raise LeaseLost
        uploads = await tx.uploads.pushed_of(version_id, sha256)
        stored = {each.id for each in uploads if each.state == UploadState.STORED}
        if upload.id in stored:
            return True  # an earlier attempt committed, and its reply was lost
        await self._pending(tx, ref, actor)
        await tx.versions.renew(version_id, self._limits.lease_seconds)
        if stored:
            return False
        if await tx.uploads.mark_stored([upload.id]) != 1:
            raise LeaseLost
        # Uploads of concurrent requests through this service belong to those requests.
        direct = [each.id for each in uploads if each.is_direct]
        await tx.uploads.give_up(direct, delay_seconds=self._limits.late_write_seconds)
        return True

    async def _give_up(self, version_id: int, upload: NewUpload) -> None:
        delay_seconds = self._limits.late_write_seconds

        async def work(tx: Transaction) -> None:
            await tx.versions.lock(version_id)
            found = await tx.uploads.find_pushed(upload.id)
            if found is not None and found[0].state == UploadState.STORED:
                return  # it was kept, and the reply to the COMMIT was lost: others may count on it now
            await tx.uploads.give_up([upload.id], delay_seconds=delay_seconds)
            # Once more by key: after a lost lease the row is gone, and our last write may have come after that.
            await tx.garbage.add([upload.storage_key], delay_seconds=delay_seconds, is_upload=True)

        try:
            await self._database.run(work, patience_seconds=_PATIENCE_SECONDS)
        except Unavailable as error:
            log.warning("upload.left_to_the_collector", path=upload.path, cause=repr(error.__cause__))


def _require_declared(file: FileEntry, blob: StoredBlob) -> None:
    """Raise unless the bytes are those that were declared."""
    if blob.size_bytes != file.size_bytes:
        raise SizeMismatch(file.path, file.size_bytes, blob.size_bytes)
    if blob.sha256 != file.sha256:
        raise DigestMismatch(file.path, str(file.sha256), str(blob.sha256))
