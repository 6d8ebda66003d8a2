"""What operators ask: is it up, is it ready, how is it doing, which one is it."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Literal

import orjson
import structlog
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.responses import PlainTextResponse, Response

from model_registry import __version__
from model_registry.errors import Unavailable
from model_registry.migrations import head_revision
from model_registry.settings import ConfigurationError
from model_registry.web.problems import ANY_ROUTE, MEDIA_TYPE, problem
from model_registry.wiring import Services, require_supported_schema

log = structlog.get_logger(__name__)

router = APIRouter(tags=["operations"], responses=ANY_ROUTE)

DRAINING = "model_registry.is_draining"
"""In the scope of requests to a process that was told to end."""
_JSON = "application/json"


class Check(BaseModel):
    ok: bool
    milliseconds: float
    detail: str | None = Field(description="What is wrong, and the way out; null where nothing is.")


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check] = Field(description="`postgresql`, `s3` and `schema`.")


class Health(BaseModel):
    status: Literal["ok"]


class Version(BaseModel):
    version: str = Field(description="Of the service.")
    schema_revision: str = Field(description="The database schema that this version works with.")


def _answer(description: str, example: object, media_type: str = _JSON) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {media_type: {"example": example}}}}


_FINE = {"ok": True, "milliseconds": 1.4, "detail": None}
_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {
        "description": "`not-ready`: something is missing, and `checks` names it; or this process is about to end.",
        "headers": {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "string"}, "example": "2"}},
        "content": {
            MEDIA_TYPE: {
                "schema": {"$ref": "#/components/schemas/Problem"},
                "example": {
                    "type": "urn:model-registry:problem:not-ready",
                    "title": "Not ready",
                    "status": 503,
                    "detail": "Not ready: s3.",
                    "instance": "/readyz",
                    "request_id": "9f86d081884c7d65",
                    "ready": False,
                    "checks": {
                        "postgresql": _FINE,
                        "s3": {
                            "ok": False,
                            "milliseconds": 2000.3,
                            "detail": "No answer within 2 seconds.",
                        },
                        "schema": _FINE,
                    },
                },
            }
        },
    }
}


@router.get(
    "/healthz",
    summary="The process is up",
    response_model=Health,
    responses=_answer("It is.", {"status": "ok"}),
)
async def healthz() -> Response:
    """Touches neither PostgreSQL nor S3: restarting this process would not bring those back."""
    return Response(b'{"status":"ok"}', media_type=_JSON)


@router.get(
    "/readyz",
    summary="The service can do its work",
    response_model=Readiness,
    responses={
        **_answer("It can.", {"ready": True, "checks": {"postgresql": _FINE, "s3": _FINE, "schema": _FINE}}),
        **_NOT_READY,
    },
)
async def readyz(request: Request) -> Response:
    """PostgreSQL, its schema and S3, each with its latency."""
    if DRAINING in request.scope:
        return _not_ready(request, "this process is about to end", {"ready": False, "checks": {}})
    services: Services = request.app.state.services
    names = ("postgresql", "s3", "schema")
    results = await asyncio.gather(
        _timed(services.database.ping()),
        _timed(services.blobs.check()),
        _timed(require_supported_schema(services.database)),
    )
    checks = dict(zip(names, results, strict=True))
    missing = [name for name, check in checks.items() if not check.ok]
    body = {"ready": not missing, "checks": {name: check.model_dump() for name, check in checks.items()}}
    if missing:
        return _not_ready(request, ", ".join(missing), body)
    return Response(orjson.dumps(body), media_type=_JSON)


def _not_ready(request: Request, why: str, body: dict[str, Any]) -> Response:
    return problem(request.scope, 503, "not-ready", f"Not ready: {why}.", body, {"Retry-After": "2"})


async def _timed(check: Awaitable[None]) -> Check:
    started = time.perf_counter()
    detail = None
    try:
        async with asyncio.timeout(2):
            await check
    except (Unavailable, ConfigurationError) as error:
        log.warning("check.failed", reason=str(error), cause=repr(error.__cause__))
        detail = str(error)
    except TimeoutError:
        detail = "No answer within 2 seconds."
    return Check(ok=detail is None, milliseconds=round((time.perf_counter() - started) * 1000, 1), detail=detail)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=_answer(
        "In the Prometheus text format.",
        'model_registry_requests_total{method="GET",route="/list_models",status="200"} 12.0',
        "text/plain",
    ),
)
async def metrics() -> Response:
    """Of this process, in the Prometheus text format."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get(
    "/version",
    summary="Which version this is",
    response_model=Version,
    responses=_answer("This one.", {"version": "0.1.0", "schema_revision": "0004"}),
)
async def version() -> Response:
    """The service's own version."""
    return Response(orjson.dumps({"version": __version__, "schema_revision": head_revision()}), media_type=_JSON)
