"""A version as a row: the columns that make a `ModelInfo`, and the conversion of a row."""

from dataclasses import fields
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


# An unfinished version shows the files that it declares.
_FILES = case((ModelInfoDB.lease_expires_at.is_(None), _first_files(VersionFileDB)), else_=_first_files(DeclaredFileDB))
_ALIASES = (
    select(func.coalesce(func.json_agg(AliasDB.alias).cast(Text), "[]"))
    .where(AliasDB.version_id == ModelInfoDB.id)
    .scalar_subquery()
)
_EMPTY = literal_column("'[]'", Text)


def _columns(**computed: ColumnElement[Any]) -> tuple[ColumnElement[Any], ...]:
    """One column for each member of `ModelInfo`: a computed one, or the table's column of the same name."""
    columns = ModelInfoDB.__table__.columns
    names = [field.name for field in fields(ModelInfo)]
    return tuple(computed[name].label(name) if name in computed else columns[name] for name in names)


_YANKED = ModelInfoDB.yanked_at.is_not(None)
INFO_COLUMNS = _columns(files=_FILES, aliases=_ALIASES, yanked=_YANKED)
NEW_INFO_COLUMNS = _columns(files=_EMPTY, aliases=_EMPTY, yanked=_YANKED)
"""For a version that is being inserted and has no files."""

INFO = select(*INFO_COLUMNS)

# An unfinished version whose lease expired counts as deleted, even before the collector deletes it.
IS_NOT_EXPIRED = or_(ModelInfoDB.lease_expires_at.is_(None), ModelInfoDB.lease_expires_at > func.now())


def to_info(row: Row[*tuple[Any, ...]]) -> ModelInfo:
    members = row._asdict()
    members["state"] = VersionState(row.state)
    members["digest"] = Digest(row.digest) if row.digest else None
    members["files"] = tuple(
        FileEntry(path, size_bytes, Digest(bytes.fromhex(sha256)), media_type)
        for path, size_bytes, sha256, media_type in orjson.loads(row.files)
    )
    members["aliases"] = tuple(sorted(orjson.loads(row.aliases)))
    return ModelInfo(**members)
