"""Search over the versions of all models.

Each order has an index of the ready versions, and another finds the others by state; a filter for ready ones and others
at once reads the whole table. What `filtering` says about indexes is up to the planner, which takes it that matches lie
evenly along an order.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Select, literal, literal_column, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import ModelInfoDB
from model_registry.domain import ModelInfo, Page
from model_registry.filters import Filter, Order, SearchPosition, mentions
from model_registry.storage.filtering import where
from model_registry.storage.infos import HAS_NOT_LAPSED, INFO, page_of_infos, to_info

# Not a parameter: a plan that is made without the values may then use the indexes on ready versions too.
_IS_READY = ModelInfoDB.state == literal_column("'ready'")

_AnySelect = Select[*tuple[Any, ...]]


class Search:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def page(
        self, *, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int
    ) -> Page[ModelInfo]:
        """The versions that the filter is for, in an order; `after` is where the page before ended.

        A version that is there from the first page to the last comes once, whatever else is registered meanwhile.
        """

        async def fetch(last: ModelInfo | None, at_most: int) -> Sequence[ModelInfo]:
            place = order.position_of(last) if last else after
            statement = page_statement(condition=condition, order=order, after=place, limit=at_most)
            return [to_info(row) for row in await self._connection.execute(statement)]

        return await page_of_infos(fetch, limit)


def page_statement(*, condition: Filter | None, order: Order, after: SearchPosition | None, limit: int) -> _AnySelect:
    """Finds ids first, so that what belongs to a version is looked up for a page of them alone."""
    key = [getattr(ModelInfoDB, name) for name in (order.field, order.tie)]
    hits = select(*dict.fromkeys([ModelInfoDB.id, *key]))
    is_any_state = condition is not None and mentions(condition, "state")
    hits = hits.where(HAS_NOT_LAPSED if is_any_state else _IS_READY)
    if condition is not None:
        hits = hits.where(where(condition))
    if after is not None:
        place = tuple_(*key)
        end = tuple_(*(literal(part, column.type) for part, column in zip((after.value, after.tie), key, strict=True)))
        hits = hits.where(place < end if order.is_descending else place > end)
    found = _sorted(hits, order, key).limit(limit).subquery("found")
    page = INFO.join_from(found, ModelInfoDB, ModelInfoDB.id == found.c.id)
    return _sorted(page, order, [found.c[column.name] for column in key])


def _sorted(statement: _AnySelect, order: Order, key: Sequence[ColumnElement[Any]]) -> _AnySelect:
    return statement.order_by(*(column.desc() if order.is_descending else column.asc() for column in key))
