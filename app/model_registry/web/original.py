"""The six original endpoints."""

from typing import Annotated, Any, cast
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
    LeaseLost,
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
from model_registry.web.context import Context, RequestContext
from model_registry.web.paging import list_position, list_token
from model_registry.web.problems import (
    ANY_ROUTE,
    InvalidRequest,
    Problem,
    RangeNotSatisfiable,
    UnsupportedMediaType,
    problem_responses,
)
from model_registry.web.schemas import (
    DIGEST_EXAMPLE,
    TIME_EXAMPLE,
    ModelInfoOut,
    ModelSummaryOut,
    RegisterModelIn,
    model_info_etag,
    model_info_json,
    model_summaries_json,
)

router = APIRouter(tags=["registry"], responses=ANY_ROUTE)

JSON = "application/json"

# The `example` of a schema fills the form of Swagger UI; its `examples` do not.
ModelName = Annotated[
    str, Path(description="A model's name, in its exact case.", json_schema_extra={"example": "fraud-detector"})
]
ReadVersion = Annotated[
    str,
    Path(
        description="A version label, `latest`, or `@` and an alias, such as `@champion`.",
        json_schema_extra={"example": "2.4.0"},
    ),
]
FilePath = Annotated[
    str | None,
    Query(description="One of the version's files. Left out: the only file, or all of them as one tar."),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="An ETag that you hold: 304 while it is still right."),
]

_BAD_NAME = InvalidField(
    "model_name",
    "a model name is 1 to 128 of letters, digits, '.', '_' and '-', begins and ends with a letter or digit, "
    "and has no '..' and no '--'",
    "fraud detector",
)
_BAD_LIMIT = InvalidRequest(
    [{"loc": ["query", "limit"], "msg": "Input should be less than or equal to 1000", "value": "5000"}]
)
_NO_MODEL = ModelNotFound("fraud-detector")
_NO_VERSION = VersionNotFound("fraud-detector", "2.4.0")
_NO_ALIAS = AliasNotFound("fraud-detector", "champion")
_NO_MATCH = PreconditionFailed("If-Match: this is another version than the one you hold.", etag='"1.1"')
_UNAVAILABLE = Unavailable("PostgreSQL")


def _header(description: str, example: str | int) -> dict[str, Any]:
    schema = {"type": "integer" if isinstance(example, int) else "string"}
    return {"description": description, "schema": schema, "example": example}


_ETAG = {"ETag": _header("Strong.", '"1.1"')}
_MODEL_VERSION = {"X-Model-Version": _header("The label that the answer is about.", "2.4.0")}
_NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "What you hold is still right.", "headers": _ETAG | _MODEL_VERSION}
}

_INFO_EXAMPLE = cast(dict[str, Any], ModelInfoOut.model_config["json_schema_extra"])["example"]
_REGISTERED_EXAMPLE = _INFO_EXAMPLE | {"aliases": []}
_REMOVED_EXAMPLE = _REGISTERED_EXAMPLE | {
    "state": "removed",
    "removed_at": "2026-02-28T12:00:00.000000Z",
    "purge_after": "2026-03-07T12:00:00.000000Z",
    "download_url": None,
}
_SUMMARY_EXAMPLE = {
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "is_latest": True,
    "size_bytes": 1024,
    "digest": DIGEST_EXAMPLE,
    "created_at": TIME_EXAMPLE,
}


def _example(value: object) -> dict[str, Any]:
    return {JSON: {"example": value}}


_MODEL_INFO = {
    "description": "The version.",
    "model": ModelInfoOut,
    "content": _example(_INFO_EXAMPLE),
    "headers": _ETAG | _MODEL_VERSION,
}


_FORM_EXAMPLE = {
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "standardization_params": '{"mean": [5.8, 3.1], "scale": [0.8, 0.4]}',
    "model_params": '{"C": 1.0, "penalty": "l2"}',
    "additional_metadata": '{"metrics": {"auc": 0.97}}',
}


def _form_field(name: str, description: str, **schema: Any) -> dict[str, Any]:
    # Objects without contentMediaType: Swagger UI would take the field for a file.
    return {"type": "string", "description": description, "examples": [_FORM_EXAMPLE[name]], **schema}


