"""Request bodies, as they arrive: never whole in memory beyond a stated limit, never on disk."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request

from model_registry.errors import BodyTooLarge, InvalidField, RegistryError, Stalled
from model_registry.settings import Settings
from model_registry.utils import Loc, parse_json_object
from model_registry.web.problems import BadRequest, UnsupportedMediaType

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
_INLINE_PARSE_BYTES = 16 * 1024


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


async def read_bounded(
    request: Request, *, max_bytes: int, idle_timeout_seconds: float, is_metadata: bool = True
) -> bytes:
    """The whole body, if it is at most so long; for metadata that is a rule of its content, for more it is not."""

    def refusal(seen: str) -> RegistryError:
        if is_metadata:
            return InvalidField("body", f"a JSON body has at most {max_bytes} bytes", seen)
        return BodyTooLarge(max_bytes)

    # A larger one is read as far as it may go: a client hears nothing before it has sent most of its body.
    if is_metadata and (announced := content_length(request)) is not None and announced > max_bytes:
        raise refusal(f"{announced} bytes")
    body = bytearray()
    async for chunk in body_chunks(request, idle_timeout_seconds):
        body += chunk
        if len(body) > max_bytes:
            raise refusal(f"{len(body)} bytes or more")
    return bytes(body)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(
    request: Request, settings: Settings, *, accepted: tuple[str, ...] = (JSON,), max_bytes: int | None = None
) -> dict[str, Any]:
    """The object that the body is; nothing at all is the empty one. Metadata documents in it are at depth 1.

    With `max_bytes` it holds more than metadata.
    """
    body = await read_bounded(
        request,
        max_bytes=max_bytes or settings.max_metadata_bytes,
        idle_timeout_seconds=settings.body_idle_timeout_seconds,
        is_metadata=max_bytes is None,
    )
    if not body:
        return {}
    if media_type(request) not in accepted:
        raise UnsupportedMediaType(f"Content-Type: the body is {' or '.join(accepted)}.", accepted=list(accepted))
    return await parsed_object(body, ("body",), max_bytes or settings.max_metadata_bytes, depth=0)


async def parsed_object(text: str | bytes, loc: Loc, max_bytes: int, *, depth: int = 1) -> dict[str, Any]:
    """`parse_json_object`, in a thread where it takes longer than the event loop may stall."""
    parse = partial(parse_json_object, text, loc, max_bytes=max_bytes, depth=depth)
    return parse() if len(text) < _INLINE_PARSE_BYTES else await asyncio.to_thread(parse)


def content_length(request: Request) -> int | None:
    announced = request.headers.get("content-length")
    if announced is None:
        return None
    announced = announced.strip()
    if not (announced.isascii() and announced.isdigit()):
        raise BadRequest("Content-Length: a plain decimal number is expected.")
    return int(announced)
