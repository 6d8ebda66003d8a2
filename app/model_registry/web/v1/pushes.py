"""Pushing a version: reserve it, send its files, commit."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Request
from starlette.responses import Response

from model_registry.domain.entities import VersionRef, VersionState
from model_registry.domain.naming_rules import PATH_SEGMENTS_RULE
from model_registry.errors import (
    BodyTooLarge,
    CommitInProgress,
    DigestMismatch,
    FileNotFound,
    InvalidField,
    LeaseLost,
    ModelNameTaken,
    PartsChanged,
    SizeMismatch,
    TooManyPending,
    UploadIncomplete,
    UploadTooLarge,
    UploadUnknown,
    VersionExists,
    VersionNotAvailable,
)
from model_registry.runtime.offload import ITEM_BYTES, offload
from model_registry.web.context import Context
from model_registry.web.openapi.shared import (
    BAD_BODY_TYPE,
    BAD_NAME,
    INFO_EXAMPLE,
    NO_MODEL,
    NO_VERSION,
    STALLED,
    UNAVAILABLE,
    FilePath,
    Label,
    ModelName,
    described_body,
    example,
    header,
)
from model_registry.web.problems import ANY_ROUTE, UnsupportedMediaType, problem_responses
from model_registry.web.requests.body import JSON, body_chunks, content_length, json_body
from model_registry.web.responses import file as transfer
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, FileOut, ModelInfoOut, file_json, model_info_json
from model_registry.web.v1.push_bodies import (
    COMMIT_EXAMPLE,
    PARTS_EXAMPLE,
    PENDING_EXAMPLE,
    PUSH_EXAMPLE,
    PUSHED_EXAMPLE,
    SIGNED_EXAMPLE,
    STATUS_EXAMPLE,
    CommitIn,
    PartsIn,
    PushIn,
    PushOut,
    SignedPartsOut,
    UploadStatusOut,
    part_numbers_of,
    parts_of,
    push_json,
    push_of,
    signed_parts_json,
    upload_id_of,
    upload_status_json,
)

router = APIRouter(prefix="/v1", responses=ANY_ROUTE)
REQUEST_MODELS = (PushIn, CommitIn, PartsIn)

_MAX_MANIFEST_BYTES = 32 * 1024**2
_VERSION = "/v1/models/fraud-detector/versions/2.4.0"
_UPLOAD = "/v1/uploads/6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"
_UNKNOWN = UploadUnknown("6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52")
_OTHER_SIZE = SizeMismatch("model.joblib", 1024, 1000)
_OTHER_BYTES = DigestMismatch(
    "model.joblib", DIGEST_EXAMPLE, "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
)
_VERIFYING = VersionNotAvailable("fraud-detector", "2.4.0", "verifying")
_LOCATION = {"Location": header("Where to read it.", _VERSION)}

UploadId = Annotated[
    str,
    Path(
        description="The `upload_id` of a file that is sent in parts.",
        json_schema_extra={"example": "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"},
    ),
]


@router.post(
    "/models/{name}/versions",
    tags=["versions"],
    status_code=201,
    summary="Push a version: reserve it",
    openapi_extra=described_body(PushIn, PUSH_EXAMPLE),
    responses={
        201: {
            "description": "Reserved, and what is to be sent.",
            "model": PushOut,
            "content": example(PUSHED_EXAMPLE),
            "headers": _LOCATION,
        },
        200: {
            "description": "Reserved before, and this is what is still missing; or ready, with these very files.",
            "model": PushOut,
            "content": example(PUSHED_EXAMPLE),
            "headers": _LOCATION,
        },
        **problem_responses(
            VersionExists("fraud-detector", "2.4.0", state="ready", digest=DIGEST_EXAMPLE),
            ModelNameTaken("Fraud-Detector", "fraud-detector"),
            UploadTooLarge(200 * 1024**3),
            BodyTooLarge(_MAX_MANIFEST_BYTES),
            TooManyPending("anonymous", 1000),
            BAD_BODY_TYPE,
            BAD_NAME,
            STALLED,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/versions",
        ),
    },
)
async def push_version(request: Request, context: Context, name: ModelName) -> Response:
    """Declare a version with all of its files, then send what `uploads` asks for, then commit.

    What storage has already, of whatever model, need not be sent again. Ask again, with the same files and frozen
    parameters, after a lost answer or when URLs have expired: the answer is 200 with what is still missing. A version
    that nobody commits is given up when its lease ends; every request about it renews the lease.
    """
    tree = await json_body(request, context.settings, max_bytes=_MAX_MANIFEST_BYTES)
    push = await offload(lambda: push_of(name, tree, context.settings.max_metadata_bytes), _entries(request))
    reserved = await context.reservations.reserve(push, actor=context.actor)
    info = reserved.info
    base_url = (context.settings.public_url or str(request.base_url)).rstrip("/")
    body = await offload(lambda: push_json(reserved, base_url), len(push.files))
    headers = {"Location": f"/v1/models/{info.model_name}/versions/{info.version}", **transfer.SECRET}
    return Response(body, 201 if reserved.is_new else 200, headers, JSON)


@router.post(
    "/models/{name}/versions/{version}/commit",
    tags=["versions"],
    summary="Push a version: commit it",
    openapi_extra=described_body(CommitIn, COMMIT_EXAMPLE, required=False),
    responses={
        200: {
            "description": "Verified and ready. The same answer again, however often it is committed.",
            "model": ModelInfoOut,
            "content": example(INFO_EXAMPLE),
        },
        202: {
            "description": "Verification takes longer: poll `Location` until the state is `ready`. Should it be "
            "`pending` again, commit once more to hear why. To commit once more is always safe: it joins what is "
            "running, and takes over what a process left behind.",
            "model": ModelInfoOut,
            "content": example(PENDING_EXAMPLE | {"state": "verifying"}),
            "headers": _LOCATION | {"Retry-After": header("Seconds to wait.", 1)},
        },
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            _UNKNOWN,
            UploadIncomplete("fraud-detector", "2.4.0", {"model.joblib": range(1, 8)}),
            VersionExists("fraud-detector", "2.4.0", state="pending", digest=DIGEST_EXAMPLE),
            VersionNotAvailable("fraud-detector", "2.4.0", "removed"),
            CommitInProgress("fraud-detector", "2.4.0"),
            LeaseLost(),
            _OTHER_SIZE,
            _OTHER_BYTES,
            InvalidField(
                ("body", "parts", "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52", 0, "part_number"),
                "an integer from 1 to 10000 is expected",
                0,
            ),
            BodyTooLarge(_MAX_MANIFEST_BYTES),
            BAD_BODY_TYPE,
            STALLED,
            UNAVAILABLE,
            PartsChanged("model.joblib"),
            instance=f"{_VERSION}/commit",
        ),
    },
)
async def commit_version(request: Request, context: Context, name: ModelName, version: Label) -> Response:
    """Make the version visible, once every declared sha256 has been verified, by the store's own check of a PUT or by
    reading the object back; a client's word is not enough."""
    tree = await json_body(request, context.settings, max_bytes=_MAX_MANIFEST_BYTES)
    parts = await offload(lambda: parts_of(tree), _entries(request))
    info = await context.commits.commit(VersionRef(name, version), parts, actor=context.actor)
    if info.state == VersionState.READY:
        return Response(model_info_json(info), media_type=JSON)
    location = {"Location": f"/v1/models/{info.model_name}/versions/{info.version}", "Retry-After": "1"}
    return Response(model_info_json(info), 202, location, JSON)


