"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request is known.

uvicorn takes headers of any size and waits for them for ever; both let a stranger fill the memory and the table of
open files.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024
HEADER_TIMEOUT_SECONDS = 10.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
_PROBLEM = (
    b'{"type":"urn:model-registry:problem:headers-too-large","title":"Headers too large","status":431,'
    b'"detail":"The request line and the headers have at most 65536 bytes."}'
)


class BoundedHttp(HttpToolsProtocol):
    """Closes connections whose headers are too large, or do not come in time."""

    _header_bytes = 0
    _is_in_headers = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._header_bytes += len(data)
        super().data_received(data)
        # Counted in pieces as they come from the socket, so a request that begins with its body in one of them passes.
        if self._is_in_headers and self._header_bytes > MAX_HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE % (len(_PROBLEM), _PROBLEM))
            self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_bytes = 0
        self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too, without any bound; nobody reads them.
        if self._is_in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._is_in_headers = False
        self._forget_deadline()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _expect_headers(self) -> None:
        self._is_in_headers = True
        self._forget_deadline()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
