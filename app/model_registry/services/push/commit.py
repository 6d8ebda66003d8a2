"""The end of a push: what was sent is made whole, verified and published."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from uuid import UUID

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import (
    Digest,
    ModelInfo,
    PushUpload,
    UploadState,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.errors import (
    CommitInProgress,
    DigestMismatch,
    InvalidField,
    LeaseLost,
    PartsChanged,
    SizeMismatch,
    Unavailable,
    UploadIncomplete,
    UploadUnknown,
    VersionNotAvailable,
)
from model_registry.object_store.blob_store import BlobStore, PartsRefused
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.failpoints import failpoint
from model_registry.services.not_found import missing
from model_registry.services.version_transitions import already_exists, announce, keep_blobs
from model_registry.transfer.lease import Lease
from model_registry.transfer.object_digest import Checker
from model_registry.transfer.upload_limits import UploadLimits
from model_registry.utils import Loc

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 10
_AT_ONCE = 8
_BATCH = 256


@dataclass(frozen=True, slots=True)
class PartTag:
    """A part as the client knows it: its number, and the etag that the store gave for it, without quotes."""

    number: int
    etag: str


Parts = Mapping[UUID, Sequence[PartTag]]

_Etags = dict[int, dict[str, str]]
"""For each part the etags that the store has for it, by how the client knows them. Some stores keep every one that was
sent, and do not say which was the last."""


@dataclass(frozen=True, slots=True)
class _Refused:
    """Other bytes than were declared; the digest only where the length was right."""

    size_bytes: int
    sha256: Digest | None


@dataclass(frozen=True, slots=True)
class _Absent:
    """Not there yet; `parts` names those that a multipart upload still lacks."""

    parts: tuple[int, ...] = ()


_Finding = _Refused | _Absent | None


class Commits:
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
        self._checker = Checker(blobs)
        self._limits = limits
        self._background_tasks = background_tasks
        self._wait_seconds = wait_seconds
        self._running: dict[int, tuple[Parts, asyncio.Task[ModelInfo]]] = {}

    async def commit(self, ref: VersionRef, parts: Parts, *, actor: Actor) -> ModelInfo:
        """Verify everything that was declared and publish the version; or what there is after `wait_seconds`.

        Every sha256 is proven, by the store's own check of a single PUT or by reading the object back. Verification
        goes on by itself when the caller leaves or the time is over, and the state says `verifying` meanwhile; to
        commit again is always safe, joins what is running in this process, and resumes what another left behind.

        Raises
        ------
        UploadIncomplete
            With the files, and the parts of files, that are still to be sent.
        DigestMismatch, SizeMismatch
            The version stays pending; reserving again gives a fresh place for the file.
        UploadUnknown, InvalidField
            For parts of another version, or that are not those which were sent.
        VersionExists
            For what somebody else pushes, or registers.
        VersionNotFound, VersionNotAvailable, CommitInProgress, PartsChanged, LeaseLost
        """
        require(actor, Permission.WRITE, ref.model_name)
        async with self._database.reading() as tx:
            taken = await tx.versions.find(ref)
            if taken is None or taken.is_expired:
                raise await missing(tx, VersionSelector(ref.model_name, ref.version))
            if taken.state == VersionState.READY:
                return await tx.versions.info_by_id(taken.id)
        if taken.state == VersionState.REMOVED:
            raise VersionNotAvailable(ref.model_name, ref.version, taken.state)
        if not actor.owns(taken.created_by) or taken.digest is None:  # only a push has a digest before it is ready
            raise already_exists(ref, taken)
        task = self._join_or_begin(ref, taken.id, parts, actor)
        while True:
            await asyncio.wait({task}, timeout=self._wait_seconds)
            if task.done():
                return task.result()
            async with self._database.reading() as tx:
                now = await tx.versions.find(ref)
                # Otherwise it has not begun yet, because it waits for a lock, or ends this very moment.
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
            # Perhaps nobody waits for it any more; who commits again is told once more.
            log.info("commit.failed", version_id=version_id, reason=str(error))

    async def _commit(self, ref: VersionRef, version_id: int, parts: Parts, actor: Actor) -> ModelInfo:
        lease = Lease(self._database, self._limits.lease_seconds, version_id)
        # Whatever comes of it, somebody is there.
        await self._database.run(
            lambda tx: tx.versions.renew(version_id, self._limits.lease_seconds), is_one_statement=True
        )
        lease.keep()
        try:
            uploads = await self._database.run(lambda tx: self._begin(tx, ref, version_id, parts))
            failpoint("c-began")
            await self._settle(ref, uploads, parts, lease)
            # All the bytes are there: worth waiting for a database that is just being restarted.
            info = await self._database.run(
                lambda tx: self._publish(tx, ref, version_id, actor), patience_seconds=_PATIENCE_SECONDS
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
        """What is still to be verified, one object for each digest."""
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
        lacking = await tx.declared.missing(version_id)
        if absent := [file.path for digest, file in lacking.items() if digest not in uploads]:
            raise UploadIncomplete(ref.model_name, ref.version, dict.fromkeys(sorted(absent), ()))
        to_do = [uploads[digest] for digest in lacking if uploads[digest].state != UploadState.STORED]
        for upload in to_do:
            if upload.state == UploadState.REFUSED:
                raise _mismatch(upload, _Refused(upload.found_size_bytes or 0, upload.found_sha256))
        await tx.versions.set_state(version_id, VersionState.VERIFYING, instead_of=VersionState.PENDING)
        return to_do

    async def _settle(self, ref: VersionRef, uploads: Sequence[PushUpload], parts: Parts, lease: Lease) -> None:
        """Verify uploads, and write down what was found as far as it goes; raises for those that are not right."""
        turn = asyncio.Semaphore(_AT_ONCE)

        async def find(upload: PushUpload) -> _Finding:
            async with turn:
                lease.require_held()
                return await self._find(upload, parts.get(upload.id))

        absent: dict[str, tuple[int, ...]] = {}
        mismatches: list[SizeMismatch | DigestMismatch] = []
        for start in range(0, len(uploads), _BATCH):
            batch = uploads[start : start + _BATCH]
            results = await asyncio.gather(*(find(upload) for upload in batch), return_exceptions=True)
            findings: list[tuple[PushUpload, _Finding]] = []
            failure: BaseException | None = None
            for upload, found in zip(batch, results, strict=True):
                match found:
                    case BaseException():
                        failure = failure or found
                        continue
                    case _Refused():
                        mismatches.append(_mismatch(upload, found))
                    case _Absent():
                        absent[upload.path] = found.parts
                findings.append((upload, found))
            await self._database.run(partial(_write_down, findings=findings))
            failpoint("c-found")
            if failure is not None:
                raise failure
        if mismatches:
            raise mismatches[0]
        if absent:
            raise UploadIncomplete(ref.model_name, ref.version, absent)

    async def _find(self, upload: PushUpload, tags: Sequence[PartTag] | None) -> _Finding:
        lacking = () if upload.part_size is None else await self._complete(upload, tags)
        stored = await self._blobs.stored(upload.storage_key)
        if stored is None:
            return _Absent(lacking)
        if stored.size_bytes != upload.size_bytes:
            return _Refused(stored.size_bytes, None)
        if upload.part_size is None and stored.sha256 == upload.sha256:
            # The store refuses a PUT whose bytes do not match the checksum that we signed into its URL.
            return None
        if upload.part_size is not None:
            # Two requests for the first URLs each begin one, and the one that does not count may have been left.
            await self._blobs.abort_multipart(upload.storage_key, None)
        found = await self._checker.digest(upload.storage_key, upload.size_bytes)
        if found is None:
            return _Refused(0, None)  # the store says that it is there, and does not give it back
        return None if found == upload.sha256 else _Refused(upload.size_bytes, found)

    async def _complete(self, upload: PushUpload, tags: Sequence[PartTag] | None) -> tuple[int, ...]:
        """Make the parts one object, if they are all there; returns the numbers of those that are not, as far as the
        store has not made them one before."""
        sizes = dict(enumerate(upload.part_sizes, 1))
        if upload.multipart_id is None:
            return tuple(sizes)
        listed = await self._blobs.list_parts(upload.storage_key, upload.multipart_id)
        if listed is None:
            return tuple(sizes)
        there: _Etags = {}
        for part in listed:
            if sizes.get(part.number) == part.size_bytes:
                there.setdefault(part.number, {})[part.etag.strip('"')] = part.etag
        chosen = _only(upload, there) if tags is None else _chosen(upload, tags, there, len(sizes))
        if lacking := tuple(number for number in sizes if number not in chosen):
            return lacking
        try:
            await self._blobs.complete_multipart(
                upload.storage_key, upload.multipart_id, [chosen[number] for number in sizes], upload.size_bytes
            )
        except PartsRefused as error:
            raise PartsChanged(upload.path) from error
        failpoint("c-completed")
        return ()

    async def _publish(self, tx: Transaction, ref: VersionRef, version_id: int, actor: Actor) -> ModelInfo:
        await tx.models.lock(ref.model_name)
        state = await tx.versions.lock(version_id)
        failpoint("v-locked")
        if state == VersionState.READY:
            # This was us, and the answer to an earlier COMMIT was lost; or our twin in another process.
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
                patience_seconds=_PATIENCE_SECONDS,
            )
        except Unavailable:
            # It stays `verifying`, which says the same to whoever commits again.
            log.warning("commit.state_not_written", version_id=version_id)


async def _write_down(tx: Transaction, findings: Sequence[tuple[PushUpload, _Finding]]) -> None:
    await tx.push_uploads.mark_stored([upload.id for upload, found in findings if found is None])
    for upload, found in findings:
        if isinstance(found, _Refused):
            await tx.push_uploads.mark_refused(upload.id, found.size_bytes, found.sha256)


def _mismatch(upload: PushUpload, found: _Refused) -> SizeMismatch | DigestMismatch:
    if found.sha256 is None:
        return SizeMismatch(upload.path, upload.size_bytes, found.size_bytes)
    return DigestMismatch(upload.path, str(upload.sha256), str(found.sha256))


def _loc(upload: PushUpload) -> Loc:
    return ("body", "parts", str(upload.id))


def _chosen(upload: PushUpload, tags: Sequence[PartTag], there: _Etags, count: int) -> dict[int, str]:
    """The etags that the client's own list of parts chooses; it must name every part that the store has."""
    chosen: dict[int, str] = {}
    for index, tag in enumerate(tags):
        where = (*_loc(upload), index)
        if not 1 <= tag.number <= count:
            raise InvalidField((*where, "part_number"), f"this upload has parts 1 to {count}", tag.number)
        if index and tag.number <= tags[index - 1].number:
            raise InvalidField((*where, "part_number"), "parts are listed in ascending order, each once", tag.number)
        if etags := there.get(tag.number):
            if tag.etag not in etags:
                raise InvalidField((*where, "etag"), f"the store has {', '.join(etags)} for this part", tag.etag)
            chosen[tag.number] = etags[tag.etag]
    if left_out := sorted(there.keys() - {tag.number for tag in tags}):
        raise InvalidField(_loc(upload), f"parts that were sent are not listed: {_numbers(left_out)}", None)
    return chosen


def _only(upload: PushUpload, there: _Etags) -> dict[int, str]:
    """The etags where there is nothing to choose from."""
    if several := sorted(number for number, etags in there.items() if len(etags) > 1):
        rule = f"list the parts, because some were sent again with other bytes: {_numbers(several)}"
        raise InvalidField(_loc(upload), rule, None)
    return {number: etag for number, etags in there.items() for etag in etags.values()}


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:10]))
    return shown if len(numbers) <= 10 else f"{shown} and {len(numbers) - 10} more"
