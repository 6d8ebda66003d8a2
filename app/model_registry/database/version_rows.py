"""Whole versions: the statement that reads them, and what is made of a row."""

from typing import Any

import orjson
from sqlalchemy import ColumnElement, Row, Text, case, func, literal_column, or_, select

from model_registry.db_models import AliasDB, DeclaredFileDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import FILES_SHOWN, Digest, FileEntry, ModelInfo, VersionState


def _first_files(table: type[VersionFileDB] | type[DeclaredFileDB]) -> ColumnElement[str]:
    files = (
        select(table.path, table.size_bytes, table.sha256, table.media_type)
        .where(table.version_id == ModelInfoDB.id)
        .order_by(table.path)
        .limit(FILES_SHOWN)
        .correlate(ModelInfoDB)
        .subquery()
    )
    members = func.json_build_array(
        files.c.path, files.c.size_bytes, func.encode(files.c.sha256, "hex"), files.c.media_type
    )
    return select(func.coalesce(func.json_agg(members).cast(Text), "[]")).scalar_subquery()


_COLUMNS: tuple[ColumnElement[Any], ...] = tuple(
    column for column in ModelInfoDB.__table__.columns if column.name not in {"reservation", "lease_expires_at"}
)
INFO_COLUMNS = (
    *_COLUMNS,
    # An unfinished version has those that it has declared.
    case(
        (ModelInfoDB.lease_expires_at.is_(None), _first_files(VersionFileDB)), else_=_first_files(DeclaredFileDB)
    ).label("files"),
    select(func.coalesce(func.json_agg(AliasDB.alias).cast(Text), "[]"))
    .where(AliasDB.version_id == ModelInfoDB.id)
    .scalar_subquery()
    .label("alias_names"),
)
INFO = select(*INFO_COLUMNS)
_NONE = literal_column("'[]'", Text)
NEW_INFO_COLUMNS = (*_COLUMNS, _NONE.label("files"), _NONE.label("alias_names"))
"""Of a version that is just being made, without files."""

# A version whose lease has run out is as good as gone, though nobody has cleared it away yet.
HAS_NOT_LAPSED = or_(ModelInfoDB.lease_expires_at.is_(None), ModelInfoDB.lease_expires_at > func.now())


def to_info(row: Row[*tuple[Any, ...]]) -> ModelInfo:
    return ModelInfo(
        id=row.id,
        model_name=row.model_name,
        version=row.version,
        number=row.number,
        state=VersionState(row.state),
        file_path=row.file_path,
        standardization_params=row.standardization_params,
        model_params=row.model_params,
        additional_metadata=row.additional_metadata,
        description=row.description,
        tags=row.tags,
        digest=Digest(row.digest) if row.digest else None,
        size_bytes=row.size_bytes,
        file_count=row.file_count,
        files=tuple(
            FileEntry(path, size_bytes, Digest(bytes.fromhex(sha256)), media_type)
            for path, size_bytes, sha256, media_type in orjson.loads(row.files)
        ),
        precedence=row.precedence,
        is_prerelease=row.is_prerelease,
        yanked=row.yanked_at is not None,
        yank_reason=row.yank_reason,
        aliases=tuple(sorted(orjson.loads(row.alias_names))),
        created_at=row.created_at,
        created_by=row.created_by,
        ready_at=row.ready_at,
        removed_at=row.removed_at,
        purge_after=row.purge_after,
        purged_at=row.purged_at,
        generation=row.generation,
    )
