"""Files that a push declares: `declared_files`."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, bindparam, delete, insert, select, update
from sqlalchemy.dialects.postgresql import distinct_on
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.file_rows import FILE_COLUMNS, add_files
from model_registry.database.sql import in_bound_array
from model_registry.db_models import BlobDB, DeclaredFileDB, VersionFileDB
from model_registry.domain.entities import Digest, FileEntry

# All rows of a large manifest at once would block the event loop.
_ROWS_AT_ONCE = 1000
_FILES = select(*DeclaredFileDB.__table__.columns)
_IS_INTACT = (BlobDB.sha256 == DeclaredFileDB.stored_sha256) & BlobDB.damaged_at.is_(None)
_IS_OF_VERSION = DeclaredFileDB.version_id == bindparam("of_version", type_=BigInteger)

_PIN = (
    update(DeclaredFileDB)
    .where(_IS_OF_VERSION, in_bound_array(DeclaredFileDB.sha256, "digests"))
    .values(stored_sha256=DeclaredFileDB.sha256)
)
_MISSING = (
    _FILES.ext(distinct_on(DeclaredFileDB.sha256))
    .outerjoin(BlobDB, _IS_INTACT)
    .where(_IS_OF_VERSION, BlobDB.sha256.is_(None))
    .order_by(DeclaredFileDB.sha256, DeclaredFileDB.path)
    .execution_options(yield_per=_ROWS_AT_ONCE)
)
_PUBLISH = insert(VersionFileDB).from_select(
    list(FILE_COLUMNS), select(*(getattr(DeclaredFileDB, name) for name in FILE_COLUMNS)).where(_IS_OF_VERSION)
)
_DROP = delete(DeclaredFileDB).where(_IS_OF_VERSION).returning(DeclaredFileDB.stored_sha256)


class DeclaredFileRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def add(self, version_id: int, files: Sequence[FileEntry]) -> None:
        await add_files(self._connection, DeclaredFileDB, version_id, files)

    async def pin(self, version_id: int, digests: Collection[Digest]) -> None:
        """Refer to existing blobs, so that they stay. Lock their rows first."""
        if digests:
            parameters = {"of_version": version_id, "digests": [digest.raw for digest in digests]}
            await self._connection.execute(_PIN, parameters)

    async def find(self, version_id: int, path: str) -> tuple[FileEntry, bool] | None:
        """Return the file with this path, and whether its bytes are pinned and not known to be damaged."""
        row = (
            await self._connection.execute(
                _FILES.add_columns(BlobDB.sha256.is_not(None).label("is_intact"))
                .outerjoin(BlobDB, _IS_INTACT)
                .where(DeclaredFileDB.version_id == version_id, DeclaredFileDB.path == path)
            )
        ).one_or_none()
        return None if row is None else (_to_entry(row), row.is_intact)

    async def missing(self, version_id: int) -> dict[Digest, FileEntry]:
        """Return the first file for each digest whose bytes are not pinned, or became damaged since."""
        found = await self._connection.stream(_MISSING, {"of_version": version_id})
        return {(entry := _to_entry(row)).sha256: entry async for some in found.partitions() for row in some}

    async def publish(self, version_id: int) -> int:
        """Move the declared files to the version; every digest must have a blob. Return how many."""
        published = await self._connection.execute(_PUBLISH, {"of_version": version_id})
        await self.drop(version_id)
        return published.rowcount

    async def drop(self, version_id: int) -> Collection[bytes]:
        """Delete the declared files; return the digests that they pinned."""
        pinned = await self._connection.scalars(_DROP, {"of_version": version_id})
        return {digest for digest in pinned if digest is not None}


def _to_entry(row: Row[*tuple[Any, ...]]) -> FileEntry:
    return FileEntry(row.path, row.size_bytes, Digest(row.sha256), row.media_type)
