"""Errors as RFC 9457 problem details, the registry's own form."""

from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response
from starlette.types import Scope

from model_registry.errors import RegistryError, shown
from model_registry.web.http_errors import headers_of, status_of

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    loc: list[str | int] = Field(description="The way to the value, from the outside in.")
    msg: str = Field(description="The rule that it breaks.")
    value: Any = Field(description="The value as it arrived, shortened; null where it would not help.")


class Problem(BaseModel):
    """What went wrong, by RFC 9457. Members beyond these name the thing: `model_name`, `version`, `path` and so on."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:model-registry:problem:<slug>`, stable: match on this.")
    title: str
    status: int
    detail: str = Field(description="What happened here, and the way out.")
    instance: str = Field(description="The path that was asked for.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")
    errors: list[FieldError] = Field(default_factory=list, description="With 422 alone: what is wrong where.")


def problem_members(error: RegistryError, *, instance: object, request_id: str) -> dict[str, Any]:
    standard = {
        "type": f"urn:model-registry:problem:{error.slug}",
        "title": problem_title(error),
        "status": status_of(error),
        "detail": error.detail,
        "instance": instance,
        "request_id": request_id,
    }
    # The standard members come first, and no other takes their place.
    return standard | error.members | standard


def problem_title(error: RegistryError) -> str:
    return error.slug.replace("-", " ").capitalize()


def render_problem(scope: Scope, error: RegistryError) -> Response:
    body = problem_members(error, instance=shown(scope.get("path", "")), request_id=scope.get("request_id", ""))
    return Response(orjson.dumps(body, default=str), status_of(error), headers_of(error), MEDIA_TYPE)
