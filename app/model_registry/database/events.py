"""The audit log: `events`, append-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Text, bindparam, cast, func, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import EventDB, ModelInfoDB, RegisteredModelDB, VersionFileDB, Xid8
from model_registry.domain.entities import Digest, Event, EventPosition, RecordedEvent

# The driver knows no xid8, so these go to and fro as text. What is at or beyond the oldest transaction that still
# runs waits: an event of that one may yet come in before it.
_AFTER = (
    select(
        cast(EventDB.xid, Text).label("xid_text"),
        EventDB.id,
        EventDB.at,
        EventDB.actor,
        EventDB.action,
        EventDB.model_name,
        EventDB.version,
        EventDB.details,
    )
    .where(
        tuple_(EventDB.xid, EventDB.id)
        > tuple_(cast(bindparam("after_xid", type_=Text), Xid8), bindparam("after_id", type_=BigInteger)),
        EventDB.xid < func.pg_snapshot_xmin(func.pg_current_snapshot()),
    )
    .order_by(EventDB.xid, EventDB.id)
    .limit(bindparam("limit", type_=BigInteger))
)
_RECORD = insert(EventDB).returning(cast(EventDB.xid, Text), EventDB.id, EventDB.at)
# How many versions are ready changes with the event that says so. From the first on a model stays, whatever becomes
# of them.
_RECORD_AND_COUNT = _RECORD.add_cte(
    update(RegisteredModelDB)
    .where(RegisteredModelDB.name == bindparam("of_model", type_=Text))
    .values(is_provisional=False, version_count=RegisteredModelDB.version_count + bindparam("change", type_=BigInteger))
    .cte("counted")
)
_AFTER_OF_MODEL = _AFTER.where(EventDB.model_name == bindparam("model_name", type_=Text))


@dataclass(frozen=True, slots=True)
class Mark:
    """By which a transaction is known again: an event of its own.

    A server that was killed begins again with the numbers, of transactions and of events, that it had not written down:
    others may have both. The time is never the same.
    """

    xid: str
    event_id: int
    at: datetime


class EventRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.mark: Mark | None = None
        """Of the transaction, once it has recorded an event."""

    async def record(self, *events: Event) -> None:
        """Append events; they commit with the change that they describe."""
        recorded = await self._connection.execute(_RECORD, [_parameters(event) for event in events])
        first = recorded.first()
        self.mark = None if first is None else Mark(*first)

    async def record_and_count(self, event: Event, change: int) -> None:
        """Append an event by which so many more versions of its model are ready, or fewer."""
        counted = {"of_model": event.model_name, "change": change}
        recorded = await self._connection.execute(_RECORD_AND_COUNT, _parameters(event) | counted)
        self.mark = Mark(*recorded.one())

    async def record_for_versions_with(self, sha256: Digest, action: str, *, actor: str) -> None:
        """Append one event for each version that has a file of these bytes."""
        showing = select(VersionFileDB.version_id).where(VersionFileDB.sha256 == sha256.raw)
        await self._connection.execute(
            insert(EventDB).from_select(
                ["actor", "action", "model_name", "version", "details"],
                select(
                    literal(actor, Text),
                    literal(action, Text),
                    ModelInfoDB.model_name,
                    ModelInfoDB.version,
                    func.jsonb_build_object("sha256", str(sha256)),
                )
                .where(ModelInfoDB.id.in_(showing))
                .order_by(ModelInfoDB.id),
            )
        )

    async def has(self, mark: Mark) -> bool:
        """Whether the event that the mark is of is there."""
        return bool(
            await self._connection.scalar(
                select(literal(True)).where(
                    EventDB.id == mark.event_id, EventDB.at == mark.at, cast(EventDB.xid, Text) == mark.xid
                )
            )
        )

    async def has_reached(self, position: EventPosition) -> bool:
        """Whether this server has ever begun the transaction of a position."""
        transaction = cast(literal(str(position.xid), Text), Xid8)
        return bool(
            await self._connection.scalar(select(transaction < func.pg_snapshot_xmax(func.pg_current_snapshot())))
        )

    async def after(self, position: EventPosition, *, model_name: str | None, limit: int) -> Sequence[RecordedEvent]:
        """The events that follow a position, none of which another can come before any more."""
        parameters: dict[str, object] = {"after_xid": str(position.xid), "after_id": position.id, "limit": limit}
        statement = _AFTER
        if model_name is not None:
            statement = _AFTER_OF_MODEL
            parameters["model_name"] = model_name
        return [
            RecordedEvent(
                EventPosition(int(row.xid_text), row.id),
                row.at,
                Event(row.actor, row.action, row.model_name, row.version, row.details),
            )
            for row in await self._connection.execute(statement, parameters)
        ]


def _parameters(event: Event) -> dict[str, str | None]:
    return {
        "actor": event.actor,
        "action": event.action,
        "model_name": event.model_name,
        "version": event.version,
        "details": event.details,
    }
