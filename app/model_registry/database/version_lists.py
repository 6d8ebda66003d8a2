"""Lists of versions in the order of names and precedence, page by page. `search` has the other orders."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    LargeBinary,
    Row,
    Select,
    Text,
    bindparam,
    func,
    literal,
    select,
    tuple_,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from model_registry.database.sql import is_in, latest
from model_registry.database.version_json import LISTED, bounded_page, to_listed
from model_registry.database.version_rows import IS_NOT_EXPIRED
from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import Digest, ListedVersion, ListPosition, ModelSummary, Page, VersionState

_NAME = bindparam("model_name", type_=Text)

_newest = aliased(ModelInfoDB)
_IS_LATEST_OF_ITS_MODEL = ModelInfoDB.id == (
    latest(_newest.id, _newest, ModelInfoDB.model_name).correlate(ModelInfoDB).scalar_subquery()
)
_LIST = (
    select(
        ModelInfoDB.model_name,
        ModelInfoDB.version,
        func.coalesce(_IS_LATEST_OF_ITS_MODEL, literal(False)).cast(Boolean).label("is_latest"),
        ModelInfoDB.size_bytes,
        ModelInfoDB.digest,
        ModelInfoDB.created_at,
        ModelInfoDB.precedence,
        ModelInfoDB.number,
    )
    .where(is_in(VersionState.READY))
    .order_by(ModelInfoDB.model_name, ModelInfoDB.precedence.desc(), ModelInfoDB.number.desc())
    .limit(bindparam("limit"))
)
_AFTER_PRECEDENCE = bindparam("after_precedence", type_=LargeBinary)
_AFTER_NUMBER = bindparam("after_number", type_=BigInteger)
_LATER_IN_MODEL = tuple_(ModelInfoDB.precedence, ModelInfoDB.number) < tuple_(_AFTER_PRECEDENCE, _AFTER_NUMBER)
_AFTER_NAME = bindparam("after_name", type_=Text)
# Two ranges of the index. A single condition would read the index from the start of the model.
_rest = union_all(
    _LIST.where(ModelInfoDB.model_name == _AFTER_NAME, _LATER_IN_MODEL).subquery().select(),
    _LIST.where(ModelInfoDB.model_name > _AFTER_NAME).subquery().select(),
).subquery()
_LIST_AFTER = (
    select(_rest)
    .order_by(_rest.c.model_name, _rest.c.precedence.desc(), _rest.c.number.desc())
    .limit(bindparam("limit"))
)
_LIST_OF_MODEL = _LIST.where(ModelInfoDB.model_name == _NAME)
_LIST_OF_MODEL_AFTER = _LIST_OF_MODEL.where(_LATER_IN_MODEL)


@cache
def _listed_of_model(state: VersionState, *, by_precedence: bool, is_first: bool) -> Select[*tuple[Any, ...]]:
    wanted = select(ModelInfoDB.id).where(ModelInfoDB.model_name == _NAME, is_in(state), IS_NOT_EXPIRED)
    order: tuple[ColumnElement[Any], ...] = (ModelInfoDB.number.desc(),)
    if by_precedence:
        order = (ModelInfoDB.precedence.desc(), *order)
    if not is_first:
        wanted = wanted.where(_LATER_IN_MODEL if by_precedence else ModelInfoDB.number < _AFTER_NUMBER)
    ids = wanted.order_by(*order).limit(bindparam("limit")).subquery()
    # Reads files and aliases for the rows of the page only.
    return LISTED.where(ModelInfoDB.id.in_(select(ids.c.id))).order_by(*order)


class VersionListRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def page(self, *, model_name: str | None, after: ListPosition | None, limit: int) -> Page[ModelSummary]:
        """Return ready versions by name, highest precedence first; `after` is the end of the previous page."""
        parameters: dict[str, object] = {"limit": limit + 1}
        statement = _LIST if model_name is None else _LIST_OF_MODEL
        if model_name is not None:
            parameters["model_name"] = model_name
        if after is not None:
            statement = _LIST_AFTER if model_name is None else _LIST_OF_MODEL_AFTER
            parameters |= {"after_precedence": after.precedence, "after_number": after.number}
            if model_name is None:
                parameters["after_name"] = after.model_name
        rows = (await self._connection.execute(statement, parameters)).all()
        return Page(tuple(_to_summary(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def page_of_model(
        self,
        model_name: str,
        state: VersionState,
        *,
        by_precedence: bool,
        after: ListPosition | None,
        limit: int,
    ) -> Page[ListedVersion]:
        """Return the versions of a model in one state, highest precedence first or last registered first."""

        async def fetch(last: ListedVersion | None, at_most: int) -> Sequence[ListedVersion]:
            place = last.position if last else after
            statement = _listed_of_model(state, by_precedence=by_precedence, is_first=place is None)
            parameters = {"model_name": model_name, "limit": at_most}
            if place is not None:
                parameters |= {"after_precedence": place.precedence, "after_number": place.number}
            return [to_listed(row) for row in await self._connection.execute(statement, parameters)]

        return await bounded_page(fetch, limit)


def _to_summary(row: Row[*tuple[Any, ...]]) -> ModelSummary:
    return ModelSummary(
        row.model_name,
        row.version,
        row.is_latest,
        row.size_bytes,
        Digest(row.digest),
        row.created_at,
        ListPosition(row.model_name, row.precedence, row.number),
    )
