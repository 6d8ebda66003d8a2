"""Inserts of files, for two tables with the same columns: files of versions, and files that a push declares."""

from collections.abc import Sequence

from sqlalchemy import BigInteger, LargeBinary, Text, bindparam, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import BATCH, parameter_rows
from model_registry.db_models import DeclaredFileDB, VersionFileDB
from model_registry.domain.entities import FileEntry

FILE_COLUMNS = ("version_id", "path", "sha256", "size_bytes", "media_type")

_new = parameter_rows(path=Text(), sha256=LargeBinary(), size_bytes=BigInteger(), media_type=Text())
_ADD = {
    table: insert(table).from_select(list(FILE_COLUMNS), select(bindparam("version_id", type_=BigInteger), *_new.c))
    for table in (VersionFileDB, DeclaredFileDB)
}


async def add_files(
    connection: AsyncConnection,
    table: type[VersionFileDB] | type[DeclaredFileDB],
    version_id: int,
    files: Sequence[FileEntry],
) -> None:
    for start in range(0, len(files), BATCH):
        batch = files[start : start + BATCH]
        await connection.execute(
            _ADD[table],
            {
                "version_id": version_id,
                "path": [file.path for file in batch],
                "sha256": [file.sha256.raw for file in batch],
                "size_bytes": [file.size_bytes for file in batch],
                "media_type": [file.media_type for file in batch],
            },
        )
