"""The first response to each Idempotency-Key: `idempotency`."""

from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import seconds
from model_registry.db_models import IdempotencyDB


@dataclass(frozen=True, slots=True)
class FirstResponse:
    """The body of the first response, and the hash of what its request meant."""

    meaning: bytes
    body: str


class IdempotencyRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def find(self, actor: str, key: str) -> FirstResponse | None:
        row = (
            await self._connection.execute(
                select(IdempotencyDB.meaning, IdempotencyDB.answer).where(
                    IdempotencyDB.actor == actor, IdempotencyDB.key == key
                )
            )
        ).one_or_none()
        return None if row is None else FirstResponse(row.meaning, row.answer)

    async def remember(self, actor: str, key: str, first: FirstResponse) -> bool:
        """Store the first response; return `False` if another request with this key was first."""
        inserted = await self._connection.scalar(
            insert(IdempotencyDB)
            .values(actor=actor, key=key, meaning=first.meaning, answer=first.body)
            .on_conflict_do_nothing()
            .returning(IdempotencyDB.key)
        )
        return inserted is not None

    async def forget_older_than(self, age_seconds: float) -> int:
        result = await self._connection.execute(delete(IdempotencyDB).where(_is_older_than(age_seconds)))
        return result.rowcount

    async def count_older_than(self, age_seconds: float) -> int:
        statement = select(func.count()).where(_is_older_than(age_seconds))
        return await self._connection.scalar(statement) or 0


def _is_older_than(age_seconds: float) -> ColumnElement[bool]:
    return IdempotencyDB.created_at < func.now() - seconds(age_seconds)
