"""Changes of a ready version: edit, yank, remove, restore and purge it."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import (
    Annotations,
    Event,
    ModelInfo,
    Precondition,
    VersionRef,
    VersionSelector,
    VersionState,
    unconditional,
)
from model_registry.errors import (
    InvalidField,
    VersionAliased,
    VersionChanged,
    VersionNotAvailable,
    VersionPurged,
)
from model_registry.services.models import patch_details, patched
from model_registry.services.not_found import missing
from model_registry.services.version_transitions import discard_unfinished, purge
from model_registry.utils import EMPTY_OBJECT, JsonText, exact_json, merge_patch, to_json_text

log = structlog.get_logger(__name__)


class Lifecycle:
    """Edit, yank, remove and restore versions.

    Each change has a precondition on the current ETag of the version, and raises `VersionChanged` if it is false.
    Each raises `ModelNotFound` or `VersionNotFound` if there is no such version.
    """

    def __init__(
        self, *, database: Database, purge_after_seconds: float, grace_seconds: float, max_metadata_bytes: int
    ) -> None:
        self._database = database
        self._purge_after_seconds = purge_after_seconds
        self._grace_seconds = grace_seconds
        self._max_metadata_bytes = max_metadata_bytes

    async def update(
        self, ref: VersionRef, patch: Mapping[str, Any], *, precondition: Precondition = unconditional, actor: Actor
    ) -> ModelInfo:
        """Apply a merge patch (RFC 7396) of `description`, `tags` and `additional_metadata`.

        Raises `VersionNotAvailable` or `InvalidField`.
        """
        require(actor, Permission.WRITE, ref.model_name)

        async def work(tx: Transaction) -> ModelInfo:
            before = await self._lock_ready(tx, ref, precondition)
            if not patch:
                return before
            annotations = patched(Annotations(before.description, before.tags), patch)
            # A large document would stall the event loop for too long.
            metadata = await asyncio.to_thread(self._metadata, before, patch)
            await tx.versions.annotate(before.id, metadata, annotations)
            details = patch_details(patch)
            await tx.events.record(Event(actor.name, "version.updated", ref.model_name, ref.version, details))
            return await tx.versions.info_by_id(before.id)

        return await self._database.run(work)

    def _metadata(self, info: ModelInfo, patch: Mapping[str, Any]) -> JsonText:
        if "additional_metadata" not in patch:
            return info.additional_metadata
        change = patch["additional_metadata"]
        merged = {} if change is None else merge_patch(exact_json(info.additional_metadata), change)
        metadata = to_json_text(merged)
        size_bytes = len(metadata.encode())
        if size_bytes > self._max_metadata_bytes:
            rule = f"metadata has at most {self._max_metadata_bytes} bytes, and this patch would exceed the limit"
            raise InvalidField(("body", "additional_metadata"), rule, f"{size_bytes} bytes")
        return metadata

    async def yank(
        self, ref: VersionRef, reason: str | None, *, precondition: Precondition = unconditional, actor: Actor
    ) -> ModelInfo:
        """Warn of a version: it can no longer be the latest, but remains available by its label.

        Yank it again to change the reason. Raises `VersionNotAvailable`.
        """
        require(actor, Permission.WRITE, ref.model_name)

        async def work(tx: Transaction) -> ModelInfo:
            info = await self._lock_ready(tx, ref, precondition)
            if info.yanked and info.yank_reason == reason:
                return info
            await tx.versions.yank(info.id, reason)
            details = to_json_text({"reason": reason})
            await tx.events.record(Event(actor.name, "version.yanked", ref.model_name, ref.version, details))
            return await tx.versions.info_by_id(info.id)

        return await self._logged("version.yanked", ref, work)

    async def unyank(self, ref: VersionRef, *, precondition: Precondition = unconditional, actor: Actor) -> ModelInfo:
        """Withdraw the warning. Does nothing if the version is not yanked. Raises `VersionNotAvailable`."""
        require(actor, Permission.WRITE, ref.model_name)

        async def work(tx: Transaction) -> ModelInfo:
            info = await self._lock_ready(tx, ref, precondition)
            if not info.yanked:
                return info
            await tx.versions.unyank(info.id)
            await tx.events.record(Event(actor.name, "version.unyanked", ref.model_name, ref.version))
            return await tx.versions.info_by_id(info.id)

        return await self._logged("version.unyanked", ref, work)

    async def remove(
        self,
        ref: VersionRef,
        *,
        force: bool = False,
        with_bytes: bool = False,
        may_be_pending: bool = False,
        precondition: Precondition = unconditional,
        actor: Actor,
    ) -> ModelInfo:
        """Hide a version. It can be restored until it is purged. Its label is never free again.

        Parameters
        ----------
        force
            Drop the aliases that point at the version. Without it, they raise `VersionAliased`.
        with_bytes
            Purge the version now, even if it was removed before: bytes that no other version has are deleted for good.
        may_be_pending
            Accept an uncommitted push too. Nothing of it is kept, and its label is free again.
        """
        require(actor, Permission.REMOVE, ref.model_name)

        async def work(tx: Transaction) -> ModelInfo:
            info = await self._lock(tx, ref)
            is_unfinished = info.state.is_unfinished
            if (is_unfinished and not may_be_pending) or (info.state == VersionState.REMOVED and not with_bytes):
                raise await missing(tx, VersionSelector(ref.model_name, ref.version))
            aliases = await tx.aliases.of_version(info.id)
            if aliases and not force:
                raise VersionAliased(info.model_name, info.version, aliases)
            _ensure_unchanged(precondition, info)
            if is_unfinished:
                return await self._cancel(tx, info, actor)
            if info.state == VersionState.READY:
                await self._remove(tx, info, aliases, actor)
            if with_bytes and info.purged_at is None:
                await purge(tx, info.id, ref, grace_seconds=self._grace_seconds, actor=actor)
            return await tx.versions.info_by_id(info.id)

        return await self._logged("version.removed", ref, work)

    async def _remove(self, tx: Transaction, info: ModelInfo, aliases: list[str], actor: Actor) -> None:
        await tx.aliases.drop_of_version(info.id, actor=actor.name)
        await tx.versions.remove(info.id, self._purge_after_seconds)
        details = to_json_text({"dropped_aliases": aliases}) if aliases else EMPTY_OBJECT
        event = Event(actor.name, "version.removed", info.model_name, info.version, details)
        await tx.events.record_and_count(event, -1)

    async def _cancel(self, tx: Transaction, info: ModelInfo, actor: Actor) -> ModelInfo:
        await discard_unfinished(tx, info.id)
        await tx.models.drop_if_unused(info.model_name)
        await tx.events.record(Event(actor.name, "version.discarded", info.model_name, info.version))
        return replace(info, state=VersionState.REMOVED)

    async def restore(self, ref: VersionRef, *, precondition: Precondition = unconditional, actor: Actor) -> ModelInfo:
        """Make a removed version ready again, without the aliases that it had. Does nothing if it is ready.

        Raises `VersionPurged` or `VersionNotAvailable`.
        """
        require(actor, Permission.REMOVE, ref.model_name)

        async def work(tx: Transaction) -> ModelInfo:
            info = await self._lock(tx, ref)
            if info.state.is_unfinished:
                raise VersionNotAvailable(ref.model_name, ref.version, info.state)
            if info.purged_at is not None:
                raise VersionPurged(ref.model_name, ref.version)
            _ensure_unchanged(precondition, info)
            if info.state == VersionState.READY:
                return info
            await tx.versions.restore(info.id)
            event = Event(actor.name, "version.restored", ref.model_name, ref.version)
            await tx.events.record_and_count(event, 1)
            return await tx.versions.info_by_id(info.id)

        return await self._logged("version.restored", ref, work)

    async def _lock(self, tx: Transaction, ref: VersionRef) -> ModelInfo:
        """Lock the model and then the version, and return the version in any state."""
        await tx.models.lock(ref.model_name)
        existing = await tx.versions.find(ref)
        if existing is None or await tx.versions.lock(existing.id) is None:
            raise await missing(tx, VersionSelector(ref.model_name, ref.version))
        return await tx.versions.info_by_id(existing.id)

    async def _lock_ready(self, tx: Transaction, ref: VersionRef, precondition: Precondition) -> ModelInfo:
        info = await self._lock(tx, ref)
        if info.state.is_unfinished:
            raise VersionNotAvailable(ref.model_name, ref.version, info.state)
        if info.state != VersionState.READY:
            raise await missing(tx, VersionSelector(ref.model_name, ref.version))
        _ensure_unchanged(precondition, info)
        return info

    async def _logged(self, event: str, ref: VersionRef, work: Callable[[Transaction], Any]) -> ModelInfo:
        info: ModelInfo = await self._database.run(work)
        log.info(event, model_name=ref.model_name, version=ref.version)
        return info


def _ensure_unchanged(precondition: Precondition, info: ModelInfo) -> None:
    """Call it last: a precondition applies to a request that would succeed without it (RFC 9110, section 13.2.1)."""
    if not precondition(info.etag):
        raise VersionChanged(info.model_name, info.version, info.etag)
