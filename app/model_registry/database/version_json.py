"""Versions in lists, as PostgreSQL itself writes them: rows to objects to JSON take several times as long.

What one version looks like is said by `web.schemas` too; a test holds the two together.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from sqlalchemy import Row, Select, Text, literal_column, select

from model_registry.db_models import ModelInfoDB
from model_registry.domain.entities import FILES_SHOWN, ListedVersion, Page
from model_registry.utils import JsonText

_AT_ONCE = 64
_MAX_PAGE_CHARS = 16 * 1024**2

_FILES = f"""(
    SELECT coalesce(json_agg(json_build_object(
        'path', path, 'size_bytes', size_bytes, 'sha256', 'sha256:' || encode(sha256, 'hex'), 'media_type', media_type
    )), '[]')
    FROM (SELECT * FROM %s WHERE version_id = model_info.id ORDER BY path LIMIT {FILES_SHOWN}) AS files
)"""  # noqa: S608 - of constants
_TIME = """to_char(timezone('UTC', model_info.%s), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""

# As text: to build it of SQLAlchemy's expressions costs each search more than to run it.
_DOCUMENT = f"""json_build_object(
    'id', model_info.id,
    'model_name', model_info.model_name,
    'version', model_info.version,
    'number', model_info.number,
    'state', model_info.state,
    'file_path', model_info.file_path,
    'standardization_params', model_info.standardization_params,
    'model_params', model_info.model_params,
    'additional_metadata', model_info.additional_metadata,
    'description', model_info.description,
    'tags', model_info.tags,
    'digest', 'sha256:' || encode(model_info.digest, 'hex'),
    'size_bytes', model_info.size_bytes,
    'file_count', model_info.file_count,
    'files', CASE WHEN model_info.lease_expires_at IS NULL THEN {_FILES % "version_files"}
                  ELSE {_FILES % "declared_files"} END,
    'is_prerelease', model_info.is_prerelease,
    'yanked', model_info.yanked_at IS NOT NULL,
    'yank_reason', model_info.yank_reason,
    'aliases', (SELECT coalesce(json_agg(alias ORDER BY alias), '[]') FROM aliases WHERE version_id = model_info.id),
    'created_at', {_TIME % "created_at"},
    'created_by', model_info.created_by,
    'ready_at', {_TIME % "ready_at"},
    'removed_at', {_TIME % "removed_at"},
    'purge_after', {_TIME % "purge_after"},
    'purged_at', {_TIME % "purged_at"},
    'download_url', CASE WHEN model_info.state = 'ready' AND model_info.file_count > 0
                         THEN '/get_model/' || model_info.model_name || '/' || model_info.version END
)::text"""  # noqa: S608 - of constants

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


async def page_of_documents(
    fetch: Callable[[ListedVersion | None, int], Awaitable[Sequence[ListedVersion]]], limit: int
) -> Page[ListedVersion]:
    """A page of what `fetch` reads, at most so many that come after one.

    It has fewer than `limit` where their metadata is large: a page must fit into memory.
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
