"""Objects that are being written: `uploads`. `push_uploads` has what only a push needs."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Interval,
    LargeBinary,
    Text,
    Uuid,
    bindparam,
    case,
    delete,
    func,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import Insert
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from model_registry.database.sql import in_array, parameter_rows, seconds
from model_registry.db_models import GarbageDB, ModelInfoDB, UploadDB
from model_registry.domain.entities import NewUpload

_LATE_WRITER_SECONDS = 24 * 3600

UPLOAD_COLUMNS: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "path": Text(),
    "storage_key": Text(),
    "sha256": LargeBinary(),
    "size_bytes": BigInteger(),
}
_new = parameter_rows(**UPLOAD_COLUMNS)
LEASE = func.now() + bindparam("lease", type_=Interval)
_NEW_COLUMNS = [*_new.c.keys(), "lease_expires_at"]


def _repeatable(statement: Insert) -> Insert:
    """A retry after a lost reply finds its row and renews the lease."""
    return statement.on_conflict_do_update(
        index_elements=[UploadDB.id], set_={"lease_expires_at": statement.excluded.lease_expires_at}
    )


OF_VERSION = UploadDB.version_id == bindparam("of_version", type_=BigInteger)
_IDS_OF_VERSION = select(UploadDB.id).where(OF_VERSION)

_OPEN = _repeatable(pg_insert(UploadDB).from_select(_NEW_COLUMNS, select(*_new.c, LEASE)))
_OPEN_FOR_VERSION = _repeatable(
    pg_insert(UploadDB).from_select(
        [*_NEW_COLUMNS, "version_id"],
        select(*_new.c, LEASE, ModelInfoDB.id)
        .join_from(ModelInfoDB, _new, true())
        .where(ModelInfoDB.id == bindparam("of_version"), ModelInfoDB.lease_expires_at > func.now())
        .with_for_update(key_share=True, read=True, of=ModelInfoDB),
    )
)


class UploadRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(self, uploads: Sequence[NewUpload], version_id: int | None, lease_seconds: float) -> bool:
        """Record the intent to write objects, before their first byte is sent, so that no object is unknown.

        Returns `False` if the version does not exist or is no longer open. One statement, safe to repeat.
        """
        parameters = upload_parameters(uploads, lease_seconds)
        if version_id is None:
            opened = await self._connection.execute(_OPEN, parameters)
        else:
            opened = await self._connection.execute(_OPEN_FOR_VERSION, parameters | {"of_version": version_id})
        return opened.rowcount == len(uploads)

    async def record_multipart(self, upload_id: UUID, multipart_id: str) -> bool:
        """Record the store's id of an upload; return `False` if the upload no longer exists."""
        result = await self._connection.execute(
            update(UploadDB).where(UploadDB.id == upload_id).values(multipart_id=multipart_id)
        )
        return result.rowcount == 1

    async def renew(self, upload_ids: Sequence[UUID], lease_seconds: float) -> int:
        """Extend the leases that have not expired; return how many."""
        result = await self._connection.execute(
            update(UploadDB)
            .where(in_array(UploadDB.id, upload_ids), UploadDB.lease_expires_at > func.now())
            .values(lease_expires_at=func.now() + seconds(lease_seconds))
        )
        return result.rowcount

    async def close(self, upload_ids: Sequence[UUID]) -> int:
        """Delete uploads whose objects now belong to a version; return how many had a live lease."""
        if not upload_ids:
            return 0
        result = await self._connection.execute(
            delete(UploadDB).where(in_array(UploadDB.id, upload_ids), UploadDB.lease_expires_at > func.now())
        )
        return result.rowcount

    async def discard(self, upload_ids: Sequence[UUID], *, delay_seconds: float = 0) -> None:
        """Delete uploads whose objects no version will have, and queue their keys as garbage.

        The writer of an upload with an expired lease may be suspended, resume, and be killed right after its last
        bytes arrive. The key of such an upload is deleted again after a day.
        """
        if not upload_ids:
            return
        is_expired = UploadDB.lease_expires_at < func.now()
        discarded = (
            delete(UploadDB)
            .where(in_array(UploadDB.id, upload_ids))
            .returning(
                UploadDB.storage_key,
                # Two requests may start the same upload of a push at once; the collector looks for all of them.
                case((UploadDB.part_size.is_(None), UploadDB.multipart_id)).label("multipart_id"),
                UploadDB.size_bytes,
                func.greatest(
                    UploadDB.writable_until, case((is_expired, func.now() + seconds(_LATE_WRITER_SECONDS)))
                ).label("writable_until"),
                # An object that a client writes with one PUT has no parts.
                or_(UploadDB.writable_until.is_(None), UploadDB.part_size.is_not(None)).label("may_have_parts"),
            )
            .cte("discarded")
        )
        await self._connection.execute(
            pg_insert(GarbageDB)
            .from_select(
                ["storage_key", "multipart_id", "size_bytes", "writable_until", "is_upload", "not_before"],
                select(
                    discarded.c.storage_key,
                    discarded.c.multipart_id,
                    discarded.c.size_bytes,
                    discarded.c.writable_until,
                    discarded.c.may_have_parts,
                    func.now() + seconds(delay_seconds),
                ),
            )
            .on_conflict_do_nothing()
        )

    async def of_version(self, version_id: int) -> Sequence[UUID]:
        return (await self._connection.scalars(_IDS_OF_VERSION, {"of_version": version_id})).all()

    async def count_expired(self) -> tuple[int, int, int]:
        """Count the uploads with an expired lease: those without a version, all of them, and their bytes."""
        expired = func.coalesce(ModelInfoDB.lease_expires_at, UploadDB.lease_expires_at) < func.now()
        row = (
            await self._connection.execute(
                select(
                    func.count().filter(UploadDB.version_id.is_(None)),
                    func.count(),
                    func.coalesce(func.sum(UploadDB.size_bytes), 0),
                )
                .select_from(UploadDB)
                .outerjoin(ModelInfoDB, ModelInfoDB.id == UploadDB.version_id)
                .where(expired)
            )
        ).one()
        return row[0], row[1], int(row[2] or 0)

    async def expired_without_version(self, limit: int) -> Sequence[UUID]:
        """Lock and return expired uploads without a version; skip uploads that other collectors lock."""
        return (
            await self._connection.scalars(
                select(UploadDB.id)
                .where(UploadDB.version_id.is_(None), UploadDB.lease_expires_at < func.now())
                .order_by(UploadDB.lease_expires_at)
                .limit(limit)
                .with_for_update(skip_locked=True)
            )
        ).all()


def upload_parameters(uploads: Sequence[NewUpload], lease_seconds: float) -> dict[str, Any]:
    declared = [upload.declared for upload in uploads]
    return {
        "id": [upload.id for upload in uploads],
        "path": [upload.path for upload in uploads],
        "storage_key": [upload.storage_key for upload in uploads],
        "sha256": [file.sha256.raw if file else None for file in declared],
        "size_bytes": [file.size_bytes if file else None for file in declared],
        "lease": timedelta(seconds=lease_seconds),
    }
