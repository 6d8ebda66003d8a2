"""The audit log: read it from the beginning, and then follow it."""

from collections.abc import Sequence

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database
from model_registry.domain.entities import EventPosition, RecordedEvent
from model_registry.domain.naming_rules import validate_model_name
from model_registry.errors import UnknownPosition

BEGINNING = EventPosition(0, 0)


class Events:
    """Events in an order that never changes once it has been read."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(
        self, position: EventPosition = BEGINNING, *, model_name: str | None = None, limit: int = 100, actor: Actor
    ) -> Sequence[RecordedEvent]:
        """Return the events after a position, of one model or of all. The result is empty if there are no more yet.

        A reader that continues from the last event each time sees every event exactly once, even if writers overlap:
        an event is held back until every transaction that began before its own has ended. An unknown model has no
        events. A deleted model keeps its events.

        Raises `UnknownPosition` if the position is from before a restore of the database.
        """
        require(actor, Permission.READ, model_name or ANY_MODEL)
        if model_name is not None:
            validate_model_name(model_name)
        async with self._database.reading() as tx:
            events = await tx.events.after(position, model_name=model_name, limit=limit)
            if not events and not await tx.events.has_reached(position):
                raise UnknownPosition
            return events