@router.put(
    "/models/{name}/versions/{version}/files/{path:path}",
    tags=["files"],
    status_code=201,
    summary="Push a version: send a file through the service",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/octet-stream": {
                    "schema": {"type": "string", "format": "binary"},
                    "example": "(bytes)",
                }
            },
        }
    },
    responses={
        201: {
            "description": "Stored, with the digest that was declared.",
            "model": FileOut,
            "content": example(
                {
                    "path": "model.joblib",
                    "size_bytes": 1024,
                    "sha256": DIGEST_EXAMPLE,
                    "media_type": "application/octet-stream",
                }
            ),
        },
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            FileNotFound("fraud-detector", "2.4.0", "model.onnx"),
            VersionExists("fraud-detector", "2.4.0", state="ready", digest=DIGEST_EXAMPLE),
            _VERIFYING,
            LeaseLost(),
            UnsupportedMediaType("Content-Encoding: bodies are taken as they are; send this one without an encoding."),
            _OTHER_SIZE,
            _OTHER_BYTES,
            InvalidField("path", PATH_SEGMENTS_RULE, "../model.joblib"),
            STALLED,
            UNAVAILABLE,
            instance=f"{_VERSION}/files/model.joblib",
        ),
    },
)
async def put_file(
    request: Request,
    context: Context,
    name: ModelName,
    version: Label,
    path: FilePath,
    content_length_: Annotated[
        int | None, Header(alias="Content-Length", ge=0, description="Must be the declared size, where it is sent.")
    ] = None,
) -> Response:
    """One declared file of a pending version; the body is the file, streamed to storage. For clients that cannot reach
    storage themselves; it works for every file, whatever its `method` says."""
    entry = await context.proxied_uploads.put_file(
        VersionRef(name, version),
        path,
        body_chunks(request, context.settings),
        size_bytes=content_length(request),
        actor=context.actor,
    )
    return Response(file_json(entry), 201, media_type=JSON)


