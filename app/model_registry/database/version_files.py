"""Files of versions with their stored bytes: `version_files`."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import BigInteger, Row, Text, bindparam, select
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.file_rows import add_files
from model_registry.db_models import BlobDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import Digest, FileEntry, Page, StoredBlob, StoredFile, VersionRef

_FILES = (
    select(
        VersionFileDB.path,
        VersionFileDB.size_bytes,
        VersionFileDB.sha256,
        VersionFileDB.media_type,
        BlobDB.storage_key,
        BlobDB.damaged_at,
    )
    .join(BlobDB, BlobDB.sha256 == VersionFileDB.sha256)
    .where(VersionFileDB.version_id == bindparam("version_id"))
    .order_by(VersionFileDB.path)
)
_PAGE = _FILES.where(VersionFileDB.path > bindparam("after", type_=Text)).limit(bindparam("limit", type_=BigInteger))
_FILE = _FILES.where(VersionFileDB.path == bindparam("path", type_=Text))


class VersionFileRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def all(self, version_id: int) -> Sequence[StoredFile]:
        """Return all files of a version with the location of their bytes, by path."""
        rows = await self._connection.execute(_FILES, {"version_id": version_id})
        return [_to_stored_file(row) for row in rows]

    async def page(self, version_id: int, *, after: str | None, limit: int) -> Page[StoredFile]:
        """Return files by path; `after` is the last path of the previous page."""
        parameters = {"version_id": version_id, "after": after or "", "limit": limit + 1}
        rows = (await self._connection.execute(_PAGE, parameters)).all()
        return Page(tuple(_to_stored_file(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def get(self, version_id: int, path: str) -> StoredFile | None:
        row = (await self._connection.execute(_FILE, {"version_id": version_id, "path": path})).one_or_none()
        return None if row is None else _to_stored_file(row)

    async def add(self, version_id: int, files: Sequence[FileEntry]) -> None:
        await add_files(self._connection, VersionFileDB, version_id, files)

    async def with_digest(self, sha256: Digest, limit: int) -> Sequence[tuple[VersionRef, str]]:
        """Return the first files that have these bytes: the version (which may be removed) and the path."""
        rows = await self._connection.execute(
            select(ModelInfoDB.model_name, ModelInfoDB.version, VersionFileDB.path)
            .join(VersionFileDB, VersionFileDB.version_id == ModelInfoDB.id)
            .where(VersionFileDB.sha256 == sha256.raw)
            .order_by(ModelInfoDB.id, VersionFileDB.path)
            .limit(limit)
        )
        return [(VersionRef(row.model_name, row.version), row.path) for row in rows]


def _to_stored_file(row: Row[*tuple[Any, ...]]) -> StoredFile:
    blob = StoredBlob(Digest(row.sha256), row.size_bytes, row.storage_key)
    return StoredFile(row.path, row.media_type, blob, is_damaged=row.damaged_at is not None)
