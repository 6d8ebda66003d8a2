"""Files of a push that are sent through this service."""

import asyncio
from collections.abc import AsyncIterable
from uuid import UUID

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import RESTART_SECONDS, Database, Transaction
from model_registry.domain.entities import (
    Digest,
    FileEntry,
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
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.services.not_found import missing
from model_registry.services.version_transitions import already_exists
from model_registry.transfer.lease import Lease
from model_registry.transfer.object_writer import ObjectWriter
from model_registry.transfer.part_buffers import PartBuffers
from model_registry.transfer.stream_digest import digest_stream
from model_registry.transfer.upload_intents import UploadIntents
from model_registry.transfer.upload_limits import UploadLimits

log = structlog.get_logger(__name__)


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
            uploads = await tx.push_uploads.with_digest(version_id, file.sha256)
        if size_bytes is not None and size_bytes != file.size_bytes:
            raise SizeMismatch(path, file.size_bytes, size_bytes)
        lease = Lease(self._database, self._limits.lease_seconds, version_id)
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
        existing = await tx.versions.find(ref)
        if existing is None or existing.is_expired:
            raise await missing(tx, VersionSelector(ref.model_name, ref.version))
        if existing.state in {VersionState.READY, VersionState.REMOVED} or not actor.owns(existing.created_by):
            raise already_exists(ref, existing)
        if existing.state != VersionState.PENDING:
            raise VersionNotAvailable(ref.model_name, ref.version, existing.state)
        return existing.id

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
        writer = ObjectWriter(
            database=self._database,
            blobs=self._blobs,
            buffers=self._buffers,
            lease=lease,
        )
        is_kept = False
        try:
            _require_declared(file, await writer.write(file.path, chunks, declared=file))
            [upload_id] = writer.uploads.ids
            is_kept = await self._database.run(
                lambda tx: self._keep(tx, ref, version_id, upload_id, file.sha256, actor),
                patience_seconds=RESTART_SECONDS,
            )
        finally:
            if not is_kept:
                await asyncio.shield(self._background_tasks.run(self._give_up(version_id, file.path, writer.uploads)))

    async def _keep(
        self, tx: Transaction, ref: VersionRef, version_id: int, upload_id: UUID, sha256: Digest, actor: Actor
    ) -> bool:
        """Count these bytes for the push. Returns `False` if a concurrent request has stored the same bytes."""
        if await tx.versions.lock(version_id) is None:
            raise LeaseLost
        uploads = await tx.push_uploads.with_digest(version_id, sha256)
        stored = {each.id for each in uploads if each.state == UploadState.STORED}
        if upload_id in stored:
            return True  # an earlier attempt committed, and its reply was lost
        await self._pending(tx, ref, actor)
        await tx.versions.renew(version_id, self._limits.lease_seconds)
        if stored:
            return False
        if await tx.push_uploads.mark_stored([upload_id]) != 1:
            raise LeaseLost
        # Uploads of concurrent requests through this service belong to those requests.
        direct = [each.id for each in uploads if each.is_direct]
        await tx.uploads.discard(direct, delay_seconds=self._limits.late_write_seconds)
        return True

    async def _give_up(self, version_id: int, path: str, uploads: UploadIntents) -> None:
        async def work(tx: Transaction) -> None:
            await tx.versions.lock(version_id)
            [upload_id] = uploads.ids
            found = await tx.push_uploads.find(upload_id)
            if found is not None and found[0].state == UploadState.STORED:
                return  # it was kept, and the reply to the COMMIT was lost: others may count on it now
            await uploads.give_up(tx, delay_seconds=self._limits.late_write_seconds)

        try:
            await self._database.run(work, patience_seconds=RESTART_SECONDS)
        except Unavailable as error:
            log.warning("upload.left_to_the_collector", path=path, cause=repr(error.__cause__))


def _require_declared(file: FileEntry, blob: StoredBlob) -> None:
    """Raise unless the bytes are those that were declared."""
    if blob.size_bytes != file.size_bytes:
        raise SizeMismatch(file.path, file.size_bytes, blob.size_bytes)
    if blob.sha256 != file.sha256:
        raise DigestMismatch(file.path, str(file.sha256), str(blob.sha256))
