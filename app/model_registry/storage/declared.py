"""Files that a pending version will have: `declared_files`."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, LargeBinary, Row, Text, delete, func, insert, literal, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.db_models import BlobDB, DeclaredFileDB, VersionFileDB
from model_registry.domain import Digest, FileEntry
from model_registry.storage.sql import BATCH, among, array

# All rows of a large manifest at once would stall the event loop.
_ROWS_AT_ONCE = 1000
_FILES = select(*DeclaredFileDB.__table__.columns)
_ARE_THERE = (BlobDB.sha256 == DeclaredFileDB.stored_sha256) & BlobDB.damaged_at.is_(None)


class Declared:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, version_id: int, files: Sequence[FileEntry]) -> None:
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            await self._connection.execute(
                insert(DeclaredFileDB).from_select(
                    ["version_id", "path", "sha256", "size_bytes", "media_type"],
                    select(
                        literal(version_id),
                        func.unnest(array([file.path for file in batch], Text())),
                        func.unnest(array([file.sha256.raw for file in batch], LargeBinary())),
                        func.unnest(array([file.size_bytes for file in batch], BigInteger())),
                        func.unnest(array([file.media_type for file in batch], Text())),
                    ),
                )
            )

    async def pin(self, version_id: int, digests: Collection[Digest]) -> None:
        """Refer to blobs that are there, so that they stay; hold their rows before."""
        await self._connection.execute(
            update(DeclaredFileDB)
            .where(
                DeclaredFileDB.version_id == version_id,
                among(DeclaredFileDB.sha256, [digest.raw for digest in digests]),
            )
            .values(stored_sha256=DeclaredFileDB.sha256)
        )

    async def find(self, version_id: int, path: str) -> tuple[FileEntry, bool] | None:
        """The file of this path, and whether its bytes are pinned, and sound as far as is known."""
        row = (
            await self._connection.execute(
                _FILES.add_columns(BlobDB.sha256.is_not(None).label("is_there"))
                .outerjoin(BlobDB, _ARE_THERE)
                .where(DeclaredFileDB.version_id == version_id, DeclaredFileDB.path == path)
            )
        ).one_or_none()
        return None if row is None else (_to_entry(row), row.is_there)

    async def lacking(self, version_id: int) -> dict[Digest, FileEntry]:
        """For each digest whose bytes are not pinned, or were found damaged since, the first file that has it."""
        rows = await self._connection.stream(
            _FILES.ext(distinct_on(DeclaredFileDB.sha256))
            .outerjoin(BlobDB, _ARE_THERE)
            .where(DeclaredFileDB.version_id == version_id, BlobDB.sha256.is_(None))
            .order_by(DeclaredFileDB.sha256, DeclaredFileDB.path)
            .execution_options(yield_per=_ROWS_AT_ONCE)
        )
        return {(entry := _to_entry(row)).sha256: entry async for some in rows.partitions() for row in some}

    async def publish(self, version_id: int) -> None:
        """Make the declared files the version's; every digest must have a blob by now."""
        names = ("version_id", "path", "sha256", "size_bytes", "media_type")
        await self._connection.execute(
            insert(VersionFileDB).from_select(
                list(names),
                select(*(getattr(DeclaredFileDB, name) for name in names)).where(
                    DeclaredFileDB.version_id == version_id
                ),
            )
        )
        await self.drop(version_id)

    async def drop(self, version_id: int) -> Collection[bytes]:
        """Forget the files; returns the digests that were pinned for them."""
        pinned = await self._connection.scalars(
            delete(DeclaredFileDB)
            .where(DeclaredFileDB.version_id == version_id)
            .returning(DeclaredFileDB.stored_sha256)
        )
        return {digest for digest in pinned if digest is not None}


def _to_entry(row: Row[*tuple[Any, ...]]) -> FileEntry:
    return FileEntry(row.path, row.size_bytes, Digest(row.sha256), row.media_type)
