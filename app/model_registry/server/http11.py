"""HTTP/1.1 as uvicorn speaks it, with bounds on what comes before a request is known, and deaf to Upgrade.

uvicorn takes headers of any size and waits for them for ever; both let a stranger fill the memory and the table of
open files.
"""

import asyncio
import socket
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES = 64 * 1024
HEADER_TIMEOUT_SECONDS = 10.0
SILENCE_SECONDS = 60.0

_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
_PROBLEM = (
    b'{"type":"urn:model-registry:problem:headers-too-large","title":"Headers too large","status":431,'
    b'"detail":"The request line and the headers have at most 65536 bytes."}'
)


class Refused(Exception):
    """Ends the parsing of a message; the parser hands it on as one of its own errors."""


class DeafParser:
    """httptools' parser, but for Upgrade: a server may ignore it (RFC 9110, section 7.8), and this one does.

    The parser by itself drops the body of such a request, and takes it for the next request when it comes later: so
    a client would write requests into what a proxy in front of us knows as a body. Java's client asks for an upgrade
    with every first request, whatever its body.
    """

    def __init__(self, protocol: "BoundedHttp") -> None:
        self._protocol = protocol
        self._parser = self._fresh()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def feed_data(self, data: bytes) -> None:
        rest = memoryview(data)
        while True:
            try:
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
                head = self._protocol.head_without_upgrade()
                self._parser = self._fresh()
                self._parser.feed_data(head)

    def _fresh(self) -> httptools.HttpRequestParser:
        parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn has it, for requests that follow one that asks to close.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser


class BoundedHttp(HttpToolsProtocol):
    """Closes connections whose headers are too large or do not come in time, or whose bodies are mostly framing."""

    _silent_bytes = 0
    """Received since the last that was of use: headers that have not ended, sizes of chunks, trailers."""
    _is_in_headers = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = DeafParser(self)  # type: ignore[assignment]
        self._give_up_on_the_silent(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._silent_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._silent_bytes > MAX_HEADER_BYTES:
            if self._is_in_headers:
                self._refuse_headers()
            else:
                # An answer may have begun.
                self.transport.close()
        elif self._is_idle():
            # An empty line before a request begins none, and has ended the wait for the next one.
            self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers come here too; nobody reads them.
        if self._is_in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # However few pieces they came in.
        self._silent_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._silent_bytes > MAX_HEADER_BYTES or self.parser.get_method() == b"CONNECT":
            raise Refused
        if self.parser.should_upgrade():
            return  # they come once more
        self._silent_bytes = 0
        self._is_in_headers = False
        self._forget_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._silent_bytes = 0
            super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """The request line and the headers that have just arrived, without those that ask for another protocol."""
        line = b" ".join((self.parser.get_method(), self.url, b"HTTP/" + self.parser.get_http_version().encode()))
        kept = [(name, value) for name, value in self.headers if name not in {b"upgrade", b"http2-settings"}]
        fields = [
            b"connection: " + _without_upgrade(value) if name == b"connection" else name + b": " + value
            for name, value in kept
        ]
        return b"\r\n".join((line, *fields, b"", b""))

    def send_400_response(self, msg: str) -> None:
        if self._is_in_headers and self._silent_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _give_up_on_the_silent(self, transport: asyncio.Transport) -> None:
        """To close a connection waits until the client has taken what was written, and one that takes nothing keeps it
        open for ever. So the kernel cuts it when nothing was taken for so long (RFC 5482; Linux alone has it)."""
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(SILENCE_SECONDS * 1000))

    def _is_idle(self) -> bool:
        waits = self._deadline is not None or self.timeout_keep_alive_task is not None
        return not waits and self.cycle is not None and self.cycle.response_complete

    def _refuse_headers(self) -> None:
        self.transport.write(_TOO_LARGE % (len(_PROBLEM), _PROBLEM))
        self.transport.close()

    def _expect_headers(self) -> None:
        self._is_in_headers = True
        self._silent_bytes = 0
        self._forget_deadline()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _without_upgrade(connection: bytes) -> bytes:
    options = [option.strip() for option in connection.split(b",")]
    return b", ".join(option for option in options if option.lower() not in {b"upgrade", b"http2-settings"})
