"""The audit log: `events`, append-only."""

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import EventDB
from model_registry.domain import Event


class Events:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def record(self, event: Event) -> None:
        """Append an event; it commits with the change that it describes."""
        await self._connection.execute(
            insert(EventDB),
            {
                "actor": event.actor,
                "action": event.action,
                "model_name": event.model_name,
                "version": event.version,
                "details": event.details,
            },
        )
