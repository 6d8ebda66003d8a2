"""Deletes versions: unfinished ones as a whole, and the files of removed ones."""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import ModelInfoDB, VersionFileDB
from model_registry.domain.entities import VersionRef


class VersionCleanupRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def expired(self, limit: int) -> Sequence[tuple[int, str]]:
        """Return the ids and model names of unfinished versions whose lease expired."""
        rows = await self._connection.execute(
            select(ModelInfoDB.id, ModelInfoDB.model_name)
            .where(ModelInfoDB.lease_expires_at < func.now())
            .order_by(ModelInfoDB.lease_expires_at)
            .limit(limit)
        )
        return [(row.id, row.model_name) for row in rows]

    async def lock_discardable(self, version_id: int, *, only_expired: bool) -> bool:
        """Lock the row of an unfinished version.

        Returns `False` if there is none, or if `only_expired` is set and the lease has not expired.
        """
        is_expired = await self._connection.scalar(
            select(ModelInfoDB.lease_expires_at < func.now())
            .where(ModelInfoDB.id == version_id, ModelInfoDB.lease_expires_at.is_not(None))
            .with_for_update()
        )
        return is_expired is not None and (is_expired or not only_expired)

    async def delete_unfinished(self, version_id: int) -> None:
        """Delete a version that never became ready. Its label becomes free."""
        await self._connection.execute(
            delete(ModelInfoDB).where(ModelInfoDB.id == version_id, ModelInfoDB.lease_expires_at.is_not(None))
        )

    async def count_expired(self) -> int:
        return await self._count(ModelInfoDB.lease_expires_at < func.now())

    async def count_due_for_purge(self) -> int:
        return await self._count(ModelInfoDB.purge_after < func.now(), ModelInfoDB.purged_at.is_(None))

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        return await self._connection.scalar(select(func.count()).where(*conditions)) or 0

    async def due_for_purge(self) -> tuple[int, VersionRef] | None:
        """Lock and return a removed version that is due for its purge; skip versions that other collectors lock."""
        row = (
            await self._connection.execute(
                select(ModelInfoDB.id, ModelInfoDB.model_name, ModelInfoDB.version)
                .where(ModelInfoDB.purge_after < func.now(), ModelInfoDB.purged_at.is_(None))
                .order_by(ModelInfoDB.purge_after)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
        ).one_or_none()
        return None if row is None else (row.id, VersionRef(row.model_name, row.version))

    async def purge(self, version_id: int) -> Collection[bytes]:
        """Delete the files of a removed version and keep its row; return the digests of the files."""
        deleted = await self._connection.scalars(
            delete(VersionFileDB).where(VersionFileDB.version_id == version_id).returning(VersionFileDB.sha256)
        )
        digests = set(deleted)
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(purged_at=func.now(), file_path=None, generation=ModelInfoDB.generation + 1)
        )
        return digests
