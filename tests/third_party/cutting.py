"""A network that breaks: a TCP proxy that closes a connection in the middle of the response."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.service import RunningService


class CuttingProxy:
    """Passes connections on. The first ends after `after_bytes` of a body, the others when they are done."""

    def __init__(self, after_bytes: int) -> None:
        self.url = ""
        self.requests: list[str] = []
        """The head of each request, unchanged."""
        self.answered_bytes: list[int] = []
        """The number of bytes that each connection returned, after the head of its first response."""
        self._after_bytes = after_bytes

    async def relay(
        self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter, address: tuple[str, int]
    ) -> None:
        server, to_server = await asyncio.open_connection(*address)
        number = len(self.answered_bytes)
        self.answered_bytes.append(0)
        listening = asyncio.create_task(self._requests(client, to_server))
        try:
            to_client.write(await server.readuntil(b"\r\n\r\n"))
            while chunk := await server.read(65536):
                passed = chunk if number else chunk[: self._after_bytes - self.answered_bytes[number]]
                to_client.write(passed)
                self.answered_bytes[number] += len(passed)
                await to_client.drain()
                if len(passed) < len(chunk):
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client is gone
        finally:
            listening.cancel()
            to_server.close()
            to_client.close()

    async def _requests(self, client: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while head := await client.read(65536):
            self.requests.append(head.decode())
            to_server.write(head)


@asynccontextmanager
async def cutting(service: RunningService, *, after_bytes: int) -> AsyncIterator[CuttingProxy]:
    """Run a proxy in front of the service, for clients that send small requests."""
    proxy = CuttingProxy(after_bytes)
    running: set[asyncio.Task[None]] = set()

    def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(proxy.relay(client, to_client, service.address))
        running.add(task)
        task.add_done_callback(running.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
