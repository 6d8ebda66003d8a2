"""Errors as RFC 9457 problem details: the one place that pairs errors with HTTP status codes."""

from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from model_registry.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    RegistryError,
    Stalled,
    TooLarge,
    Unauthenticated,
    Unavailable,
    shown,
)

MEDIA_TYPE = "application/problem+json"

_STATUS: dict[type[RegistryError], int] = {
    Invalid: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    PreconditionFailed: 412,
    TooLarge: 413,
    Stalled: 408,
    Unavailable: 503,
}


class FieldError(BaseModel):
    loc: list[str | int] = Field(description="The way to the value, from the outside in.")
    msg: str = Field(description="The rule that it breaks.")
    value: Any = Field(None, description="The value as it arrived, shortened.")


class Problem(BaseModel):
    """What went wrong, by RFC 9457. Members beyond these name the thing: `model_name`, `version`, `path` and so on."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:model-registry:problem:<slug>`, stable: match on this.")
    title: str
    status: int
    detail: str = Field(description="What happened here, and the way out.")
    instance: str = Field(description="The path that was asked for.")
    request_id: str = Field(description="Also in the X-Request-ID header and in the service's log.")
    errors: list[FieldError] | None = Field(None, description="With 422: what is wrong where.")


class UnsupportedMediaType(RegistryError):
    """Known to HTTP alone: a body of a kind that this route does not read."""

    slug = "unsupported-media-type"


class BadRequest(RegistryError):
    """Known to HTTP alone: a message that breaks the rules of HTTP itself."""

    slug = "bad-request"


class RangeNotSatisfiable(RegistryError):
    """The range begins beyond the end."""

    slug = "range-not-satisfiable"

    def __init__(self, size_bytes: int) -> None:
        super().__init__(
            f"The range asks for nothing within the {size_bytes} bytes that there are.", size_bytes=size_bytes
        )
        self.size_bytes = size_bytes


_STATUS |= {UnsupportedMediaType: 415, BadRequest: 400, RangeNotSatisfiable: 416}


def status_of(error: RegistryError) -> int:
    """The status of the nearest kind; an error of no kind is a failure of ours."""
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def problem(
    scope: Scope,
    status: int,
    slug: str,
    detail: str,
    members: dict[str, Any] | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    body = {
        **(members or {}),
        "type": f"urn:model-registry:problem:{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "instance": shown(scope.get("path", "")),
        "request_id": scope.get("request_id", ""),
    }
    return Response(orjson.dumps(body, default=str), status, headers, MEDIA_TYPE)


def problem_of(scope: Scope, error: RegistryError) -> Response:
    status = status_of(error)
    if status == 500:
        return internal_error(scope)
    return problem(scope, status, error.slug, error.detail, error.members, _headers_of(error))


def _headers_of(error: RegistryError) -> dict[str, str] | None:
    match error:
        case Unavailable():
            return {"Retry-After": str(error.retry_after_seconds)}
        case RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size_bytes}"}
        case _:
            return None


def internal_error(scope: Scope) -> Response:
    """A bug of ours: no internals in the answer, the traceback in the log under the same request id."""
    return problem(
        scope,
        500,
        "internal-error",
        "The service failed in a way it did not expect; the log has the details under this request id.",
    )


async def _on_registry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistryError)  # noqa: S101 - registered for this class
    if status_of(error) == 500:
        raise error
    return problem_of(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    errors = [
        {"loc": [shown(step) for step in item["loc"]], "msg": item["msg"], "value": shown(item.get("input"))}
        for item in error.errors()
    ]
    detail = "; ".join(f"{'.'.join(str(step) for step in item['loc'])}: {item['msg']}" for item in errors)
    return problem(request.scope, 422, "invalid-request", detail, {"errors": errors})


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    slug, detail = {
        404: ("no-such-route", "There is nothing at this path; /docs shows what there is."),
        405: ("method-not-allowed", f"This path does not take {request.method}; see the Allow header."),
    }.get(error.status_code, ("http-error", str(error.detail)))
    return problem(request.scope, error.status_code, slug, detail, headers=dict(error.headers or {}))


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # Nobody is there to read it; the status is for the log and the metrics (nginx's "client closed request").
    return Response(status_code=499)


def install(app: FastAPI) -> None:
    app.add_exception_handler(RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


def problem_responses(*examples: RegistryError) -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses, one for each status, with an example for each error."""
    responses: dict[int | str, dict[str, Any]] = {}
    for error in examples:
        status = status_of(error)
        entry = responses.setdefault(
            status, {"model": Problem, "description": "", "content": {MEDIA_TYPE: {"examples": {}}}}
        )
        summary = (type(error).__doc__ or error.slug.replace("-", " ").capitalize()).splitlines()[0]
        entry["description"] += ("; " if entry["description"] else "") + f"`{error.slug}`"
        entry["content"][MEDIA_TYPE]["examples"][error.slug] = {
            "summary": summary,
            "value": {
                **error.members,
                "type": f"urn:model-registry:problem:{error.slug}",
                "title": error.slug.replace("-", " ").capitalize(),
                "status": status,
                "detail": error.detail,
                "instance": "/…",
                "request_id": "9f86d081884c7d65",
            },
        }
    return responses
