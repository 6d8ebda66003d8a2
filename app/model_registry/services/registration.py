"""One registration, from the reserved label to the published version."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import structlog

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.database.idempotency import FirstAnswer
from model_registry.domain.entities import (
    Digest,
    Manifest,
    ModelDetails,
    ModelInfo,
    NewUpload,
    StoredFile,
    VersionRef,
    VersionState,
    manifest_digest,
)
from model_registry.domain.naming_rules import DistinctPaths
from model_registry.domain.version_labels import precedence
from model_registry.errors import IdempotencyKeyReused, LeaseLost, ModelNameTaken, Unavailable, VersionExists
from model_registry.object_store.blob_store import BlobStore, storage_key
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.failpoints import failpoint
from model_registry.runtime.offload import ITEM_BYTES, offload
from model_registry.services.lease import Lease
from model_registry.services.version_transitions import (
    UploadLimits,
    already_exists,
    announce,
    discard_unfinished,
    keep_blobs,
)
from model_registry.transfer.upload_stream import PartBuffers, digest_stream, split_off_small, store_stream
from model_registry.utils import canonical_json, clean_json_object, to_json_text

log = structlog.get_logger(__name__)

_PATIENCE_SECONDS = 10
_PAUSE_SECONDS = 1
Render = Callable[[ModelInfo], str]


@dataclass(frozen=True, slots=True)
class Registered:
    """`answer` is what `Render` made of the version when it was first registered."""

    ref: VersionRef
    answer: str


class Registration:
    """Use as an async context manager: what is not published by its end is given up.

    A registration that fails leaves nothing visible and nothing unreclaimable: its label is free again, its
    objects are garbage, and a model that existed only for its sake is gone. After a crash the lease does the same.
    """

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        buffers: PartBuffers,
        limits: UploadLimits,
        background_tasks: BackgroundTasks,
        actor: Actor,
        idempotency_key: str | None,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._buffers = buffers
        self._limits = limits
        self._background_tasks = background_tasks
        self._actor = actor
        self._key = idempotency_key
        self._reservation = uuid4()
        self._ref: VersionRef | None = None
        self._version_id: int | None = None
        self._conflict: VersionExists | None = None
        self._may_hold_label = False
        self._uploads: list[NewUpload] = []
        self._unopened: list[NewUpload] = []
        self._opening = asyncio.Lock()
        self._failure: Exception | None = None
        self._files: list[StoredFile] = []
        self._storing: set[asyncio.Task[None]] = set()
        self._paths = DistinctPaths()
        self._lease = Lease(database, limits.lease_seconds)
        self._is_published = False

    async def __aenter__(self) -> "Registration":
        self._background_tasks.begin()
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            self._lease.end()
            await self._stop_storing()
            if not self._is_published and (self._may_hold_label or self._uploads):
                # A task of its own, so that it goes on when the caller is cancelled.
                await asyncio.shield(self._background_tasks.run(self._give_up()))
        finally:
            self._background_tasks.end()

    async def _stop_storing(self) -> None:
        for task in self._storing:
            task.cancel()
        await asyncio.gather(*self._storing, return_exceptions=True)

    async def reserve(self, ref: VersionRef) -> None:
        """Take the label, before any byte moves.

        Raises `VersionExists` or `ModelNameTaken`. With an Idempotency-Key, `VersionExists` waits for `publish`,
        which knows by then whether this is the same registration once more.
        """
        require(self._actor, Permission.WRITE, ref.model_name)
        self._ref = ref
        try:
            self._version_id = await self._database.run(lambda tx: self._take_label(tx, ref))
        except ModelNameTaken:
            self._may_hold_label = False
            raise
        except VersionExists as conflict:
            self._may_hold_label = False
            if self._key is None:
                raise
            self._conflict = conflict
        else:
            self._lease.version_id = self._version_id
            self._lease.keep()

    async def _take_label(self, tx: Transaction, ref: VersionRef) -> int:
        # Where PostgreSQL was not even reached, there is nothing to take back, and the answer need not wait for that.
        self._may_hold_label = True
        number = await tx.models.next_number(ref.model_name)
        for _ in range(2):
            version_id = await tx.versions.reserve(
                ref,
                number=number,
                precedence=precedence(ref.version),
                reservation=self._reservation,
                actor=self._actor.name,
                lease_seconds=self._limits.lease_seconds,
            )
            if version_id is None:
                version_id = await self._make_room(tx, ref)
            if version_id is not None:
                return version_id
        raise VersionExists(ref.model_name, ref.version, state=VersionState.PENDING, digest=None)

    async def _make_ready(self, tx: Transaction, ref: VersionRef, details: ModelDetails) -> ModelInfo:
        """Take the label with a version that is whole as it is, without files."""
        self._may_hold_label = True
        number = await tx.models.next_number(ref.model_name)
        for _ in range(2):
            info = await tx.versions.register(
                ref, number=number, precedence=precedence(ref.version), actor=self._actor.name, details=details
            )
            if info is not None:
                return info
            # Ours it is never: what has a reservation of ours came by `reserve`, and not here.
            await self._make_room(tx, ref)
        raise VersionExists(ref.model_name, ref.version, state=VersionState.PENDING, digest=None)

    async def _make_room(self, tx: Transaction, ref: VersionRef) -> int | None:
        """Discard what stands in the way of a label if its lease has run out; returns its id if that is ours."""
        taken = await tx.versions.taken(ref)
        if taken is None:
            return None
        if taken.reservation == self._reservation:
            return taken.id  # the answer to an earlier COMMIT of ours was lost
        if not taken.is_expired:
            raise already_exists(ref, taken)
        await discard_unfinished(tx, taken.id, only_expired=True, delay_seconds=self._limits.late_write_seconds)
        return None

    async def add_file(
        self, path: str, chunks: AsyncIterable[bytes], *, media_type: str, at_most_bytes: int | None = None
    ) -> None:
        """Store one file from a stream, consumed once, whatever its size; see `uploads.store_stream`.

        A small one may still be on its way to the store when this returns; a later call says how that went.
        """
        self._paths.add(path, "model_file")
        if self._conflict is not None:
            # Only to find out whether it is the same file: nothing of it will be stored.
            self._files.append(StoredFile(path, media_type, await digest_stream(chunks, self._limits.max_upload_bytes)))
            return
        held = self._lease.while_held(chunks)
        beginning, is_small = await split_off_small(held)
        for stored in [task for task in self._storing if task.done()]:
            self._storing.discard(stored)
            stored.result()
        storing = self._store(path, _resumed(beginning, held), media_type=media_type, at_most_bytes=at_most_bytes)
        if not is_small or self._buffers.small.locked():
            await storing
            return
        await self._buffers.small.acquire()
        task = asyncio.create_task(storing)
        task.add_done_callback(lambda _task: self._buffers.small.release())
        self._storing.add(task)

    async def _store(
        self, path: str, chunks: AsyncIterable[bytes], *, media_type: str, at_most_bytes: int | None
    ) -> None:
        upload = NewUpload(upload_id := uuid4(), storage_key(upload_id), path)
        self._uploads.append(upload)
        await self._open(upload)
        self._lease.check()
        self._lease.upload_ids.append(upload.id)
        self._lease.keep()
        failpoint("u-intent")

        async def began_multipart(multipart_id: str) -> None:
            if not await self._database.run(
                lambda tx: tx.uploads.began_multipart(upload.id, multipart_id), patience_seconds=_PATIENCE_SECONDS
            ):
                raise LeaseLost

        blob = await store_stream(
            chunks,
            key=upload.storage_key,
            blobs=self._blobs,
            buffers=self._buffers,
            at_most_bytes=at_most_bytes,
            limit_bytes=self._limits.max_upload_bytes,
            began_multipart=began_multipart,
        )
        self._files.append(StoredFile(path, media_type, blob))

    async def _open(self, upload: NewUpload) -> None:
        """Note the intent to write an object; what comes while others are noted goes together into one statement."""
        self._unopened.append(upload)
        async with self._opening:
            if upload not in self._unopened:
                return
            if self._failure is not None:
                # The form is lost: to try again for each of its files would be to wait as long for each.
                raise self._failure
            batch = tuple(self._unopened)
            try:
                if not await self._database.run(
                    lambda tx: tx.uploads.open(batch, self._version_id, self._limits.lease_seconds),
                    patience_seconds=_PATIENCE_SECONDS,
                    is_one_statement=True,
                ):
                    raise LeaseLost
            except Exception as error:
                self._failure = error
                raise
            del self._unopened[: len(batch)]

    async def publish(self, ref: VersionRef, details: ModelDetails, render: Render) -> Registered:
        """Make the version visible, whole, and for ever the same; or raise and leave nothing.

        Returns only after the commit. With an Idempotency-Key that was used before for the same meaning (name,
        version, parameters, metadata and manifest digest) the first answer is given again.
        """
        require(self._actor, Permission.WRITE, ref.model_name)
        await asyncio.gather(*self._storing)
        digest = manifest_digest(file.entry for file in self._files)
        meaning = b""
        if self._key is not None:
            size = len(details.standardization_params) + len(details.model_params) + len(details.additional_metadata)
            meaning = await offload(lambda: _meaning(ref, details, digest), size // ITEM_BYTES)
            if (first := await self._first_answer(self._key, meaning)) is not None:
                return Registered(ref, first)
        if self._conflict is not None:
            raise self._conflict

        async def work(tx: Transaction) -> str:
            return await self._publish(tx, ref, details, meaning, render)

        try:
            # All the bytes have arrived by now: worth waiting for a database that is just being restarted.
            answer = await self._database.run(work, patience_seconds=_PATIENCE_SECONDS)
        except ModelNameTaken:
            self._may_hold_label = False
            raise
        except VersionExists:
            self._may_hold_label = False
            # Perhaps by this very registration, sent twice, since we looked.
            if self._key is None or (first := await self._first_answer(self._key, meaning)) is None:
                raise
            return Registered(ref, first)
        failpoint("v-after-commit")
        self._is_published = True
        log.info(
            "version.registered",
            model_name=ref.model_name,
            version=ref.version,
            digest=str(digest),
            size_bytes=sum(file.blob.size_bytes for file in self._files),
            files=len(self._files),
        )
        return Registered(ref, answer)

    async def _first_answer(self, key: str, meaning: bytes) -> str | None:
        """What was answered when the key was used first; raises `IdempotencyKeyReused` for another meaning."""
        async with self._database.reading() as tx:
            first = await tx.idempotency.find(self._actor.name, key)
        if first is None:
            return None
        if first.meaning != meaning:
            raise IdempotencyKeyReused(key)
        return first.answer

    async def _publish(
        self, tx: Transaction, ref: VersionRef, details: ModelDetails, meaning: bytes, render: Render
    ) -> str:
        # Rows are locked from the outside in, everywhere: model, version, uploads, blobs. So there are no deadlocks.
        self._ref = ref
        if self._version_id is None and not self._files:
            info = await self._make_ready(tx, ref, details)
        else:
            await tx.models.lock(ref.model_name)
            # Files that came before the label had nothing to reserve.
            version_id = self._version_id or await self._take_label(tx, ref)
            state = await tx.versions.lock(version_id)
            failpoint("v-locked")
            if state == VersionState.READY:
                # This was us: the answer to an earlier COMMIT was lost.
                return render(await tx.versions.info_by_id(version_id))
            if state != VersionState.PENDING:
                raise LeaseLost
            info = await self._publish_files(tx, version_id, details)
        await announce(tx, info, actor=self._actor)
        answer = render(info)
        if self._key is not None and not await tx.idempotency.remember(
            self._actor.name, self._key, FirstAnswer(meaning, answer)
        ):
            raise IdempotencyKeyReused(self._key)
        failpoint("v-before-commit")
        return answer

    async def _publish_files(self, tx: Transaction, version_id: int, details: ModelDetails) -> ModelInfo:
        if await tx.uploads.close([upload.id for upload in self._uploads]) != len(self._uploads):
            raise LeaseLost
        keys = await keep_blobs(tx, [file.blob for file in self._files], self._blobs.location, actor=self._actor)
        failpoint("v-blobs")
        entries = [file.entry for file in self._files]
        await tx.versions.add_files(version_id, entries)
        failpoint("v-files")
        return await tx.versions.publish(
            version_id,
            details=details,
            manifest=Manifest.of(entries),
            file_path=self._blobs.location(keys[entries[0].sha256]) if len(entries) == 1 else None,
        )

    async def _give_up(self) -> None:
        """Take back everything; tried for as long as the lease, so that a client need not wait for that."""
        delay_seconds = self._limits.late_write_seconds

        async def work(tx: Transaction) -> None:
            if self._ref is not None and self._may_hold_label:
                await tx.models.lock(self._ref.model_name)
                taken = await tx.versions.taken(self._ref)
                if taken is not None and taken.reservation == self._reservation:
                    await discard_unfinished(tx, taken.id, delay_seconds=delay_seconds)
                await tx.models.drop_if_unused(self._ref.model_name)
            await tx.uploads.give_up([upload.id for upload in self._uploads], delay_seconds=delay_seconds)
            # Once more by key: after a lost lease the rows are gone, and perhaps their garbage too, but our last
            # write may have come after that.
            keys = [upload.storage_key for upload in self._uploads]
            await tx.garbage.add(keys, delay_seconds=delay_seconds, is_upload=True)

        try:
            await self._database.run(work)
        except Unavailable:
            log.warning("registration.given_up_later", version_id=self._version_id)
            self._background_tasks.run(self._give_up_later(work))

    async def _give_up_later(self, work: Callable[[Transaction], Awaitable[None]]) -> None:
        deadline = time.monotonic() + self._limits.lease_seconds
        while True:
            try:
                await self._database.run(work, patience_seconds=deadline - time.monotonic())
                return
            except Unavailable as error:
                # Also after a wait that has run out, which `run` does not repeat: a server that was silent may be back.
                if time.monotonic() + _PAUSE_SECONDS > deadline:
                    log.warning("registration.left_to_the_collector", cause=repr(error.__cause__))
                    return
            await asyncio.sleep(_PAUSE_SECONDS)


class Registrations:
    """Begins registrations. One instance serves a whole process."""

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

    def begin(self, *, actor: Actor, idempotency_key: str | None = None) -> Registration:
        """Return a registration to fill step by step, as its parts arrive."""
        require(actor, Permission.WRITE, ANY_MODEL)
        return Registration(
            database=self._database,
            blobs=self._blobs,
            buffers=self._buffers,
            limits=self._limits,
            background_tasks=self._background_tasks,
            actor=actor,
            idempotency_key=idempotency_key,
        )

    async def register(
        self,
        ref: VersionRef,
        *,
        files: Mapping[str, AsyncIterable[bytes]],
        standardization_params: Mapping[str, Any],
        model_params: Mapping[str, Any],
        additional_metadata: Mapping[str, Any],
        actor: Actor,
    ) -> VersionRef:
        """Register a version whose parts are all there. `ModelRegistry.register` describes the parameters."""
        require(actor, Permission.WRITE, ref.model_name)
        details = ModelDetails(
            to_json_text(clean_json_object(standardization_params, ("standardization_params",))),
            to_json_text(clean_json_object(model_params, ("model_params",))),
            to_json_text(clean_json_object(additional_metadata, ("additional_metadata",))),
        )
        async with self.begin(actor=actor) as registration:
            if files:
                await registration.reserve(ref)
            for path, chunks in files.items():
                await registration.add_file(path, chunks, media_type="application/octet-stream")
            registered = await registration.publish(ref, details, lambda info: info.version)
        return registered.ref


async def _resumed(beginning: bytes, rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield beginning
    async for chunk in rest:
        yield chunk


def _meaning(ref: VersionRef, details: ModelDetails, digest: Digest) -> bytes:
    """What a registration is, whatever the bytes that said it."""
    fields = {
        "model_name": ref.model_name,
        "version": ref.version,
        "standardization_params": details.standardization_params,
        "model_params": details.model_params,
        "additional_metadata": details.additional_metadata,
        "digest": digest.hex,
    }
    return hashlib.sha256(canonical_json(fields)).digest()
