"""Files of a version: the manifest, single files, all of them as an archive, and URLs that go past the service."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from model_registry.domain.entities import VersionSelector
from model_registry.domain.naming_rules import validate_path
from model_registry.errors import FileDamaged, FileNotFound, InvalidField, InvalidPageToken
from model_registry.utils import rfc3339
from model_registry.web.context import Context
from model_registry.web.openapi.shared import (
    BAD_BODY_TYPE,
    BAD_LIMIT,
    BAD_NAME,
    BAD_TOKEN,
    MODEL_VERSION,
    NO_ALIAS,
    NO_MATCH,
    NO_MODEL,
    NO_VERSION,
    REDIRECTED,
    REPR_DIGEST,
    STALLED,
    UNAVAILABLE,
    FilePath,
    IfNoneMatch,
    Limit,
    ModelName,
    PageToken,
    Range,
    ReadVersion,
    Redirect,
    bad_flag,
    bytes_answers,
    described_body,
    example,
    without_bodies,
)
from model_registry.web.problems import ANY_ROUTE, RangeNotSatisfiable, problem_responses
from model_registry.web.requests import paging
from model_registry.web.requests.body import JSON, json_body
from model_registry.web.requests.json_fields import Fields
from model_registry.web.responses import file as transfer
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, TIME_EXAMPLE, FileOut, file_members

router = APIRouter(prefix="/v1/models/{name}/versions/{version}", tags=["files"], responses=ANY_ROUTE)

_MAX_EXPIRY_SECONDS = 604_800
"""Seven days: AWS Signature Version 4, "Authenticating Requests: Using Query Parameters"."""
_INSTANCE = "/v1/models/fraud-detector/versions/2.4.0"
_NO_FILE = FileNotFound("fraud-detector", "2.4.0", "model.onnx")
_DAMAGED = FileDamaged("model.joblib", DIGEST_EXAMPLE)


class ManifestEntryOut(FileOut):
    """A file of a version, with a URL where that was asked for."""

    url: str | None = Field(description="With `presign`: good for GET without credentials until `expires_at`.")
    expires_at: str | None


class ManifestPageOut(BaseModel):
    items: list[ManifestEntryOut]
    next_page_token: str | None


class DownloadUrlIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(None, description="May be left out where there is only one file.")
    expires_in_seconds: int | None = Field(None, description="1 to 604,800; as the service is set where left out.")


class DownloadUrlOut(FileOut):
    """A URL that answers GET with the bytes of one file, whoever asks."""

    model_name: str
    version: str
    url: str
    expires_at: str


REQUEST_MODELS = (DownloadUrlIn,)

_FILE_EXAMPLE = {
    "path": "model.joblib",
    "size_bytes": 1024,
    "sha256": DIGEST_EXAMPLE,
    "media_type": "application/octet-stream",
}
_URL_EXAMPLE = {"url": "https://s3.example.org/models/blobs/0d9c2b5e?X-Amz-…", "expires_at": TIME_EXAMPLE}
_FILE_ANSWERS = {
    **bytes_answers("The file.", (transfer.OCTET_STREAM,), REPR_DIGEST, "model.joblib"),
    307: REDIRECTED,
    **problem_responses(
        NO_MODEL,
        NO_VERSION,
        NO_ALIAS,
        _NO_FILE,
        _DAMAGED,
        NO_MATCH,
        RangeNotSatisfiable(1024),
        BAD_NAME,
        bad_flag("redirect"),
        UNAVAILABLE,
        instance=f"{_INSTANCE}/files/model.joblib",
    ),
}
_ARCHIVE_ANSWERS = {
    **bytes_answers("All files as a tar.", (transfer.TAR,), {}, "fraud-detector-2.4.0.tar"),
    **problem_responses(
        NO_MODEL,
        NO_VERSION,
        NO_ALIAS,
        _DAMAGED,
        NO_MATCH,
        RangeNotSatisfiable(1024),
        BAD_NAME,
        UNAVAILABLE,
        instance=f"{_INSTANCE}/archive.tar",
    ),
}


@router.get(
    "/files",
    summary="The manifest of a version",
    responses={
        200: {
            "description": "By path.",
            "model": ManifestPageOut,
            "content": example({"items": [_FILE_EXAMPLE | _URL_EXAMPLE], "next_page_token": None}),
            "headers": MODEL_VERSION,
        },
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            NO_ALIAS,
            _DAMAGED,
            BAD_LIMIT,
            BAD_TOKEN,
            BAD_NAME,
            UNAVAILABLE,
            instance=f"{_INSTANCE}/files",
        ),
    },
)
async def list_files(
    context: Context,
    name: ModelName,
    version: ReadVersion,
    presign: Annotated[bool, Query(description="With a URL for each file, to fetch them from storage.")] = False,
    limit: Limit = 100,
    page_token: PageToken = None,
) -> Response:
    """All files with their digests, page by page. A token is of one version: when `latest` or an alias has moved on
    meanwhile, it is refused."""
    selector = VersionSelector(name, version)
    query = ["files", name, version, presign]
    started = paging.page_position(
        page_token or None, query, lambda id_, path: (paging.bigint(id_), validate_path(path))
    )
    published, page = await context.downloads.manifest(
        selector, after=started[1] if started else None, limit=limit, actor=context.actor
    )
    if started and started[0] != published.id:
        raise InvalidPageToken
    urls: list[str | None] = [None] * len(page.items)
    expires_at = None
    if presign:
        expiry_seconds = context.settings.presign_expiry_seconds
        expires_at = rfc3339(datetime.now(UTC) + timedelta(seconds=expiry_seconds))
        wanted = [(file, transfer.content_disposition(file.path.rpartition("/")[2])) for file in page.items]
        urls = list(await context.downloads.presign_files(wanted, expires_in_seconds=expiry_seconds))
    items = [
        file_members(file.entry) | {"url": url, "expires_at": expires_at}
        for file, url in zip(page.items, urls, strict=True)
    ]
    token = paging.page_token(query, published.id, page.items[-1].path) if page.has_more else None
    headers = {"X-Model-Version": published.version} | (transfer.SECRET if presign else {"Cache-Control": "no-cache"})
    return Response(orjson.dumps({"items": items, "next_page_token": token}), headers=headers, media_type=JSON)


@router.get("/files/{path:path}", summary="Download a file", response_class=Response, responses=_FILE_ANSWERS)
async def get_file(
    request: Request,
    context: Context,
    name: ModelName,
    version: ReadVersion,
    path: FilePath,
    redirect: Redirect = None,
    range_: Range = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes of one file: resumable, conditional, and its ETag is its sha256."""
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    return await transfer.answer(request, context, download, redirect=redirect)


