"""HTTP/1.1 of uvicorn, with limits on headers and framing, and without Upgrade.

uvicorn accepts headers of any size and waits for them without a limit. Both let a client exhaust the memory and the
open files of the process.
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
    b'"detail":"The request line and the headers are limited to 65536 bytes."}'
)


class Refused(Exception):
    """Stops the parsing of a message. The parser raises it as one of its own errors."""


class UpgradeIgnoringParser:
    """httptools' parser without Upgrade, which a server may ignore (RFC 9110, section 7.8).

    The parser alone drops the body of a request that asks for an upgrade, or parses that body as the next request if it
    arrives later. A client could then smuggle requests past a proxy in front of the service, which sees a body. Java's
    HTTP client asks for an upgrade with every first request, with or without a body.
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
        # uvicorn sets this too, for requests that follow one that asks to close.
        parser.set_dangerous_leniencies(lenient_data_after_close=True)
        return parser


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection if its headers are too large or too late, or if its body is mostly framing."""

    _overhead_bytes = 0
    """Bytes since the last useful ones: unfinished headers, chunk sizes, trailers."""
    _is_in_headers = True
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.parser = UpgradeIgnoringParser(self)  # type: ignore[assignment]
        self._limit_unacknowledged_time(transport)
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        self._overhead_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._overhead_bytes > MAX_HEADER_BYTES:
            if self._is_in_headers:
                self._refuse_headers()
            else:
                # A response may have begun.
                self.transport.close()
        elif self._is_idle():
            # An empty line does not begin a request, but it has ended the keep-alive timeout.
            self._expect_headers()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_headers()

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers arrive here too. The application does not read them.
        if self._is_in_headers:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        # Counted again, because all headers may have arrived in one piece.
        self._overhead_bytes = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if self._overhead_bytes > MAX_HEADER_BYTES or self.parser.get_method() == b"CONNECT":
            raise Refused
        if self.parser.should_upgrade():
            return  # the parser reads them again, without the upgrade
        self._overhead_bytes = 0
        self._is_in_headers = False
        self._forget_deadline()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            self._overhead_bytes = 0
            super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """Return the request line and the headers that have just arrived, without those that ask for an upgrade."""
        line = b" ".join((self.parser.get_method(), self.url, b"HTTP/" + self.parser.get_http_version().encode()))
        kept = [(name, value) for name, value in self.headers if name not in {b"upgrade", b"http2-settings"}]
        fields = [
            b"connection: " + _without_upgrade(value) if name == b"connection" else name + b": " + value
            for name, value in kept
        ]
        return b"\r\n".join((line, *fields, b"", b""))

    def send_400_response(self, msg: str) -> None:
        if self._is_in_headers and self._overhead_bytes > MAX_HEADER_BYTES:
            self._refuse_headers()
        else:
            super().send_400_response(msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def _limit_unacknowledged_time(self, transport: asyncio.Transport) -> None:
        """Let the kernel cut the connection if the client acknowledges nothing for `SILENCE_SECONDS`.

        A close waits until the client has received everything that was written. Without this limit, a client that
        receives nothing keeps the connection open forever. (RFC 5482; only on Linux.)
        """
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
        self._overhead_bytes = 0
        self._forget_deadline()
        self._deadline = self.loop.call_later(HEADER_TIMEOUT_SECONDS, self.transport.close)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _without_upgrade(connection: bytes) -> bytes:
    options = [option.strip() for option in connection.split(b",")]
    return b", ".join(option for option in options if option.lower() not in {b"upgrade", b"http2-settings"})
