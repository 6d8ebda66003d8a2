"""Responses with a file: conditional, a range, streamed, or a redirect to storage."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from urllib.parse import quote

import structlog
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model_registry.services.downloads import Download
from model_registry.web.context import RequestContext
from model_registry.web.requests.conditional import Conditions, RequestedRange, http_date

log = structlog.get_logger(__name__)

# A file is data, whatever its name is. A browser must not run, frame, sniff or share it with another site.
_INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# A signed URL is a credential until it expires. It must not get into caches or logs of other sites.
SECRET = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
OCTET_STREAM = "application/octet-stream"
TAR = "application/x-tar"


async def file_response(
    context: RequestContext,
    download: Download,
    wanted: RequestedRange,
    conditions: Conditions,
    *,
    redirect: bool | None = None,
) -> Response:
    """Return the response to a GET of a file or an archive. `redirect` overrides the setting of the service."""
    settings = context.settings
    if conditions.not_modified(download.etag, download.last_modified):
        return _not_modified(download)
    if redirect if redirect is not None else settings.download_mode == "redirect":
        url = await context.downloads.presign(
            download,
            disposition=content_disposition(download.filename),
            expires_in_seconds=settings.presign_expiry_seconds,
        )
        if url is not None:
            return Response(status_code=307, headers=_validators(download) | SECRET | {"Location": url})
    part = wanted.within(download.etag, download.size_bytes)
    start, stop = (part.start, part.stop) if part else (0, download.size_bytes)
    headers = _content_headers(download, stop - start)
    if part:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{download.size_bytes}"
    return ByteStream(
        context.downloads.read(download, start, stop),
        status_code=206 if part else 200,
        headers=headers,
        idle_timeout_seconds=settings.body_idle_timeout_seconds,
    )


def file_headers(download: Download, conditions: Conditions) -> Response:
    """Return the response to a HEAD. It is never a range (RFC 9110, section 14.2) and never a redirect."""
    if conditions.not_modified(download.etag, download.last_modified):
        return _not_modified(download)
    return Response(headers=_content_headers(download, download.size_bytes))


def _not_modified(download: Download) -> Response:
    return Response(status_code=304, headers=_validators(download) | _INERT)


def _validators(download: Download) -> dict[str, str]:
    headers = {
        "ETag": f'"{download.etag}"',
        "Cache-Control": "no-cache",
        "X-Model-Version": download.version.version,
    }
    if download.last_modified is not None:
        headers["Last-Modified"] = http_date(download.last_modified)
    return headers


def _content_headers(download: Download, size_bytes: int) -> dict[str, str]:
    headers = (
        _validators(download)
        | _INERT
        | {
            "Accept-Ranges": "bytes",
            "Content-Disposition": content_disposition(download.filename),
            "Content-Type": TAR if download.is_archive else OCTET_STREAM,
            "Content-Length": str(size_bytes),
        }
    )
    if download.sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(download.sha256.raw).decode()}:"
    return headers


def content_disposition(filename: str) -> str:
    """Return a Content-Disposition (RFC 6266), with `filename*` if the plain form cannot express the name."""
    plain = "".join(char if 32 <= ord(char) < 127 and char not in '"\\%' else "_" for char in filename)
    header = f'attachment; filename="{plain}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"


class ByteStream(Response):
    """Streams chunks to the client, and stops when the client disconnects or stops reading.

    An error in the middle of the body cuts the connection before Content-Length is reached. The end is never clean.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[bytes, None],
        *,
        status_code: int,
        headers: dict[str, str],
        idle_timeout_seconds: float,
    ) -> None:
        super().__init__(status_code=status_code, headers=headers)
        self._chunks = chunks
        self._idle_timeout_seconds = idle_timeout_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.create_task(self._send(send))
        watching = asyncio.create_task(_gone(receive))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                log.info("download.abandoned", path=scope["path"])
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.wait({sending, watching})
            await self._chunks.aclose()
        if not sending.cancelled():
            sending.result()

    async def _send(self, send: Send) -> None:
        # Read the first bytes before the status is sent, so that a missing object is a problem and not a broken body.
        first = await anext(self._chunks, b"")
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in self._chunks:
            # A client that does not read still holds a connection to the object store.
            async with asyncio.timeout(self._idle_timeout_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