@router.head(
    "/files/{path:path}",
    summary="What a download of a file would be",
    response_class=Response,
    responses=without_bodies(ANY_ROUTE | _FILE_ANSWERS),
)
async def head_file(
    request: Request,
    context: Context,
    name: ModelName,
    version: ReadVersion,
    path: FilePath,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The headers of a download, without the bytes. Never a redirect."""
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    return await transfer.answer(request, context, download)


@router.get(
    "/archive.tar", summary="Download a version as an archive", response_class=Response, responses=_ARCHIVE_ANSWERS
)
async def get_archive(
    request: Request,
    context: Context,
    name: ModelName,
    version: ReadVersion,
    range_: Range = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """All files as one tar, always the same bytes: sorted by path, without times and owners, its length known before it
    begins. Resumable, and every file in it is verified."""
    download = await context.downloads.find_archive(VersionSelector(name, version), actor=context.actor)
    return await transfer.answer(request, context, download)


@router.head(
    "/archive.tar",
    summary="What a download of the archive would be",
    response_class=Response,
    responses=without_bodies(ANY_ROUTE | _ARCHIVE_ANSWERS),
)
async def head_archive(
    request: Request, context: Context, name: ModelName, version: ReadVersion, if_none_match: IfNoneMatch = None
) -> Response:
    """The headers of the archive, without the bytes."""
    download = await context.downloads.find_archive(VersionSelector(name, version), actor=context.actor)
    return await transfer.answer(request, context, download)


@router.post(
    "/download_url",
    summary="A URL to download a file from storage",
    openapi_extra=described_body(DownloadUrlIn, {"path": "model.joblib", "expires_in_seconds": 900}, required=False),
    responses={
        200: {
            "description": "A credential for a while: whoever has it can read these bytes.",
            "model": DownloadUrlOut,
            "content": example(_FILE_EXAMPLE | {"model_name": "fraud-detector", "version": "2.4.0"} | _URL_EXAMPLE),
            "headers": MODEL_VERSION,
        },
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            NO_ALIAS,
            _NO_FILE,
            _DAMAGED,
            BAD_BODY_TYPE,
            InvalidField(("body", "path"), "this version has several files; name one of them", None),
            STALLED,
            UNAVAILABLE,
            instance=f"{_INSTANCE}/download_url",
        ),
    },
)
async def download_url(request: Request, context: Context, name: ModelName, version: ReadVersion) -> Response:
    """For clients that fetch from storage by themselves, with nothing but a URL: it takes GET, with Range."""
    tree = await json_body(request, context.settings)
    body = Fields({name: value for name, value in tree.items() if value is not None}, ("path", "expires_in_seconds"))
    expiry_seconds = context.settings.presign_expiry_seconds
    if "expires_in_seconds" in body:
        expiry_seconds = body.integer("expires_in_seconds", at_least=1, at_most=_MAX_EXPIRY_SECONDS)
    path = body.optional_text("path")
    download = await context.downloads.find(VersionSelector(name, version), path, actor=context.actor)
    file = download.file
    if file is None:
        raise InvalidField(body.loc("path"), "this version has several files; name one of them", None)
    expires_at = datetime.now(UTC) + timedelta(seconds=expiry_seconds)
    disposition = transfer.content_disposition(download.filename)
    (url,) = await context.downloads.presign_files([(file, disposition)], expires_in_seconds=expiry_seconds)
    answer = file_members(file.entry) | {
        "model_name": name,
        "version": download.version.version,
        "url": url,
        "expires_at": rfc3339(expires_at),
    }
    headers = transfer.SECRET | {"X-Model-Version": download.version.version}
    return Response(orjson.dumps(answer), headers=headers, media_type=JSON)
