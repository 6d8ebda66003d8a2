"""Middleware around every request. It is plain ASGI, because the usual base class costs more than a small response."""

import asyncio
import random
import re
import time

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_registry.errors import Unavailable, shown
from model_registry.runtime.observability import BYTES_IN, BYTES_OUT, IN_FLIGHT, REQUEST_SECONDS, REQUESTS
from model_registry.web.http_errors import BadRequest, InternalError, NoSuchRoute
from model_registry.web.rendering import methods_at, render

log = structlog.get_logger(__name__)

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_MAX_HEADERS = 200
_HTTP_VERSIONS = frozenset({"1.0", "1.1", "2"})
_SINGLE = ("content-length", "host", "content-type", "content-encoding", "transfer-encoding", "idempotency-key")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_DRAIN_BYTES = 16 * 1024**2
_DRAIN_SECONDS = 5.0
PROBES = frozenset({"/healthz", "/readyz", "/metrics"})


class Observed:
    """Gives every request an id, one log line and metrics, and turns unhandled exceptions into a 500."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        claimed = Headers(scope=scope).get("x-request-id", "")
        request_id = claimed if _REQUEST_ID.fullmatch(claimed) else f"{random.getrandbits(64):016x}"
        scope["request_id"] = request_id
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        started = time.perf_counter()
        status = 0
        received = sent = 0

        async def counting_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def counting_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            sent += len(message.get("body", b""))
            await send(message)

        IN_FLIGHT.inc()
        failed = False
        try:
            await self._app(scope, counting_receive, counting_send)
        except asyncio.CancelledError:
            # The grace period of the shutdown has ended.
            failed = True
            if status == 0:
                response = render(scope, Unavailable("This process"))
                await response(scope, receive, counting_send)
        except Exception as error:
            failed = True
            if isinstance(outage := error.__cause__, Unavailable):
                # The response had already started, so no handler could report it.
                log.warning("request.unavailable", what=outage.detail, cause=repr(outage.__cause__))
            else:
                log.exception("request.failed")
            if status == 0:
                await render(scope, InternalError())(scope, receive, counting_send)
            # Otherwise the response has started. To return before its end makes the server cut the connection.
        finally:
            IN_FLIGHT.dec()
            _record(scope, status, time.perf_counter() - started, received, sent, failed=failed)


def _record(scope: Scope, status: int, seconds: float, received: int, sent: int, *, failed: bool) -> None:
    """Write the metrics and the log line of a request."""
    method = scope["method"] if scope["method"] in _METHODS else "other"
    # This is the template, not the path, because the number of series must not grow with the paths of requests.
    route = getattr(scope.get("route"), "path", "none")
    REQUESTS.labels(method, route, str(status)).inc()
    REQUEST_SECONDS.labels(method, route).observe(seconds)
    BYTES_IN.inc(received)
    BYTES_OUT.inc(sent)
    # Probes come every few seconds and are not interesting while they succeed.
    write = log.debug if route in PROBES and status < 400 else log.info
    write(
        "request",
        method=shown(scope["method"]),
        path=shown(scope["path"]),
        status=status,
        milliseconds=round(seconds * 1000, 1),
        received_bytes=received,
        sent_bytes=sent,
        **({"broken": True} if failed else {}),
    )


class EarlyResponses:
    """Lets a client read a response that comes before the end of the request body.

    If the server closes at once, the connection is reset, and the client sees the reset instead of the 409. So the
    response is sent, a limited amount of the body is read and discarded, and then the connection is closed.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        has_begun = is_complete = False

        async def watched_receive() -> Message:
            nonlocal has_begun, is_complete
            message = await receive()
            has_begun = True
            if message["type"] == "http.disconnect" or not message.get("more_body", False):
                is_complete = True
            return message

        async def patient_send(message: Message) -> None:
            if message["type"] == "http.response.start" and not is_complete:
                MutableHeaders(scope=message)["Connection"] = "close"
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            sends_nothing = is_complete or (_waits_for_continue(scope) and not has_begun)
            if not is_last or sends_nothing:
                await send(message)
                return
            await send({**message, "more_body": True})
            await _drain(receive)
            await send({"type": "http.response.body", "body": b"", "more_body": False})

        await self._app(scope, watched_receive, patient_send)


async def _drain(receive: Receive) -> None:
    left = _DRAIN_BYTES
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            while left > 0:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
                left -= len(message.get("body", b""))
    except TimeoutError:
        return


def _has_body(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _waits_for_continue(scope: Scope) -> bool:
    return Headers(scope=scope).get("expect", "").lower() == "100-continue"


class Guarded:
    """Refuses messages that are ambiguous or for another host."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if complaint := _complaint(scope):
                await render(scope, BadRequest(complaint))(scope, receive, send)
                return
            if _names_another_path(scope):
                await render(scope, NoSuchRoute())(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _names_another_path(scope: Scope) -> bool:
    """Whether decoding changed the meaning of the path: it added a segment, or replaced bytes with U+FFFD."""
    raw_path: bytes = scope.get("raw_path", b"").lower()
    replaced, written = scope["path"].count("\ufffd"), raw_path.count(b"%ef%bf%bd")
    return b"%2f" in raw_path or replaced != written


def _complaint(scope: Scope) -> str | None:
    headers = Headers(scope=scope)
    if len(scope["headers"]) > _MAX_HEADERS:
        return f"A request can have at most {_MAX_HEADERS} headers."
    version = scope["http_version"]
    if version not in _HTTP_VERSIONS:
        return "This service supports HTTP/1.1."
    for name in _SINGLE:
        if len(headers.getlist(name)) > 1:
            return f"A request can have at most one {name.title()}."
    coding = headers.get("transfer-encoding")
    # If two headers say where the body ends, a proxy and this service can disagree (RFC 9112, section 6).
    if coding is not None and ("content-length" in headers or coding.lower() != "chunked" or version == "1.0"):
        return "Transfer-Encoding: only `chunked` is supported, in HTTP/1.1 and without a Content-Length."
    # Without `server.http11`, uvicorn drops such a body or reads it as the next request.
    if "upgrade" in headers and (coding is not None or headers.get("content-length", "0") != "0"):
        return "Upgrade: a request with a body cannot ask for another protocol."
    if version == "1.1" and "host" not in headers:
        return "An HTTP/1.1 request must have a Host."
    # Only browsers send this header. It means that a page of another site sends a form to this service.
    if scope["method"] not in _SAFE and headers.get("sec-fetch-site") == "cross-site":
        return "Sec-Fetch-Site: a page of another site cannot change anything here."
    allowed = scope["app"].state.services.settings.hosts
    # Probes use the address of the machine or container, not the name of the service.
    if allowed != ["*"] and scope["path"] not in PROBES and _hostname(headers.get("host", "")) not in allowed:
        return "Host: this service does not serve that name."
    return None


def _hostname(host: str) -> str:
    return host.rsplit(":", 1)[0].lower() if not host.endswith("]") else host.lower()


class HeadAsGet:
    """Handles HEAD as GET without a body (RFC 9110, section 9.3.2), unless a route has its own HEAD."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD" or "HEAD" in methods_at(scope["app"], scope["path"]):
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        get = {**scope, "method": "GET"}
        try:
            await self._app(get, receive, send_head)
        finally:
            scope["route"] = get.get("route")
