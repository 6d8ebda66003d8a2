"""A store that misbehaves: an HTTP proxy in the test's own process, in front of the real S3 server.

The Host header passes unchanged, because it is part of the signature. So the service gets the proxy's address.
"""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol
from urllib.parse import parse_qs, urlsplit

import httpx

Operation = Literal[
    "get", "head", "put", "put_part", "create", "complete", "abort", "delete", "list_parts", "list_uploads", "bucket"
]
_LARGEST_HEAD = 256 * 1024


@dataclass
class Answer:
    """A complete response of the real server; `body` is empty for HEAD."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def is_success(self) -> bool:
        return self.status < 300


@dataclass
class Exchange:
    """One request, and the connections to the client and to the real server."""

    operation: Operation
    method: str
    key: str
    request: bytes
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter]
    client: asyncio.StreamWriter
    is_over: asyncio.Event

    async def asked(self) -> Answer:
        """Forward the request, and return the response of the real server."""
        reader, writer = self.server
        writer.write(self.request)
        await writer.drain()
        status, headers = _parsed((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
        if self.method == "HEAD" or status in {204, 304}:
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = await _dechunked(reader)
            headers["content-length"] = str(len(body))
        else:
            body = await reader.readexactly(int(headers.get("content-length", "0")))
        headers.pop("transfer-encoding", None)
        return Answer(status, headers, body)

    async def send(self, answer: Answer, *, without: tuple[str, ...] = ()) -> None:
        lines = [f"{name}: {value}" for name, value in answer.headers.items() if name not in without]
        head = "\r\n".join([f"HTTP/1.1 {answer.status} -", *lines, "", ""])
        self.client.write(head.encode("latin-1") + answer.body)
        await self.client.drain()

    def hang_up(self, *, by_reset: bool = False) -> None:
        if by_reset:
            self.client.transport.abort()
        else:
            self.client.close()


class Fault(Protocol):
    """What happens to one exchange."""

    async def __call__(self, exchange: Exchange) -> None: ...


@dataclass
class Says:
    """Gives another response than the store's. If the request `arrives`, the store gets it too."""

    status: int
    code: str = ""
    body: bytes = b""
    content_type: str = "application/xml"
    arrives: bool = False

    async def __call__(self, exchange: Exchange) -> None:
        if self.arrives:
            await exchange.asked()
        body = self.body or f"<Error><Code>{self.code}</Code><Message>-</Message></Error>".encode()
        headers = {"content-type": self.content_type, "content-length": str(len(body))}
        await exchange.send(Answer(self.status, headers, b"" if exchange.method == "HEAD" else body))


@dataclass
class Silent:
    """Gives no response while the proxy lives."""

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.is_over.wait()


@dataclass
class HangsUp:
    """Closes the connection instead of responding; if the request `arrives`, its work is done first."""

    arrives: bool

    async def __call__(self, exchange: Exchange) -> None:
        if self.arrives:
            await exchange.asked()
        exchange.hang_up()


@dataclass
class Shorter:
    """Sends only the first `size_bytes` of the response, and ends it in one of these ways.

    `close` and `reset`: before Content-Length is reached; `chunk`: in a chunk without its last bytes; `consistent`:
    with a Content-Length that agrees; `unframed`: without a Content-Length, so that the end of the connection is the
    end of the body.
    """

    size_bytes: int
    end: Literal["close", "reset", "chunk", "consistent", "unframed"]

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.asked()
        whole, answer.body = len(answer.body), answer.body[: self.size_bytes]
        if self.end == "consistent":
            answer.headers["content-length"] = str(len(answer.body))
            await exchange.send(answer)
            return
        if self.end == "chunk":
            answer.headers["transfer-encoding"] = "chunked"
            answer.body = f"{whole:x}\r\n".encode() + answer.body
        await exchange.send(answer, without=() if self.end in {"close", "reset"} else ("content-length",))
        if self.end == "reset":
            await asyncio.sleep(0.1)  # a reset discards what has not been read yet
        exchange.hang_up(by_reset=self.end == "reset")


@dataclass
class Flipped:
    """Changes one byte of the body."""

    position: int

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.asked()
        body = bytearray(answer.body)
        body[self.position] ^= 1
        answer.body = bytes(body)
        await exchange.send(answer)


