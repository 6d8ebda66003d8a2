"""Probes for operators: health, readiness, metrics and version."""

import asyncio
import time
from collections.abc import Awaitable

import orjson
import structlog
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from model_registry import __version__
from model_registry.errors import Unavailable
from model_registry.migrations import head_revision
from model_registry.settings import ConfigurationError
from model_registry.web.http_errors import NotReady
from model_registry.web.openapi.probes import HEALTHZ, METRICS, READYZ, VERSION, Check
from model_registry.web.requests.body import JSON
from model_registry.wiring import Services, require_supported_schema

log = structlog.get_logger(__name__)

router = APIRouter(tags=["operations"])

DRAINING = "model_registry.is_draining"
"""A key in the scope of requests to a process that is shutting down."""


@router.get("/healthz", **HEALTHZ)
async def healthz() -> Response:
    """Check only the process, not PostgreSQL or S3: to restart the process would not fix those."""
    return Response(b'{"status":"ok"}', media_type=JSON)


@router.get("/readyz", **READYZ)
async def readyz(request: Request) -> Response:
    """Check PostgreSQL, its schema and S3, and measure their latency."""
    if DRAINING in request.scope:
        raise NotReady("Not ready: this process is about to end.", ready=False, checks={})
    services: Services = request.app.state.services
    names = ("postgresql", "s3", "schema")
    results = await asyncio.gather(
        _timed(services.database.ping()),
        _timed(services.blobs.ping()),
        _timed(require_supported_schema(services.database)),
    )
    missing = [name for name, check in zip(names, results, strict=True) if not check.ok]
    checks = {name: check.model_dump() for name, check in zip(names, results, strict=True)}
    if missing:
        raise NotReady(f"Not ready: {', '.join(missing)}.", ready=False, checks=checks)
    return Response(orjson.dumps({"ready": True, "checks": checks}), media_type=JSON)


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
        detail = "No response within 2 seconds."
    return Check(ok=detail is None, milliseconds=round((time.perf_counter() - started) * 1000, 1), detail=detail)


@router.get("/metrics", **METRICS)
async def metrics() -> Response:
    """Get the metrics of this process in the Prometheus text format."""
    return Response(generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/version", **VERSION)
async def version() -> Response:
    """Get the version of the service and of its database schema."""
    return Response(orjson.dumps({"version": __version__, "schema_revision": head_revision()}), media_type=JSON)
