"""GETs by `http.client` in threads, for httpx.

Its own way hands over 64 KiB at a time through several copies: twice the CPU of each byte, and of each small file
(benchmarks/client.py).
"""

import asyncio
import http.client
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import httpx

_CHUNK_BYTES = 512 * 1024
_IDLE_SECONDS = 2
_THREADS = 64

T = TypeVar("T")


class Downloads(httpx.AsyncBaseTransport):
    """Speaks HTTP/1.1, and sends no bodies."""

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._trusted = trusted
        # Of its own: threads that wait for a slow network must not keep those that write and hash waiting.
        self._threads = ThreadPoolExecutor(_THREADS, "model-registry-download")
        self._idle: list[_Line] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        line = self._line(request)
        try:
            response = await self.blocking(line, lambda: line.ask(request))
        except BaseException:
            line.connection.close()
            raise
        stream = _Body(self, line, response)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()]
        return httpx.Response(
            response.status, headers=headers, stream=stream, extensions={"reason_phrase": response.reason.encode()}
        )

    async def aclose(self) -> None:
        for line in self._idle:
            line.connection.close()
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def blocking(self, line: "_Line", work: Callable[[], T]) -> T:
        """What waits for the network, in a thread. Whoever is cancelled cuts the connection, which ends the wait."""
        task = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            line.cut()
            with suppress(httpx.TransportError):
                await task
            raise

    def keep(self, line: "_Line") -> None:
        """For the next request to the same server."""
        line.idle_since = time.monotonic()
        self._idle.append(line)

    def _line(self, request: httpx.Request) -> "_Line":
        timeouts = request.extensions["timeout"]
        origin = request.url.scheme, request.url.host, request.url.port
        while self._idle:
            line = self._idle.pop()
            if line.origin == origin and time.monotonic() - line.idle_since < _IDLE_SECONDS:
                return line
            line.connection.close()
        if request.url.scheme == "https":
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                request.url.host, request.url.port, timeout=timeouts["connect"], context=self._trusted
            )
        else:
            connection = http.client.HTTPConnection(request.url.host, request.url.port, timeout=timeouts["connect"])
        return _Line(origin, connection, timeouts["read"])


@dataclass
class _Line:
    """A connection, to one server, of one request at a time."""

    origin: tuple[str, str, int | None]
    connection: http.client.HTTPConnection
    read_timeout_seconds: float
    idle_since: float = 0

    def ask(self, request: httpx.Request) -> http.client.HTTPResponse:
        if self.connection.sock is None:
            self._connect()
        with _translated():
            target = request.url.raw_path.decode("ascii")
            self.connection.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.raw:
                self.connection.putheader(name, value)
            self.connection.endheaders()
            return self.connection.getresponse()

    def _connect(self) -> None:
        try:
            self.connection.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self.connection.sock.settimeout(self.read_timeout_seconds)

    def cut(self) -> None:
        if self.connection.sock is not None:
            with suppress(OSError):
                self.connection.sock.shutdown(socket.SHUT_RDWR)


class _Body(httpx.AsyncByteStream):
    def __init__(self, transport: Downloads, line: _Line, response: http.client.HTTPResponse) -> None:
        self._transport = transport
        self._line = line
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._transport.blocking(self._line, self._read):
            yield data
        if self._response.length:
            raise httpx.RemoteProtocolError(f"the answer ends {self._response.length} bytes before its end")

    async def aclose(self) -> None:
        is_reusable = self._response.length == 0 and not self._response.will_close
        self._response.close()
        if is_reusable:
            self._transport.keep(self._line)
        else:
            self._line.connection.close()

    def _read(self) -> bytes:
        """What has arrived by now, or what arrives next."""
        with _translated():
            return self._response.read1(_CHUNK_BYTES)


@contextmanager
def _translated() -> Iterator[None]:
    """What `http.client` raises, as httpx says it."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error
    except http.client.HTTPException as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error
