"""Objects that are being written: `uploads`."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import GarbageDB, ModelInfoDB, UploadDB
from model_registry.domain import NewUpload
from model_registry.storage.sql import among, seconds


class Uploads:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(self, upload: NewUpload, version_id: int | None, lease_seconds: float) -> bool:
        """Record the intent to write an object. Done before its first byte is sent, so no object is unknown.

        `False` when the version is gone; to repeat it is harmless.
        """
        if version_id is not None:
            held = select(ModelInfoDB.id).where(ModelInfoDB.id == version_id).with_for_update(key_share=True, read=True)
            if await self._connection.scalar(held) is None:
                return False
        await self._connection.execute(
            pg_insert(UploadDB)
            .values(
                id=upload.id,
                version_id=version_id,
                path=upload.path,
                storage_key=upload.storage_key,
                lease_expires_at=func.now() + seconds(lease_seconds),
            )
            .on_conflict_do_nothing()
        )
        return True

    async def began_multipart(self, upload_id: UUID, multipart_id: str) -> bool:
        """Write down the store's id of an upload; `False` when the upload was taken back meanwhile."""
        result = await self._connection.execute(
            update(UploadDB).where(UploadDB.id == upload_id).values(multipart_id=multipart_id)
        )
        return result.rowcount == 1

    async def renew(self, upload_ids: Sequence[UUID], lease_seconds: float) -> int:
        """Prolong the leases that still live; returns how many did."""
        result = await self._connection.execute(
            update(UploadDB)
            .where(among(UploadDB.id, upload_ids), UploadDB.lease_expires_at > func.now())
            .values(lease_expires_at=func.now() + seconds(lease_seconds))
        )
        return result.rowcount

    async def close(self, upload_ids: Sequence[UUID]) -> int:
        """End the uploads whose objects a version shows from now on; returns how many were still alive."""
        result = await self._connection.execute(
            delete(UploadDB).where(among(UploadDB.id, upload_ids), UploadDB.lease_expires_at > func.now())
        )
        return result.rowcount

    async def give_up(self, upload_ids: Sequence[UUID], *, delay_seconds: float = 0) -> None:
        """End uploads whose objects nobody will show: their keys become garbage."""
        gone = (
            delete(UploadDB)
            .where(among(UploadDB.id, upload_ids))
            .returning(UploadDB.storage_key, UploadDB.multipart_id)
            .cte("gone")
        )
        await self._connection.execute(
            pg_insert(GarbageDB)
            .from_select(
                ["storage_key", "multipart_id", "is_upload", "not_before"],
                select(
                    gone.c.storage_key,
                    gone.c.multipart_id,
                    literal(True),
                    func.now() + seconds(delay_seconds),
                ),
            )
            .on_conflict_do_nothing()
        )

    async def of_version(self, version_id: int) -> Sequence[UUID]:
        return (await self._connection.scalars(select(UploadDB.id).where(UploadDB.version_id == version_id))).all()

    async def lapsed_without_version(self, limit: int) -> Sequence[UUID]:
        """Uploads past their lease that no version knows of; locked, those of other collectors left out."""
        return (
            await self._connection.scalars(
                select(UploadDB.id)
                .where(UploadDB.version_id.is_(None), UploadDB.lease_expires_at < func.now())
                .order_by(UploadDB.lease_expires_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
        ).all()
