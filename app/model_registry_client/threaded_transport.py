"""A transport of httpx for downloads, with `http.client` in threads.

The transport of httpx itself copies 64 KiB at a time several times. It takes twice the CPU for each byte and for each
small file (benchmarks/client.py).
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


class ThreadedTransport(httpx.AsyncBaseTransport):
    """Sends HTTP/1.1 requests without bodies."""

    def __init__(self, trusted: ssl.SSLContext) -> None:
        self._trusted = trusted
        # A separate pool: threads that wait for a slow network must not block threads that write and hash.
        self._threads = ThreadPoolExecutor(_THREADS, "model-registry-download")
        self._idle: list[_Connection] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = self._connection_to(request)
        try:
            response = await self.in_thread(connection, lambda: connection.send(request))
        except BaseException:
            connection.raw.close()
            raise
        stream = _Body(self, connection, response)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.getheaders()]
        return httpx.Response(
            response.status, headers=headers, stream=stream, extensions={"reason_phrase": response.reason.encode()}
        )

    async def aclose(self) -> None:
        for connection in self._idle:
            connection.raw.close()
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def in_thread(self, connection: "_Connection", work: Callable[[], T]) -> T:
        """Run `work`, which waits for the network, in a thread. A cancellation closes the connection to end it."""
        task = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            connection.cut()
            with suppress(httpx.TransportError):
                await task
            raise

    def keep(self, connection: "_Connection") -> None:
        """Keep a connection for the next request to the same server."""
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def _connection_to(self, request: httpx.Request) -> "_Connection":
        timeouts = request.extensions["timeout"]
        origin = request.url.scheme, request.url.host, request.url.port
        while self._idle:
            connection = self._idle.pop()
            if connection.origin == origin and time.monotonic() - connection.idle_since < _IDLE_SECONDS:
                return connection
            connection.raw.close()
        if request.url.scheme == "https":
            raw: http.client.HTTPConnection = http.client.HTTPSConnection(
                request.url.host, request.url.port, timeout=timeouts["connect"], context=self._trusted
            )
        else:
            raw = http.client.HTTPConnection(request.url.host, request.url.port, timeout=timeouts["connect"])
        return _Connection(origin, raw, timeouts["read"])


@dataclass
class _Connection:
    """A connection to one server, for one request at a time."""

    origin: tuple[str, str, int | None]
    raw: http.client.HTTPConnection
    read_timeout_seconds: float
    idle_since: float = 0

    def send(self, request: httpx.Request) -> http.client.HTTPResponse:
        if self.raw.sock is None:
            self._connect()
        with _translated():
            target = request.url.raw_path.decode("ascii")
            self.raw.putrequest(request.method, target, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers.raw:
                self.raw.putheader(name, value)
            self.raw.endheaders()
            return self.raw.getresponse()

    def _connect(self) -> None:
        try:
            self.raw.connect()
        except TimeoutError as error:
            raise httpx.ConnectTimeout(str(error)) from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self.raw.sock.settimeout(self.read_timeout_seconds)

    def cut(self) -> None:
        if self.raw.sock is not None:
            with suppress(OSError):
                self.raw.sock.shutdown(socket.SHUT_RDWR)


class _Body(httpx.AsyncByteStream):
    def __init__(
        self, transport: ThreadedTransport, connection: _Connection, response: http.client.HTTPResponse
    ) -> None:
        self._transport = transport
        self._connection = connection
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._transport.in_thread(self._connection, self._read):
            yield data
        if self._response.length:
            raise httpx.RemoteProtocolError(f"the response ends {self._response.length} bytes too early")

    async def aclose(self) -> None:
        is_reusable = self._response.length == 0 and not self._response.will_close
        self._response.close()
        if is_reusable:
            self._transport.keep(self._connection)
        else:
            self._connection.raw.close()

    def _read(self) -> bytes:
        """Return the bytes that have arrived, or wait for the next ones."""
        with _translated():
            return self._response.read1(_CHUNK_BYTES)


@contextmanager
def _translated() -> Iterator[None]:
    """Turn exceptions of `http.client` into those of httpx."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ReadTimeout(str(error)) from error
    except http.client.HTTPException as error:
        raise httpx.RemoteProtocolError(str(error) or type(error).__name__) from error
    except OSError as error:
        raise httpx.ReadError(str(error)) from error
