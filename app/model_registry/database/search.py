"""Search over the versions of all models.

Each order has an index of the ready versions. Another index has the remaining versions by state and time. A filter for
several states searches each state separately. The planner chooses between these and the indexes in `filter_sql`; it
assumes that matches are spread evenly along an order.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, literal, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ColumnCollection

from model_registry.database.filter_sql import may_be_true, names_creators, where
from model_registry.database.sql import is_in
from model_registry.database.version_json import LISTED, bounded_page, to_listed
from model_registry.database.version_rows import IS_NOT_EXPIRED
from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import ListedVersion, Page, VersionState
from model_registry.domain.search_filter import Filter, mentions
from model_registry.domain.search_order import Order, SearchPosition

_FEW = 5000

_AnySelect = Select[*tuple[Any, ...]]


class SearchRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def page(
        self, *, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int
    ) -> Page[ListedVersion]:
        """Return the versions that match the filter, in an order; `after` is the end of the previous page.

        A version that exists from the first page to the last is returned once, even if others are registered meanwhile.
        """

        async def fetch(last: ListedVersion | None, at_most: int) -> Sequence[ListedVersion]:
            place = order.position_of(last) if last else after
            statement = page_statement(condition=condition, order=order, after=place, limit=at_most)
            return [to_listed(row) for row in await self._connection.execute(statement)]

        return await bounded_page(fetch, limit)


def page_statement(*, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int) -> _AnySelect:
    """Find ids first, so that files and aliases are read for the versions of the page only."""
    ways = [
        way for state in _states(condition) for way in _ways(_hits(state, condition, order, after), condition, order)
    ]
    pages = [_sorted(way, order, way.selected_columns).limit(limit).subquery() for way in ways]
    found = pages[0]
    if len(pages) > 1:
        of_all = union_all(*(page.select() for page in pages)).subquery()
        found = _sorted(of_all.select(), order, of_all.c).limit(limit).subquery()
    return _sorted(LISTED.join_from(found, ModelInfoDB, ModelInfoDB.id == found.c.id), order, found.c)


def _states(condition: Filter | None) -> Sequence[ColumnElement[bool]]:
    """Return a condition for each state that can match. No index has all states in order."""
    if condition is None or not mentions(condition, "state"):
        return [is_in(VersionState.READY)]
    states = [state for state in VersionState if may_be_true(condition, state)]
    return [is_in(state) & IS_NOT_EXPIRED if state.is_unfinished else is_in(state) for state in states] or [false()]


def _hits(
    state: ColumnElement[bool], condition: Filter | None, order: Order, after: SearchPosition | None
) -> _AnySelect:
    key = [getattr(ModelInfoDB, name) for name in (order.field, order.tie)]
    hits = select(*dict.fromkeys([ModelInfoDB.id, *key])).where(state)
    if condition is not None:
        hits = hits.where(where(condition))
    if after is not None:
        place = tuple_(*key)
        end = tuple_(*(literal(part, column.type) for part, column in zip((after.value, after.tie), key, strict=True)))
        hits = hits.where(place < end if order.is_descending else place > end)
    return hits


def _ways(hits: _AnySelect, condition: Filter | None, order: Order) -> Sequence[_AnySelect]:
    """Return one query, or two of which one returns rows: read all of a few hits, or read many along the order.

    The planner has statistics of the most frequent creators only. For a creator without versions it may read the whole
    index of an order.
    """
    if order.field == "created_at" or condition is None or not names_creators(condition):
        return [hits]
    few = hits.limit(_FEW + 1).cte()
    count = select(func.count()).select_from(few).scalar_subquery()
    return [select(few).where(count <= _FEW), hits.where(count > _FEW)]


def _sorted(statement: _AnySelect, order: Order, columns: ColumnCollection[str, ColumnElement[Any]]) -> _AnySelect:
    key = [columns[name] for name in (order.field, order.tie)]
    return statement.order_by(*(column.desc() if order.is_descending else column.asc() for column in key))
