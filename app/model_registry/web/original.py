"""The six original endpoints."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from model_registry.domain import ModelInfo, VersionRef, VersionSelector
from model_registry.errors import (
    AliasNotFound,
    FileNotFound,
    IdempotencyKeyReused,
    InvalidField,
    InvalidForm,
    InvalidPageToken,
    ModelNameTaken,
    ModelNotFound,
    PreconditionFailed,
    Stalled,
    Unavailable,
    UploadTooLarge,
    VersionAliased,
    VersionExists,
    VersionNotFound,
)
from model_registry.web import registering, transfer
from model_registry.web.conditions import is_not_modified
from model_registry.web.context import Context
from model_registry.web.paging import list_position, list_token
from model_registry.web.problems import RangeNotSatisfiable, UnsupportedMediaType, problem_responses
from model_registry.web.schemas import (
    DIGEST_EXAMPLE,
    ModelInfoOut,
    ModelSummaryOut,
    RegisterModelIn,
    model_info_etag,
    model_info_json,
    model_summaries_json,
)

router = APIRouter(tags=["registry"])

JSON = "application/json"

ModelName = Annotated[
    str, Path(description="Letters, digits, `.`, `_`, `-`; in its exact case.", examples=["fraud-detector"])
]
ReadVersion = Annotated[
    str, Path(description="A version label, `latest`, or `@alias`.", examples=["2.4.0", "latest", "@champion"])
]
IfNoneMatch = Annotated[str | None, Header(description="An ETag you hold: 304 while it is still right.")]

_UNAVAILABLE = Unavailable("PostgreSQL")
_BAD_NAME = InvalidField("model_name", "a model name is 1 to 128 of letters, digits, '.', '_' and '-' …", "a b")
_NO_MODEL = ModelNotFound("fraud-detector")
_NO_VERSION = VersionNotFound("fraud-detector", "2.4.0")
_NO_ALIAS = AliasNotFound("fraud-detector", "champion")
_ETAG: dict[str, Any] = {"ETag": {"description": "Strong.", "schema": {"type": "string"}}}
_MODEL_VERSION: dict[str, Any] = {
    "X-Model-Version": {"description": "The label that the answer is about.", "schema": {"type": "string"}}
}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "What you hold is still right."}}
_MODEL_INFO = {"description": "The version.", "model": ModelInfoOut, "headers": _ETAG | _MODEL_VERSION}

_OBJECT_FIELD = {"type": "string", "contentMediaType": JSON, "default": "{}"}
_REGISTER_BODY = {
    "required": True,
    "content": {
        registering.FORM: {
            "schema": {
                "type": "object",
                "required": ["model_name", "version"],
                "properties": {
                    "model_name": {"type": "string", "examples": ["fraud-detector"]},
                    "version": {"type": "string", "examples": ["2.4.0"]},
                    "standardization_params": {
                        **_OBJECT_FIELD,
                        "description": "A JSON object; frozen.",
                        "examples": ['{"mean": [5.8, 3.1], "scale": [0.8, 0.4]}'],
                    },
                    "model_params": {
                        **_OBJECT_FIELD,
                        "description": "A JSON object; frozen.",
                        "examples": ['{"C": 1}'],
                    },
                    "additional_metadata": {
                        **_OBJECT_FIELD,
                        "description": "A JSON object.",
                        "examples": ['{"metrics": {"auc": 0.97}}'],
                    },
                    "model_file": {
                        "type": "string",
                        "format": "binary",
                        "description": "The file, repeated for several. Its filename is its path in the version.",
                    },
                },
            },
            "encoding": {"model_file": {"contentType": transfer.OCTET_STREAM}},
        },
        registering.JSON: {"schema": {"$ref": "#/components/schemas/RegisterModelIn"}},
    },
}
REQUEST_MODELS = (RegisterModelIn,)
"""Request bodies that are read by hand, for the OpenAPI document."""


@router.post(
    "/register_model",
    status_code=201,
    summary="Register a version of a model",
    openapi_extra={"requestBody": _REGISTER_BODY},
    responses={
        201: {
            "description": "Registered, whole and for ever.",
            "model": ModelInfoOut,
            "headers": {"Location": {"description": "Where to read it.", "schema": {"type": "string"}}},
        },
        **problem_responses(
            VersionExists("fraud-detector", "2.4.0", state="ready", digest=DIGEST_EXAMPLE),
            ModelNameTaken("Fraud-Detector", "fraud-detector"),
            UploadTooLarge(214748364800),
            UnsupportedMediaType("Content-Type: multipart/form-data with a model_file, or application/json."),
            _BAD_NAME,
            InvalidForm("The body is no well-formed multipart/form-data: Unexpected end of multipart stream."),
            IdempotencyKeyReused("3f0c"),
            Stalled(30),
            _UNAVAILABLE,
        ),
    },
)
async def register_model(
    request: Request,
    context: Context,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Makes a retry safe: the same key with the same registration gives the first answer again.",
            examples=["3f0c8a52-6f0e-4a51-9b6e-0a4f3a1f7c11"],
        ),
    ] = None,
) -> Response:
    """Register one version, with its files or without.

    As a **form**, `model_file` is streamed to storage while it arrives, whatever its size; put `model_name` and
    `version` before it, so that a conflict is answered before the file is sent. Several `model_file` parts make a
    version of several files. As **JSON** there is no file.

    A version never changes: registering it again is 409, unless the same `Idempotency-Key` says that this is the
    same registration once more.
    """
    registered = await registering.register(request, context, idempotency_key)
    location = f"/get_model_info/{registered.ref.model_name}/{registered.ref.version}"
    return Response(registered.answer, 201, {"Location": location}, JSON)


@router.get(
    "/get_model_info/{model_name}/{version}",
    summary="Everything about one version",
    responses={
        200: _MODEL_INFO,
        **_NOT_MODIFIED,
        **problem_responses(_NO_MODEL, _NO_VERSION, _NO_ALIAS, _BAD_NAME, _UNAVAILABLE),
    },
)
async def get_model_info(
    request: Request, context: Context, model_name: ModelName, version: ReadVersion, if_none_match: IfNoneMatch = None
) -> Response:
    """One version: its parameters, metadata, files, digest and aliases."""
    info = await context.registry.get(VersionSelector(model_name, version), actor=context.actor)
    return _model_info(request, info)


@router.get(
    "/get_latest_model_info/{model_name}",
    summary="Everything about the latest version",
    responses={200: _MODEL_INFO, **_NOT_MODIFIED, **problem_responses(_NO_MODEL, _BAD_NAME, _UNAVAILABLE)},
)
async def get_latest_model_info(
    request: Request, context: Context, model_name: ModelName, if_none_match: IfNoneMatch = None
) -> Response:
    """The version of highest precedence (`1.10.0` > `1.9.0` > `1.9.0rc1`) that is neither yanked nor a pre-release;
    a pre-release only where there is nothing else."""
    info = await context.registry.get(VersionSelector(model_name, "latest"), actor=context.actor)
    return _model_info(request, info)


def _model_info(request: Request, info: ModelInfo) -> Response:
    etag = model_info_etag(info)
    headers = {"ETag": f'"{etag}"', "X-Model-Version": info.version, "Cache-Control": "no-cache"}
    if is_not_modified(request.headers, etag):
        return Response(status_code=304, headers=headers)
    return Response(model_info_json(info), headers=headers, media_type=JSON)


@router.get(
    "/list_models",
    summary="List models and their versions",
    responses={
        200: {
            "description": "By name, then newest version first.",
            "model": list[ModelSummaryOut],
            "headers": {
                "Link": {"description": '`<…>; rel="next"` while there is more.', "schema": {"type": "string"}}
            },
        },
        **problem_responses(InvalidPageToken(), _UNAVAILABLE),
    },
)
async def list_models(
    context: Context,
    limit: Annotated[int, Query(ge=1, le=1000, description="Rows per page.")] = 100,
    page_token: Annotated[str | None, Query(description="From the `Link` of the page before.")] = None,
    model_name: Annotated[str | None, Query(description="Only versions of this model.")] = None,
) -> Response:
    """Every version that can be read, page by page; pages stay right while versions are added."""
    query = [model_name]
    page = await context.registry.list_versions(
        model_name=model_name,
        after=list_position(page_token, query) if page_token else None,
        limit=limit,
        actor=context.actor,
    )
    headers = {}
    if page.has_more:
        parameters = {"limit": limit, "page_token": list_token(query, page.items[-1].position)}
        parameters |= {"model_name": model_name} if model_name else {}
        headers["Link"] = f'</list_models?{urlencode(parameters)}>; rel="next"'
    return Response(model_summaries_json(page.items), headers=headers, media_type=JSON)


_FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file, or the archive.",
        "content": {
            transfer.OCTET_STREAM: {"schema": {"type": "string", "format": "binary"}},
            transfer.TAR: {"schema": {"type": "string", "format": "binary"}},
        },
        "headers": _ETAG
        | _MODEL_VERSION
        | {
            "Content-Disposition": {"schema": {"type": "string"}},
            "Repr-Digest": {"description": "RFC 9530; of a single file.", "schema": {"type": "string"}},
        },
    },
    206: {"description": "The range that was asked for."},
    307: {"description": "With `redirect`: a presigned URL that needs no credentials."},
    **_NOT_MODIFIED,
    **problem_responses(
        _NO_MODEL,
        _NO_VERSION,
        _NO_ALIAS,
        FileNotFound("fraud-detector", "2.4.0", "model.joblib"),
        PreconditionFailed("If-Match: this is another version than the one you hold."),
        RangeNotSatisfiable(1024),
        _BAD_NAME,
        _UNAVAILABLE,
    ),
}


@router.get("/get_model/{model_name}/{version}", summary="Download a model", responses=_FILE_ANSWERS)
@router.head("/get_model/{model_name}/{version}", summary="What a download would be", responses=_FILE_ANSWERS)
async def get_model(
    request: Request,
    context: Context,
    model_name: ModelName,
    version: ReadVersion,
    redirect: Annotated[
        bool | None,
        Query(description="true: 307 to storage. false: streamed by the service. Left out: as the service is set."),
    ] = None,
    path: Annotated[str | None, Query(description="Which of several files; without it they come as one tar.")] = None,
    range_: Annotated[str | None, Header(alias="Range", description="`bytes=…`, one range.")] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes of a version: its only file, the file at `path`, or all of them as a deterministic tar.

    Resumable (`Range`, `If-Range`) and verifiable: the ETag of a file is its sha256, `Repr-Digest` says it too.
    """
    download = await context.downloads.find(VersionSelector(model_name, version), path, actor=context.actor)
    return await transfer.answer(
        request,
        context.downloads,
        download,
        redirect=redirect if redirect is not None else context.settings.download_mode == "redirect",
        presign_expiry_seconds=context.settings.presign_expiry_seconds,
    )


@router.delete(
    "/remove_model/{model_name}/{version}",
    summary="Remove a version",
    responses={
        200: {"description": "Removed; it can be restored until `purge_after`.", "model": ModelInfoOut},
        **problem_responses(
            _NO_VERSION, VersionAliased("fraud-detector", "2.4.0", ["champion"]), _BAD_NAME, _UNAVAILABLE
        ),
    },
)
async def remove_model(
    context: Context,
    model_name: ModelName,
    version: Annotated[str, Path(description="A version label.", examples=["2.4.0"])],
    force: Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")] = False,
) -> Response:
    """Hide a version. Its label stays taken for ever, so that it can never name other bytes."""
    info = await context.registry.remove(VersionRef(model_name, version), force=force, actor=context.actor)
    return Response(model_info_json(info), media_type=JSON)
