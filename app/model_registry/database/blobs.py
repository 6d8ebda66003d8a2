"""Which digest is stored under which key: `blobs`."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    LargeBinary,
    Row,
    Text,
    delete,
    exists,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import BATCH, among, among_bound, new_rows
from model_registry.db_models import BlobDB, DeclaredFileDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import Digest, StoredBlob

_BLOB = (BlobDB.sha256, BlobDB.size_bytes, BlobDB.storage_key, BlobDB.writable_until)

_new = new_rows(
    sha256=LargeBinary(), size_bytes=BigInteger(), storage_key=Text(), writable_until=DateTime(timezone=True)
)
# Updated rather than left alone, because only an update locks the row and returns it.
_REMEMBER = (
    insert(BlobDB)
    .from_select(_new.c.keys(), select(*_new.c))
    .on_conflict_do_update(index_elements=[BlobDB.sha256], set_={"size_bytes": BlobDB.size_bytes})
    .returning(*_BLOB, BlobDB.damaged_at)
)
_HOLD_SOUND = (
    select(BlobDB.sha256, BlobDB.size_bytes)
    .where(among_bound(BlobDB.sha256, "digests"), BlobDB.damaged_at.is_(None))
    .order_by(BlobDB.sha256)
    .with_for_update(key_share=True, read=True)
)


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """Which key counts for a digest, and whether it is known to hold other bytes."""

    blob: StoredBlob
    is_damaged: bool


class BlobRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def remember(self, blobs: Collection[StoredBlob]) -> dict[Digest, KeptBlob]:
        """Store digests with their keys, and hold their rows until the transaction ends.

        Returns the key that counts for each digest: another one than ours where the same bytes were stored before.
        Rows are locked in digest order, the same everywhere, so that no two transactions wait for each other.
        """
        kept: dict[Digest, KeptBlob] = {}
        ordered = sorted(blobs, key=lambda blob: blob.sha256.raw)
        for start in range(0, len(ordered), BATCH):
            batch = ordered[start : start + BATCH]
            parameters = {
                "sha256": [blob.sha256.raw for blob in batch],
                "size_bytes": [blob.size_bytes for blob in batch],
                "storage_key": [blob.storage_key for blob in batch],
                "writable_until": [blob.writable_until for blob in batch],
            }
            for row in await self._connection.execute(_REMEMBER, parameters):
                kept[Digest(row.sha256)] = KeptBlob(_to_blob(row), row.damaged_at is not None)
        return kept

    async def replace(self, blob: StoredBlob) -> None:
        """Let a digest whose bytes were damaged be what is at another key."""
        await self._connection.execute(
            update(BlobDB)
            .where(BlobDB.sha256 == blob.sha256.raw)
            .values(
                storage_key=blob.storage_key,
                writable_until=blob.writable_until,
                damaged_at=None,
                verified_at=func.now(),
            )
        )

    async def hold_sound(self, digests: Collection[Digest]) -> dict[Digest, int]:
        """Those of the digests whose bytes are there and not known to be damaged, with their sizes.

        Their rows cannot be dropped until the transaction ends.
        """
        if not digests:
            return {}
        held = await self._connection.execute(_HOLD_SOUND, {"digests": [digest.raw for digest in digests]})
        return {Digest(row.sha256): row.size_bytes for row in held}

    async def page(self, *, after: bytes, model_name: str | None, limit: int) -> Sequence[StoredBlob]:
        """Blobs by digest, all of them or those of one model's versions."""
        statement = select(*_BLOB).where(BlobDB.sha256 > after).order_by(BlobDB.sha256).limit(limit)
        if model_name is not None:
            of_model = (
                select(VersionFileDB.sha256)
                .join(ModelInfoDB, ModelInfoDB.id == VersionFileDB.version_id)
                .where(ModelInfoDB.model_name == model_name)
            )
            statement = statement.where(BlobDB.sha256.in_(of_model))
        return [_to_blob(row) for row in await self._connection.execute(statement)]

    async def mark_sound(self, blobs: Sequence[StoredBlob]) -> Sequence[Digest]:
        """These were just read and are right; returns those that had been found damaged before."""
        at_these_keys = among(BlobDB.storage_key, [blob.storage_key for blob in blobs])
        healed = await self._connection.scalars(
            select(BlobDB.sha256)
            .where(at_these_keys, BlobDB.damaged_at.is_not(None))
            .order_by(BlobDB.sha256)
            .with_for_update()
        )
        digests = [Digest(sha256) for sha256 in healed]
        await self._connection.execute(
            update(BlobDB).where(at_these_keys).values(verified_at=func.now(), damaged_at=None)
        )
        return digests

    async def mark_damaged(self, blobs: Sequence[StoredBlob]) -> Sequence[tuple[Digest, bool]]:
        """These are gone, or are other bytes; returns the digests, and whether that is news."""
        at_these_keys = among(BlobDB.storage_key, [blob.storage_key for blob in blobs])
        rows = await self._connection.execute(
            select(BlobDB.sha256, BlobDB.damaged_at).where(at_these_keys).order_by(BlobDB.sha256).with_for_update()
        )
        found = [(Digest(row.sha256), row.damaged_at is None) for row in rows]
        await self._connection.execute(
            update(BlobDB).where(at_these_keys).values(damaged_at=func.coalesce(BlobDB.damaged_at, func.now()))
        )
        return found

    async def freed_by_purge(self) -> tuple[int, int]:
        """How many blobs, and their bytes, only versions show whose time to be purged has come."""
        files = select(VersionFileDB.sha256).join(ModelInfoDB, ModelInfoDB.id == VersionFileDB.version_id)
        is_due = (ModelInfoDB.purge_after < func.now()) & ModelInfoDB.purged_at.is_(None)
        is_kept = or_(ModelInfoDB.purge_after.is_(None), ModelInfoDB.purge_after >= func.now())
        row = (
            await self._connection.execute(
                select(func.count(), func.coalesce(func.sum(BlobDB.size_bytes), 0))
                .select_from(BlobDB)
                .where(
                    BlobDB.sha256.in_(files.where(is_due)),
                    ~files.where(VersionFileDB.sha256 == BlobDB.sha256, is_kept).correlate(BlobDB).exists(),
                    ~exists().where(DeclaredFileDB.stored_sha256 == BlobDB.sha256),
                )
            )
        ).one()
        return row[0], int(row[1] or 0)

    async def drop_unreferenced(self, digests: Collection[bytes]) -> Sequence[StoredBlob]:
        """Drop those of the blobs that no file refers to any more, neither of a version nor of a push."""
        locked = (
            await self._connection.scalars(
                select(BlobDB.sha256).where(among(BlobDB.sha256, digests)).order_by(BlobDB.sha256).with_for_update()
            )
        ).all()
        # A new statement sees what was committed while the first one waited for the locks.
        rows = await self._connection.execute(
            delete(BlobDB)
            .where(
                among(BlobDB.sha256, locked),
                ~exists().where(VersionFileDB.sha256 == BlobDB.sha256),
                ~exists().where(DeclaredFileDB.stored_sha256 == BlobDB.sha256),
            )
            .returning(*_BLOB)
        )
        return [_to_blob(row) for row in rows]


def _to_blob(row: Row[*tuple[Any, ...]]) -> StoredBlob:
    return StoredBlob(Digest(row.sha256), row.size_bytes, row.storage_key, row.writable_until)
