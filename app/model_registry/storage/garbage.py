"""Storage keys to delete: `garbage`, a queue that any number of collectors share."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Float, cast, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import BlobDB, GarbageDB
from model_registry.storage.sql import among, array, seconds


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """An object to delete. One that was an upload may also have parts that were never completed."""

    storage_key: str
    multipart_id: str | None
    is_upload: bool


class Garbage:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, storage_keys: Collection[str], *, delay_seconds: float, is_upload: bool = False) -> None:
        """Queue keys, in the transaction that drops the last reference to them; those that a blob has are left out."""
        keys = select(func.unnest(array(storage_keys, GarbageDB.storage_key.type)).label("key")).subquery()
        await self._connection.execute(
            insert(GarbageDB)
            .from_select(
                ["storage_key", "is_upload", "not_before"],
                select(keys.c.key, literal(is_upload), func.now() + seconds(delay_seconds)).where(
                    ~exists().where(BlobDB.storage_key == keys.c.key)
                ),
            )
            .on_conflict_do_nothing()
        )

    async def claim(self, limit: int, claim_seconds: float) -> list[GarbageItem]:
        """Take what is due; another collector gets it only when we have not deleted it within `claim_seconds`."""
        due = (
            select(GarbageDB.storage_key)
            .where(GarbageDB.not_before <= func.now())
            .order_by(GarbageDB.not_before)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        # What keeps failing is tried ever more seldom.
        pause = func.make_interval(0, 0, 0, 0, 0, 0, claim_seconds * cast(GarbageDB.attempts + 1, Float))
        rows = await self._connection.execute(
            update(GarbageDB)
            .where(GarbageDB.storage_key.in_(due.scalar_subquery()))
            .values(
                not_before=func.now() + pause,
                attempts=GarbageDB.attempts + 1,
            )
            .returning(GarbageDB.storage_key, GarbageDB.multipart_id, GarbageDB.is_upload)
        )
        return [GarbageItem(row.storage_key, row.multipart_id, row.is_upload) for row in rows]

    async def remove(self, storage_keys: Collection[str]) -> None:
        """Forget keys whose objects are gone."""
        await self._connection.execute(delete(GarbageDB).where(among(GarbageDB.storage_key, storage_keys)))
