"""One registration, from the reserved label to the published version."""

import asyncio
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import RESTART_SECONDS, Database, Transaction
from model_registry.domain.entities import (
    Manifest,
    ModelDetails,
    ModelInfo,
    StoredBlob,
    StoredFile,
    VersionRef,
    VersionState,
    manifest_digest,
)
from model_registry.domain.naming_rules import DistinctPaths
from model_registry.errors import LeaseLost, Unavailable, VersionExists
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.failpoints import failpoint
from model_registry.services.idempotency import IdempotencyKey, meaning_of
from model_registry.services.label_reservation import LabelReservation
from model_registry.services.version_transitions import announce, keep_blobs
from model_registry.transfer.lease import Lease
from model_registry.transfer.object_writer import ObjectWriter
from model_registry.transfer.part_buffers import PartBuffers
from model_registry.transfer.stream_digest import digest_stream
from model_registry.transfer.upload_limits import UploadLimits
from model_registry.utils import clean_json_object, to_json_text

log = structlog.get_logger(__name__)

_PAUSE_SECONDS = 1
Render = Callable[[ModelInfo], str]


@dataclass(frozen=True, slots=True)
class Registered:
    """`body` is what `Render` returned for the version when it was first registered."""

    ref: VersionRef
    body: str


class Registration:
    """Use it as an async context manager: a version that is not published by its end is given up.

    A registration that fails leaves nothing visible, and nothing that cannot be reclaimed. Its label is free again, its
    objects are garbage, and a model that existed only for it is dropped. After a crash the collector does the same.
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
        self._limits = limits
        self._background_tasks = background_tasks
        self._actor = actor
        self._key = IdempotencyKey(database, actor.name, idempotency_key) if idempotency_key is not None else None
        self._label = LabelReservation(actor.name, limits)
        self._conflict: VersionExists | None = None
        self._files: list[StoredFile] = []
        self._paths = DistinctPaths()
        self._lease = Lease(database, limits.lease_seconds)
        self._writer = ObjectWriter(
            database=database,
            blobs=blobs,
            buffers=buffers,
            lease=self._lease,
        )
        self._is_published = False

    async def __aenter__(self) -> "Registration":
        self._background_tasks.begin()
        return self

    async def __aexit__(self, *_error: object) -> None:
        try:
            await self._writer.stop()
            if not self._is_published and (self._label.may_be_held or self._writer.uploads.ids):
                # In a task of its own, which continues if the caller is cancelled.
                await asyncio.shield(self._background_tasks.run(self._give_up()))
        finally:
            self._background_tasks.end()

    async def reserve(self, ref: VersionRef) -> None:
        """Take the label, before any byte of a file moves.

        Raises `VersionExists` or `ModelNameTaken`. With an Idempotency-Key, `publish` raises `VersionExists` instead,
        because it knows then whether this is the same registration again.
        """
        require(self._actor, Permission.WRITE, ref.model_name)
        try:
            self._lease.version_id = await self._database.run(lambda tx: self._label.take(tx, ref))
        except VersionExists as conflict:
            if self._key is None:
                raise
            self._conflict = conflict
        else:
            self._lease.keep()

    async def add_file(
        self, path: str, chunks: AsyncIterable[bytes], *, media_type: str, at_most_bytes: int | None = None
    ) -> None:
        """Store one file from a stream of any size, which is read once; see `ObjectWriter.write_behind`."""
        self._paths.add(path, "model_file")

        def add(blob: StoredBlob) -> None:
            self._files.append(StoredFile(path, media_type, blob))

        if self._conflict is not None:
            # Its digest tells whether this is the same registration again. Nothing is stored.
            add(await digest_stream(chunks, self._limits.max_upload_bytes))
            return
        await self._writer.write_behind(
            path, chunks, add, limit_bytes=self._limits.max_upload_bytes, at_most_bytes=at_most_bytes
        )

    async def publish(self, ref: VersionRef, details: ModelDetails, render: Render) -> Registered:
        """Make the version visible, complete and unchangeable; or raise, and leave nothing.

        Returns after the commit. If the Idempotency-Key was used before for the same meaning (name, version,
        parameters, metadata and manifest digest), the first response is returned again.
        """
        require(self._actor, Permission.WRITE, ref.model_name)
        await self._writer.flush()
        digest = manifest_digest(file.entry for file in self._files)
        meaning = b""
        if self._key is not None:
            meaning = await meaning_of(ref, details, digest)
            if (first := await self._key.first_response(meaning)) is not None:
                return Registered(ref, first)
        if self._conflict is not None:
            raise self._conflict

        async def work(tx: Transaction) -> str:
            return await self._publish(tx, ref, details, meaning, render)

        try:
            # All the bytes have arrived, so it is worth waiting for a database that is being restarted.
            body = await self._database.run(work, patience_seconds=RESTART_SECONDS)
        except VersionExists:
            # Perhaps by this very registration, sent twice, since we looked.
            if self._key is None or (first := await self._key.first_response(meaning)) is None:
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
        return Registered(ref, body)

    async def _publish(
        self, tx: Transaction, ref: VersionRef, details: ModelDetails, meaning: bytes, render: Render
    ) -> str:
        # Rows are always locked in this order: model, version, uploads, blobs. So there are no deadlocks.
        if self._lease.version_id is None and not self._files:
            info = await self._label.take_ready(tx, ref, details)
        else:
            await tx.models.lock(ref.model_name)
            # Files that came before the label had nothing to reserve.
            version_id = self._lease.version_id or await self._label.take(tx, ref)
            state = await tx.versions.lock(version_id)
            failpoint("v-locked")
            if state == VersionState.READY:
                # An earlier attempt committed, and its reply was lost.
                return render(await tx.versions.info_by_id(version_id))
            if state != VersionState.PENDING:
                raise LeaseLost
            info = await self._publish_files(tx, version_id, details)
        await announce(tx, info, actor=self._actor)
        body = render(info)
        if self._key is not None:
            await self._key.remember(tx, meaning, body)
        failpoint("v-before-commit")
        return body

    async def _publish_files(self, tx: Transaction, version_id: int, details: ModelDetails) -> ModelInfo:
        await self._writer.uploads.close(tx)
        keys = await keep_blobs(tx, [file.blob for file in self._files], self._blobs.location, actor=self._actor)
        failpoint("v-blobs")
        entries = [file.entry for file in self._files]
        await tx.version_files.add(version_id, entries)
        failpoint("v-files")
        return await tx.versions.publish(
            version_id,
            details=details,
            manifest=Manifest.of(entries),
            file_path=self._blobs.location(keys[entries[0].sha256]) if len(entries) == 1 else None,
        )

    async def _give_up(self) -> None:
        """Take everything back. If PostgreSQL is away, this continues in the background for as long as the lease."""

        async def work(tx: Transaction) -> None:
            await self._label.give_back(tx)
            await self._writer.uploads.give_up(tx, delay_seconds=self._limits.late_write_seconds)

        try:
            await self._database.run(work)
        except Unavailable:
            log.warning("registration.given_up_later", version_id=self._lease.version_id)
            self._background_tasks.run(self._give_up_later(work))

    async def _give_up_later(self, work: Callable[[Transaction], Awaitable[None]]) -> None:
        deadline = time.monotonic() + self._limits.lease_seconds
        while True:
            try:
                await self._database.run(work, patience_seconds=deadline - time.monotonic())
                return
            except Unavailable as error:
                # Also after a timeout, which `run` does not repeat: a server that was silent may be back.
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
