"""Reads request bodies as they arrive. A body is never in memory beyond a limit, and never on disk."""

import asyncio
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from starlette.requests import Request

from model_registry.errors import BodyTooLarge, InvalidField, RegistryError, Stalled, TooSlow
from model_registry.runtime.offload import ITEM_BYTES, offload
from model_registry.settings import Settings
from model_registry.utils import Loc, parse_json_object
from model_registry.web.admission import memory_of
from model_registry.web.http_errors import BadRequest, UnsupportedMediaType

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
ENCODED_BODY = "Content-Encoding: encoded bodies are not supported; send the body without an encoding."


async def body_chunks(request: Request, settings: Settings) -> AsyncIterator[bytes]:
    """Yield the chunks of the body.

    Raises `Stalled` if no chunk arrives for `body_idle_timeout_seconds`, `TooSlow` if fewer than
    `min_upload_bytes_per_second` arrive during that time of waiting for the client, and `ClientDisconnect` if the body
    ends early.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaType(ENCODED_BODY)
    idle_timeout_seconds, bytes_per_second = settings.body_idle_timeout_seconds, settings.min_upload_bytes_per_second
    stream = request.stream()
    waited_seconds, received_bytes = 0.0, 0
    while True:
        asked_at = time.monotonic()
        try:
            async with asyncio.timeout(idle_timeout_seconds):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise Stalled(idle_timeout_seconds) from None
        if chunk is None:
            return
        waited_seconds += time.monotonic() - asked_at
        received_bytes += len(chunk)
        if waited_seconds >= idle_timeout_seconds:
            if received_bytes < bytes_per_second * waited_seconds:
                raise TooSlow(bytes_per_second, waited_seconds)
            waited_seconds, received_bytes = 0.0, 0
        if chunk:
            yield chunk


async def read_bounded(request: Request, settings: Settings, *, max_bytes: int, is_metadata: bool = True) -> bytes:
    """Return the whole body. Beyond `max_bytes`, raises `InvalidField` for metadata and `BodyTooLarge` otherwise."""

    def refusal(seen: str) -> RegistryError:
        if is_metadata:
            return InvalidField("body", f"a JSON body has at most {max_bytes} bytes", seen)
        return BodyTooLarge(max_bytes)

    # Other bodies are read up to the limit, because a client reads no response before it has sent most of its body.
    if is_metadata and (announced := content_length(request)) is not None and announced > max_bytes:
        raise refusal(f"{announced} bytes")
    memory = memory_of(request.scope)
    body = bytearray()
    async for chunk in body_chunks(request, settings):
        memory.take(len(chunk))
        body += chunk
        if len(body) > max_bytes:
            raise refusal(f"{len(body)} bytes or more")
    return bytes(body)


def media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def json_body(
    request: Request, settings: Settings, *, accepted: tuple[str, ...] = (JSON,), max_bytes: int | None = None
) -> dict[str, Any]:
    """Return the JSON object in the body. An empty body is an empty object. Metadata documents in it are at depth 1.

    Give `max_bytes` if the body holds more than metadata.
    """
    body = await read_bounded(
        request, settings, max_bytes=max_bytes or settings.max_metadata_bytes, is_metadata=max_bytes is None
    )
    if not body:
        return {}
    if media_type(request) not in accepted:
        raise UnsupportedMediaType.instead_of(accepted)
    return await parsed_object(body, ("body",), max_bytes or settings.max_metadata_bytes, depth=0)


async def parsed_object(text: str | bytes, loc: Loc, max_bytes: int, *, depth: int = 1) -> dict[str, Any]:
    """Call `parse_json_object`, in a thread if it would block the event loop for too long."""
    parse = partial(parse_json_object, text, loc, max_bytes=max_bytes, depth=depth)
    return await offload(parse, len(text) // ITEM_BYTES)


def content_length(request: Request) -> int | None:
    announced = request.headers.get("content-length")
    if announced is None:
        return None
    announced = announced.strip()
    if not (announced.isascii() and announced.isdigit()):
        raise BadRequest("Content-Length: a decimal number is expected.")
    return int(announced)
