"""Models: `registered_models`."""

import re
import zlib
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Row,
    bindparam,
    delete,
    exists,
    func,
    literal_column,
    or_,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import latest
from model_registry.db_models import ModelInfoDB, RegisteredModelDB
from model_registry.domain.entities import Annotations, Page, RegisteredModel
from model_registry.errors import ModelNameTaken, Unavailable
from model_registry.utils import to_json_text

_NAME: ColumnElement[str] = bindparam("wanted", type_=RegisteredModelDB.name.type)
# The first of the two integers of an advisory lock; separates these locks from those of other programs.
_TURNS = literal_column("1836016741", Integer)

# A transaction gets its id when it first writes or locks a row, which may be before it waits for that row. Events are
# in the order of these ids. So each change of a model first waits for this lock, which needs no transaction id.
_TURN = select(func.pg_advisory_xact_lock(_TURNS, bindparam("turn", type_=Integer))).scalar_subquery()
_ENSURE = insert(RegisteredModelDB).values(name=_NAME, is_provisional=text("true")).on_conflict_do_nothing()
_NEXT_NUMBER = (
    update(RegisteredModelDB)
    .where(RegisteredModelDB.name == _NAME, _TURN.is_not(None))
    .values(next_number=RegisteredModelDB.next_number + 1)
    .returning(RegisteredModelDB.next_number - 1)
)
_LOCK = (
    select(RegisteredModelDB.name)
    .where(RegisteredModelDB.name == _NAME, _TURN.is_not(None))
    .with_for_update(key_share=True)
)
_DELETE_UNUSED = delete(RegisteredModelDB).where(
    RegisteredModelDB.name == _NAME,
    RegisteredModelDB.is_provisional,
    ~exists().where(ModelInfoDB.model_name == RegisteredModelDB.name),
)
_SAME_BUT_FOR_CASE = select(RegisteredModelDB.name).where(
    func.lower(RegisteredModelDB.name) == func.lower(_NAME), ~RegisteredModelDB.is_provisional
)


_LATEST = (
    latest(ModelInfoDB.version, ModelInfoDB, RegisteredModelDB.name)
    .correlate(RegisteredModelDB)
    .scalar_subquery()
    .label("latest_version")
)
_MODEL = select(
    RegisteredModelDB.name,
    RegisteredModelDB.description,
    RegisteredModelDB.tags,
    RegisteredModelDB.created_at,
    RegisteredModelDB.updated_at,
    RegisteredModelDB.version_count,
    _LATEST,
).where(~RegisteredModelDB.is_provisional)
_ONE = _MODEL.where(RegisteredModelDB.name == _NAME)
# A JSON number (RFC 8259, section 6) with at most as many digits as a tag value can have.
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,999})(\.[0-9]{1,999})?([eE][+-]?[0-9]{1,3})?")
_EXISTS = select(RegisteredModelDB.name).where(RegisteredModelDB.name == _NAME)


class ModelRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def next_number(self, name: str) -> int:
        """Return the next registration number of a model; create the model (provisionally) if it does not exist.

        Waits for the model's lock and locks its row as `lock` does, so that numbers are unique. Raises
        `ModelNameTaken` if the name differs from an existing one only in case.
        """
        for _ in range(4):
            number: int | None = await self._connection.scalar(_NEXT_NUMBER, _turn(name))
            if number is not None:
                return number
            if (await self._connection.execute(_ENSURE, {"wanted": name})).rowcount == 0:
                await self._refuse_other_case(name)
            # Otherwise another transaction just created the model, and our UPDATE could not see it yet; or the
            # conflicting row was deleted in between, after a failed registration or by a delete.
        raise Unavailable(f"The name {name!r}")

    async def lock(self, name: str) -> None:
        """Wait for the lock of a model, even if it does not exist, and lock its row until the transaction ends.

        Call this first in a transaction: it prevents deadlocks, and keeps events in the order of their changes.
        """
        await self._connection.execute(_LOCK, _turn(name))

    async def drop_if_unused(self, name: str) -> None:
        """Delete a provisional model that has no versions.

        Call `lock` first, so that a version inserted in the meantime is visible.
        """
        await self._connection.execute(_DELETE_UNUSED, {"wanted": name})

    async def existing_name(self, name: str) -> str | None:
        """Return the name of the model that has this name in any case."""
        existing: str | None = await self._connection.scalar(_SAME_BUT_FOR_CASE, {"wanted": name})
        return existing

    # The resource itself

    async def get(self, name: str) -> RegisteredModel | None:
        row = (await self._connection.execute(_ONE, {"wanted": name})).one_or_none()
        return None if row is None else _to_model(row)

    async def exists(self, name: str) -> bool:
        """Return whether the model exists, even if only an unfinished version created it."""
        return await self._connection.scalar(_EXISTS, {"wanted": name}) is not None

    async def page(
        self, *, search: str | None, tags: Mapping[str, str], after: str | None, limit: int
    ) -> Page[RegisteredModel]:
        """Return models by name. `search` is a part of the name in any case; all `tags` have these values, as text."""
        statement = _MODEL.order_by(RegisteredModelDB.name).limit(limit + 1)
        if search:
            # Names are short and their index is small. It is read in order until the page is full.
            statement = statement.where(func.strpos(func.lower(RegisteredModelDB.name), search.lower()) > 0)
        for key, value in tags.items():
            alternatives = [RegisteredModelDB.tags.contains(to_json_text({key: each})) for each in _json_values(value)]
            statement = statement.where(or_(*alternatives))
        if after is not None:
            statement = statement.where(RegisteredModelDB.name > after)
        rows = (await self._connection.execute(statement)).all()
        return Page(tuple(_to_model(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def create(self, name: str, annotations: Annotations) -> bool:
        """Create a model; return `False` if it exists. Raises `ModelNameTaken` as `next_number` does."""
        for _ in range(3):
            await self._connection.execute(_ENSURE, {"wanted": name})
            result = await self._connection.execute(
                update(RegisteredModelDB)
                .where(RegisteredModelDB.name == name, RegisteredModelDB.is_provisional)
                .values(
                    is_provisional=False,
                    description=annotations.description,
                    tags=annotations.tags,
                    created_at=func.now(),
                    updated_at=func.now(),
                )
            )
            if result.rowcount == 1:
                return True
            await self._refuse_other_case(name)
            if await self.get(name) is not None:
                return False
        raise Unavailable(f"The name {name!r}")

    async def _refuse_other_case(self, name: str) -> None:
        existing = await self._connection.scalar(
            select(RegisteredModelDB.name).where(
                func.lower(RegisteredModelDB.name) == name.lower(), RegisteredModelDB.name != name
            )
        )
        if existing is not None:
            raise ModelNameTaken(name, existing)

    async def annotate(self, name: str, annotations: Annotations) -> None:
        await self._connection.execute(
            update(RegisteredModelDB)
            .where(RegisteredModelDB.name == name)
            .values(
                description=annotations.description,
                tags=annotations.tags,
                # Not the start of the transaction: it may have waited for transactions that started later.
                updated_at=func.clock_timestamp(),
            )
        )

    async def delete_unused(self, name: str) -> bool:
        """Delete a model without versions; return `False` if it has one in any state. Call `lock` first."""
        result = await self._connection.execute(
            delete(RegisteredModelDB).where(
                RegisteredModelDB.name == name, ~exists().where(ModelInfoDB.model_name == RegisteredModelDB.name)
            )
        )
        return result.rowcount == 1


def _turn(name: str) -> dict[str, str | int]:
    """The lock of a name. Names with the same lock only wait for each other."""
    return {"wanted": name, "turn": zlib.crc32(name.encode()) >> 1}


def _json_values(text: str) -> list[Any]:
    """Return the tag values that are written as this text: the text, and a number or boolean."""
    match text:
        case "true" | "false":
            return [text, text == "true"]
        case _ if _NUMBER.fullmatch(text):
            return [text, Decimal(text)]
        case _:
            return [text]


def _to_model(row: Row[*tuple[Any, ...]]) -> RegisteredModel:
    return RegisteredModel(
        name=row.name,
        description=row.description,
        tags=row.tags,
        created_at=row.created_at,
        updated_at=row.updated_at,
        latest_version=row.latest_version,
        version_count=row.version_count,
    )
