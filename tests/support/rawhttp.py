"""HTTP written by hand, over a plain socket: requests that no client library would send."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

_LARGEST_ANSWER = 4 * 1024**2
Ending = Literal["listen", "half-close", "close"]


@dataclass(frozen=True)
class RawAnswer:
    """A response. `is_whole` is false if the connection ended inside the body."""

    status_code: int
    headers: httpx.Headers
    content: bytes
    is_whole: bool = True

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return httpx.Response(self.status_code, content=self.content).json()


def message(
    method: str,
    target: str | bytes,
    headers: Iterable[str | bytes] = ("Host: registry",),
    body: bytes = b"",
    version: str = "HTTP/1.1",
) -> bytes:
    """Return a request exactly as given: nothing is escaped, added or corrected."""
    lines = [b" ".join((method.encode(), _bytes(target), version.encode())), *map(_bytes, headers), b"", body]
    return b"\r\n".join(lines)


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode("latin-1")


async def send(
    address: tuple[str, int], *pieces: bytes, ending: Ending = "listen", timeout_seconds: float = 8
) -> RawAnswer | None:
    """Send the pieces one by one, then read one response, unless `ending` is to hang up. `None` is no response.

    Raises `TimeoutError` if the server neither responds nor closes.
    """
    async with asyncio.timeout(timeout_seconds):
        reader, writer = await asyncio.open_connection(*address, limit=_LARGEST_ANSWER)
        try:
            for index, piece in enumerate(pieces):
                if index:
                    await asyncio.sleep(0.05)  # so that the server sees each piece separately
                writer.write(piece)
                await writer.drain()
            if ending == "close":
                return None
            if ending == "half-close":
                writer.write_eof()
            return await _answer(reader, is_head=pieces[0].startswith(b"HEAD "))
        except ConnectionError:
            return None
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader, *, is_head: bool) -> RawAnswer | None:
    status = 100
    while status == 100:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        status = int(first.split(" ", 2)[1])
    headers = httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])
    if is_head or status in {204, 304}:
        return RawAnswer(status, headers, b"")
    try:
        if "content-length" in headers:
            return RawAnswer(status, headers, await reader.readexactly(int(headers["content-length"])))
        if headers.get("transfer-encoding") == "chunked":
            return RawAnswer(status, headers, await _chunks(reader))
    except asyncio.IncompleteReadError as error:
        return RawAnswer(status, headers, error.partial, is_whole=False)
    return RawAnswer(status, headers, await reader.read(_LARGEST_ANSWER))


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    content = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        content += (await reader.readexactly(size + 2))[:-2]
    await reader.readuntil(b"\r\n")
    return content
