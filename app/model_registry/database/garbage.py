"""Storage keys to delete: `garbage`, a queue that all collectors share."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import Float, cast, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import array, in_array, seconds
from model_registry.db_models import BlobDB, GarbageDB, UploadDB
from model_registry.domain.entities import StoredBlob


@dataclass(frozen=True, slots=True)
class GarbageItem:
    """An object to delete. An upload may also have parts that were never completed."""

    storage_key: str
    multipart_id: str | None
    is_upload: bool
    size_bytes: int


class GarbageRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, storage_keys: Collection[str], *, delay_seconds: float, is_upload: bool = False) -> None:
        """Queue keys, in the transaction that deletes the last reference to them.

        Keys of blobs are skipped. A key that is already queued keeps the earlier of the two times.
        """
        keys = select(func.unnest(array(storage_keys, GarbageDB.storage_key.type)).label("key")).subquery()
        added = insert(GarbageDB).from_select(
            ["storage_key", "is_upload", "not_before"],
            select(keys.c.key, literal(is_upload), func.now() + seconds(delay_seconds)).where(
                ~exists().where(BlobDB.storage_key == keys.c.key)
            ),
        )
        await self._connection.execute(
            added.on_conflict_do_update(
                index_elements=[GarbageDB.storage_key],
                set_={"not_before": func.least(GarbageDB.not_before, added.excluded.not_before)},
            )
        )

    async def add_blobs(self, blobs: Collection[StoredBlob], *, delay_seconds: float = 0) -> None:
        """Queue objects with a known size. A presigned URL may still be able to write them."""
        if not blobs:
            return
        items = select(
            func.unnest(array([blob.storage_key for blob in blobs], GarbageDB.storage_key.type)).label("key"),
            func.unnest(array([blob.size_bytes for blob in blobs], GarbageDB.size_bytes.type)).label("size_bytes"),
            func.unnest(array([blob.writable_until for blob in blobs], GarbageDB.writable_until.type)).label("until"),
        ).subquery()
        await self._connection.execute(
            insert(GarbageDB)
            .from_select(
                ["storage_key", "size_bytes", "writable_until", "is_upload", "not_before"],
                select(
                    items.c.key, items.c.size_bytes, items.c.until, literal(False), func.now() + seconds(delay_seconds)
                ).where(~exists().where(BlobDB.storage_key == items.c.key)),
            )
            .on_conflict_do_nothing()
        )

    async def claim(self, limit: int, claim_seconds: float) -> list[GarbageItem]:
        """Claim up to `limit` keys that are due; no other collector gets them within `claim_seconds`."""
        # A CTE that locks rows runs once. As a subquery it may run again for each row, and each run skips what the
        # ones before have locked: then the limit is exceeded.
        due = (
            select(GarbageDB.storage_key)
            .where(GarbageDB.not_before <= func.now())
            .order_by(GarbageDB.not_before)
            .limit(limit)
            .with_for_update(skip_locked=True)
            .cte("due")
        )
        # A key that keeps failing is tried less and less often.
        pause = func.make_interval(0, 0, 0, 0, 0, 0, claim_seconds * cast(GarbageDB.attempts + 1, Float))
        rows = await self._connection.execute(
            update(GarbageDB)
            .where(GarbageDB.storage_key == due.c.storage_key)
            .values(
                not_before=func.now() + pause,
                attempts=GarbageDB.attempts + 1,
            )
            .returning(GarbageDB.storage_key, GarbageDB.multipart_id, GarbageDB.is_upload, GarbageDB.size_bytes)
        )
        return [GarbageItem(row.storage_key, row.multipart_id, row.is_upload, row.size_bytes or 0) for row in rows]

    async def remove(self, storage_keys: Collection[str]) -> None:
        """Delete keys whose objects are deleted; keep a key that a URL can still write until the URL expires."""
        gone = in_array(GarbageDB.storage_key, storage_keys)
        is_writable = func.coalesce(GarbageDB.writable_until > func.now(), literal(False))
        await self._connection.execute(delete(GarbageDB).where(gone, ~is_writable))
        await self._connection.execute(
            update(GarbageDB)
            .where(gone)
            .values(not_before=GarbageDB.writable_until, size_bytes=0, is_upload=True, attempts=0)
        )

    async def unknown(self, storage_keys: Collection[str]) -> set[str]:
        """Return those of the keys that no table has: no blob, no upload and no garbage."""
        keys = select(func.unnest(array(storage_keys, GarbageDB.storage_key.type)).label("key")).subquery()
        return set(
            await self._connection.scalars(
                select(keys.c.key).where(
                    *(~exists().where(table.storage_key == keys.c.key) for table in (BlobDB, UploadDB, GarbageDB))
                )
            )
        )

    async def due(self) -> tuple[int, int]:
        """Return how many objects are due, and their bytes as far as known."""
        row = (
            await self._connection.execute(
                select(func.count(), func.coalesce(func.sum(GarbageDB.size_bytes), 0)).where(
                    GarbageDB.not_before <= func.now()
                )
            )
        ).one()
        return row[0], int(row[1] or 0)
