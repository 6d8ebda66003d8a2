"""Errors as problem details (RFC 9457), the format of the registry's own routes."""

from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Scope

from model_registry.errors import RegistryError, shown
from model_registry.web.http_errors import headers_of, status_of

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    loc: list[str | int] = Field(description="The path to the value, from the outside in.")
    msg: str = Field(description="The rule that the value breaks.")
    value: Any = Field(description="The value that arrived, shortened. null if it would not help.")


class Problem(BaseModel):
    """What went wrong (RFC 9457). More members, such as `model_name`, `version` or `path`, name the subject."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:model-registry:problem:<slug>`. It is stable, so match on it.")
    title: str
    status: int
    detail: str = Field(description="What happened, and how to fix it.")
    instance: str = Field(description="The path of the request.")
    request_id: str = Field(description="The request id, also in the X-Request-ID header and in the log.")
    errors: list[FieldError] = Field(default_factory=list, description="Only with 422: which values are wrong.")


def problem_members(error: RegistryError, *, instance: object, request_id: str) -> dict[str, Any]:
    standard = {
        "type": f"urn:model-registry:problem:{error.slug}",
        "title": problem_title(error),
        "status": status_of(error),
        "detail": error.detail,
        "instance": instance,
        "request_id": request_id,
    }
    # The standard members come first, and other members do not replace them.
    return standard | error.members | standard


def problem_title(error: RegistryError) -> str:
    return error.slug.replace("-", " ").capitalize()


def render_problem(scope: Scope, error: RegistryError) -> Response:
    body = problem_members(error, instance=shown(scope.get("path", "")), request_id=scope.get("request_id", ""))
    return Response(orjson.dumps(body, default=str), status_of(error), headers_of(error), MEDIA_TYPE)
