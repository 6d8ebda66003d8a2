"""The descriptions of the probes."""

from typing import Literal

from pydantic import BaseModel, Field

from model_registry.web.http_errors import NotReady
from model_registry.web.openapi.operation import header, operation, reference, response
from model_registry.web.problems import MEDIA_TYPE, Problem, problem_members


class Check(BaseModel):
    ok: bool
    milliseconds: float
    detail: str | None = Field(description="What is wrong and how to fix it; null if nothing is wrong.")


class Readiness(BaseModel):
    ready: bool
    checks: dict[str, Check] = Field(description="`postgresql`, `s3` and `schema`.")


class Health(BaseModel):
    status: Literal["ok"]


class Version(BaseModel):
    version: str = Field(description="The version of the service.")
    schema_revision: str = Field(description="The database schema that this version needs.")


_FINE = {"ok": True, "milliseconds": 1.4, "detail": None}
_READY = {"ready": True, "checks": {"postgresql": _FINE, "s3": _FINE, "schema": _FINE}}
_S3_MISSING = NotReady(
    "Not ready: s3.",
    ready=False,
    checks={
        "postgresql": _FINE,
        "s3": {"ok": False, "milliseconds": 2000.3, "detail": "No response within 2 seconds."},
        "schema": _FINE,
    },
)
_NOT_READY = {
    "description": "`not-ready`: `checks` names what is missing, or the process is about to end.",
    "headers": {"Retry-After": header("Seconds to wait before a retry.", "2")},
    "content": {
        MEDIA_TYPE: {
            "schema": reference(Problem),
            "example": problem_members(_S3_MISSING, instance="", request_id="9f86d081884c7d65"),
        }
    },
}
_SAMPLE = 'model_registry_requests_total{method="GET",route="/list_models",status="200"} 12.0'

HEALTHZ = operation("Check that the process is up", {200: response("The process is up.", Health, {"status": "ok"})})
READYZ = operation(
    "Check that the service is ready", {200: response("The service is ready.", Readiness, _READY), 503: _NOT_READY}
)
METRICS = operation(
    "Get Prometheus metrics",
    {
        200: response("Metrics in the Prometheus text format.")
        | {"content": {"text/plain": {"schema": {"type": "string"}, "example": _SAMPLE}}}
    },
)
VERSION = operation(
    "Get the version of the service",
    {200: response("The version.", Version, {"version": "0.1.0", "schema_revision": "0004"})},
)
