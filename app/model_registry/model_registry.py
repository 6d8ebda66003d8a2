"""The registry's core: register, get, list and remove versions of models."""

from collections.abc import AsyncIterable, Mapping
from typing import Any

import structlog

from model_registry.access import Actor, Permission, require
from model_registry.domain import (
    Event,
    ListPosition,
    ModelDetails,
    ModelInfo,
    ModelSummary,
    Page,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.errors import VersionAliased
from model_registry.lookup import found, missing
from model_registry.names import check_model_name
from model_registry.ongoing import Ongoing
from model_registry.registration import Registration
from model_registry.storage.blobstore import BlobStore
from model_registry.storage.database import Database, Transaction
from model_registry.unfinished import UploadLimits
from model_registry.uploads import PartBuffers
from model_registry.utils import EMPTY_OBJECT, clean_json_object, to_json_text

log = structlog.get_logger(__name__)


class ModelRegistry:
    """The use cases around versions; one instance serves a whole process."""

    def __init__(
        self,
        *,
        database: Database,
        blobs: BlobStore,
        buffers: PartBuffers,
        limits: UploadLimits,
        ongoing: Ongoing,
        purge_after_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._buffers = buffers
        self._limits = limits
        self._purge_after_seconds = purge_after_seconds
        self._grace_seconds = grace_seconds
        self._ongoing = ongoing

    def registration(self, *, actor: Actor, idempotency_key: str | None = None) -> Registration:
        """A registration to fill step by step, as its parts arrive."""
        require(actor, Permission.WRITE)
        return Registration(
            database=self._database,
            blobs=self._blobs,
            buffers=self._buffers,
            limits=self._limits,
            ongoing=self._ongoing,
            actor=actor,
            idempotency_key=idempotency_key,
        )

    async def register(
        self,
        model_name: str,
        version: str,
        *,
        files: Mapping[str, AsyncIterable[bytes]] | None = None,
        standardization_params: Mapping[str, Any] | None = None,
        model_params: Mapping[str, Any] | None = None,
        additional_metadata: Mapping[str, Any] | None = None,
        actor: Actor,
    ) -> ModelInfo:
        """Register a version with all of its files, in one go.

        The three mappings may hold NumPy values, dates and the like; see `utils.clean_json_object`.

        Raises
        ------
        VersionExists, ModelNameTaken
            Before the first byte of a file is read.
        InvalidField
            For a name, a version, a path or a value against the rules.
        """
        ref = VersionRef(model_name, version)
        details = ModelDetails(
            to_json_text(clean_json_object(standardization_params or {}, ("standardization_params",))),
            to_json_text(clean_json_object(model_params or {}, ("model_params",))),
            to_json_text(clean_json_object(additional_metadata or {}, ("additional_metadata",))),
        )
        async with self.registration(actor=actor) as registration:
            await registration.reserve(ref)
            for path, chunks in (files or {}).items():
                await registration.add_file(path, chunks, media_type="application/octet-stream")
            await registration.publish(ref, details, lambda info: info.version)
        return await self.get(VersionSelector(model_name, version), actor=actor)

    async def get(self, selector: VersionSelector, *, actor: Actor) -> ModelInfo:
        """A ready version. Raises `ModelNotFound`, `AliasNotFound` or `VersionNotFound`."""
        require(actor, Permission.READ)
        async with self._database.reading() as tx:
            return await found(tx, selector, await tx.versions.info(selector))

    async def list_versions(
        self, *, model_name: str | None = None, after: ListPosition | None = None, limit: int = 100, actor: Actor
    ) -> Page[ModelSummary]:
        """Ready versions by name, then newest precedence first; an unknown model has none."""
        require(actor, Permission.READ)
        if model_name is not None:
            check_model_name(model_name)
        async with self._database.reading() as tx:
            return await tx.versions.page(model_name=model_name, after=after, limit=limit)

    async def remove(self, ref: VersionRef, *, force: bool = False, actor: Actor) -> ModelInfo:
        """Hide a version; it can be restored until it is purged, and its label stays taken for ever.

        Raises `VersionAliased` while an alias points at it, unless `force` drops those aliases.
        """
        require(actor, Permission.REMOVE)
        is_rerun = False

        async def work(tx: Transaction) -> ModelInfo:
            nonlocal is_rerun
            taken = await tx.versions.taken(ref)
            state = None if taken is None else await tx.versions.lock(taken.id)
            if taken is not None and state == VersionState.REMOVED and is_rerun:
                return await tx.versions.info_by_id(taken.id)  # the answer to our COMMIT was lost
            is_rerun = True
            if taken is None or state != VersionState.READY:
                raise await missing(tx, VersionSelector(ref.model_name, ref.version))
            return await self._remove(tx, ref, taken.id, force=force, actor=actor)

        info = await self._database.run(work)
        log.info("version.removed", model_name=ref.model_name, version=ref.version)
        return info

    async def _remove(
        self, tx: Transaction, ref: VersionRef, version_id: int, *, force: bool, actor: Actor
    ) -> ModelInfo:
        aliases = await tx.versions.aliases(version_id)
        if aliases and not force:
            raise VersionAliased(ref.model_name, ref.version, aliases)
        await tx.versions.drop_aliases(version_id)
        await tx.versions.remove(version_id, self._purge_after_seconds)
        await tx.events.record(
            Event(
                actor.name,
                "version.removed",
                ref.model_name,
                ref.version,
                to_json_text({"dropped_aliases": aliases}) if aliases else EMPTY_OBJECT,
            )
        )
        return await tx.versions.info_by_id(version_id)