_FORM = {
    "type": "object",
    "required": ["model_name", "version", "model_file"],
    "properties": {
        "model_name": _form_field("model_name", "Letters, digits, `.`, `_` and `-`. Unique regardless of case."),
        "version": _form_field(
            "version", "Letters, digits, `.`, `_`, `+` and `-`. Never used twice, and not `latest`."
        ),
        "standardization_params": _form_field(
            "standardization_params", "A JSON object: how inputs are prepared. Never changes.", default="{}"
        ),
        "model_params": _form_field("model_params", "A JSON object: the hyperparameters. Never changes.", default="{}"),
        "additional_metadata": _form_field(
            "additional_metadata", "A JSON object: whatever else there is.", default="{}"
        ),
        "model_file": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": (
                "The file. For several files, repeat this part: “Add string item” in Swagger UI, "
                "`-F model_file=@a -F model_file=@b` with curl. A part's filename is its path in the version."
            ),
        },
    },
}
# No `encoding` for model_file: with one, Swagger UI makes up a file called `blob` where none was chosen.
_REGISTER_BODY = {
    "required": True,
    "content": {
        registering.FORM: {"schema": _FORM, "example": _FORM_EXAMPLE | {"model_file": ["(bytes)"]}},
        registering.JSON: {"schema": {"$ref": f"#/components/schemas/{RegisterModelIn.__name__}"}},
    },
}
_REGISTER_SAMPLE = {
    "lang": "Shell",
    "label": "curl",
    "source": """\
curl http://localhost:8000/register_model \\
  -F model_name=fraud-detector \\
  -F version=2.4.0 \\
  -F 'model_params={"C": 1.0, "penalty": "l2"}' \\
  -F 'additional_metadata={"metrics": {"auc": 0.97}}' \\
  -F model_file=@model.joblib""",
}
"""For ReDoc, which shows a form as if it were JSON."""
REQUEST_MODELS = (RegisterModelIn, Problem)
"""Bodies that are read or written by hand, so that FastAPI does not see their schemas."""


@router.post(
    "/register_model",
    status_code=201,
    summary="Register a version of a model",
    openapi_extra={"requestBody": _REGISTER_BODY, "x-codeSamples": [_REGISTER_SAMPLE]},
    responses={
        201: {
            "description": "Registered, whole and for ever.",
            "model": ModelInfoOut,
            "content": _example(_REGISTERED_EXAMPLE),
            "headers": {"Location": _header("Where to read it.", "/get_model_info/fraud-detector/2.4.0")},
        },
        **problem_responses(
            VersionExists("fraud-detector", "2.4.0", state="ready", digest=DIGEST_EXAMPLE),
            ModelNameTaken("Fraud-Detector", "fraud-detector"),
            LeaseLost(),
            UploadTooLarge(200 * 1024**3),
            UnsupportedMediaType(
                "Content-Type: multipart/form-data with a model_file, or application/json without one.",
                accepted=[registering.FORM, registering.JSON],
            ),
            _BAD_NAME,
            InvalidForm("The body is no well-formed multipart/form-data: it ends before its last boundary."),
            IdempotencyKeyReused("3f0c8a52-6f0e-4a51-9b6e-0a4f3a1f7c11"),
            Stalled(30),
            _UNAVAILABLE,
            instance="/register_model",
        ),
    },
)
async def register_model(
    request: Request,
    context: Context,
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description=(
                "Makes a retry safe: the same key with the same registration gives the first answer again. "
                "Take a new one, such as a UUID, for each registration."
            ),
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
        **problem_responses(
            _NO_MODEL,
            _NO_VERSION,
            _NO_ALIAS,
            _NO_MATCH,
            _BAD_NAME,
            _UNAVAILABLE,
            instance="/get_model_info/fraud-detector/2.4.0",
        ),
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
    responses={
        200: _MODEL_INFO,
        **_NOT_MODIFIED,
        **problem_responses(
            _NO_MODEL, _NO_MATCH, _BAD_NAME, _UNAVAILABLE, instance="/get_latest_model_info/fraud-detector"
        ),
    },
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
            "content": _example([_SUMMARY_EXAMPLE]),
            "headers": {
                "Link": _header("The next page, while there is more.", '</list_models?page_token=W1…>; rel="next"')
            },
        },
        **problem_responses(_BAD_LIMIT, InvalidPageToken(), _UNAVAILABLE, instance="/list_models"),
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


