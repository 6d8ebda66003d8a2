"""Objects that a push uploads: rows of `uploads` with a declared digest."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Interval, Row, bindparam, delete, func, insert, or_, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import BATCH, in_array, parameter_rows, seconds
from model_registry.database.uploads import LEASE, OF_VERSION, UPLOAD_COLUMNS, upload_parameters
from model_registry.db_models import UploadDB
from model_registry.domain.entities import Digest, NewUpload, PushUpload, UploadState

# All rows of a large push at once would block the event loop.
_ROWS_AT_ONCE = 1000

_new = parameter_rows(**UPLOAD_COLUMNS, part_size=BigInteger())
_OPEN = insert(UploadDB).from_select(
    [*_new.c.keys(), "lease_expires_at", "version_id", "writable_until"],
    select(
        *_new.c,
        LEASE,
        bindparam("of_version", type_=BigInteger),
        func.now() + bindparam("writable", type_=Interval),
    ),
)
_UPLOADS = select(*UploadDB.__table__.columns).where(UploadDB.sha256.is_not(None))
_EFFECTIVE = (
    _UPLOADS.ext(distinct_on(UploadDB.sha256))
    .where(OF_VERSION, or_(UploadDB.state != UploadState.OPEN, UploadDB.writable_until.is_not(None)))
    .order_by(UploadDB.sha256, (UploadDB.state == UploadState.STORED).desc(), UploadDB.created_at.desc())
    .execution_options(yield_per=_ROWS_AT_ONCE)
)


class PushUploadRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(
        self, uploads: Sequence[NewUpload], version_id: int, *, lease_seconds: float, writable_seconds: float
    ) -> None:
        """Record the objects that clients will write with presigned URLs, before they get the URLs."""
        for start in range(0, len(uploads), BATCH):
            batch = uploads[start : start + BATCH]
            parameters = {
                **upload_parameters(batch, lease_seconds),
                "part_size": [upload.part_size for upload in batch],
                "of_version": version_id,
                "writable": timedelta(seconds=writable_seconds),
            }
            await self._connection.execute(_OPEN, parameters)

    async def effective(self, version_id: int) -> dict[Digest, PushUpload]:
        """Return for each digest the upload that the push uses: a stored one if there is one, else the newest.

        An upload that passes through the service is not included before its bytes are stored.
        """
        found = await self._connection.stream(_EFFECTIVE, {"of_version": version_id})
        return {(upload := _to_push_upload(row)).sha256: upload async for some in found.partitions() for row in some}

    async def with_digest(self, version_id: int, sha256: Digest) -> Sequence[PushUpload]:
        """Return all uploads of a push for these bytes."""
        rows = await self._connection.execute(
            _UPLOADS.where(UploadDB.version_id == version_id, UploadDB.sha256 == sha256.raw)
        )
        return [_to_push_upload(row) for row in rows]

    async def find(self, upload_id: UUID) -> tuple[PushUpload, int] | None:
        """Return an upload with the id of its version."""
        row = (await self._connection.execute(_UPLOADS.where(UploadDB.id == upload_id))).one_or_none()
        return None if row is None else (_to_push_upload(row), row.version_id)

    async def refused(self, version_id: int) -> Sequence[UUID]:
        """Return the uploads of a version that hold other bytes than declared."""
        return (
            await self._connection.scalars(
                select(UploadDB.id).where(UploadDB.version_id == version_id, UploadDB.state == UploadState.REFUSED)
            )
        ).all()

    async def extend_writable(self, upload_ids: Sequence[UUID], writable_seconds: float) -> None:
        """Record when new URLs for these objects expire, before clients get the URLs."""
        if not upload_ids:
            return
        await self._connection.execute(
            update(UploadDB)
            .where(in_array(UploadDB.id, upload_ids))
            .values(writable_until=func.now() + seconds(writable_seconds))
        )

    async def record_multipart(self, upload_id: UUID, multipart_id: str) -> str | None:
        """Record the store's id of an upload unless it has one; return the recorded id, `None` without the upload."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.multipart_id.is_(None))
            .values(multipart_id=multipart_id)
        )
        recorded: str | None = await self._connection.scalar(
            select(UploadDB.multipart_id).where(UploadDB.id == upload_id)
        )
        return recorded

    async def clear_multipart(self, upload_id: UUID, multipart_id: str) -> None:
        """Forget an id that the store no longer knows and that left no object; the parts start again."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.multipart_id == multipart_id)
            .values(multipart_id=None)
        )

    async def mark_stored(self, upload_ids: Sequence[UUID]) -> int:
        """Record that these objects hold the declared bytes; return how many uploads still exist."""
        if not upload_ids:
            return 0
        result = await self._connection.execute(
            update(UploadDB).where(in_array(UploadDB.id, upload_ids)).values(state=UploadState.STORED)
        )
        return result.rowcount

    async def mark_refused(self, upload_id: UUID, found_size_bytes: int, found_sha256: Digest | None) -> None:
        """Record that this object holds other bytes than declared."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.state == UploadState.OPEN)
            .values(
                state=UploadState.REFUSED,
                found_size_bytes=found_size_bytes,
                found_sha256=found_sha256.raw if found_sha256 else None,
            )
        )

    async def close(self, upload_ids: Sequence[UUID]) -> None:
        """Delete uploads whose objects become blobs."""
        if not upload_ids:
            return
        await self._connection.execute(delete(UploadDB).where(in_array(UploadDB.id, upload_ids)))


def _to_push_upload(row: Row[*tuple[Any, ...]]) -> PushUpload:
    return PushUpload(
        id=row.id,
        storage_key=row.storage_key,
        path=row.path,
        sha256=Digest(row.sha256),
        size_bytes=row.size_bytes,
        part_size=row.part_size,
        multipart_id=row.multipart_id,
        state=UploadState(row.state),
        found_size_bytes=row.found_size_bytes,
        found_sha256=Digest(row.found_sha256) if row.found_sha256 else None,
        writable_until=row.writable_until,
    )
