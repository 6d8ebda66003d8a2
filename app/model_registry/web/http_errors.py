"""Errors that exist only in HTTP, and the status and headers of all errors."""

from typing import Any, ClassVar

from model_registry.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PreconditionFailed,
    RegistryError,
    Stalled,
    TooLarge,
    TooMany,
    Unauthenticated,
    Unavailable,
    shown,
)


class BadRequest(RegistryError):
    """The message breaks the rules of HTTP."""

    slug = "bad-request"
    example: ClassVar = {"detail": "A request can have at most one Host."}


class NoSuchRoute(NotFound):
    """No route has this path."""

    slug = "no-such-route"

    def __init__(self) -> None:
        super().__init__("There is nothing at this path; see /docs for the paths that exist.")


class MethodNotAllowed(RegistryError):
    slug = "method-not-allowed"

    def __init__(self, method: str, allowed: set[str]) -> None:
        super().__init__(f"This path does not support {shown(method)}; see the Allow header.")
        self.allowed = allowed


class UnsupportedMediaType(RegistryError):
    """The route does not read bodies of this media type."""

    slug = "unsupported-media-type"

    @classmethod
    def instead_of(cls, accepted: tuple[str, ...]) -> "UnsupportedMediaType":
        return cls(f"Content-Type: the body must be {' or '.join(accepted)}.", accepted=list(accepted))


class RangeNotSatisfiable(RegistryError):
    """The range begins after the end."""

    slug = "range-not-satisfiable"
    example: ClassVar = {"size_bytes": 1024}

    def __init__(self, size_bytes: int) -> None:
        super().__init__(f"The range has no bytes within the {size_bytes} bytes of the whole.", size_bytes=size_bytes)
        self.size_bytes = size_bytes


class InvalidRequest(Invalid):
    """A parameter is missing, or has the wrong type or size."""

    slug = "invalid-request"

    def __init__(self, errors: list[dict[str, Any]]) -> None:
        detail = "; ".join(f"{'.'.join(str(step) for step in error['loc'])}: {error['msg']}" for error in errors)
        super().__init__(detail, errors=errors)


class NotReady(RegistryError):
    """This process should get no requests at the moment."""

    slug = "not-ready"
    retry_after_seconds = 2


class HttpError(RegistryError):
    """Any other error that the framework raises with a status."""

    slug = "http-error"

    def __init__(self, status: int, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = headers


class InternalError(RegistryError):
    """A bug in the service. The response names no internals; the log has the traceback under the same request id."""

    slug = "internal-error"

    def __init__(self) -> None:
        super().__init__("The service failed unexpectedly; the log has the details under this request id.")


_STATUS: dict[type[RegistryError], int] = {
    BadRequest: 400,
    Unauthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    MethodNotAllowed: 405,
    Stalled: 408,
    Conflict: 409,
    PreconditionFailed: 412,
    TooLarge: 413,
    UnsupportedMediaType: 415,
    RangeNotSatisfiable: 416,
    Invalid: 422,
    TooMany: 429,
    NotReady: 503,
    Unavailable: 503,
}


def status_of(error: RegistryError) -> int:
    """Return the status of the nearest kind. An error without a kind is a bug in the service."""
    if isinstance(error, HttpError):
        return error.status
    return next((_STATUS[kind] for kind in type(error).__mro__ if kind in _STATUS), 500)


def headers_of(error: RegistryError) -> dict[str, str]:
    match error:
        case RangeNotSatisfiable():
            return {"Content-Range": f"bytes */{error.size_bytes}"}
        case MethodNotAllowed():
            return {"Allow": ", ".join(sorted(error.allowed))}
        case HttpError():
            return error.headers
        case RegistryError(retry_after_seconds=int(seconds)):
            return {"Retry-After": str(seconds)}
        case _:
            return {}