@router.post(
    "/uploads/{upload_id}/parts",
    tags=["versions"],
    summary="Push a version: URLs for parts of a file",
    openapi_extra=described_body(PartsIn, PARTS_EXAMPLE),
    responses={
        200: {"description": "One for each.", "model": SignedPartsOut, "content": example(SIGNED_EXAMPLE)},
        **problem_responses(
            _UNKNOWN,
            _VERIFYING,
            InvalidField(("body", "part_numbers", 0), "this upload has parts 1 to 7", 8),
            BAD_BODY_TYPE,
            STALLED,
            UNAVAILABLE,
            instance=f"{_UPLOAD}/parts",
        ),
    },
)
async def sign_parts(request: Request, context: Context, upload_id: UploadId) -> Response:
    """Fresh URLs, as often as they are needed; each takes exactly one part of the right size. A part may be sent again;
    after one with other bytes the commit lists the parts, because some stores keep both."""
    numbers = part_numbers_of(await json_body(request, context.settings))
    parts = await context.upload_parts.sign(upload_id_of(upload_id), numbers, actor=context.actor)
    return Response(signed_parts_json(parts), headers=transfer.SECRET, media_type=JSON)


@router.get(
    "/uploads/{upload_id}",
    tags=["versions"],
    summary="Push a version: what storage has of a file in parts",
    responses={
        200: {"description": "As storage has it now.", "model": UploadStatusOut, "content": example(STATUS_EXAMPLE)},
        **problem_responses(_UNKNOWN, UNAVAILABLE, instance=_UPLOAD),
    },
)
async def upload_status(context: Context, upload_id: UploadId) -> Response:
    """For a client that lost its place: the parts that are not listed are those to send."""
    status = await context.upload_parts.status(upload_id_of(upload_id), actor=context.actor)
    return Response(upload_status_json(status), headers={"Cache-Control": "no-store"}, media_type=JSON)


def _entries(request: Request) -> int:
    """How many files a body may tell of."""
    size_bytes = content_length(request)
    return (_MAX_MANIFEST_BYTES if size_bytes is None else size_bytes) // ITEM_BYTES
