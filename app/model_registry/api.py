"""The FastAPI application and the six endpoints. Start it with `uvicorn model_registry.api:app`."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Header, Query, Request
from starlette.middleware import Middleware
from starlette.responses import Response

from model_registry import __version__
from model_registry.domain.entities import VersionRef, VersionSelector
from model_registry.errors import (
    FileDamaged,
    FileNotFound,
    IdempotencyKeyReused,
    InvalidForm,
    LeaseLost,
    ModelNameTaken,
    UploadTooLarge,
    VersionAliased,
    VersionExists,
)
from model_registry.settings import Settings
from model_registry.web import probes, problems
from model_registry.web.admission import Admission
from model_registry.web.context import Context
from model_registry.web.middleware import EarlyAnswers, Guarded, HeadAsGet, Observed
from model_registry.web.openapi import document
from model_registry.web.openapi.shared import (
    BAD_LIMIT,
    BAD_NAME,
    BAD_TOKEN,
    INFO_EXAMPLE,
    MODEL_INFO,
    NO_ALIAS,
    NO_MATCH,
    NO_MODEL,
    NO_VERSION,
    NOT_MODIFIED,
    REDIRECTED,
    REMOVED_EXAMPLE,
    REPR_DIGEST,
    STALLED,
    UNAVAILABLE,
    IfNoneMatch,
    Label,
    Limit,
    ModelName,
    Range,
    ReadVersion,
    Redirect,
    bytes_answers,
    example,
    header,
    without_bodies,
)
from model_registry.web.problems import (
    ANY_ROUTE,
    Problem,
    RangeNotSatisfiable,
    UnsupportedMediaType,
    problem_responses,
)
from model_registry.web.register_model import FORM, register
from model_registry.web.requests.body import JSON
from model_registry.web.requests.paging import list_position, list_token
from model_registry.web.responses import file as transfer
from model_registry.web.responses.schemas import (
    DIGEST_EXAMPLE,
    TIME_EXAMPLE,
    ModelInfoOut,
    ModelSummaryOut,
    RegisterModelIn,
    model_info_json,
    model_summaries_json,
)
from model_registry.web.responses.version import model_info
from model_registry.web.startup import StartsInOneSentence, lifespan_with
from model_registry.web.v1 import aliases, events, files, models, pushes, search, versions

DESCRIPTION = """\
Stores, versions and hands out machine-learning models.

