"""What operators ask: is it up, is it ready, how is it doing, which one is it."""

import asyncio
import time
from collections.abc import Awaitable

import orjson
import structlog
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.responses import Response

from model_registry import __version__
from model_registry.errors import Unavailable
from model_registry.migrations import head_revision
from model_registry.settings import ConfigurationError
from model_registry.web.problems import problem
from model_registry.wiring import Services, check_schema

log = structlog.get_logger(__name__)

router = APIRouter(tags=["operations"])

_JSON = "application/json"


class Check(BaseModel):
    ok: bool
    milliseconds: float
    detail: str | None = Field(None, description="What is wrong, and the way out.")


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check]


class Health(BaseModel):
    status: str = "ok"


class Version(BaseModel):
    version: str = Field(examples=["0.1.0"])
    schema_revision: str = Field(description="The database schema that this version works with.")


@router.get("/healthz", summary="The process is up", response_model=Health)
async def healthz() -> Response:
    """Touches neither PostgreSQL nor S3: restarting this process would not bring those back."""
    return Response(b'{"status":"ok"}', media_type=_JSON)


@router.get(
    "/readyz",
    summary="The service can do its work",
    response_model=Readiness,
    responses={503: {"description": "Something is missing; `checks` names it.", "model": Readiness}},
)
async def readyz(request: Request) -> Response:
    """PostgreSQL, its schema and S3, each with its latency."""
    services: Services = request.app.state.services
    names = ("postgresql", "s3", "schema")
    results = await asyncio.gather(
        _timed(services.database.ping()), _timed(services.blobs.check()), _timed(check_schema(services.database))
    )
    checks = dict(zip(names, results, strict=True))
    missing = [name for name, check in checks.items() if not check.ok]
    body = {"ready": not missing, "checks": {name: check.model_dump() for name, check in checks.items()}}
    if missing:
        return problem(request.scope, 503, "not-ready", f"Not ready: {', '.join(missing)}.", body, {"Retry-After": "2"})
    return Response(orjson.dumps(body), media_type=_JSON)


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


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics() -> Response:
    """Of this process, in the Prometheus text format."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/version", summary="Which version this is", response_model=Version)
async def version() -> Response:
    """The service's own version."""
    return Response(orjson.dumps({"version": __version__, "schema_revision": head_revision()}), media_type=_JSON)
