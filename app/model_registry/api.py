"""The FastAPI application and the six endpoints. Start it with `uvicorn model_registry.api:app`."""

from fastapi import APIRouter, FastAPI, Request
from starlette.middleware import Middleware
from starlette.responses import Response

from model_registry import __version__
from model_registry.domain.entities import VersionRef, VersionSelector
from model_registry.settings import Settings
from model_registry.web import probes, rendering
from model_registry.web.admission import Admission
from model_registry.web.context import Context
from model_registry.web.middleware import EarlyResponses, Guarded, HeadAsGet, Observed
from model_registry.web.openapi import document, viewers
from model_registry.web.openapi.registry import (
    GET_LATEST_MODEL_INFO,
    GET_MODEL,
    GET_MODEL_INFO,
    HEAD_MODEL,
    LIST_MODELS,
    REGISTER_MODEL,
    REMOVE_MODEL,
    IdempotencyKey,
    LinkToken,
    OfModel,
    OneFile,
)
from model_registry.web.openapi.shared import Force, Label, Limit, ModelName, ReadVersion, Redirect
from model_registry.web.register_model import register
from model_registry.web.requests.conditional import ReadConditions, WantedRange
from model_registry.web.requests.paging import list_position
from model_registry.web.responses.file import file_headers, file_response
from model_registry.web.responses.version import (
    model_info_response,
    registered_response,
    removed_response,
    summaries_response,
)
from model_registry.web.startup import StartsInOneSentence, lifespan_with
from model_registry.web.v1 import aliases, events, files, models, pushes, search, versions

router = APIRouter(tags=["registry"])


@router.post("/register_model", **REGISTER_MODEL)
async def register_model(request: Request, context: Context, idempotency_key: IdempotencyKey = None) -> Response:
    """Register one version, with or without files."""
    return registered_response(await register(request, context, idempotency_key))


@router.get("/get_model_info/{model_name}/{version}", **GET_MODEL_INFO)
async def get_model_info(
    context: Context, model_name: ModelName, version: ReadVersion, conditions: ReadConditions
) -> Response:
    """Get one version: its parameters, metadata, files, digest and aliases."""
    info = await context.registry.get(VersionSelector(model_name, version), actor=context.actor)
    return model_info_response(info, conditions)


@router.get("/get_latest_model_info/{model_name}", **GET_LATEST_MODEL_INFO)
async def get_latest_model_info(context: Context, model_name: ModelName, conditions: ReadConditions) -> Response:
    """Get the version with the highest precedence (`1.10.0` > `1.9.0` > `1.9.0rc1`) that is neither yanked nor a
    pre-release. If there is none, get the highest pre-release that is not yanked."""
    info = await context.registry.latest(model_name, actor=context.actor)
    return model_info_response(info, conditions)


@router.get("/list_models", **LIST_MODELS)
async def list_models(
    context: Context, limit: Limit = 100, page_token: LinkToken = None, model_name: OfModel = None
) -> Response:
    """List all ready versions, page by page. Pages stay consistent while versions are added."""
    after = list_position(page_token or None, [model_name])
    page = await context.registry.list_versions(model_name=model_name, after=after, limit=limit, actor=context.actor)
    return summaries_response(page, model_name, limit)


@router.get("/get_model/{model_name}/{version}", **GET_MODEL)
async def get_model(
    context: Context,
    model_name: ModelName,
    version: ReadVersion,
    wanted: WantedRange,
    conditions: ReadConditions,
    redirect: Redirect = None,
    path: OneFile = None,
) -> Response:
    """Download the only file of a version, the file at `path`, or all files as a deterministic tar archive."""
    download = await context.registry.download(VersionSelector(model_name, version), path, actor=context.actor)
    return await file_response(context, download, wanted, conditions, redirect=redirect)


@router.head("/get_model/{model_name}/{version}", **HEAD_MODEL)
async def head_model(
    context: Context, model_name: ModelName, version: ReadVersion, conditions: ReadConditions, path: OneFile = None
) -> Response:
    """Get the size, name, digest and version of a download without its bytes. This is never a redirect."""
    download = await context.registry.download(VersionSelector(model_name, version), path, actor=context.actor)
    return file_headers(download, conditions)


@router.delete("/remove_model/{model_name}/{version}", **REMOVE_MODEL)
async def remove_model(context: Context, model_name: ModelName, version: Label, force: Force = False) -> Response:
    """Hide a version. Its label stays taken, so that it never names other bytes."""
    info = await context.registry.remove(VersionRef(model_name, version), force=force, actor=context.actor)
    return removed_response(info)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Create the application. It reads its settings, unless given, and connects only when it starts."""
    app = FastAPI(
        title=document.TITLE,
        version=__version__,
        description=document.DESCRIPTION,
        openapi_tags=document.TAGS,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=document.operation_id,
        lifespan=lifespan_with(settings),
        middleware=[
            Middleware(StartsInOneSentence),
            Middleware(Observed),
            Middleware(EarlyResponses),
            Middleware(Guarded),
            Middleware(Admission),
            Middleware(HeadAsGet),
        ],
        redirect_slashes=False,
    )
    app.include_router(router)
    for resource in (models, versions, search, pushes, files, aliases, events, probes):
        app.include_router(resource.router)
    viewers.install(app)
    rendering.install(app)
    app.openapi = lambda: document.openapi(app)  # type: ignore[method-assign]
    return app


app = create_app()
