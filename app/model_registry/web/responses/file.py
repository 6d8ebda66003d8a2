"""Answers that carry a file: conditional, ranged, streamed, or a redirect to storage."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from urllib.parse import quote

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from model_registry.services.downloads import Download
from model_registry.web.context import RequestContext
from model_registry.web.requests.conditional import http_date, is_not_modified, requested_range

log = structlog.get_logger(__name__)

# A file is data, whatever its name says: never run, framed, sniffed or shared with another site's page.
_INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
}
# A signed URL is a credential for a while: not for caches, not for the next site's logs.
SECRET = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
OCTET_STREAM = "application/octet-stream"
TAR = "application/x-tar"


async def answer(
    request: Request, context: RequestContext, download: Download, *, redirect: bool | None = None
) -> Response:
    """The response to a GET or HEAD of a file or an archive; `redirect` is what the client asked for, if it did."""
    downloads, settings = context.downloads, context.settings
    may_redirect = redirect if redirect is not None else settings.download_mode == "redirect"
    disposition = content_disposition(download.filename)
    headers = {
        "ETag": f'"{download.etag}"',
        "Cache-Control": "no-cache",
        "X-Model-Version": download.version.version,
    }
    if download.last_modified is not None:
        headers["Last-Modified"] = http_date(download.last_modified)
    if is_not_modified(request.headers, download.etag, download.last_modified):
        return Response(status_code=304, headers=headers | _INERT)
    if may_redirect and request.method == "GET":
        expiry_seconds = settings.presign_expiry_seconds
        url = await downloads.presign(download, disposition=disposition, expires_in_seconds=expiry_seconds)
        if url is not None:
            return Response(status_code=307, headers=headers | SECRET | {"Location": url})
    headers |= _INERT | {
        "Accept-Ranges": "bytes",
        "Content-Disposition": disposition,
        "Content-Type": TAR if download.is_archive else OCTET_STREAM,
    }
    if download.sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(download.sha256.raw).decode()}:"
    # Range is defined for GET alone (RFC 9110, section 14.2).
    wanted = requested_range(request.headers, download.etag, download.size_bytes) if request.method == "GET" else None
    start, stop = (wanted.start, wanted.stop) if wanted else (0, download.size_bytes)
    headers["Content-Length"] = str(stop - start)
    if wanted:
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{download.size_bytes}"
    if request.method == "HEAD":
        return Response(headers=headers)
    return ByteStream(
        downloads.read(download, start, stop),
        status_code=206 if wanted else 200,
        headers=headers,
        idle_timeout_seconds=settings.body_idle_timeout_seconds,
    )


def content_disposition(filename: str) -> str:
    """RFC 6266: `filename*` wherever the plain form would not say it exactly."""
    plain = "".join(char if 32 <= ord(char) < 127 and char not in '"\\%' else "_" for char in filename)
    header = f'attachment; filename="{plain}"'
    return header if plain == filename else f"{header}; filename*=UTF-8''{quote(filename, safe='')}"


class ByteStream(Response):
    """Streams chunks to the client, and stops reading them as soon as the client is gone or takes no more.

    An error in mid-body ends the connection short of Content-Length; never a clean end.
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
        # The first bytes before the status: a file that storage cannot give is a problem answer, not a broken body.
        first = await anext(self._chunks, b"")
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": first, "more_body": True})
        async for chunk in self._chunks:
            # Who takes nothing holds a connection to the store all the same.
            async with asyncio.timeout(self._idle_timeout_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
