"""Aliases: names such as `champion` that point at a version and move to another one atomically."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

import structlog

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.aliases import LockedAlias, LockedAliases
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import (
    Alias,
    AliasMove,
    AliasRef,
    Event,
    Page,
    Precondition,
    VersionState,
    unconditional,
)
from model_registry.domain.naming_rules import validate_alias, validate_model_name
from model_registry.domain.version_labels import validate_version
from model_registry.errors import (
    AliasChanged,
    AliasElsewhere,
    AliasNotFound,
    AliasPointedNowhere,
    InvalidField,
    ModelNotFound,
    NoPreviousTarget,
    VersionNotAvailable,
    VersionNotFound,
)
from model_registry.utils import rfc3339, to_json_text

log = structlog.get_logger(__name__)

T = TypeVar("T")

MAX_MOVES = 100


@dataclass(frozen=True, slots=True)
class PlannedMove:
    """A move of one alias to a version.

    If it `is_conditional`, the alias must point at `expected_version`, or must not exist if that is `None`.
    """

    alias: str
    version: str
    is_conditional: bool = False
    expected_version: str | None = None


class Aliases:
    """Read, move and delete the aliases of models.

    Every change of a model's aliases locks the row of the model, as removals of its versions do. Of two concurrent
    changes, the second one therefore sees the result of the first. A change, its entry in the history and its event
    are one transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def page(self, model_name: str, *, after: str | None = None, limit: int = 100, actor: Actor) -> Page[Alias]:
        """Return the aliases of a model, by name. Raises `ModelNotFound`."""
        require(actor, Permission.READ, model_name)
        validate_model_name(model_name)
        async with self._database.reading() as tx:
            page = await tx.aliases.page(model_name, after=after, limit=limit)
            if not page.items:
                await _ensure_model_exists(tx, model_name)
            return page

    async def get(self, ref: AliasRef, *, at: datetime | None = None, actor: Actor) -> Alias:
        """Return an alias as it is now, or as it was `at` a time. The version may have been removed since then.

        Raises `AliasNotFound`, `AliasPointedNowhere` or `ModelNotFound`.
        """
        require(actor, Permission.READ, ref.model_name)
        async with self._database.reading() as tx:
            if at is None:
                alias = await tx.aliases.get(ref)
            else:
                alias = await tx.aliases.at(ref, at)
            if alias is not None:
                return alias
            await _ensure_model_exists(tx, ref.model_name)
            if at is not None:
                raise AliasPointedNowhere(ref.model_name, ref.alias, rfc3339(at))
            raise AliasNotFound(ref.model_name, ref.alias)

    async def history(
        self, ref: AliasRef, *, before: int | None = None, limit: int = 100, actor: Actor
    ) -> Page[AliasMove]:
        """Return the moves of an alias, newest first. A deleted alias keeps its history.

        Raises `AliasNotFound` or `ModelNotFound`.
        """
        require(actor, Permission.READ, ref.model_name)
        async with self._database.reading() as tx:
            page = await tx.aliases.history(ref, before=before, limit=limit)
            if not page.items and before is None:
                await _ensure_model_exists(tx, ref.model_name)
                raise AliasNotFound(ref.model_name, ref.alias)
            return page

    async def put(
        self, ref: AliasRef, version: str, *, precondition: Precondition = unconditional, actor: Actor
    ) -> tuple[Alias, bool]:
        """Point an alias at a ready version. Returns the alias, and whether this created it.

        Raises
        ------
        ModelNotFound, VersionNotFound, VersionNotAvailable
            Even if the precondition is false too.
        AliasChanged
            If the precondition is false.
        """
        require(actor, Permission.ALIAS, ref.model_name)
        plan = PlannedMove(ref.alias, validate_version(version))

        async def work(tx: Transaction) -> tuple[Alias, bool]:
            locked = await _lock(tx, ref.model_name, [plan])
            present = locked.aliases.get(ref.alias)
            _ensure_unchanged(precondition, ref, present)
            (alias,) = await _move(tx, ref.model_name, [plan], locked, actor=actor)
            return alias, present is None

        alias, is_new = await self._change(ref.model_name, work)
        _log_moved(ref.model_name, alias)
        return alias, is_new

    async def rollback(self, ref: AliasRef, *, precondition: Precondition = unconditional, actor: Actor) -> Alias:
        """Point an alias back at the version that it pointed at before the current one.

        Raises `AliasNotFound`, `NoPreviousTarget` if there is no such version, `VersionNotAvailable` if that version
        is no longer ready, and the errors of `put`.
        """
        require(actor, Permission.ALIAS, ref.model_name)

        async def work(tx: Transaction) -> Alias:
            present = await tx.aliases.get(ref)
            if present is None:
                await _ensure_model_exists(tx, ref.model_name)
                raise AliasNotFound(ref.model_name, ref.alias)
            previous = await tx.aliases.previous_version(ref, present.version)
            if previous is None:
                raise NoPreviousTarget(ref.model_name, ref.alias, present.version)
            plan = PlannedMove(ref.alias, previous)
            locked = await _lock(tx, ref.model_name, [plan])
            _ensure_unchanged(precondition, ref, locked.aliases[ref.alias])
            (alias,) = await _move(tx, ref.model_name, [plan], locked, actor=actor)
            return alias

        alias = await self._change(ref.model_name, work)
        _log_moved(ref.model_name, alias)
        return alias

    async def swap(self, model_name: str, moves: Sequence[PlannedMove], *, actor: Actor) -> list[Alias]:
        """Move several aliases in one transaction, all or none. Returns them in the order of the moves.

        Raises `AliasElsewhere` if an alias does not point at its `expected_version`, and the errors of `put`.
        """
        require(actor, Permission.ALIAS, model_name)
        validate_model_name(model_name)
        _validate_moves(moves)

        async def work(tx: Transaction) -> list[Alias]:
            locked = await _lock(tx, model_name, moves)
            for move in moves:
                actual = locked.aliases[move.alias].version.version if move.alias in locked.aliases else None
                if move.is_conditional and move.expected_version != actual:
                    raise AliasElsewhere(model_name, move.alias, expected=move.expected_version, actual=actual)
            return await _move(tx, model_name, moves, locked, actor=actor)

        aliases = await self._change(model_name, work)
        for alias in aliases:
            _log_moved(model_name, alias)
        return aliases

    async def drop(self, ref: AliasRef, *, precondition: Precondition = unconditional, actor: Actor) -> None:
        """Delete an alias but not its history. Raises `ModelNotFound`, `AliasNotFound` or `AliasChanged`."""
        require(actor, Permission.ALIAS, ref.model_name)

        async def work(tx: Transaction) -> str:
            locked = await tx.aliases.lock(ref.model_name, [ref.alias], [])
            present = locked.aliases.get(ref.alias)
            if present is None:
                await _ensure_model_exists(tx, ref.model_name)
                raise AliasNotFound(ref.model_name, ref.alias)
            _ensure_unchanged(precondition, ref, present)
            generation = await tx.aliases.drop(ref, actor=actor.name)
            await tx.aliases.touch_versions([present.version.id])
            version = present.version.version
            details = to_json_text({"alias": ref.alias, "from": version, "generation": generation})
            await tx.events.record(Event(actor.name, "alias.dropped", ref.model_name, version, details))
            return version

        version = await self._change(ref.model_name, work)
        log.info("alias.dropped", model_name=ref.model_name, alias=ref.alias, version=version)

    async def _change(self, model_name: str, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run `work` in a transaction that holds the lock of the model."""

        async def locked(tx: Transaction) -> T:
            await tx.models.lock(model_name)
            return await work(tx)

        return await self._database.run(locked)


async def _ensure_model_exists(tx: Transaction, model_name: str) -> None:
    """Raise `ModelNotFound` if the model does not exist, or if only an unfinished version has created it."""
    existing = await tx.models.existing_name(model_name)
    if existing != model_name:
        raise ModelNotFound(model_name, existing)


async def _lock(tx: Transaction, model_name: str, plans: Sequence[PlannedMove]) -> LockedAliases:
    """Lock the aliases and versions of the moves. Raises an error for a version that is not ready."""
    locked = await tx.aliases.lock(model_name, [plan.alias for plan in plans], [plan.version for plan in plans])
    for plan in plans:
        target = locked.versions.get(plan.version)
        if target is not None and target.state == VersionState.READY:
            continue
        await _ensure_model_exists(tx, model_name)
        if target is None:
            raise VersionNotFound(model_name, plan.version)
        raise VersionNotAvailable(model_name, plan.version, target.state)
    return locked


async def _move(
    tx: Transaction, model_name: str, plans: Sequence[PlannedMove], locked: LockedAliases, *, actor: Actor
) -> list[Alias]:
    targets = {plan.alias: locked.versions[plan.version] for plan in plans}
    moved = await tx.aliases.move(model_name, targets, actor=actor.name)
    await tx.aliases.touch_versions(
        {target.id for target in targets.values()} | {present.version.id for present in locked.aliases.values()}
    )
    aliases = [moved[plan.alias] for plan in plans]
    await tx.events.record(*(_moved(model_name, alias, locked.aliases.get(alias.alias), actor) for alias in aliases))
    return aliases


def _moved(model_name: str, alias: Alias, before: LockedAlias | None, actor: Actor) -> Event:
    details = {
        "alias": alias.alias,
        "from": before and before.version.version,
        "to": alias.version,
        "generation": alias.generation,
    }
    return Event(actor.name, "alias.moved", model_name, alias.version, to_json_text(details))


def _ensure_unchanged(precondition: Precondition, ref: AliasRef, present: LockedAlias | None) -> None:
    generation, version = (present.generation, present.version.version) if present else (None, None)
    if not precondition(None if generation is None else str(generation)):
        raise AliasChanged(ref.model_name, ref.alias, generation=generation, version=version)


def _validate_moves(moves: Sequence[PlannedMove]) -> None:
    if not 1 <= len(moves) <= MAX_MOVES:
        raise InvalidField("moves", f"1 to {MAX_MOVES} moves", f"{len(moves)} moves")
    seen: set[str] = set()
    for index, move in enumerate(moves):
        validate_alias(move.alias, ("moves", index, "alias"))
        if move.alias in seen:
            raise InvalidField(("moves", index, "alias"), "an alias is moved once in a swap", move.alias)
        seen.add(move.alias)
        validate_version(move.version, ("moves", index, "version"))
        if move.expected_version is not None:
            validate_version(move.expected_version, ("moves", index, "expected_version"))


def _log_moved(model_name: str, alias: Alias) -> None:
    log.info("alias.moved", model_name=model_name, alias=alias.alias, version=alias.version)