@dataclass
class Tagged:
    """Gives the response this ETag, or none."""

    etag: str | None

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.asked()
        answer.headers |= {"etag": self.etag} if self.etag else {}
        await exchange.send(answer, without=() if self.etag else ("etag",))


@dataclass
class Stalled:
    """Sends the first `size_bytes` of the body, and no more while the proxy lives."""

    size_bytes: int

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.asked()
        answer.body = answer.body[: self.size_bytes]
        await exchange.send(answer)
        await exchange.is_over.wait()


@dataclass
class FakeS3:
    """Passes everything on until a test adds faults; `seen` counts the requests of each kind."""

    url: str
    seen: Counter[Operation] = field(default_factory=Counter)
    hides_objects_for_seconds: float = 0
    _faults: dict[Operation, list[Fault]] = field(default_factory=dict)
    _written_at: dict[str, float] = field(default_factory=dict)

    @classmethod
    @asynccontextmanager
    async def before(cls, url: str) -> AsyncIterator["FakeS3"]:
        """Run a proxy between the service and the server at `url`."""
        upstream = httpx.URL(url)
        connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        is_over = asyncio.Event()
        fake = cls("")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            connections[task] = writer
            server = await asyncio.open_connection(upstream.host, upstream.port or 80, limit=_LARGEST_HEAD)
            try:
                while not writer.is_closing():
                    await fake._answer(await _exchange(reader, writer, server, is_over))
            except (asyncio.IncompleteReadError, ConnectionError):
                return
            finally:
                writer.close()
                server[1].close()
                del connections[task]

        listener = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_LARGEST_HEAD)
        fake.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
        try:
            yield fake
        finally:
            listener.close()
            is_over.set()
            for writer in connections.values():
                writer.transport.abort()
            await asyncio.gather(*connections, return_exceptions=True)

    def misbehave(self, operation: Operation, fault: Fault, *, times: int = 1000) -> None:
        """Apply `fault` to the next `times` requests of this kind."""
        self._faults[operation] = [fault] * times

    def behave(self) -> None:
        self._faults.clear()
        self.hides_objects_for_seconds = 0

    async def _answer(self, exchange: Exchange) -> None:
        self.seen[exchange.operation] += 1
        if exchange.operation in {"get", "head"} and self._is_hidden(exchange.key):
            await Says(404, "NoSuchKey")(exchange)
            return
        if faults := self._faults.get(exchange.operation):
            await faults.pop()(exchange)
            return
        answer = await exchange.asked()
        if exchange.operation in {"put", "complete"} and answer.is_success:
            self._written_at.setdefault(exchange.key, time.monotonic())
        await exchange.send(answer)

    def _is_hidden(self, key: str) -> bool:
        return time.monotonic() - self._written_at.get(key, float("-inf")) < self.hides_objects_for_seconds


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    is_over: asyncio.Event,
) -> Exchange:
    head = await reader.readuntil(b"\r\n\r\n")
    first, _, rest = head.decode("latin-1").partition("\r\n")
    method, target, _ = first.split(" ")
    _, headers = _parsed("- 0\r\n" + rest)
    assert "transfer-encoding" not in headers
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    query = parse_qs(url.query, keep_blank_values=True)
    key = url.path.strip("/").partition("/")[2]
    return Exchange(_operation(method, key, query), method, key, head + body, server, writer, is_over)


def _operation(method: str, key: str, query: dict[str, list[str]]) -> Operation:
    match method:
        case "POST" if "delete" in query:
            return "delete"
        case "GET" if "uploads" in query:
            return "list_uploads"
        case _ if not key:
            return "bucket"
        case "POST":
            return "create" if "uploads" in query else "complete"
        case "PUT":
            return "put_part" if "partNumber" in query else "put"
        case "DELETE":
            return "abort" if "uploadId" in query else "delete"
        case "HEAD":
            return "head"
        case _:
            return "list_parts" if "uploadId" in query else "get"


def _parsed(head: str) -> tuple[int, dict[str, str]]:
    first, *lines = head.split("\r\n")
    pairs = (line.partition(":") for line in lines if line)
    return int(first.split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}


async def _dechunked(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return body
