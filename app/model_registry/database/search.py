"""Search over the versions of all models.

Each order has an index of the ready versions, and another has the others by state and time; a filter for several states
looks for each by itself. What `filtering` says about indexes is up to the planner, which takes it that matches lie
evenly along an order.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, literal, select, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.base import ColumnCollection

from model_registry.database.filter_sql import may_be_true, names_creators, where
from model_registry.database.sql import is_in
from model_registry.database.version_json import LISTED, page_of_documents, to_listed
from model_registry.database.version_rows import IS_NOT_EXPIRED
from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import ListedVersion, Page, VersionState
from model_registry.domain.search_filter import Filter, Order, SearchPosition, mentions

_FEW = 5000

_AnySelect = Select[*tuple[Any, ...]]


class SearchRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def page(
        self, *, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int
    ) -> Page[ListedVersion]:
        """The versions that the filter is for, in an order; `after` is where the page before ended.

        A version that is there from the first page to the last comes once, whatever else is registered meanwhile.
        """

        async def fetch(last: ListedVersion | None, at_most: int) -> Sequence[ListedVersion]:
            place = order.position_of(last) if last else after
            statement = page_statement(condition=condition, order=order, after=place, limit=at_most)
            return [to_listed(row) for row in await self._connection.execute(statement)]

        return await page_of_documents(fetch, limit)


def page_statement(*, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int) -> _AnySelect:
    """Finds ids first, so that what belongs to a version is looked up for a page of them alone."""
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
    """Each state that the filter can be for, by itself: no index has them all in order."""
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
    """How to come to a page of hits: as the planner likes; or of few all, and of many along the order.

    The planner knows few creators by name, and may read all of an order for one who registered nothing.
    """
    if order.field == "created_at" or condition is None or not names_creators(condition):
        return [hits]
    few = hits.limit(_FEW + 1).cte()
    count = select(func.count()).select_from(few).scalar_subquery()
    return [select(few).where(count <= _FEW), hits.where(count > _FEW)]


def _sorted(statement: _AnySelect, order: Order, columns: ColumnCollection[str, ColumnElement[Any]]) -> _AnySelect:
    key = [columns[name] for name in (order.field, order.tie)]
    return statement.order_by(*(column.desc() if order.is_descending else column.asc() for column in key))
