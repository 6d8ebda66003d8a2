"""Files of a version: the manifest, single files, all files as an archive, and URLs to download from storage."""

from datetime import UTC, datetime, timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_registry.domain.entities import VersionSelector
from model_registry.domain.naming_rules import validate_path
from model_registry.errors import InvalidField, InvalidPageToken
from model_registry.web.context import Context
from model_registry.web.openapi.files import (
    DOWNLOAD_URL,
    GET_ARCHIVE,
    GET_FILE,
    HEAD_ARCHIVE,
    HEAD_FILE,
    LIST_FILES,
    SEVERAL_FILES,
    Presign,
)
from model_registry.web.openapi.shared import FilePath, Limit, ModelName, PageToken, ReadVersion, Redirect
from model_registry.web.requests.body import JSON, json_body
from model_registry.web.requests.conditional import ReadConditions, WantedRange
from model_registry.web.requests.json_fields import Fields
from model_registry.web.requests.paging import bigint, page_position, page_token
from model_registry.web.responses.file import SECRET, content_disposition, file_headers, file_response
from model_registry.web.responses.manifest import download_url_json, manifest_json

router = APIRouter(prefix="/v1/models/{name}/versions/{version}", tags=["files"])

_MAX_EXPIRY_SECONDS = 604_800
"""Seven days: AWS Signature Version 4, "Authenticating Requests: Using Query Parameters"."""


@router.get("/files", **LIST_FILES)
async def list_files(
    context: Context,
    name: ModelName,
    version: ReadVersion,
    presign: Presign = False,
    limit: Limit = 100,
    token: PageToken = None,
) -> Response:
    """List all files with their digests, page by page.

    A page token belongs to one version. If `latest` or an alias has moved to another version, the token is refused.
    """
    query = ["files", name, version, presign]
    started = page_position(token or None, query, lambda id_, path: (bigint(id_), validate_path(path)))
    published, page = await context.downloads.manifest(
        VersionSelector(name, version), after=started[1] if started else None, limit=limit, actor=context.actor
    )
    if started and started[0] != published.id:
        raise InvalidPageToken
    urls: list[str | None] = [None] * len(page.items)
    expires_at = None
    if presign:
        expiry_seconds = context.settings.presign_expiry_seconds
        expires_at = datetime.now(UTC) + timedelta(seconds=expiry_seconds)
        wanted = [(file, content_disposition(file.path.rpartition("/")[2])) for file in page.items]
        urls = list(await context.downloads.presign_files(wanted, expires_in_seconds=expiry_seconds))
    next_token = page_token(query, published.id, page.items[-1].path) if page.has_more else None
    body = manifest_json([file.entry for file in page.items], urls, expires_at, next_token)
    headers = {"X-Model-Version": published.version} | (SECRET if presign else {"Cache-Control": "no-cache"})
    return Response(body, headers=headers, media_type=JSON)


@router.get("/files/{path:path}", **GET_FILE)
async def get_file(
    context: Context,
    name: ModelName,
    version: ReadVersion,
    path: FilePath,
    wanted: WantedRange,
    conditions: ReadConditions,
    redirect: Redirect = None,
) -> Response:
    """Download one file. The download can be resumed and conditional, and the ETag is the sha256 of the file."""
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    return await file_response(context, download, wanted, conditions, redirect=redirect)


@router.head("/files/{path:path}", **HEAD_FILE)
async def head_file(
    context: Context, name: ModelName, version: ReadVersion, path: FilePath, conditions: ReadConditions
) -> Response:
    """Get the headers of a download without its bytes. This is never a redirect."""
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    return file_headers(download, conditions)


@router.get("/archive.tar", **GET_ARCHIVE)
async def get_archive(
    context: Context, name: ModelName, version: ReadVersion, wanted: WantedRange, conditions: ReadConditions
) -> Response:
    """Download all files as one tar archive.

    The archive always has the same bytes: files are sorted by path and have no times and owners. Its size is known
    before it starts. The download can be resumed, and every file in it is verified.
    """
    download = await context.downloads.find_archive(VersionSelector(name, version), actor=context.actor)
    return await file_response(context, download, wanted, conditions)


@router.head("/archive.tar", **HEAD_ARCHIVE)
async def head_archive(context: Context, name: ModelName, version: ReadVersion, conditions: ReadConditions) -> Response:
    """Get the headers of the archive without its bytes."""
    download = await context.downloads.find_archive(VersionSelector(name, version), actor=context.actor)
    return file_headers(download, conditions)


@router.post("/download_url", **DOWNLOAD_URL)
async def download_url(request: Request, context: Context, name: ModelName, version: ReadVersion) -> Response:
    """Get a URL for a client that downloads from storage directly. The URL supports GET, also with Range."""
    tree = await json_body(request, context.settings)
    body = Fields({key: value for key, value in tree.items() if value is not None}, ("path", "expires_in_seconds"))
    expiry_seconds = context.settings.presign_expiry_seconds
    if "expires_in_seconds" in body:
        expiry_seconds = body.integer("expires_in_seconds", at_least=1, at_most=_MAX_EXPIRY_SECONDS)
    path = body.optional_text("path")
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    if download.file is None:
        raise InvalidField(body.loc("path"), SEVERAL_FILES, None)
    expires_at = datetime.now(UTC) + timedelta(seconds=expiry_seconds)
    wanted = [(download.file, content_disposition(download.filename))]
    (url,) = await context.downloads.presign_files(wanted, expires_in_seconds=expiry_seconds)
    label = download.version.version
    content = download_url_json(name, label, download.file.entry, url, expires_at)
    return Response(content, headers=SECRET | {"X-Model-Version": label}, media_type=JSON)
