"""Renders errors in the format of the requested route. Without a route, the format is problem details.

A router with its own format has a route class with a `render_error(scope, error) -> Response`:

    class MlflowRoute(APIRoute):
        render_error = staticmethod(render_mlflow_error)

    router = APIRouter(route_class=MlflowRoute)
"""

from collections.abc import Callable

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Scope

from model_registry.errors import RegistryError, Unavailable, shown
from model_registry.web.http_errors import (
    HttpError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NoSuchRoute,
    status_of,
)
from model_registry.web.problems import render_problem

log = structlog.get_logger(__name__)


def render(scope: Scope, error: RegistryError) -> Response:
    """Return the response to a request that failed with `error`."""
    renderer: Callable[[Scope, RegistryError], Response]
    renderer = getattr(scope.get("route"), "render_error", render_problem)
    return renderer(scope, InternalError() if status_of(error) == 500 else error)


async def _on_registry_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RegistryError)  # noqa: S101 - registered for this class
    if status_of(error) == 500:
        raise error
    if isinstance(error, Unavailable):
        # The response does not name internals, so the log does.
        log.warning("request.unavailable", what=error.detail, cause=repr(error.__cause__))
    return render(request.scope, error)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class
    errors = [
        {"loc": [shown(step) for step in item["loc"]], "msg": item["msg"], "value": shown(item.get("input"))}
        for item in error.errors()
    ]
    return render(request.scope, InvalidRequest(errors))


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class
    headers = dict(error.headers or {})
    match error.status_code:
        case 404:
            return render(request.scope, NoSuchRoute())
        case 405:
            allowed = methods_at(request.app, request.scope["path"]) | set(headers.get("Allow", "").split(", ")) - {""}
            allowed |= {"HEAD"} if "GET" in allowed else set()
            return render(request.scope, MethodNotAllowed(request.method, allowed))
        case status:
            return render(request.scope, HttpError(status, str(error.detail), headers))


def methods_at(app: FastAPI, path: str) -> set[str]:
    """Return the methods of all routes at a path. The router itself knows only those of the first route it finds."""
    return {
        method
        for route in iter_route_contexts(app.routes)
        if route.path_regex is not None and route.path_regex.match(path)
        for method in route.methods or ()
    }


async def _on_disconnect(_request: Request, _error: Exception) -> Response:
    # No client reads this response. The status, nginx's "client closed request", is for the log and the metrics.
    return Response(status_code=499)


def install(app: FastAPI) -> None:
    app.add_exception_handler(RegistryError, _on_registry_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
