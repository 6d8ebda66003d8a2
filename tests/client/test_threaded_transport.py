"""The transport of downloads: it reuses connections, ends waits, and uses the proxies of the environment."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from model_registry_client import Unreachable
from model_registry_client.transport import Transport
from tests.support.processes import free_port
from tests.support.scripted import IMPATIENT, QUICK, says, scripted

CONTENT = bytes(range(256)) * 20_000  # five MB


@asynccontextmanager
async def keeping_alive() -> AsyncIterator[tuple[str, list[bytes], list[int]]]:
    """A server that sends `CONTENT` for each request on a connection: its URL, the requests, a 0 per connection."""
    requests: list[bytes] = []
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(0)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                requests.append(request)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", requests, connections


async def downloaded(transport: Transport, url: str) -> bytes:
    async with transport.raw_stream("GET", url) as response:
        return b"".join([chunk async for chunk in response.aiter_raw()])


async def test_downloads_reuse_a_connection() -> None:
    async with keeping_alive() as (url, requests, connections), Transport(url, QUICK) as transport:
        assert [await downloaded(transport, f"{url}/b/{number}?X=a%2Fb") == CONTENT for number in range(5)] == [
            True
        ] * 5

    assert (len(requests), len(connections)) == (5, 1)
    assert requests[0].startswith(b"GET /b/0?X=a%2Fb HTTP/1.1\r\n")
    assert requests[0].lower().count(b"\r\nhost:") == 1
    assert b"accept-encoding: identity" in requests[0].lower()


async def test_the_connection_of_an_interrupted_download_is_not_reused() -> None:
    async with keeping_alive() as (url, _, connections), Transport(url, QUICK) as transport:
        async with transport.raw_stream("GET", f"{url}/first") as response:
            await anext(response.aiter_raw())
        assert await downloaded(transport, f"{url}/second") == CONTENT

    assert len(connections) == 2


async def test_a_response_without_a_length_is_read_to_its_end() -> None:
    chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
    until_the_end = b"HTTP/1.1 200 OK\r\n\r\nthree"
    async with scripted(chunks, until_the_end) as script, Transport(script.url, QUICK) as transport:
        assert await downloaded(transport, script.url) == b"onetwo"
        assert await downloaded(transport, script.url) == b"three"


async def test_a_cancelled_download_does_not_wait_for_the_server() -> None:
    async with scripted() as script, Transport(script.url, QUICK) as transport:
        waiting = asyncio.create_task(downloaded(transport, script.url))
        await script.until_requested()
        waiting.cancel()

        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await waiting


async def test_a_server_that_does_not_speak_http_or_does_not_listen_is_unreachable() -> None:
    async with scripted(b"SSH-2.0-x\r\n") as script, Transport(script.url, IMPATIENT) as transport:
        for url, reason in ((script.url, "SSH-2.0-x"), (f"http://127.0.0.1:{free_port()}", "refused")):
            with pytest.raises(Unreachable, match=reason):
                await downloaded(transport, url)


async def test_silence_is_unreachable() -> None:
    async with scripted() as script, Transport(script.url, IMPATIENT) as transport:
        with pytest.raises(Unreachable, match="no data for 0"):
            await downloaded(transport, script.url)


async def test_the_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with scripted(says(200, "by proxy")) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        async with Transport("http://models.test", QUICK) as transport:
            assert await downloaded(transport, "http://storage.test/b/k") == b"by proxy"

    assert proxy.requests[0].startswith(b"GET http://storage.test/b/k HTTP/1.1\r\n")


async def test_a_response_has_what_httpx_expects() -> None:
    async with (
        scripted(says(403, "<Error/>")) as script,
        Transport(script.url, QUICK) as transport,
        transport.raw_stream("GET", f"{script.url}/b/k") as response,
    ):
        assert (response.status_code, response.reason_phrase, response.text) == (403, "Whatever", "<Error/>")
        assert isinstance(response.request, httpx.Request)