_BINARY = {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
_VALIDATORS = _MODEL_VERSION | {
    "ETag": _header("Strong; of a single file its sha256.", f'"{DIGEST_EXAMPLE.removeprefix("sha256:")}"'),
    "Last-Modified": _header("When the version was registered.", "Sat, 31 Jan 2026 12:00:00 GMT"),
}
_FILE = {
    "description": "The file, or all files as a tar archive.",
    "content": {transfer.OCTET_STREAM: _BINARY, transfer.TAR: _BINARY},
    "headers": _VALIDATORS
    | {
        "Content-Length": _header("Known beforehand, of archives too.", 1024),
        "Content-Disposition": _header("RFC 6266.", 'attachment; filename="model.joblib"'),
        "Accept-Ranges": _header("Ranges are taken.", "bytes"),
        "Repr-Digest": _header("RFC 9530; of a single file.", "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"),
    },
}
_PART = {
    "description": "The range that was asked for.",
    "content": _FILE["content"],
    "headers": cast(dict[str, Any], _FILE["headers"])
    | {"Content-Range": _header("Which part this is.", "bytes 0-99/1024")},
}
_FILE_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: _FILE,
    304: {"description": "What you hold is still right.", "headers": _VALIDATORS},
    **problem_responses(
        _NO_MODEL,
        _NO_VERSION,
        _NO_ALIAS,
        FileNotFound("fraud-detector", "2.4.0", "model.onnx"),
        _NO_MATCH,
        _BAD_NAME,
        _UNAVAILABLE,
        instance="/get_model/fraud-detector/2.4.0",
    ),
}


@router.get(
    "/get_model/{model_name}/{version}",
    summary="Download a model",
    response_class=Response,
    responses={
        **_FILE_ANSWERS,
        206: _PART,
        307: {
            "description": "Only with `redirect`: to a presigned URL, which needs no credentials.",
            "headers": {"Location": _header("Where the bytes are.", "https://s3.example.org/models/blobs/0d9c2b5e?…")},
        },
        **problem_responses(RangeNotSatisfiable(1024), instance="/get_model/fraud-detector/2.4.0"),
    },
)
async def get_model(
    request: Request,
    context: Context,
    model_name: ModelName,
    version: ReadVersion,
    redirect: Annotated[
        bool | None,
        Query(
            description="true: 307 to storage. false: streamed by the service. Left out: as the service is set.",
            # Swagger UI's page may not follow a redirect to another host.
            json_schema_extra={"example": False},
        ),
    ] = None,
    path: FilePath = None,
    range_: Annotated[
        str | None, Header(alias="Range", description="One range, such as `bytes=0-99`: the answer is 206.")
    ] = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes of a version: its only file, the file at `path`, or all of them as a deterministic tar.

    Resumable (`Range`, `If-Range`), conditional (`If-Match`, `If-None-Match`) and verifiable: the ETag of a file is
    its sha256, and `Repr-Digest` says it too.
    """
    return await _download(request, context, VersionSelector(model_name, version), path, redirect)


@router.head(
    "/get_model/{model_name}/{version}",
    summary="What a download would be",
    response_class=Response,
    responses={
        # No answer to HEAD has a body, whatever its status.
        status: {key: value for key, value in answer.items() if key != "content"}
        for status, answer in (ANY_ROUTE | _FILE_ANSWERS).items()
    },
)
async def head_model(
    request: Request,
    context: Context,
    model_name: ModelName,
    version: ReadVersion,
    path: FilePath = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The headers of a download, without the bytes: size, name, digest and version. Never a redirect."""
    return await _download(request, context, VersionSelector(model_name, version), path, redirect=False)


async def _download(
    request: Request, context: RequestContext, selector: VersionSelector, path: str | None, redirect: bool | None
) -> Response:
    download = await context.downloads.find(selector, path, actor=context.actor)
    return await transfer.answer(
        request,
        context.downloads,
        download,
        redirect=redirect if redirect is not None else context.settings.download_mode == "redirect",
        presign_expiry_seconds=context.settings.presign_expiry_seconds,
        idle_timeout_seconds=context.settings.body_idle_timeout_seconds,
    )


@router.delete(
    "/remove_model/{model_name}/{version}",
    summary="Remove a version",
    responses={
        200: {
            "description": "Removed; it can be restored until `purge_after`.",
            "model": ModelInfoOut,
            "content": _example(_REMOVED_EXAMPLE),
        },
        **problem_responses(
            _NO_VERSION,
            VersionAliased("fraud-detector", "2.4.0", ["champion"]),
            _BAD_NAME,
            _UNAVAILABLE,
            instance="/remove_model/fraud-detector/2.4.0",
        ),
    },
)
async def remove_model(
    context: Context,
    model_name: ModelName,
    version: Annotated[str, Path(description="A version label.", json_schema_extra={"example": "2.4.0"})],
    force: Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")] = False,
) -> Response:
    """Hide a version. Its label stays taken for ever, so that it can never name other bytes."""
    info = await context.registry.remove(VersionRef(model_name, version), force=force, actor=context.actor)
    return Response(model_info_json(info), media_type=JSON)
