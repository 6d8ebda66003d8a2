"""Models, the names under which versions are kept: create, find, edit and delete them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import Alias, Annotations, Event, Page, Precondition, RegisteredModel, unconditional
from model_registry.domain.naming_rules import validate_model_name, validate_tags
from model_registry.errors import ModelChanged, ModelExists, ModelInUse, ModelNotFound
from model_registry.utils import JsonText, exact_json, merge_patch, to_json_text

log = structlog.get_logger(__name__)

_ALIASES_SHOWN = 1000
_LARGE_PATCH_CHARS = 16 * 1024


@dataclass(frozen=True, slots=True)
class DescribedModel:
    """A model with its aliases."""

    model: RegisteredModel
    aliases: Sequence[Alias]

    @property
    def etag(self) -> str:
        """A hash of everything that clients see, so that no member can be forgotten."""
        return hashlib.sha256(repr((self.model, self.aliases)).encode()).hexdigest()[:32]


class Models:
    """Create, find, edit and delete models."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(
        self,
        *,
        search: str | None = None,
        tags: Mapping[str, str] | None = None,
        after: str | None = None,
        limit: int = 100,
        actor: Actor,
    ) -> Page[RegisteredModel]:
        """Return models by name.

        `search` is a part of the name, regardless of case. `tags` are tags that the models have, with these values.
        """
        require(actor, Permission.READ, ANY_MODEL)
        async with self._database.reading() as tx:
            return await tx.models.page(search=search, tags=tags or {}, after=after, limit=limit)

    async def get(self, name: str, *, actor: Actor) -> DescribedModel:
        """Return a model with its aliases.

        Raises `ModelNotFound`, also if only an unfinished version has created the model.
        """
        require(actor, Permission.READ, name)
        validate_model_name(name)
        async with self._database.reading() as tx:
            return await _described(tx, name)

    async def create(self, name: str, annotations: Annotations, *, actor: Actor) -> DescribedModel:
        """Create a model without versions.

        Raises `ModelExists`, or `ModelNameTaken` if another name differs only in case.
        """
        require(actor, Permission.WRITE, name)
        validate_model_name(name, ("body", "name"))

        async def work(tx: Transaction) -> DescribedModel:
            await tx.models.lock(name)
            if not await tx.models.create(name, annotations):
                raise ModelExists(name)
            await tx.events.record(Event(actor.name, "model.created", name))
            return await _described(tx, name)

        described = await self._database.run(work)
        log.info("model.created", model_name=name)
        return described

    async def update(
        self, name: str, patch: Mapping[str, Any], *, precondition: Precondition = unconditional, actor: Actor
    ) -> DescribedModel:
        """Apply a merge patch (RFC 7396) of `description` and `tags`.

        Raises `ModelNotFound`, `ModelChanged` if the precondition is false, and `InvalidField` for invalid tags.
        """
        require(actor, Permission.WRITE, name)
        validate_model_name(name)

        async def work(tx: Transaction) -> DescribedModel:
            await tx.models.lock(name)
            before = await _described(tx, name)
            _ensure_unchanged(precondition, before)
            if not patch:
                return before
            await tx.models.annotate(name, patched(Annotations(before.model.description, before.model.tags), patch))
            await tx.events.record(Event(actor.name, "model.updated", name, None, patch_details(patch)))
            return await _described(tx, name)

        return await self._database.run(work)

    async def delete(self, name: str, *, precondition: Precondition = unconditional, actor: Actor) -> None:
        """Delete a model that never had a version.

        Raises `ModelNotFound`, `ModelInUse`, or `ModelChanged` if the precondition is false.
        """
        require(actor, Permission.REMOVE, name)
        validate_model_name(name)

        async def work(tx: Transaction) -> None:
            await tx.models.lock(name)
            described = await _described(tx, name)
            if not await tx.models.delete_unused(name):
                raise ModelInUse(name)
            _ensure_unchanged(precondition, described)
            await tx.events.record(Event(actor.name, "model.deleted", name))

        await self._database.run(work)
        log.info("model.deleted", model_name=name)


async def _described(tx: Transaction, name: str) -> DescribedModel:
    model = await tx.models.get(name)
    if model is None:
        existing = await tx.models.existing_name(name)
        raise ModelNotFound(name, existing if existing != name else None)
    aliases = await tx.aliases.page(name, after=None, limit=_ALIASES_SHOWN)
    return DescribedModel(model, aliases.items)


def _ensure_unchanged(precondition: Precondition, described: DescribedModel) -> None:
    if not precondition(described.etag):
        raise ModelChanged(described.model.name, described.etag)


def patch_details(patch: Mapping[str, Any]) -> JsonText:
    """Return what an event stores of a patch: the patch itself, or only the names of its fields if it is large."""
    details = to_json_text({"patch": patch})
    return details if len(details) <= _LARGE_PATCH_CHARS else to_json_text({"fields": sorted(patch)})


def patched(annotations: Annotations, patch: Mapping[str, Any]) -> Annotations:
    """Apply the members of a merge patch (RFC 7396) that are annotations. Raises `InvalidField`."""
    tags = exact_json(annotations.tags)
    if "tags" in patch:
        tags = {} if patch["tags"] is None else merge_patch(tags, patch["tags"])
    validate_tags(tags, ("body", "tags"))
    return Annotations(patch.get("description", annotations.description), to_json_text(tags))
