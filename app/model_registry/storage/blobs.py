"""Which digest is stored under which key: `blobs`."""

from collections.abc import Collection, Sequence

from sqlalchemy import delete, exists, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import BlobDB, VersionFileDB
from model_registry.domain import StoredBlob
from model_registry.storage.sql import BATCH, among, array


class Blobs:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def remember(self, blobs: Collection[StoredBlob]) -> dict[bytes, str]:
        """Store digests with their keys, and hold their rows until the transaction ends.

        Returns the key that counts for each digest: another one than ours where the same bytes were stored before.
        Rows are locked in digest order, the same everywhere, so that no two transactions wait for each other.
        """
        kept: dict[bytes, str] = {}
        ordered = sorted(blobs, key=lambda blob: blob.sha256.raw)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            new = insert(BlobDB).from_select(
                ["sha256", "size_bytes", "storage_key"],
                select(
                    func.unnest(array([blob.sha256.raw for blob in batch], BlobDB.sha256.type)),
                    func.unnest(array([blob.size_bytes for blob in batch], BlobDB.size_bytes.type)),
                    func.unnest(array([blob.storage_key for blob in batch], BlobDB.storage_key.type)),
                ),
            )
            # Updated rather than left alone, because only an update locks the row and returns it.
            statement = new.on_conflict_do_update(
                index_elements=[BlobDB.sha256], set_={"size_bytes": BlobDB.size_bytes}
            ).returning(BlobDB.sha256, BlobDB.storage_key)
            for row in await self._connection.execute(statement):
                kept[row.sha256] = row.storage_key
        return kept

    async def drop_unreferenced(self, digests: Collection[bytes]) -> Sequence[str]:
        """Drop those of the blobs that no file refers to any more; returns the keys of their bytes."""
        locked = (
            await self._connection.scalars(
                select(BlobDB.sha256).where(among(BlobDB.sha256, digests)).order_by(BlobDB.sha256).with_for_update()
            )
        ).all()
        # A new statement sees what was committed while the first one waited for the locks.
        return (
            await self._connection.scalars(
                delete(BlobDB)
                .where(among(BlobDB.sha256, locked), ~exists().where(VersionFileDB.sha256 == BlobDB.sha256))
                .returning(BlobDB.storage_key)
            )
        ).all()
