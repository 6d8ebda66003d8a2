"""Pushes of versions: reserve, send files, commit."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_registry.domain.entities import VersionRef, VersionState
from model_registry.runtime.offload import ITEM_BYTES, offload
from model_registry.web.context import Context
from model_registry.web.openapi.pushes import (
    COMMIT_VERSION,
    PUSH_VERSION,
    PUT_FILE,
    SIGN_PARTS,
    UPLOAD_STATUS,
    ContentLength,
    UploadId,
)
from model_registry.web.openapi.shared import FilePath, Label, ModelName
from model_registry.web.requests.body import JSON, body_chunks, content_length, json_body
from model_registry.web.requests.pushes import MAX_BODY_BYTES, part_numbers_of, parts_of, push_of, upload_id_of
from model_registry.web.responses.file import SECRET
from model_registry.web.responses.pushes import push_json, signed_parts_json, upload_status_json
from model_registry.web.responses.schemas import file_json, model_info_json

router = APIRouter(prefix="/v1")


@router.post("/models/{name}/versions", tags=["versions"], **PUSH_VERSION)
async def push_version(request: Request, context: Context, name: ModelName) -> Response:
    """Declare a version with all of its files. Then send the files that `uploads` asks for, and commit."""
    tree = await json_body(request, context.settings, max_bytes=MAX_BODY_BYTES)
    push = await offload(lambda: push_of(name, tree, context.settings.max_metadata_bytes), _entries(request))
    reserved = await context.reservations.reserve(push, actor=context.actor)
    base_url = (context.settings.public_url or str(request.base_url)).rstrip("/")
    body = await offload(lambda: push_json(reserved, base_url), len(push.files))
    headers = {"Location": f"/v1/models/{reserved.info.model_name}/versions/{reserved.info.version}", **SECRET}
    return Response(body, 201 if reserved.is_new else 200, headers, JSON)


@router.post("/models/{name}/versions/{version}/commit", tags=["versions"], **COMMIT_VERSION)
async def commit_version(request: Request, context: Context, name: ModelName, version: Label) -> Response:
    """Verify the digests of all files and make the version visible.

    The service relies on the checksum that storage verified during a PUT, or reads the object back. It does not rely on
    the client.
    """
    tree = await json_body(request, context.settings, max_bytes=MAX_BODY_BYTES)
    parts = await offload(lambda: parts_of(tree), _entries(request))
    info = await context.commits.commit(VersionRef(name, version), parts, actor=context.actor)
    if info.state == VersionState.READY:
        return Response(model_info_json(info), media_type=JSON)
    headers = {"Location": f"/v1/models/{info.model_name}/versions/{info.version}", "Retry-After": "1"}
    return Response(model_info_json(info), 202, headers, JSON)


@router.put("/models/{name}/versions/{version}/files/{path:path}", tags=["files"], **PUT_FILE)
async def put_file(
    request: Request,
    context: Context,
    name: ModelName,
    version: Label,
    path: FilePath,
    size_bytes: ContentLength = None,
) -> Response:
    """Send one declared file of a pending version. The body is the file, and is streamed to storage.

    Use this if you cannot reach storage. It works for every file, regardless of its `method`.
    """
    chunks = body_chunks(request, context.settings)
    ref = VersionRef(name, version)
    entry = await context.proxied_uploads.put_file(ref, path, chunks, size_bytes=size_bytes, actor=context.actor)
    return Response(file_json(entry), 201, media_type=JSON)


@router.post("/uploads/{upload_id}/parts", tags=["versions"], **SIGN_PARTS)
async def sign_parts(request: Request, context: Context, upload_id: UploadId) -> Response:
    """Get new URLs, as often as you need them. Each URL accepts exactly one part of the right size.

    You can send a part again. If you send it with other bytes, list the parts in the commit, because some stores keep
    both.
    """
    numbers = part_numbers_of(await json_body(request, context.settings))
    parts = await context.upload_parts.sign(upload_id_of(upload_id), numbers, actor=context.actor)
    return Response(signed_parts_json(parts), headers=SECRET, media_type=JSON)


@router.get("/uploads/{upload_id}", tags=["versions"], **UPLOAD_STATUS)
async def upload_status(context: Context, upload_id: UploadId) -> Response:
    """Get the parts that storage has, to resume an upload. Send the parts that are not listed."""
    status = await context.upload_parts.status(upload_id_of(upload_id), actor=context.actor)
    return Response(upload_status_json(status), headers={"Cache-Control": "no-store"}, media_type=JSON)


def _entries(request: Request) -> int:
    """Return how many files a body can list at most."""
    size_bytes = content_length(request)
    return (MAX_BODY_BYTES if size_bytes is None else size_bytes) // ITEM_BYTES
