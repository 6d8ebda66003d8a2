"""The FastAPI application: `create_app()`, and `app` for `uvicorn model_registry.api:app`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_registry import __version__
from model_registry.errors import Unavailable
from model_registry.runtime.observability import configure_logging
from model_registry.settings import ConfigurationError, Settings, load_settings
from model_registry.web import original, probes, problems
from model_registry.web.admission import Admission
from model_registry.web.middleware import EarlyAnswers, Guarded, HeadAsGet, Observed
from model_registry.web.openapi import document
from model_registry.web.v1 import aliases, events, files, models, pushes, search, versions
from model_registry.wiring import open_services, require_supported_schema

log = structlog.get_logger(__name__)

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


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application; it reads its settings (unless given) and connects when it is started, not before."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with _in_one_sentence(app):
            effective = settings or load_settings()
        configure_logging(effective.log_level, effective.log_format)
        async with open_services(effective) as services:
            with _in_one_sentence(app):
                try:
                    await require_supported_schema(services.database)
                except Unavailable:
                    # It may come back: meanwhile the process is alive, and /readyz says what is missing.
                    log.warning("start.without_postgresql")
            app.state.services = services
            collecting = asyncio.create_task(services.collector.run_for_ever(effective.gc_interval_seconds))
            try:
                yield
            finally:
                collecting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await collecting

    app = FastAPI(
        title="Model Registry Service",
        version=__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=document.operation_id,
        lifespan=lifespan,
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
    app.include_router(original.router)
    for resource in V1:
        app.include_router(resource.router)
    app.include_router(probes.router)
    document.install(app)
    problems.install(app)
    bodies = [*original.REQUEST_MODELS, *(body for resource in V1 for body in resource.REQUEST_MODELS)]
    app.openapi = lambda: document.openapi(app, bodies)  # type: ignore[method-assign]
    return app


@contextlib.contextmanager
def _in_one_sentence(app: FastAPI) -> Any:
    try:
        yield
    except ConfigurationError as error:
        app.state.startup_error = str(error)
        raise


class StartsInOneSentence:
    """Says why the service cannot start in one sentence, where a framework would print a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def brief_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message["message"] = getattr(scope["app"].state, "startup_error", message.get("message", ""))
            await send(message)

        await self._app(scope, receive, brief_send)


app = create_app()
