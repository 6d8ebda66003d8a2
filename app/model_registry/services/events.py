"""The audit log, read from the beginning to the end and then on: `Events`."""

from collections.abc import Sequence

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database
from model_registry.domain.entities import EventPosition, RecordedEvent
from model_registry.domain.naming_rules import validate_model_name
from model_registry.errors import UnknownPosition

BEGINNING = EventPosition(0, 0)


class Events:
    """What happened, in an order that never changes once it has been read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(
        self, position: EventPosition = BEGINNING, *, model_name: str | None = None, limit: int = 100, actor: Actor
    ) -> Sequence[RecordedEvent]:
        """The events that follow a position, of one model or of all; none at all when there are no more yet.

        Who goes on from the last one each time sees every event exactly once, however writers overlap: an event is
        held back until every transaction that began before its own has ended. An unknown model has no events, and one
        that was deleted keeps its own. Raises `UnknownPosition` for one of a database that was since restored.
        """
        require(actor, Permission.READ, model_name or ANY_MODEL)
        if model_name is not None:
            validate_model_name(model_name)
        async with self._database.reading() as tx:
            events = await tx.events.after(position, model_name=model_name, limit=limit)
            if not events and not await tx.events.has_reached(position):
                raise UnknownPosition
            return events
