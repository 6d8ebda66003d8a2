"""Request bodies, as they arrive: never whole in memory beyond a stated limit, never on disk."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import Request

from model_registry.errors import InvalidField, Stalled
from model_registry.web.problems import BadRequest, UnsupportedMediaType


async def body_chunks(request: Request, idle_timeout_seconds: float) -> AsyncIterator[bytes]:
    """The body's pieces. Raises `Stalled` when none comes for so long, `ClientDisconnect` when it ends early."""
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding: bodies are taken as they are; send this one without an encoding.")
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(idle_timeout_seconds):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Stalled(idle_timeout_seconds) from None
        if chunk is None:
            return
        if chunk:
            yield chunk


async def read_bounded(request: Request, *, max_bytes: int, idle_timeout_seconds: float) -> bytes:
    """The whole body, if it is at most so long."""
    rule = f"a JSON body has at most {max_bytes} bytes"
    if (announced := content_length(request)) is not None and announced > max_bytes:
        raise InvalidField("body", rule, f"{announced} bytes")
    body = bytearray()
    async for chunk in body_chunks(request, idle_timeout_seconds):
        body += chunk
        if len(body) > max_bytes:
            raise InvalidField("body", rule, f"{len(body)} bytes or more")
    return bytes(body)


def content_length(request: Request) -> int | None:
    announced = request.headers.get("content-length")
    if announced is None:
        return None
    announced = announced.strip()
    if not (announced.isascii() and announced.isdigit()):
        raise BadRequest("Content-Length: a plain decimal number is expected.")
    return int(announced)
