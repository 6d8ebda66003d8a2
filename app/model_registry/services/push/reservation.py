"""The beginning of a push: take a label, declare its files, and tell the client how to send each one."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import structlog

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.database.versions import ExistingVersion
from model_registry.domain.entities import (
    Annotations,
    Digest,
    FileEntry,
    Manifest,
    ModelDetails,
    ModelInfo,
    NewUpload,
    PushUpload,
    UploadState,
    VersionRef,
    VersionState,
)
from model_registry.domain.naming_rules import validate_model_name
from model_registry.domain.version_labels import precedence, validate_version
from model_registry.errors import TooManyPending, UploadTooLarge
from model_registry.object_store.blob_store import BlobStore, storage_key
from model_registry.runtime.offload import offload
from model_registry.services.push.checksum_probe import ChecksumProbe
from model_registry.services.push.instructions import Instruction, Instructions, ReservedVersion
from model_registry.services.push.limits import PushLimits
from model_registry.services.version_transitions import already_exists, discard_unfinished
from model_registry.transfer.upload_limits import UploadLimits

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Push:
    """What the client wants to push. Without a version, the label is the next number of the model."""

    model_name: str
    version: str | None
    details: ModelDetails
    annotations: Annotations
    files: tuple[FileEntry, ...]
    is_direct: bool = True

    def __post_init__(self) -> None:
        validate_model_name(self.model_name)
        if self.version is not None:
            validate_version(self.version)


@dataclass(frozen=True, slots=True)
class Reserved:
    info: ModelInfo
    instructions: Sequence[Instruction]
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Request:
    """One call of `reserve`. `reservation` marks the row that this call inserts."""

    push: Push
    manifest: Manifest
    reservation: UUID
    actor: Actor
    is_direct: bool


class _LabelAppeared(Exception):
    """A concurrent request created this version after we looked for it."""


class Reservations:
    """One instance serves a whole process."""

    def __init__(
        self, *, database: Database, blobs: BlobStore, upload_limits: UploadLimits, push_limits: PushLimits
    ) -> None:
        self._database = database
        self._upload_limits = upload_limits
        self._push_limits = push_limits
        self._probe = ChecksumProbe(database, blobs)
        self._instructions = Instructions(database=database, blobs=blobs, limits=push_limits)

    async def reserve(self, push: Push, *, actor: Actor) -> Reserved:
        """Take the label and return how to send each file. A repeated call is safe and returns fresh URLs.

        Raises
        ------
        VersionExists
            Unless the version is pending, of the same actor, with the same files and frozen parameters; or ready with
            the same files and parameters, and then there is nothing to send.
        ModelNameTaken, UploadTooLarge, InvalidField, TooManyPending
        """
        require(actor, Permission.WRITE, push.model_name)
        for file in push.files:
            if file.size_bytes > self._upload_limits.max_upload_bytes:
                raise UploadTooLarge(self._upload_limits.max_upload_bytes)
        is_direct = push.is_direct and await self._probe.store_enforces_checksums()
        manifest = await offload(lambda: Manifest.of(push.files), len(push.files))
        reserved = await self._reserve(_Request(push, manifest, uuid4(), actor, is_direct))
        instructions = await self._instructions.for_files(push.files, reserved, is_direct=is_direct)
        if reserved.is_new:
            log.info(
                "version.reserved", model_name=push.model_name, version=reserved.info.version, files=len(push.files)
            )
        return Reserved(reserved.info, instructions, reserved.is_new)

    async def _reserve(self, request: _Request) -> ReservedVersion:
        is_rerun = False

        async def work(tx: Transaction) -> ReservedVersion:
            nonlocal is_rerun
            inserted = (
                await tx.versions.find_reserved(request.push.model_name, request.reservation) if is_rerun else None
            )
            is_rerun = True
            return await self._take(tx, request, inserted)

        while True:
            try:
                return await self._database.run(work)
            except _LabelAppeared:
                continue

    async def _take(self, tx: Transaction, request: _Request, inserted: ExistingVersion | None) -> ReservedVersion:
        """`inserted` is the row of this call, if an earlier attempt committed it and its reply was lost."""
        push = request.push
        await tx.models.lock(push.model_name)
        known = inserted or await self._find_resumable(tx, request)
        if known is not None and known.state == VersionState.READY:
            return ReservedVersion(await tx.versions.info_by_id(known.id), {}, {}, is_new=False)
        uploads: Mapping[Digest, PushUpload] = {}
        if known is None:
            version_id = await self._take_label(tx, request)
            await tx.declared.add(version_id, push.files)
            missing_files = await offload(lambda: _first_of_each(push.files), len(push.files))
        else:
            version_id = known.id
            await tx.versions.renew(version_id, self._upload_limits.lease_seconds)
            await tx.versions.annotate(version_id, push.details.additional_metadata, push.annotations)
            missing_files = await tx.declared.missing(version_id)
            uploads = await self._begun_uploads(tx, version_id)
        stored = await _already_stored(tx, missing_files.values(), request.actor)
        await tx.declared.pin(version_id, stored)
        to_send = {digest: file for digest, file in missing_files.items() if digest not in stored}
        if request.is_direct:
            uploads = await self._open_uploads(tx, version_id, to_send, uploads)
        info = await tx.versions.info_by_id(version_id)
        return ReservedVersion(info, to_send, uploads, is_new=known is None or inserted is not None)

    async def _find_resumable(self, tx: Transaction, request: _Request) -> ExistingVersion | None:
        """The version that this push can continue, or `None`. Raises `VersionExists` if it is another one."""
        push = request.push
        if push.version is None:
            return None
        ref = VersionRef(push.model_name, push.version)
        existing = await tx.versions.find(ref)
        if existing is None:
            return None
        if existing.is_expired:
            delay_seconds = self._upload_limits.late_write_seconds
            await discard_unfinished(tx, existing.id, only_expired=True, delay_seconds=delay_seconds)
            return None
        is_same = existing.digest == request.manifest.digest and await tx.versions.has_params(existing.id, push.details)
        is_open = existing.state.is_unfinished and request.actor.owns(existing.created_by)
        if is_same and (is_open or existing.state == VersionState.READY):
            return existing
        raise already_exists(ref, existing)

    async def _take_label(self, tx: Transaction, request: _Request) -> int:
        push, max_pending = request.push, self._push_limits.max_pending
        if await tx.versions.count_unfinished(request.actor.name, max_pending) >= max_pending:
            raise TooManyPending(request.actor.name, max_pending)
        while True:
            number = await tx.models.next_number(push.model_name)
            ref = VersionRef(push.model_name, push.version or str(number))
            version_id = await tx.versions.reserve(
                ref,
                number=number,
                precedence=precedence(ref.version),
                reservation=request.reservation,
                actor=request.actor.name,
                lease_seconds=self._upload_limits.lease_seconds,
                details=push.details,
                annotations=push.annotations,
                manifest=request.manifest,
            )
            if version_id is not None:
                return version_id
            if push.version is not None:
                raise _LabelAppeared

    async def _begun_uploads(self, tx: Transaction, version_id: int) -> Mapping[Digest, PushUpload]:
        """The uploads that earlier calls opened. Those with wrong bytes are given up, and get a fresh key."""
        refused = await tx.push_uploads.refused(version_id)
        await tx.uploads.discard(refused, delay_seconds=self._upload_limits.late_write_seconds)
        return await tx.push_uploads.effective(version_id)

    async def _open_uploads(
        self,
        tx: Transaction,
        version_id: int,
        to_send: Mapping[Digest, FileEntry],
        uploads: Mapping[Digest, PushUpload],
    ) -> Mapping[Digest, PushUpload]:
        """Open an upload for each file that has none and is sent to the store. Returns all of the version's uploads."""
        still_open = [upload.id for upload in uploads.values() if upload.state == UploadState.OPEN]
        without_upload = [file for digest, file in to_send.items() if digest not in uploads]
        if not still_open and not without_upload:
            return uploads
        await tx.push_uploads.extend_writable(still_open, self._push_limits.writable_seconds)
        new = await offload(lambda: [self._new_upload(file) for file in without_upload], len(without_upload))
        await tx.push_uploads.open(
            new,
            version_id,
            lease_seconds=self._upload_limits.lease_seconds,
            writable_seconds=self._push_limits.writable_seconds,
        )
        return await tx.push_uploads.effective(version_id)

    def _new_upload(self, file: FileEntry) -> NewUpload:
        upload_id = uuid4()
        part_size = self._push_limits.part_size(file.size_bytes)
        return NewUpload(upload_id, storage_key(upload_id), file.path, declared=file, part_size=part_size)


def _first_of_each(files: Sequence[FileEntry]) -> dict[Digest, FileEntry]:
    """For each digest the first file that has it, by path."""
    first: dict[Digest, FileEntry] = {}
    for file in sorted(files, key=lambda file: file.path):
        first.setdefault(file.sha256, file)
    return first


async def _already_stored(tx: Transaction, files: Collection[FileEntry], actor: Actor) -> set[Digest]:
    """The digests whose bytes are stored and need not be sent. No other code decides this.

    Today every actor can read everything. When that changes, count only bytes that the actor can read in some version.
    Otherwise the response tells a stranger what others have, and gives it to any client that knows a digest.
    """
    require(actor, Permission.READ, ANY_MODEL)
    stored = await tx.blobs.lock_intact([file.sha256 for file in files])
    return {file.sha256 for file in files if stored.get(file.sha256) == file.size_bytes}