* **A version never changes**, and its label never names other bytes, not even after removal.
* **What you see is whole**: a version is visible once all of its bytes are stored and hashed, not before.
* **Errors** are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem details: match on `type`, read `detail`.
* Where a read takes a `{version}`, `latest` and `@alias` work too; `X-Model-Version` says which one it was.
"""
V1 = (models, versions, search, pushes, files, aliases, events)
TAGS = [
    {"name": "registry", "description": "Register, find, download and remove versions of models."},
    {"name": "models", "description": "Names that versions are kept under."},
    {"name": "versions", "description": "Push, read, describe, yank, remove and restore versions; search over all."},
    {"name": "files", "description": "The bytes of a version: its manifest, single files, the whole as an archive."},
    {"name": "aliases", "description": "Names such as `champion` that are moved from version to version."},
    {"name": "events", "description": "The audit log."},
    {"name": "operations", "description": "Health, readiness, metrics."},
]


router = APIRouter(tags=["registry"], responses=ANY_ROUTE)

FilePath = Annotated[
    str | None,
    Query(description="One of the version's files. Left out: the only file, or all of them as one tar."),
]

_REGISTERED_EXAMPLE = INFO_EXAMPLE | {"aliases": []}
_SUMMARY_EXAMPLE = {
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "is_latest": True,
    "size_bytes": 1024,
    "digest": DIGEST_EXAMPLE,
    "created_at": TIME_EXAMPLE,
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
        FORM: {"schema": _FORM, "example": _FORM_EXAMPLE | {"model_file": ["(bytes)"]}},
        JSON: {"schema": {"$ref": f"#/components/schemas/{RegisterModelIn.__name__}"}},
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
            "content": example(_REGISTERED_EXAMPLE),
            "headers": {"Location": header("Where to read it.", "/get_model_info/fraud-detector/2.4.0")},
        },
        **problem_responses(
            VersionExists("fraud-detector", "2.4.0", state="ready", digest=DIGEST_EXAMPLE),
            ModelNameTaken("Fraud-Detector", "fraud-detector"),
            LeaseLost(),
            UploadTooLarge(200 * 1024**3),
            UnsupportedMediaType(
                "Content-Type: multipart/form-data with a model_file, or application/json without one.",
                accepted=[FORM, JSON],
            ),
            BAD_NAME,
            InvalidForm("The body is no well-formed multipart/form-data: it ends before its last boundary."),
            IdempotencyKeyReused("3f0c8a52-6f0e-4a51-9b6e-0a4f3a1f7c11"),
            STALLED,
            UNAVAILABLE,
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
    registered = await register(request, context, idempotency_key)
    location = f"/get_model_info/{registered.ref.model_name}/{registered.ref.version}"
    return Response(registered.answer, 201, {"Location": location}, JSON)


@router.get(
    "/get_model_info/{model_name}/{version}",
    summary="Everything about one version",
    responses={
        200: MODEL_INFO,
        **NOT_MODIFIED,
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            NO_ALIAS,
            NO_MATCH,
            BAD_NAME,
            UNAVAILABLE,
            instance="/get_model_info/fraud-detector/2.4.0",
        ),
    },
)
async def get_model_info(
    request: Request, context: Context, model_name: ModelName, version: ReadVersion, if_none_match: IfNoneMatch = None
) -> Response:
    """One version: its parameters, metadata, files, digest and aliases."""
    info = await context.registry.get(VersionSelector(model_name, version), actor=context.actor)
    return model_info(request, info)


@router.get(
    "/get_latest_model_info/{model_name}",
    summary="Everything about the latest version",
    responses={
        200: MODEL_INFO,
        **NOT_MODIFIED,
        **problem_responses(
            NO_MODEL, NO_MATCH, BAD_NAME, UNAVAILABLE, instance="/get_latest_model_info/fraud-detector"
        ),
    },
)
async def get_latest_model_info(
    request: Request, context: Context, model_name: ModelName, if_none_match: IfNoneMatch = None
) -> Response:
    """The version of highest precedence (`1.10.0` > `1.9.0` > `1.9.0rc1`) that is neither yanked nor a pre-release;
    a pre-release only where there is nothing else."""
    info = await context.registry.get(VersionSelector(model_name, "latest"), actor=context.actor)
    return model_info(request, info)


@router.get(
    "/list_models",
    summary="List models and their versions",
    responses={
        200: {
            "description": "By name, then newest version first.",
            "model": list[ModelSummaryOut],
            "content": example([_SUMMARY_EXAMPLE]),
            "headers": {
                "Link": header("The next page, while there is more.", '</list_models?page_token=W1…>; rel="next"')
            },
        },
        **problem_responses(BAD_LIMIT, BAD_TOKEN, UNAVAILABLE, instance="/list_models"),
    },
)
async def list_models(
    context: Context,
    limit: Limit = 100,
    page_token: Annotated[str | None, Query(description="From the `Link` of the page before.")] = None,
    model_name: Annotated[str | None, Query(description="Only versions of this model.")] = None,
) -> Response:
    """Every version that can be read, page by page; pages stay right while versions are added."""
    query = [model_name]
    page = await context.registry.list_versions(
        model_name=model_name,
        after=list_position(page_token or None, query),
        limit=limit,
        actor=context.actor,
    )
    headers = {}
    if page.has_more:
        parameters = {"limit": limit, "page_token": list_token(query, page.items[-1].position)}
        parameters |= {"model_name": model_name} if model_name else {}
        headers["Link"] = f'</list_models?{urlencode(parameters)}>; rel="next"'
    return Response(model_summaries_json(page.items), headers=headers, media_type=JSON)


_FILE_ANSWERS = {
    **bytes_answers(
        "The file, or all files as a tar archive.",
        (transfer.OCTET_STREAM, transfer.TAR),
        REPR_DIGEST,
        "model.joblib",
    ),
    307: REDIRECTED,
    **problem_responses(
        NO_MODEL,
        NO_VERSION,
        NO_ALIAS,
        FileNotFound("fraud-detector", "2.4.0", "model.onnx"),
        FileDamaged("model.joblib", DIGEST_EXAMPLE),
        NO_MATCH,
        RangeNotSatisfiable(1024),
        BAD_NAME,
        UNAVAILABLE,
        instance="/get_model/fraud-detector/2.4.0",
    ),
}


@router.get(
    "/get_model/{model_name}/{version}",
    summary="Download a model",
    response_class=Response,
    responses=_FILE_ANSWERS,
)
async def get_model(
    request: Request,
    context: Context,
    model_name: ModelName,
    version: ReadVersion,
    redirect: Redirect = None,
    path: FilePath = None,
    range_: Range = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The bytes of a version: its only file, the file at `path`, or all of them as a deterministic tar.

    Resumable (`Range`, `If-Range`), conditional (`If-Match`, `If-None-Match`) and verifiable: the ETag of a file is
    its sha256, and `Repr-Digest` says it too.
    """
    download = await context.downloads.find(VersionSelector(model_name, version), path, actor=context.actor)
    return await transfer.answer(request, context, download, redirect=redirect)


@router.head(
    "/get_model/{model_name}/{version}",
    summary="What a download would be",
    response_class=Response,
    responses=without_bodies(ANY_ROUTE | _FILE_ANSWERS),
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
    download = await context.downloads.find(VersionSelector(model_name, version), path, actor=context.actor)
    return await transfer.answer(request, context, download)


@router.delete(
    "/remove_model/{model_name}/{version}",
    summary="Remove a version",
    responses={
        200: {
            "description": "Removed; it can be restored until `purge_after`.",
            "model": ModelInfoOut,
            "content": example(REMOVED_EXAMPLE),
        },
        **problem_responses(
            NO_VERSION,
            VersionAliased("fraud-detector", "2.4.0", ["champion"]),
            BAD_NAME,
            UNAVAILABLE,
            instance="/remove_model/fraud-detector/2.4.0",
        ),
    },
)
async def remove_model(
    context: Context,
    model_name: ModelName,
    version: Label,
    force: Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")] = False,
) -> Response:
    """Hide a version. Its label stays taken for ever, so that it can never name other bytes."""
    info = await context.lifecycle.remove(VersionRef(model_name, version), force=force, actor=context.actor)
    return Response(model_info_json(info), media_type=JSON)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application. It reads its settings, unless given, and connects when it is started, not before."""
    app = FastAPI(
        title="Model Registry Service",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=document.operation_id,
        lifespan=lifespan_with(settings),
        middleware=[
            Middleware(StartsInOneSentence),
            Middleware(Observed),
            Middleware(EarlyAnswers),
            Middleware(Guarded),
            Middleware(Admission),
            Middleware(HeadAsGet),
        ],
        redirect_slashes=False,
    )
    app.include_router(router)
    for resource in V1:
        app.include_router(resource.router)
    app.include_router(probes.router)
    document.install(app)
    problems.install(app)
    bodies = [*REQUEST_MODELS, *(body for resource in V1 for body in resource.REQUEST_MODELS)]
    app.openapi = lambda: document.openapi(app, bodies)  # type: ignore[method-assign]
    return app


app = create_app()
