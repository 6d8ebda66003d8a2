"""Versions in lists: PostgreSQL writes the JSON. Rows to objects to JSON takes several times as long.

`web.responses.schemas` writes the same document for a single version; a test compares the two.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import DateTime, LargeBinary, Row, Select, Text, literal_column, select

from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import DOCUMENT_MEMBERS, FILES_SHOWN, ListedVersion, Page
from model_registry.utils import JsonText

_AT_ONCE = 64
_MAX_PAGE_CHARS = 16 * 1024**2

_FILES = f"""(
    SELECT coalesce(json_agg(json_build_object(
        'path', path, 'size_bytes', size_bytes, 'sha256', 'sha256:' || encode(sha256, 'hex'), 'media_type', media_type
    )), '[]')
    FROM (SELECT * FROM %s WHERE version_id = model_info.id ORDER BY path LIMIT {FILES_SHOWN}) AS files
)"""  # noqa: S608 - of constants
# The members of the document that are not columns of the table.
_COMPUTED = {
    "files": f"CASE WHEN model_info.lease_expires_at IS NULL THEN {_FILES % 'version_files'} "
    f"ELSE {_FILES % 'declared_files'} END",
    "yanked": "model_info.yanked_at IS NOT NULL",
    "aliases": "(SELECT coalesce(json_agg(alias ORDER BY alias), '[]') FROM aliases WHERE version_id = model_info.id)",
    "download_url": "CASE WHEN model_info.state = 'ready' AND model_info.file_count > 0 "
    "THEN '/get_model/' || model_info.model_name || '/' || model_info.version END",
}


def _member(name: str) -> str:
    """The SQL of one member of the document: computed, or the column of the same name, written by its type."""
    if name in _COMPUTED:
        return _COMPUTED[name]
    match ModelInfoDB.__table__.columns[name].type:
        case DateTime():
            return f"""to_char(timezone('UTC', model_info.{name}), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
        case LargeBinary():
            return f"'sha256:' || encode(model_info.{name}, 'hex')"
        case _:
            return f"model_info.{name}"


# As text, because building it from SQLAlchemy's expressions costs each search more than running it.
_MEMBERS = ", ".join(f"'{name}', {_member(name)}" for name in (*DOCUMENT_MEMBERS, "download_url"))
_DOCUMENT = f"json_build_object({_MEMBERS})::text"

LISTED: Select[*tuple[Any, ...]] = select(
    ModelInfoDB.id,
    ModelInfoDB.model_name,
    ModelInfoDB.number,
    ModelInfoDB.precedence,
    ModelInfoDB.size_bytes,
    ModelInfoDB.created_at,
    literal_column(_DOCUMENT, Text).label("document"),
)


def to_listed(row: Row[*tuple[Any, ...]]) -> ListedVersion:
    id_, model_name, number, precedence, size_bytes, created_at, document = row
    return ListedVersion(id_, model_name, number, precedence, size_bytes, created_at, JsonText(document))


async def bounded_page(
    fetch: Callable[[ListedVersion | None, int], Awaitable[Sequence[ListedVersion]]], limit: int
) -> Page[ListedVersion]:
    """Return a page of the versions that `fetch` reads; it takes the last version read and a maximum.

    The page has fewer than `limit` versions if their metadata is large, because a page must fit into memory.
    """
    versions: list[ListedVersion] = []
    while len(versions) <= limit:
        at_most = min(_AT_ONCE, limit + 1 - len(versions))
        batch = await fetch(versions[-1] if versions else None, at_most)
        versions += batch
        if len(batch) < at_most:
            break
        if sum(len(each.document) for each in versions) > _MAX_PAGE_CHARS:
            return Page(tuple(versions[:-1]), has_more=True)
    return Page(tuple(versions[:limit]), has_more=len(versions) > limit)
