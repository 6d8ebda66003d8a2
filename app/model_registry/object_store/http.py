"""Requests for objects and parts that this service signs itself, with a third of the CPU of the S3 library."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.request import getproxies

import aiohttp
from yarl import URL

_CODE = re.compile(rb"<Code>([^<]*)</Code>")
PAUSES_SECONDS = (0.1, 0.2, 0.4)
_MAX_ERROR_BYTES = 64 * 1024
_IDLE_SECONDS = 10
_Body = Callable[[], AsyncIterable[memoryview]]


class Refused(Exception):
    """The store responded with an error; `code` is the store's (Amazon S3 API Reference, "Error responses")."""

    def __init__(self, status: int, code: str) -> None:
        self.status = status
        self.code = code
        super().__init__(f"the object store responded {status} {code}".strip())


class SignedRequests:
    """A pool of connections; use as an async context manager."""

    def __init__(
        self, *, connections: int, connect_timeout_seconds: float, read_timeout_seconds: float, ca_bundle: str | None
    ) -> None:
        self._connections = connections
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout_seconds, sock_read=read_timeout_seconds
        )
        self._trusted = ssl.create_default_context(cafile=ca_bundle) if ca_bundle else True
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> "SignedRequests":
        connector = aiohttp.TCPConnector(limit=self._connections, ssl=self._trusted, keepalive_timeout=_IDLE_SECONDS)
        # When aiohttp looks for a proxy, it reads the user's .netrc for each request: a tenth of a small request's CPU.
        has_proxy = not {"http", "https"}.isdisjoint(getproxies())
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=self._timeout, auto_decompress=False, trust_env=has_proxy
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._session.close()

    @asynccontextmanager
    async def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: _Body | None = None,
        *,
        pauses_seconds: Sequence[float] = PAUSES_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request and yield the successful response.

        Connection errors and 5xx responses are retried with the body from its start. Raises `Refused`,
        `aiohttp.ClientError` or `TimeoutError`.
        """
        response = await self._response(method, url, headers, body, pauses_seconds)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()  # closes the connection, because the body was not read to its end

    async def _response(
        self, method: str, url: str, headers: Mapping[str, str], body: _Body | None, pauses_seconds: Sequence[float]
    ) -> aiohttp.ClientResponse:
        for pause_seconds in (*pauses_seconds, None):
            try:
                response = await self._session.request(
                    method, URL(url, encoded=True), headers=headers, data=body and body(), allow_redirects=False
                )
                if response.status < 300:
                    return response
                refused = await _refused(response)
                if refused.status < 500 or pause_seconds is None:
                    raise refused
            except aiohttp.ConnectionTimeoutError:
                if pause_seconds is None:
                    # Its own message contains the signed URL, and this message is logged.
                    raise aiohttp.ConnectionTimeoutError("no connection in time") from None
            except aiohttp.ClientConnectionError:
                if pause_seconds is None:
                    raise
            await asyncio.sleep(pause_seconds)
        raise AssertionError("unreachable")


async def _refused(response: aiohttp.ClientResponse) -> Refused:
    async with response:
        body = await response.content.read(_MAX_ERROR_BYTES)
    match = _CODE.search(body)
    return Refused(response.status, match[1].decode(errors="replace") if match else str(response.status))
