"""The registry's core: register, get and list versions of models."""

from collections.abc import AsyncIterable, Mapping
from functools import partial
from typing import Any

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import Database
from model_registry.domain.entities import (
    ListedVersion,
    ListPosition,
    ModelDetails,
    ModelInfo,
    ModelSummary,
    Page,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.domain.naming_rules import validate_model_name
from model_registry.domain.search_filter import NEWEST_FIRST, Filter, Order, SearchPosition
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.background_tasks import BackgroundTasks
from model_registry.runtime.single_flight import SingleFlight
from model_registry.services.not_found import found, missing
from model_registry.services.registration import Registration
from model_registry.services.version_transitions import UploadLimits
from model_registry.transfer.upload_stream import PartBuffers
from model_registry.utils import clean_json_object, to_json_text


class ModelRegistry:
    """The use cases around versions; one instance serves a whole process."""

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
        self._reads = SingleFlight[ModelInfo]()
        self._pages = SingleFlight[Page[ListedVersion]]()
        self._lists = SingleFlight[Page[ModelSummary]]()

    def registration(self, *, actor: Actor, idempotency_key: str | None = None) -> Registration:
        """A registration to fill step by step, as its parts arrive."""
        require(actor, Permission.WRITE)
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
            if files:
                await registration.reserve(ref)
            for path, chunks in (files or {}).items():
                await registration.add_file(path, chunks, media_type="application/octet-stream")
            await registration.publish(ref, details, lambda info: info.version)
        return await self.get(VersionSelector(model_name, version), actor=actor)

    async def get(self, selector: VersionSelector, *, or_unfinished: bool = False, actor: Actor) -> ModelInfo:
        """A ready version; `or_unfinished`, by its label, one that is still being pushed too.

        Raises `ModelNotFound`, `AliasNotFound` or `VersionNotFound`.
        """
        require(actor, Permission.READ)
        return await self._reads.read((selector, or_unfinished), partial(self._get, selector, or_unfinished))

    async def _get(self, selector: VersionSelector, or_unfinished: bool) -> ModelInfo:
        async with self._database.reading() as tx:
            info = await tx.versions.info(selector)
            if info is None and or_unfinished and selector.is_label:
                unfinished = await tx.versions.unfinished(VersionRef(selector.model_name, selector.version))
                # Neither of the two: it may have become ready in between.
                info = unfinished or await tx.versions.info(selector)
            return await found(tx, selector, info)

    async def versions_of(
        self,
        model_name: str,
        *,
        state: VersionState = VersionState.READY,
        by_precedence: bool = True,
        after: ListPosition | None = None,
        limit: int = 100,
        actor: Actor,
    ) -> Page[ListedVersion]:
        """Versions of one model, newest precedence first, or last registered first. Raises `ModelNotFound`."""
        require(actor, Permission.READ)
        validate_model_name(model_name)

        async def read() -> Page[ListedVersion]:
            async with self._database.reading() as tx:
                page = await tx.versions.page_of_model(
                    model_name, state, by_precedence=by_precedence, after=after, limit=limit
                )
                if not page.items and not await tx.models.exists(model_name):
                    raise await missing(tx, VersionSelector(model_name, "latest"))
                return page

        return await self._pages.read((model_name, state, by_precedence, after, limit), read)

    async def search(
        self,
        condition: Filter | None = None,
        *,
        order: Order = NEWEST_FIRST,
        after: SearchPosition | None = None,
        limit: int = 100,
        actor: Actor,
    ) -> Page[ListedVersion]:
        """Versions of all models that a filter is for; see `filters` for what it can say."""
        require(actor, Permission.READ)

        async def read() -> Page[ListedVersion]:
            async with self._database.reading() as tx:
                return await tx.search.page(condition=condition, order=order, after=after, limit=limit)

        # As text: 1 and true are equal in Python, and not in a filter.
        return await self._pages.read((repr(condition), order, after, limit), read)

    async def list_versions(
        self, *, model_name: str | None = None, after: ListPosition | None = None, limit: int = 100, actor: Actor
    ) -> Page[ModelSummary]:
        """Ready versions by name, then newest precedence first; an unknown model has none."""
        require(actor, Permission.READ)
        if model_name is not None:
            validate_model_name(model_name)

        async def read() -> Page[ModelSummary]:
            async with self._database.reading() as tx:
                return await tx.versions.page(model_name=model_name, after=after, limit=limit)

        return await self._lists.read((model_name, after, limit), read)
