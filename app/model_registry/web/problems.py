"""Errors as RFC 9457 problem details: the one place that pairs errors with HTTP status codes."""

from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
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
    Overloaded,
    PreconditionFailed,
    RegistryError,
    Stalled,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    shown,
)

log = structlog.get_logger(__name__)

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
    TooMany: 429,
    Unavailable: 503,
}


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


class UnsupportedMediaType(RegistryError):
    """Known to HTTP alone: a body of a kind that this route does not read."""

    slug = "unsupported-media-type"


class BadRequest(RegistryError):
    """Known to HTTP alone: a message that breaks the rules of HTTP itself."""

    slug = "bad-request"


class InvalidRequest(Invalid):
    """Known to HTTP alone: a parameter that is missing, or of the wrong type or size."""

    slug = "invalid-request"

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        detail = "; ".join(f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}" for error in errors)
        super().__init__(detail, errors=errors)


class InternalError(RegistryError):
    """A bug of ours: no internals in the answer, the traceback in the log under the same request id."""

    slug = "internal-error"

    def __init__(self) -> None:
        super().__init__(
            "The service failed in a way it did not expect; the log has the details under this request id."
        )


class NoSuchRoute(NotFound):
    """Known to HTTP alone: a path that leads nowhere."""

    slug = "no-such-route"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path; /docs shows what there is.")


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
    body = _body(status, slug, detail, members, shown(scope.get("path", "")), scope.get("request_id", ""))
    return Response(orjson.dumps(body, default=str), status, headers, MEDIA_TYPE)


def _body(
    status: int, slug: str, detail: str, members: dict[str, Any] | None, instance: object, request_id: str
) -> dict[str, Any]:
    standard = {
        "type": f"urn:model-registry:problem:{slug}",
        "title": _title(slug),
        "status": status,
        "detail": detail,
        "instance": instance,
        "request_id": request_id,
    }
    # The standard members come first, and no other takes their place.
    return standard | (members or {}) | standard


def _title(slug: str) -> str:
    return slug.replace("-", " ").capitalize()


def problem_of(scope: Scope, error: RegistryError) -> Response:
    status = status_of(error)
    if status == 500:
        return internal_error(scope)
    return problem(scope, status, error.slug, error.detail, error.members, _headers_of(error))


def _headers_of(error: RegistryError) -> dict[str, str] | None:
    match error:
        case Unavailable() | TooMany():
            return {"Retry-After": str(error.retry_after_seconds)}
        case RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size_bytes}"}
        case _:
            return None


def internal_error(scope: Scope) -> Response:
    error = InternalError()
    return problem(scope, 500, error.slug, error.detail)


async def _on_registry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistryError)  # noqa: S101 - registered for this class
    if status_of(error) == 500:
        raise error
    if isinstance(error, Unavailable):
        # The answer names no internals, so the operator finds them here.
        log.warning("request.unavailable", what=error.detail, cause=repr(error.__cause__))
    return problem_of(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    errors = [
        {"loc": [shown(step) for step in item["loc"]], "msg": item["msg"], "value": shown(item.get("input"))}
        for item in error.errors()
    ]
    return problem_of(request.scope, InvalidRequest(errors))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    if error.status_code == 404:
        return problem_of(request.scope, NoSuchRoute())
    slug, detail = {
        405: ("method-not-allowed", f"This path does not take {shown(request.method)}; see the Allow header."),
    }.get(error.status_code, ("http-error", str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        allowed = methods_at(request.app, request.scope["path"]) | set(headers.get("Allow", "").split(", ")) - {""}
        headers["Allow"] = ", ".join(sorted(allowed | ({"HEAD"} if "GET" in allowed else set())))
    return problem(request.scope, error.status_code, slug, detail, headers=headers)


def methods_at(app: FastAPI, path: str) -> set[str]:
    """All methods that routes take at a path: the router itself names only those of the first route that it found."""
    return {
        method
        for route in iter_route_contexts(app.routes)
        if route.path_regex is not None and route.path_regex.match(path)
        for method in route.methods or ()
    }


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # Nobody is there to read it; the status is for the log and the metrics (nginx's "client closed request").
    return Response(status_code=499)


def install(app: FastAPI) -> None:
    app.add_exception_handler(RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)


_OVERLOADED = Overloaded("is answering 1000 requests")
_HEADERS = {"Retry-After": "Seconds to wait.", "Content-Range": "How many bytes there are."}


def problem_responses(*examples: RegistryError, instance: str = "/…") -> dict[int | str, dict[str, Any]]:
    """OpenAPI responses, one for each status, with an example for each error as a request to `instance` gets it."""
    responses: dict[int | str, dict[str, Any]] = {}
    if any(type(error) is Unavailable for error in examples):
        # Whatever needs PostgreSQL or the store is work, and of that a process takes on so much and no more.
        examples = (*examples, _OVERLOADED)
    for error in examples:
        status = status_of(error)
        content = {"schema": {"$ref": f"#/components/schemas/{Problem.__name__}"}, "examples": {}}
        entry = responses.setdefault(status, {"description": "", "content": {MEDIA_TYPE: content}})
        entry["description"] += (", " if entry["description"] else "") + f"`{error.slug}`"
        entry["content"][MEDIA_TYPE]["examples"][error.slug] = {
            "summary": _title(error.slug),
            "value": _body(status, error.slug, error.detail, error.members, instance, "9f86d081884c7d65"),
        }
        if headers := _headers_of(error):
            entry["headers"] = {
                name: {"description": _HEADERS[name], "schema": {"type": "string"}, "example": value}
                for name, value in headers.items()
            }
    return responses


ANY_ROUTE = problem_responses(BadRequest("A request has one Host."), InternalError())
"""What every route may answer."""
