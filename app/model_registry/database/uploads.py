"""Objects that are being written: `uploads`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Interval,
    LargeBinary,
    Row,
    Text,
    Uuid,
    bindparam,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import Insert, distinct_on
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.types import TypeEngine

from model_registry.database.sql import BATCH, among, new_rows, seconds
from model_registry.db_models import GarbageDB, ModelInfoDB, UploadDB
from model_registry.domain.entities import Digest, NewUpload, PushUpload, UploadState

# All rows of a large push at once would stall the event loop.
_ROWS_AT_ONCE = 1000
_LATE_WRITER_SECONDS = 24 * 3600

_INTENT: dict[str, TypeEngine[Any]] = {
    "id": Uuid(),
    "path": Text(),
    "storage_key": Text(),
    "sha256": LargeBinary(),
    "size_bytes": BigInteger(),
}
_intents = new_rows(**_INTENT)
_pushed = new_rows(**_INTENT, part_size=BigInteger())
_LEASE = func.now() + bindparam("lease", type_=Interval)
_OF_INTENTS = [*_intents.c.keys(), "lease_expires_at"]


def _again(statement: Insert) -> Insert:
    """Where the answer to the first time was lost, the row is there."""
    return statement.on_conflict_do_update(
        index_elements=[UploadDB.id], set_={"lease_expires_at": statement.excluded.lease_expires_at}
    )


_PUSHED = select(*UploadDB.__table__.columns).where(UploadDB.sha256.is_not(None))
_IS_OF_VERSION = UploadDB.version_id == bindparam("of_version", type_=BigInteger)
_COUNTING = (
    _PUSHED.ext(distinct_on(UploadDB.sha256))
    .where(_IS_OF_VERSION, or_(UploadDB.state != UploadState.OPEN, UploadDB.writable_until.is_not(None)))
    .order_by(UploadDB.sha256, (UploadDB.state == UploadState.STORED).desc(), UploadDB.created_at.desc())
    .execution_options(yield_per=_ROWS_AT_ONCE)
)
_OF_VERSION = select(UploadDB.id).where(_IS_OF_VERSION)

_OPEN = _again(pg_insert(UploadDB).from_select(_OF_INTENTS, select(*_intents.c, _LEASE)))
_OPEN_FOR_VERSION = _again(
    pg_insert(UploadDB).from_select(
        [*_OF_INTENTS, "version_id"],
        select(*_intents.c, _LEASE, ModelInfoDB.id)
        .join_from(ModelInfoDB, _intents, true())
        .where(ModelInfoDB.id == bindparam("of_version"), ModelInfoDB.lease_expires_at > func.now())
        .with_for_update(key_share=True, read=True, of=ModelInfoDB),
    )
)
_OPEN_PUSHED = insert(UploadDB).from_select(
    [*_pushed.c.keys(), "lease_expires_at", "version_id", "writable_until"],
    select(
        *_pushed.c,
        _LEASE,
        bindparam("of_version", type_=BigInteger),
        func.now() + bindparam("writable", type_=Interval),
    ),
)


class UploadRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def open(self, uploads: Sequence[NewUpload], version_id: int | None, lease_seconds: float) -> bool:
        """Record the intent to write objects. Done before their first byte is sent, so no object is unknown.

        `False` when the version is gone, or is none any more that can be added to; to repeat it is harmless. It is one
        statement.
        """
        parameters = _columns(uploads, lease_seconds)
        if version_id is None:
            opened = await self._connection.execute(_OPEN, parameters)
        else:
            opened = await self._connection.execute(_OPEN_FOR_VERSION, parameters | {"of_version": version_id})
        return opened.rowcount == len(uploads)

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
        if not upload_ids:
            return 0
        result = await self._connection.execute(
            delete(UploadDB).where(among(UploadDB.id, upload_ids), UploadDB.lease_expires_at > func.now())
        )
        return result.rowcount

    async def give_up(self, upload_ids: Sequence[UUID], *, delay_seconds: float = 0) -> None:
        """End uploads whose objects nobody will show: their keys become garbage.

        Past its lease an upload may have a writer that only stood still, wakes up, and is killed before it can say that
        its last bytes arrived: its key is deleted once more after a day.
        """
        if not upload_ids:
            return
        is_expired = UploadDB.lease_expires_at < func.now()
        gone = (
            delete(UploadDB)
            .where(among(UploadDB.id, upload_ids))
            .returning(
                UploadDB.storage_key,
                # Those of a push may have been begun twice at the same moment: the collector looks for all of them.
                case((UploadDB.part_size.is_(None), UploadDB.multipart_id)).label("multipart_id"),
                UploadDB.size_bytes,
                func.greatest(
                    UploadDB.writable_until, case((is_expired, func.now() + seconds(_LATE_WRITER_SECONDS)))
                ).label("writable_until"),
                # What clients write with one PUT has no parts to look for.
                or_(UploadDB.writable_until.is_(None), UploadDB.part_size.is_not(None)).label("may_have_parts"),
            )
            .cte("gone")
        )
        await self._connection.execute(
            pg_insert(GarbageDB)
            .from_select(
                ["storage_key", "multipart_id", "size_bytes", "writable_until", "is_upload", "not_before"],
                select(
                    gone.c.storage_key,
                    gone.c.multipart_id,
                    gone.c.size_bytes,
                    gone.c.writable_until,
                    gone.c.may_have_parts,
                    func.now() + seconds(delay_seconds),
                ),
            )
            .on_conflict_do_nothing()
        )

    async def open_pushed(
        self, uploads: Sequence[NewUpload], version_id: int, *, lease_seconds: float, writable_seconds: float
    ) -> None:
        """Record what a push will write with presigned URLs, before any of them is handed out."""
        for start in range(0, len(uploads), BATCH):
            batch = uploads[start : start + BATCH]
            parameters = {
                **_columns(batch, lease_seconds),
                "part_size": [upload.part_size for upload in batch],
                "of_version": version_id,
                "writable": timedelta(seconds=writable_seconds),
            }
            await self._connection.execute(_OPEN_PUSHED, parameters)

    async def counting(self, version_id: int) -> dict[Digest, PushUpload]:
        """For each digest the upload that a push counts on: rather one that holds the bytes than one that will or did
        not. Of those that pass through us nobody knows before they hold them."""
        found = await self._connection.stream(_COUNTING, {"of_version": version_id})
        return {(upload := _to_push_upload(row)).sha256: upload async for some in found.partitions() for row in some}

    async def pushed_of(self, version_id: int, sha256: Digest) -> Sequence[PushUpload]:
        """All that a push has for these bytes."""
        rows = await self._connection.execute(
            _PUSHED.where(UploadDB.version_id == version_id, UploadDB.sha256 == sha256.raw)
        )
        return [_to_push_upload(row) for row in rows]

    async def find_pushed(self, upload_id: UUID) -> tuple[PushUpload, int] | None:
        """An upload of a push with the id of its version."""
        row = (await self._connection.execute(_PUSHED.where(UploadDB.id == upload_id))).one_or_none()
        return None if row is None else (_to_push_upload(row), row.version_id)

    async def is_writable_for(self, upload_ids: Sequence[UUID], writable_seconds: float) -> None:
        """Write down, before they are handed out, until when new URLs can write these objects."""
        if not upload_ids:
            return
        await self._connection.execute(
            update(UploadDB)
            .where(among(UploadDB.id, upload_ids))
            .values(writable_until=func.now() + seconds(writable_seconds))
        )

    async def lost_multipart(self, upload_id: UUID, multipart_id: str) -> None:
        """The store knows this id no more, and has no object of its parts: they begin anew."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.multipart_id == multipart_id)
            .values(multipart_id=None)
        )

    async def began_multipart_first(self, upload_id: UUID, multipart_id: str) -> str | None:
        """Write down the store's id unless there is one; returns the one that counts, `None` without the upload."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.multipart_id.is_(None))
            .values(multipart_id=multipart_id)
        )
        counts: str | None = await self._connection.scalar(
            select(UploadDB.multipart_id).where(UploadDB.id == upload_id)
        )
        return counts

    async def mark_stored(self, upload_ids: Sequence[UUID]) -> int:
        """These hold the bytes that were declared; returns how many of them there still are."""
        if not upload_ids:
            return 0
        result = await self._connection.execute(
            update(UploadDB).where(among(UploadDB.id, upload_ids)).values(state=UploadState.STORED)
        )
        return result.rowcount

    async def mark_refused(self, upload_id: UUID, found_size_bytes: int, found_sha256: Digest | None) -> None:
        """This one holds other bytes."""
        await self._connection.execute(
            update(UploadDB)
            .where(UploadDB.id == upload_id, UploadDB.state == UploadState.OPEN)
            .values(
                state=UploadState.REFUSED,
                found_size_bytes=found_size_bytes,
                found_sha256=found_sha256.raw if found_sha256 else None,
            )
        )

    async def close_pushed(self, upload_ids: Sequence[UUID]) -> None:
        """End the uploads of a push whose objects become blobs."""
        if not upload_ids:
            return
        await self._connection.execute(delete(UploadDB).where(among(UploadDB.id, upload_ids)))

    async def of_version(self, version_id: int) -> Sequence[UUID]:
        return (await self._connection.scalars(_OF_VERSION, {"of_version": version_id})).all()

    async def refused(self, version_id: int) -> Sequence[UUID]:
        """Those of a version that hold other bytes."""
        return (
            await self._connection.scalars(
                select(UploadDB.id).where(UploadDB.version_id == version_id, UploadDB.state == UploadState.REFUSED)
            )
        ).all()

    async def count_expired(self) -> tuple[int, int, int]:
        """Of uploads past their lease: how many no version knows of, how many there are in all, and their bytes."""
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


def _columns(uploads: Sequence[NewUpload], lease_seconds: float) -> dict[str, Any]:
    declared = [upload.declared for upload in uploads]
    return {
        "id": [upload.id for upload in uploads],
        "path": [upload.path for upload in uploads],
        "storage_key": [upload.storage_key for upload in uploads],
        "sha256": [file.sha256.raw if file else None for file in declared],
        "size_bytes": [file.size_bytes if file else None for file in declared],
        "lease": timedelta(seconds=lease_seconds),
    }


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
