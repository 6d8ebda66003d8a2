"""Search over the versions of all models."""

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database
from model_registry.domain.entities import ListedVersion, Page
from model_registry.domain.search_filter import Filter
from model_registry.domain.search_order import NEWEST_FIRST, Order, SearchPosition
from model_registry.runtime.single_flight import SingleFlight


class Search:
    """Search versions. Equal searches at the same time share one query."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._pages = SingleFlight[Page[ListedVersion]]()

    async def page(
        self,
        condition: Filter | None = None,
        *,
        order: Order = NEWEST_FIRST,
        after: SearchPosition | None = None,
        limit: int = 100,
        actor: Actor,
    ) -> Page[ListedVersion]:
        """Return the versions that match a filter. `domain.filter_parser` describes the language of filters."""
        require(actor, Permission.READ, ANY_MODEL)

        async def read() -> Page[ListedVersion]:
            async with self._database.reading() as tx:
                return await tx.search.page(condition=condition, order=order, after=after, limit=limit)

        # The key has the filter as text, because 1 and true are equal in Python, but not in a filter.
        return await self._pages.read((actor.visibility, repr(condition), order, after, limit), read)
