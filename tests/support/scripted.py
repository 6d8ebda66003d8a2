"""A server that sends scripted responses, and the retry policies of clients that talk to it."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from model_registry_client import RetryPolicy

QUICK = RetryPolicy(
    retry_seconds=20,
    first_contact_seconds=20,
    base_delay_seconds=0.01,
    max_delay_seconds=0.02,
    connect_timeout_seconds=5,
    timeout_seconds=15,
)
"""Retries soon, and for longer than any test takes."""
IMPATIENT = RetryPolicy(
    retry_seconds=0.3,
    first_contact_seconds=0.3,
    base_delay_seconds=0.01,
    max_delay_seconds=0.02,
    connect_timeout_seconds=0.5,
    timeout_seconds=0.5,
)
"""Fails soon, for tests of a server that does not recover."""


class Script:
    """Sends the responses in order, repeats the last one, and records the requests. Without responses it is silent."""

    def __init__(self, *responses: bytes) -> None:
        self.responses = list(responses)
        self.requests: list[bytes] = []
        self.pause_seconds = 0.0
        self.url = ""
        self.is_over = asyncio.Event()
        self._requested = asyncio.Event()

    async def until_requested(self) -> None:
        """Wait for the first request."""
        async with asyncio.timeout(30):
            await self._requested.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
            )
            self.requests.append(head + await reader.readexactly(length))
            self._requested.set()
            if not self.responses:
                await self.is_over.wait()
                return
            await asyncio.sleep(self.pause_seconds)
            writer.write(self.responses.pop(0) if len(self.responses) > 1 else self.responses[0])
            await writer.drain()
        finally:
            writer.close()


def says(status: int, body: str = "{}", **headers: str) -> bytes:
    """Return a complete response."""
    fields = {"content-length": str(len(body)), "connection": "close"} | headers
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


@asynccontextmanager
async def scripted(*responses: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Script]:
    script = Script(*responses)
    server = await asyncio.start_server(script.serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        script.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield script
        finally:
            script.is_over.set()
