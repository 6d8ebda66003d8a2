"""Stored bytes, by digest: `blobs`."""

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

from model_registry.database.sql import BATCH, in_array, in_bound_array, parameter_rows
from model_registry.db_models import BlobDB, DeclaredFileDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import Digest, StoredBlob

_BLOB = (BlobDB.sha256, BlobDB.size_bytes, BlobDB.storage_key, BlobDB.writable_until)

_new = parameter_rows(
    sha256=LargeBinary(), size_bytes=BigInteger(), storage_key=Text(), writable_until=DateTime(timezone=True)
)
# DO UPDATE, because DO NOTHING neither locks an existing row nor returns it.
_REMEMBER = (
    insert(BlobDB)
    .from_select(_new.c.keys(), select(*_new.c))
    .on_conflict_do_update(index_elements=[BlobDB.sha256], set_={"size_bytes": BlobDB.size_bytes})
    .returning(*_BLOB, BlobDB.damaged_at)
)
_LOCK_INTACT = (
    select(BlobDB.sha256, BlobDB.size_bytes)
    .where(in_bound_array(BlobDB.sha256, "digests"), BlobDB.damaged_at.is_(None))
    .order_by(BlobDB.sha256)
    .with_for_update(key_share=True, read=True)
)


@dataclass(frozen=True, slots=True)
class KeptBlob:
    """The key that has the bytes of a digest, and whether its bytes are known to be damaged."""

    blob: StoredBlob
    is_damaged: bool


class BlobRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def remember(self, blobs: Collection[StoredBlob]) -> dict[Digest, KeptBlob]:
        """Insert digests with their keys, and lock their rows until the transaction ends.

        Returns the effective key of each digest. It is another key than the given one if the same bytes were stored
        before. Rows are always locked in digest order, so that two transactions never wait for each other.
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
        """Give a digest with damaged bytes another key, which has the right bytes."""
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

    async def lock_intact(self, digests: Collection[Digest]) -> dict[Digest, int]:
        """Return those of the digests that have a blob not known to be damaged, with their sizes.

        Their rows are locked: nobody can delete them before the transaction ends.
        """
        if not digests:
            return {}
        found = await self._connection.execute(_LOCK_INTACT, {"digests": [digest.raw for digest in digests]})
        return {Digest(row.sha256): row.size_bytes for row in found}

    async def page(self, *, after: bytes, model_name: str | None, limit: int) -> Sequence[StoredBlob]:
        """Return blobs by digest: all, or those of the versions of one model."""
        statement = select(*_BLOB).where(BlobDB.sha256 > after).order_by(BlobDB.sha256).limit(limit)
        if model_name is not None:
            of_model = (
                select(VersionFileDB.sha256)
                .join(ModelInfoDB, ModelInfoDB.id == VersionFileDB.version_id)
                .where(ModelInfoDB.model_name == model_name)
            )
            statement = statement.where(BlobDB.sha256.in_(of_model))
        return [_to_blob(row) for row in await self._connection.execute(statement)]

    async def mark_intact(self, blobs: Sequence[StoredBlob]) -> Sequence[Digest]:
        """Record that the bytes of these blobs are right; return the digests that were marked as damaged."""
        at_these_keys = in_array(BlobDB.storage_key, [blob.storage_key for blob in blobs])
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
        """Record that these blobs are missing or damaged; return the digests, and whether each is newly damaged."""
        at_these_keys = in_array(BlobDB.storage_key, [blob.storage_key for blob in blobs])
        rows = await self._connection.execute(
            select(BlobDB.sha256, BlobDB.damaged_at).where(at_these_keys).order_by(BlobDB.sha256).with_for_update()
        )
        found = [(Digest(row.sha256), row.damaged_at is None) for row in rows]
        await self._connection.execute(
            update(BlobDB).where(at_these_keys).values(damaged_at=func.coalesce(BlobDB.damaged_at, func.now()))
        )
        return found

    async def freed_by_purge(self) -> tuple[int, int]:
        """Count the blobs, and their bytes, that belong only to versions that are due for a purge."""
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
        """Delete those of the blobs that no file of a version or of a push refers to."""
        locked = (
            await self._connection.scalars(
                select(BlobDB.sha256).where(in_array(BlobDB.sha256, digests)).order_by(BlobDB.sha256).with_for_update()
            )
        ).all()
        # A new statement sees what other transactions committed while the first one waited for the locks.
        rows = await self._connection.execute(
            delete(BlobDB)
            .where(
                in_array(BlobDB.sha256, locked),
                ~exists().where(VersionFileDB.sha256 == BlobDB.sha256),
                ~exists().where(DeclaredFileDB.stored_sha256 == BlobDB.sha256),
            )
            .returning(*_BLOB)
        )
        return [_to_blob(row) for row in rows]


def _to_blob(row: Row[*tuple[Any, ...]]) -> StoredBlob:
    return StoredBlob(Digest(row.sha256), row.size_bytes, row.storage_key, row.writable_until)
