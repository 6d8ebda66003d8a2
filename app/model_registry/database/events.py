"""The audit log: `events`, append-only."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import BigInteger, Text, bindparam, cast, func, insert, literal, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import EventDB, ModelInfoDB, RegisteredModelDB, VersionFileDB, Xid8
from model_registry.domain.entities import Digest, Event, EventPosition, RecordedEvent

# The driver does not support xid8, so the values travel as text. Events at or after the oldest running transaction are
# left out, because that transaction may still commit an event before them.
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
# The count of ready versions changes with the event that reports it. A model that had a ready version is kept, even if
# all its versions are removed.
_RECORD_AND_COUNT = _RECORD.add_cte(
    update(RegisteredModelDB)
    .where(RegisteredModelDB.name == bindparam("of_model", type_=Text))
    .values(is_provisional=False, version_count=RegisteredModelDB.version_count + bindparam("change", type_=BigInteger))
    .cte("counted")
)
_AFTER_OF_MODEL = _AFTER.where(EventDB.model_name == bindparam("model_name", type_=Text))


@dataclass(frozen=True, slots=True)
class EventMark:
    """An event of a transaction, by which the transaction can be found again.

    After a crash, a server reuses transaction ids and event ids that it did not write to disk, so another event may
    have both. Its time differs.
    """

    xid: str
    event_id: int
    at: datetime


class EventRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.mark: EventMark | None = None
        """Set once the transaction has recorded an event."""

    async def record(self, *events: Event) -> None:
        """Append events. They commit with the change that they describe."""
        recorded = await self._connection.execute(_RECORD, [_parameters(event) for event in events])
        first = recorded.first()
        self.mark = None if first is None else EventMark(*first)

    async def record_and_count(self, event: Event, change: int) -> None:
        """Append an event, and change the number of ready versions of its model."""
        counted = {"of_model": event.model_name, "change": change}
        recorded = await self._connection.execute(_RECORD_AND_COUNT, _parameters(event) | counted)
        self.mark = EventMark(*recorded.one())

    async def record_for_versions_with(self, sha256: Digest, action: str, *, actor: str) -> None:
        """Append one event for each version that has a file with these bytes."""
        with_file = select(VersionFileDB.version_id).where(VersionFileDB.sha256 == sha256.raw)
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
                .where(ModelInfoDB.id.in_(with_file))
                .order_by(ModelInfoDB.id),
            )
        )

    async def has(self, mark: EventMark) -> bool:
        """Return whether the marked event exists."""
        return bool(
            await self._connection.scalar(
                select(literal(True)).where(
                    EventDB.id == mark.event_id, EventDB.at == mark.at, cast(EventDB.xid, Text) == mark.xid
                )
            )
        )

    async def has_reached(self, position: EventPosition) -> bool:
        """Return whether this server has started the transaction of a position."""
        transaction = cast(literal(str(position.xid), Text), Xid8)
        return bool(
            await self._connection.scalar(select(transaction < func.pg_snapshot_xmax(func.pg_current_snapshot())))
        )

    async def after(self, position: EventPosition, *, model_name: str | None, limit: int) -> Sequence[RecordedEvent]:
        """Return the events after a position. No event can appear between them later."""
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
