"""Aliases and their history: `aliases`, `alias_history`.

Each move and each deletion takes a new generation and adds a row to the history.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Row,
    Select,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal,
    null,
    select,
    text,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.dml import ReturningInsert

from model_registry.database.sql import array, in_array
from model_registry.database.version_rows import IS_NOT_EXPIRED
from model_registry.db_models import AliasDB, AliasMoveDB, ModelInfoDB
from model_registry.domain.entities import Alias, AliasMove, AliasRef, Page, VersionState

_NAME = bindparam("model_name", type_=Text)
_ALIAS = bindparam("alias_name", type_=Text)
_LIMIT = bindparam("limit", type_=BigInteger)

_ALIASES = (
    select(AliasDB.alias, ModelInfoDB.version, AliasDB.generation, AliasDB.updated_at, AliasDB.updated_by)
    .join(ModelInfoDB, ModelInfoDB.id == AliasDB.version_id)
    .where(AliasDB.model_name == _NAME)
)
_ONE = _ALIASES.where(AliasDB.alias == _ALIAS)
_PAGE = _ALIASES.where(AliasDB.alias > _ALIAS).order_by(AliasDB.alias).limit(_LIMIT)

_MOVES = (
    select(AliasMoveDB.alias, ModelInfoDB.version, AliasMoveDB.generation, AliasMoveDB.at, AliasMoveDB.by)
    .outerjoin(ModelInfoDB, ModelInfoDB.id == AliasMoveDB.version_id)
    .where(AliasMoveDB.model_name == _NAME)
)
_HISTORY = _MOVES.where(AliasMoveDB.alias == _ALIAS).order_by(AliasMoveDB.generation.desc()).limit(_LIMIT)
_HISTORY_BEFORE = _HISTORY.where(AliasMoveDB.generation < bindparam("before", type_=BigInteger))
_HISTORY_UNTIL = _HISTORY.where(AliasMoveDB.at <= bindparam("until", type_=AliasMoveDB.at.type))
_PREVIOUS = _HISTORY.where(ModelInfoDB.version != bindparam("current", type_=Text))

# Read once in a statement, after the locks that earlier statements waited for.
_CLOCK: ColumnElement[datetime] = select(func.clock_timestamp()).scalar_subquery()
_NEXT_GENERATION = func.nextval(func.pg_get_serial_sequence(AliasDB.__tablename__, AliasDB.generation.key))

_AnyRow = Row[*tuple[Any, ...]]
_Remember = ReturningInsert[*tuple[str, int, datetime]]


@dataclass(frozen=True, slots=True)
class LockedVersion:
    id: int
    version: str
    state: VersionState


@dataclass(frozen=True, slots=True)
class LockedAlias:
    generation: int
    version: LockedVersion


@dataclass(frozen=True, slots=True)
class LockedAliases:
    """The existing rows that a change of aliases concerns, locked: versions by label, and aliases by name."""

    versions: Mapping[str, LockedVersion]
    aliases: Mapping[str, LockedAlias]


class AliasRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # Reads

    async def get(self, ref: AliasRef) -> Alias | None:
        row = (
            await self._connection.execute(_ONE, {"model_name": ref.model_name, "alias_name": ref.alias})
        ).one_or_none()
        return None if row is None else _to_alias(row)

    async def page(self, model_name: str, *, after: str | None, limit: int) -> Page[Alias]:
        """Return the aliases of a model by name; `after` is the last name of the previous page."""
        parameters = {"model_name": model_name, "alias_name": after or "", "limit": limit + 1}
        rows = (await self._connection.execute(_PAGE, parameters)).all()
        return Page(tuple(_to_alias(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def history(self, ref: AliasRef, *, before: int | None, limit: int) -> Page[AliasMove]:
        """Return the moves of an alias, newest first; `before` is the last generation of the previous page."""
        parameters: dict[str, object] = {
            "model_name": ref.model_name,
            "alias_name": ref.alias,
            "limit": limit + 1,
        }
        if before is not None:
            parameters["before"] = before
        rows = (await self._connection.execute(_HISTORY if before is None else _HISTORY_BEFORE, parameters)).all()
        return Page(tuple(_to_move(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def at(self, ref: AliasRef, moment: datetime) -> Alias | None:
        """Return the alias as it was at a time, from its history."""
        parameters = {"model_name": ref.model_name, "alias_name": ref.alias, "until": moment, "limit": 1}
        row = (await self._connection.execute(_HISTORY_UNTIL, parameters)).one_or_none()
        if row is None or row.version is None:
            return None
        return Alias(row.alias, row.version, row.generation, row.at, row.by)

    async def previous_version(self, ref: AliasRef, current: str) -> str | None:
        """Return the last version that the alias pointed at, other than the current one."""
        parameters = {"model_name": ref.model_name, "alias_name": ref.alias, "current": current, "limit": 1}
        row = (await self._connection.execute(_PREVIOUS, parameters)).one_or_none()
        return None if row is None else str(row.version)

    # Changes: lock the model's row first, so that changes of its aliases run one after the other

    async def lock(self, model_name: str, aliases: Collection[str], labels: Collection[str]) -> LockedAliases:
        """Lock the versions with these labels and those that the aliases point at, in id order, then the aliases.

        A removal of one of these versions is either committed and visible here, or it waits and sees this change.
        """
        ours = (AliasDB.model_name == model_name) & in_array(AliasDB.alias, aliases)
        ids = union(
            select(ModelInfoDB.id).where(
                ModelInfoDB.model_name == model_name, in_array(ModelInfoDB.version, labels), IS_NOT_EXPIRED
            ),
            select(AliasDB.version_id).where(ours),
        )
        versions = {
            row.id: LockedVersion(row.id, row.version, VersionState(row.state))
            for row in await self._connection.execute(
                select(ModelInfoDB.id, ModelInfoDB.version, ModelInfoDB.state)
                .where(ModelInfoDB.id.in_(ids))
                .order_by(ModelInfoDB.id)
                .with_for_update(key_share=True, of=ModelInfoDB)
            )
        }
        # A new statement sees what other transactions committed while the first one waited for the locks.
        locked = {
            row.alias: LockedAlias(row.generation, versions[row.version_id])
            for row in await self._connection.execute(
                select(AliasDB.alias, AliasDB.generation, AliasDB.version_id)
                .where(ours)
                .order_by(AliasDB.alias)
                .with_for_update()
            )
        }
        return LockedAliases({version.version: version for version in versions.values()}, locked)

    async def move(self, model_name: str, targets: Mapping[str, LockedVersion], *, actor: str) -> dict[str, Alias]:
        """Point aliases at versions, each with a new generation, all at one time. Call `lock` first."""
        new = pg_insert(AliasDB).from_select(
            ["model_name", "alias", "version_id", "updated_at", "updated_by"],
            select(
                literal(model_name, Text),
                func.unnest(array(targets, AliasDB.alias.type)),
                func.unnest(array([target.id for target in targets.values()], AliasDB.version_id.type)),
                _CLOCK,
                literal(actor, Text),
            ),
        )
        moved = (
            new.on_conflict_do_update(
                index_elements=[AliasDB.model_name, AliasDB.alias],
                set_={
                    "version_id": new.excluded.version_id,
                    "generation": text("DEFAULT"),
                    "updated_at": new.excluded.updated_at,
                    "updated_by": new.excluded.updated_by,
                },
            )
            .returning(*AliasDB.__table__.columns)
            .cte("moved")
        )
        entry = select(
            moved.c.model_name,
            moved.c.alias,
            moved.c.generation,
            moved.c.version_id,
            moved.c.updated_at,
            moved.c.updated_by,
        )
        rows = await self._connection.execute(_remember(entry))
        return {row.alias: Alias(row.alias, targets[row.alias].version, row.generation, row.at, actor) for row in rows}

    async def drop(self, ref: AliasRef, *, actor: str) -> int:
        """Delete an alias and return the generation of this change. Call `lock` first."""
        is_it = (AliasDB.model_name == ref.model_name) & (AliasDB.alias == ref.alias)
        row = (await self._connection.execute(_drop(is_it, actor))).one()
        return int(row.generation)

    async def touch_versions(self, version_ids: Collection[int]) -> None:
        """Give versions that gained or lost an alias a new ETag, because a version shows its aliases."""
        await self._connection.execute(
            update(ModelInfoDB)
            .where(in_array(ModelInfoDB.id, version_ids))
            .values(generation=ModelInfoDB.generation + 1)
        )

    # The aliases of a version that is being removed: lock its row first

    async def of_version(self, version_id: int) -> list[str]:
        """Lock and return the aliases that point at a version, by name."""
        return list(
            await self._connection.scalars(
                select(AliasDB.alias).where(AliasDB.version_id == version_id).order_by(AliasDB.alias).with_for_update()
            )
        )

    async def drop_of_version(self, version_id: int, *, actor: str) -> list[str]:
        """Delete the aliases that point at a version; return their names."""
        rows = await self._connection.execute(_drop(AliasDB.version_id == version_id, actor))
        return sorted(row.alias for row in rows)


def _drop(which: ColumnElement[bool], actor: str) -> _Remember:
    dropped = delete(AliasDB).where(which).returning(AliasDB.model_name, AliasDB.alias).cte("dropped")
    return _remember(
        select(
            dropped.c.model_name,
            dropped.c.alias,
            _NEXT_GENERATION,
            null(),
            _CLOCK,
            literal(actor, Text),
        )
    )


def _remember(entry: Select[*tuple[Any, ...]]) -> _Remember:
    columns = ["model_name", "alias", "generation", "version_id", "at", "by"]
    new = insert(AliasMoveDB).from_select(columns, entry)
    return new.returning(AliasMoveDB.alias, AliasMoveDB.generation, AliasMoveDB.at)


def _to_alias(row: _AnyRow) -> Alias:
    return Alias(row.alias, row.version, row.generation, row.updated_at, row.updated_by)


def _to_move(row: _AnyRow) -> AliasMove:
    return AliasMove(row.version, row.generation, row.at, row.by)
