"""Reading versions: one by its label, number or alias, those of a model, or all of them."""

from functools import partial

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database
from model_registry.domain.entities import (
    ListedVersion,
    ListPosition,
    ModelInfo,
    ModelSummary,
    Page,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.domain.naming_rules import validate_model_name
from model_registry.runtime.single_flight import SingleFlight
from model_registry.services.not_found import found, missing


class Versions:
    """Read versions. Equal reads at the same time share one query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._reads = SingleFlight[ModelInfo]()
        self._pages_of_model = SingleFlight[Page[ListedVersion]]()
        self._pages = SingleFlight[Page[ModelSummary]]()

    async def get(self, selector: VersionSelector, *, or_unfinished: bool = False, actor: Actor) -> ModelInfo:
        """Return a ready version; with `or_unfinished` also, by its label, one that is still being pushed.

        Raises `ModelNotFound`, `AliasNotFound` or `VersionNotFound`.
        """
        require(actor, Permission.READ, selector.model_name)
        key = (actor.visibility, selector, or_unfinished)
        return await self._reads.read(key, partial(self._get, selector, or_unfinished))

    async def _get(self, selector: VersionSelector, or_unfinished: bool) -> ModelInfo:
        async with self._database.reading() as tx:
            info = await tx.versions.info(selector)
            if info is None and or_unfinished and selector.is_label:
                unfinished = await tx.versions.unfinished(VersionRef(selector.model_name, selector.version))
                # If there is neither, the version may have become ready between the two reads.
                info = unfinished or await tx.versions.info(selector)
            return await found(tx, selector, info)

    async def page_of_model(
        self,
        model_name: str,
        *,
        state: VersionState = VersionState.READY,
        by_precedence: bool = True,
        after: ListPosition | None = None,
        limit: int = 100,
        actor: Actor,
    ) -> Page[ListedVersion]:
        """Return versions of one model, highest precedence first, or last registered first.

        Raises `ModelNotFound`.
        """
        require(actor, Permission.READ, model_name)
        validate_model_name(model_name)

        async def read() -> Page[ListedVersion]:
            async with self._database.reading() as tx:
                page = await tx.version_lists.page_of_model(
                    model_name, state, by_precedence=by_precedence, after=after, limit=limit
                )
                if not page.items and not await tx.models.exists(model_name):
                    raise await missing(tx, VersionSelector(model_name, "latest"))
                return page

        key = (actor.visibility, model_name, state, by_precedence, after, limit)
        return await self._pages_of_model.read(key, read)

    async def page(
        self, *, model_name: str | None = None, after: ListPosition | None = None, limit: int = 100, actor: Actor
    ) -> Page[ModelSummary]:
        """Return ready versions, by model name, then highest precedence first. An unknown model has none."""
        require(actor, Permission.READ, model_name or ANY_MODEL)
        if model_name is not None:
            validate_model_name(model_name)

        async def read() -> Page[ModelSummary]:
            async with self._database.reading() as tx:
                return await tx.version_lists.page(model_name=model_name, after=after, limit=limit)

        return await self._pages.read((actor.visibility, model_name, after, limit), read)
