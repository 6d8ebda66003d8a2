"""Push: a version whose files are declared first, sent past us, and verified before anybody sees it."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from uuid import UUID, uuid4

import structlog

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.database.versions import TakenLabel
from model_registry.domain.entities import (
    Annotations,
    Digest,
    FileEntry,
    Manifest,
    ModelDetails,
    ModelInfo,
    NewUpload,
    PushUpload,
    StoredBlob,
    UploadState,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.domain.naming_rules import validate_model_name, validate_path
from model_registry.domain.version_labels import precedence, validate_version
from model_registry.errors import (
    DigestMismatch,
    FileNotFound,
    InvalidField,
    LeaseLost,
    SizeMismatch,
    TooManyPending,
    Unavailable,
    UploadTooLarge,
    UploadUnknown,
    VersionNotAvailable,
)
from model_registry.object_store.blob_store import MAX_PARTS, BlobStore, PresignedRequest, StoredPart, storage_key
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.offload import offload
from model_registry.services.lease import Lease
from model_registry.services.not_found import missing
from model_registry.services.version_transitions import UploadLimits, already_exists, discard_unfinished
from model_registry.transfer.upload_stream import PartBuffers, digest_stream, store_stream

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 10
_LOOKS_AT_ONCE = 8
_SIGNED_AT_ONCE = 1000
_PROBE_SECONDS = 60
# What a URL writes may come after its end: the store's clock may be behind, and a transfer that began in time may last.
_LATE_PUT_SECONDS = 3600


class Method(StrEnum):
    PUT = "put"
    MULTIPART = "multipart"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Push:
    """What somebody means to push. Without a version its label is the next number."""

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
class Instruction:
    """How to send one file; without a method nothing is to be sent, because the bytes are there or another file of the
    push brings them."""

    file: FileEntry
    method: Method | None = None
    request: PresignedRequest | None = None
    expires_at: datetime | None = None
    upload_id: UUID | None = None
    part_size: int | None = None


@dataclass(frozen=True, slots=True)
class Reserved:
    info: ModelInfo
    instructions: Sequence[Instruction]
    is_new: bool


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """An upload in parts as the store has it. Once it is complete there are no single parts any more."""

    upload: PushUpload
    model_name: str
    version: str
    parts: Sequence[StoredPart]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class SignedPart:
    number: int
    request: PresignedRequest
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class PushLimits:
    """Files over `multipart_threshold_bytes` are sent in parts of `part_bytes`, larger where 10 000 are not enough.

    `max_pending` is how many unfinished versions one actor may have.
    """

    multipart_threshold_bytes: int
    part_bytes: int
    presign_expiry_seconds: int
    max_pending: int

    def part_size(self, size_bytes: int) -> int | None:
        if size_bytes <= self.multipart_threshold_bytes:
            return None
        mebibyte = 1024**2
        return max(self.part_bytes, -(-size_bytes // (MAX_PARTS * mebibyte)) * mebibyte)


class _Overtaken(Exception):
    """Somebody else made the model, and this version in it, a moment ago."""


@dataclass(frozen=True, slots=True)
class _Taken:
    """A label that is ours. `lacking` are the bytes that are not there, each with the file that is to bring them, and
    `uploads` are what it counts on for them."""

    info: ModelInfo
    lacking: Mapping[Digest, FileEntry]
    uploads: Mapping[Digest, PushUpload]
    is_new: bool


class Pushes:
    """One instance serves a whole process. The end of a push is in `Commits`."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        buffers: PartBuffers,
        limits: UploadLimits,
        push_limits: PushLimits,
        background_tasks: BackgroundTasks,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._buffers = buffers
        self._limits = limits
        self._push_limits = push_limits
        self._background_tasks = background_tasks
        self._store_checks: bool | None = None
        self._probing = asyncio.Lock()

    # Reserve

    async def reserve(self, push: Push, *, actor: Actor) -> Reserved:
        """Take the label, and say what is to be sent and how. To ask again is safe, and gives fresh URLs.

        Raises
        ------
        VersionExists
            Unless the version is pending, of the same actor, with the same files and frozen parameters; or ready with
            the same, and then nothing is to be sent.
        ModelNameTaken, UploadTooLarge, InvalidField, TooManyPending
        """
        require(actor, Permission.WRITE, push.model_name)
        for file in push.files:
            if file.size_bytes > self._limits.max_upload_bytes:
                raise UploadTooLarge(self._limits.max_upload_bytes)
        is_direct = push.is_direct and await self._does_store_check()
        manifest = await offload(lambda: Manifest.of(push.files), len(push.files))
        reservation = uuid4()
        is_rerun = False

        async def work(tx: Transaction) -> _Taken:
            nonlocal is_rerun
            ours = await tx.versions.taken_by(push.model_name, reservation) if is_rerun else None
            is_rerun = True
            return await self._take(tx, push, manifest, reservation, actor, ours, is_direct=is_direct)

        taken = None
        while taken is None:
            with contextlib.suppress(_Overtaken):  # and then it is there to be found
                taken = await self._database.run(work)
        instructions = await self._instructions(push.files, taken, is_direct=is_direct)
        if taken.is_new:
            log.info("version.reserved", model_name=push.model_name, version=taken.info.version, files=len(push.files))
        return Reserved(taken.info, instructions, taken.is_new)

    async def _take(
        self,
        tx: Transaction,
        push: Push,
        manifest: Manifest,
        reservation: UUID,
        actor: Actor,
        ours: TakenLabel | None,
        *,
        is_direct: bool,
    ) -> _Taken:
        await tx.models.lock(push.model_name)
        known = ours or await self._resumed(tx, push, manifest, actor)
        if known is not None and known.state == VersionState.READY:
            return _Taken(await tx.versions.info_by_id(known.id), {}, {}, is_new=False)
        uploads: Mapping[Digest, PushUpload] = {}
        if known is None:
            version_id = await self._take_label(tx, push, manifest, reservation, actor)
            await tx.declared.add(version_id, push.files)
            lacking = await offload(lambda: _first_of_each(push.files), len(push.files))
        else:
            version_id = known.id
            await tx.versions.renew(version_id, self._limits.lease_seconds)
            await tx.versions.annotate(version_id, push.details.additional_metadata, push.annotations)
            lacking = await tx.declared.lacking(version_id)
            uploads = await self._begun_uploads(tx, version_id)
        stored = await _already_stored(tx, lacking.values(), actor)
        await tx.declared.pin(version_id, stored)
        lacking = {digest: file for digest, file in lacking.items() if digest not in stored}
        if is_direct:
            uploads = await self._open_uploads(tx, version_id, lacking, uploads)
        info = await tx.versions.info_by_id(version_id)
        return _Taken(info, lacking, uploads, is_new=known is None or ours is not None)

    async def _resumed(self, tx: Transaction, push: Push, manifest: Manifest, actor: Actor) -> TakenLabel | None:
        """The version that this push means, if there is one already and it may go on with it."""
        if push.version is None:
            return None
        ref = VersionRef(push.model_name, push.version)
        taken = await tx.versions.taken(ref)
        if taken is None:
            return None
        if taken.is_expired:
            await discard_unfinished(tx, taken.id, only_expired=True, delay_seconds=self._limits.late_write_seconds)
            return None
        is_same = taken.digest == manifest.digest and await tx.versions.has_params(taken.id, push.details)
        is_open = taken.state.is_unfinished and actor.owns(taken.created_by)
        if is_same and (is_open or taken.state == VersionState.READY):
            return taken
        raise already_exists(ref, taken)

    async def _take_label(
        self, tx: Transaction, push: Push, manifest: Manifest, reservation: UUID, actor: Actor
    ) -> int:
        if (
            await tx.versions.count_unfinished(actor.name, self._push_limits.max_pending)
            >= self._push_limits.max_pending
        ):
            raise TooManyPending(actor.name, self._push_limits.max_pending)
        while True:
            number = await tx.models.next_number(push.model_name)
            ref = VersionRef(push.model_name, push.version or str(number))
            version_id = await tx.versions.reserve(
                ref,
                number=number,
                precedence=precedence(ref.version),
                reservation=reservation,
                actor=actor.name,
                lease_seconds=self._limits.lease_seconds,
                details=push.details,
                annotations=push.annotations,
                manifest=manifest,
            )
            if version_id is not None:
                return version_id
            if push.version is not None:
                raise _Overtaken

    async def _begun_uploads(self, tx: Transaction, version_id: int) -> Mapping[Digest, PushUpload]:
        """What the push has sent or may still send; what was found wrong is given up, and gets a fresh place."""
        refused = await tx.uploads.refused(version_id)
        await tx.uploads.give_up(refused, delay_seconds=self._limits.late_write_seconds)
        return await tx.uploads.counting(version_id)

    async def _open_uploads(
        self,
        tx: Transaction,
        version_id: int,
        lacking: Mapping[Digest, FileEntry],
        uploads: Mapping[Digest, PushUpload],
    ) -> Mapping[Digest, PushUpload]:
        """The uploads, with one for each file that is to be sent directly."""
        still_open = [upload.id for upload in uploads.values() if upload.state == UploadState.OPEN]
        to_send = [file for digest, file in lacking.items() if digest not in uploads]
        if not still_open and not to_send:
            return uploads
        await tx.uploads.is_writable_for(still_open, self._writable_seconds)
        fresh = await offload(lambda: [self._new_upload(file) for file in to_send], len(to_send))
        await tx.uploads.open_pushed(
            fresh, version_id, lease_seconds=self._limits.lease_seconds, writable_seconds=self._writable_seconds
        )
        return await tx.uploads.counting(version_id)

    def _new_upload(self, file: FileEntry) -> NewUpload:
        upload_id = uuid4()
        part_size = self._push_limits.part_size(file.size_bytes)
        return NewUpload(upload_id, storage_key(upload_id), file.path, declared=file, part_size=part_size)

    async def _instructions(
        self, files: Sequence[FileEntry], taken: _Taken, *, is_direct: bool
    ) -> Sequence[Instruction]:
        done = {digest for digest, upload in taken.uploads.items() if upload.state == UploadState.STORED}
        unsure = [upload for upload in taken.uploads.values() if upload.state == UploadState.OPEN]
        if not taken.is_new:
            done |= await self._sent(unsure)
        direct = {upload.sha256: upload for upload in unsure if upload.sha256 not in done} if is_direct else {}
        expires_at = self._expires_at()
        requests = await self._signed([upload for upload in direct.values() if upload.part_size is None])

        def instruction(file: FileEntry) -> Instruction:
            first = taken.lacking.get(file.sha256)
            if first is None or first.path != file.path or file.sha256 in done:
                return Instruction(file)
            upload = direct.get(file.sha256)
            if upload is None:
                return Instruction(file, Method.PROXY)
            if upload.part_size is None:
                return Instruction(file, Method.PUT, requests[upload.id], expires_at)
            return Instruction(file, Method.MULTIPART, upload_id=upload.id, part_size=upload.part_size)

        return await offload(lambda: [instruction(file) for file in files], len(files))

    async def _signed(self, uploads: Sequence[PushUpload]) -> Mapping[UUID, PresignedRequest]:
        requests: dict[UUID, PresignedRequest] = {}
        for start in range(0, len(uploads), _SIGNED_AT_ONCE):
            batch = uploads[start : start + _SIGNED_AT_ONCE]
            signed = await self._blobs.presign_puts(
                [(upload.storage_key, upload.sha256, upload.size_bytes) for upload in batch],
                expires_in_seconds=self._push_limits.presign_expiry_seconds,
            )
            requests |= {upload.id: request for upload, request in zip(batch, signed, strict=True)}
            await asyncio.sleep(0)  # signing waits for nothing, and others have a turn now
        return requests

    async def _sent(self, uploads: Sequence[PushUpload]) -> set[Digest]:
        """Those of the digests whose object is there, whole; only `commit` looks into it."""
        sent: set[Digest] = set()
        for start in range(0, len(uploads), _LOOKS_AT_ONCE):
            batch = uploads[start : start + _LOOKS_AT_ONCE]
            looks = await asyncio.gather(*(self._look(upload) for upload in batch))
            sent |= {upload.sha256 for upload, (_, is_sent) in zip(batch, looks, strict=True) if is_sent}
        return sent

    async def _look(self, upload: PushUpload) -> tuple[Sequence[StoredPart], bool]:
        """What the store has of an upload: its parts, or whether it is there as one object of the right size."""
        if upload.multipart_id is not None:
            parts = await self._blobs.list_parts(upload.storage_key, upload.multipart_id)
            if parts is not None:
                return list(dict.fromkeys(parts)), False
        stored = await self._blobs.stored(upload.storage_key)
        if stored is None and upload.multipart_id is not None:
            multipart_id = upload.multipart_id
            log.warning("upload.parts_lost", path=upload.path, storage_key=upload.storage_key)
            await self._database.run(lambda tx: tx.uploads.lost_multipart(upload.id, multipart_id))
        return (), stored is not None and stored.size_bytes == upload.size_bytes

    async def _does_store_check(self) -> bool:
        """Whether the store refuses a PUT whose bytes do not match its checksum: tried once in a process.

        One that does not check cannot be trusted with what we cannot see, so everything goes through us then.
        """
        async with self._probing:
            if self._store_checks is None:
                key = storage_key(uuid4())
                await self._database.run(lambda tx: tx.garbage.add([key], delay_seconds=_PROBE_SECONDS))
                self._store_checks = await self._blobs.enforces_checksums(key)
                if self._store_checks:
                    await self._database.run(lambda tx: tx.garbage.remove([key]))
                else:
                    log.warning("store.does_not_check", reason="it took a body that does not match its checksum")
        return self._store_checks

    def _expires_at(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._push_limits.presign_expiry_seconds)

    @property
    def _writable_seconds(self) -> float:
        return self._push_limits.presign_expiry_seconds + _LATE_PUT_SECONDS

    # Uploads in parts

    async def status(self, upload_id: UUID, *, actor: Actor) -> UploadStatus:
        """What the store has of an upload in parts, so that a client that lost its place goes on. Renews the lease.

        Raises `UploadUnknown` for one that is over, and for one that is whole and not what was declared.
        """
        upload, info = await self._upload(upload_id, actor)
        if upload.state == UploadState.STORED:
            return UploadStatus(upload, info.model_name, info.version, (), is_complete=True)
        parts, is_complete = await self._look(upload)
        return UploadStatus(upload, info.model_name, info.version, parts, is_complete)

    async def sign_parts(self, upload_id: UUID, numbers: Sequence[int], *, actor: Actor) -> Sequence[SignedPart]:
        """A URL for each of the parts, good for one PUT of exactly that part's size. Renews the lease.

        Raises `UploadUnknown` as `status` does, `VersionNotAvailable` while it is verified.
        """
        upload, info = await self._upload(upload_id, actor, writable_seconds=self._writable_seconds)
        if info.state != VersionState.PENDING:
            raise VersionNotAvailable(info.model_name, info.version, info.state)
        if upload.state == UploadState.STORED:
            raise UploadUnknown(str(upload_id))
        sizes = upload.part_sizes
        for index, number in enumerate(numbers):
            if not 1 <= number <= len(sizes):
                raise InvalidField(("body", "part_numbers", index), f"this upload has parts 1 to {len(sizes)}", number)
        multipart_id = upload.multipart_id or await self._begin_multipart(upload)
        expires_at = self._expires_at()
        requests = await self._blobs.presign_parts(
            upload.storage_key,
            multipart_id,
            [(number, sizes[number - 1]) for number in numbers],
            expires_in_seconds=self._push_limits.presign_expiry_seconds,
        )
        return [SignedPart(number, request, expires_at) for number, request in zip(numbers, requests, strict=True)]

    async def _upload(
        self, upload_id: UUID, actor: Actor, *, writable_seconds: float | None = None
    ) -> tuple[PushUpload, ModelInfo]:
        require(actor, Permission.WRITE, ANY_MODEL)

        async def work(tx: Transaction) -> tuple[PushUpload, ModelInfo]:
            found = await tx.uploads.find_pushed(upload_id)
            if found is None or found[0].part_size is None or found[0].state == UploadState.REFUSED:
                raise UploadUnknown(str(upload_id))
            upload, version_id = found
            info = await tx.versions.info_by_id(version_id)
            if not actor.owns(info.created_by):
                raise UploadUnknown(str(upload_id))
            require(actor, Permission.WRITE, info.model_name)
            if not await tx.versions.renew(version_id, self._limits.lease_seconds):
                raise UploadUnknown(str(upload_id))
            if writable_seconds is not None:
                await tx.uploads.is_writable_for([upload_id], writable_seconds)
            return upload, info

        return await self._database.run(work)

    async def _begin_multipart(self, upload: PushUpload) -> str:
        ours = await self._blobs.create_multipart(upload.storage_key)
        counts = await self._database.run(lambda tx: tx.uploads.began_multipart_first(upload.id, ours))
        if counts != ours:
            # Somebody asked for the first parts at the same moment, or the upload is gone.
            await self._blobs.abort_multipart(upload.storage_key, ours)
        if counts is None:
            raise UploadUnknown(str(upload.id))
        return counts

    # Through us

    async def put_file(
        self, ref: VersionRef, path: str, chunks: AsyncIterable[bytes], *, size_bytes: int | None, actor: Actor
    ) -> FileEntry:
        """Take one declared file of a pending version, hashing as it passes; what is not as declared is not kept.

        Raises
        ------
        SizeMismatch, DigestMismatch
            The first before a byte is read, where `size_bytes`, the announced length, says it.
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
        """Bytes that are there already are only looked at."""
        if not await self._database.run(lambda tx: tx.versions.renew(version_id, self._limits.lease_seconds)):
            raise LeaseLost
        _check(file, await digest_stream(chunks, file.size_bytes))

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
            _check(file, blob)
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
        """Let a push count on these bytes; `False` when somebody else has brought the same ones meanwhile."""
        if await tx.versions.lock(version_id) is None:
            raise LeaseLost
        uploads = await tx.uploads.pushed_of(version_id, sha256)
        stored = {each.id for each in uploads if each.state == UploadState.STORED}
        if upload.id in stored:
            return True  # the answer to an earlier COMMIT of ours was lost
        await self._pending(tx, ref, actor)
        await tx.versions.renew(version_id, self._limits.lease_seconds)
        if stored:
            return False
        if await tx.uploads.mark_stored([upload.id]) != 1:
            raise LeaseLost
        # What others bring through us is theirs until it is over.
        direct = [each.id for each in uploads if each.is_direct]
        await tx.uploads.give_up(direct, delay_seconds=self._limits.late_write_seconds)
        return True

    async def _give_up(self, version_id: int, upload: NewUpload) -> None:
        delay_seconds = self._limits.late_write_seconds

        async def work(tx: Transaction) -> None:
            await tx.versions.lock(version_id)
            found = await tx.uploads.find_pushed(upload.id)
            if found is not None and found[0].state == UploadState.STORED:
                return  # it was kept, and only the answer to the COMMIT was lost: others may count on it by now
            await tx.uploads.give_up([upload.id], delay_seconds=delay_seconds)
            # Once more by key: after a lost lease the row is gone, and our last write may have come after that.
            await tx.garbage.add([upload.storage_key], delay_seconds=delay_seconds, is_upload=True)

        try:
            await self._database.run(work, patience_seconds=_PATIENCE_SECONDS)
        except Unavailable as error:
            log.warning("upload.left_to_the_collector", path=upload.path, cause=repr(error.__cause__))


def _first_of_each(files: Sequence[FileEntry]) -> dict[Digest, FileEntry]:
    """For each digest the first file that has it, by path."""
    first: dict[Digest, FileEntry] = {}
    for file in sorted(files, key=lambda file: file.path):
        first.setdefault(file.sha256, file)
    return first


async def _already_stored(tx: Transaction, files: Collection[FileEntry], actor: Actor) -> set[Digest]:
    """Which bytes need not be sent, because they are there: the one place that decides it.

    Every actor may read everything today. When that changes, only bytes count here that the actor may read in some
    version: otherwise the answer tells a stranger what others have, and hands it out to whoever knows a digest.
    """
    require(actor, Permission.READ, ANY_MODEL)
    held = await tx.blobs.hold_sound([file.sha256 for file in files])
    return {file.sha256 for file in files if held.get(file.sha256) == file.size_bytes}


def _check(file: FileEntry, blob: StoredBlob) -> None:
    if blob.size_bytes != file.size_bytes:
        raise SizeMismatch(file.path, file.size_bytes, blob.size_bytes)
    if blob.sha256 != file.sha256:
        raise DigestMismatch(file.path, str(file.sha256), str(blob.sha256))
