"""Objects and parts by requests that we sign ourselves: a third of the CPU that the S3 library takes for one."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from urllib.request import getproxies

import aiohttp
from yarl import URL

_CODE = re.compile(rb"<Code>([^<]*)</Code>")
_PAUSES_SECONDS = (0.1, 0.2, 0.4)
_LARGEST_ERROR_BYTES = 64 * 1024
_IDLE_SECONDS = 10
_Body = Callable[[], AsyncIterable[memoryview]]


class Refused(Exception):
    """The store answered with a failure; `code` is its own word for it (Amazon S3 API Reference, "Error responses")."""

    def __init__(self, status: int, code: str) -> None:
        self.status = status
        self.code = code
        super().__init__(f"the object store answered {status} {code}".strip())


class SignedRequests:
    """One pool of connections; use as an async context manager."""

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
        # To look for a proxy, aiohttp reads the user's .netrc for each request: a tenth of the CPU of a small one.
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
        pauses_seconds: Sequence[float] = _PAUSES_SECONDS,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A success; what fails on the way or in the store (5xx) is tried again, with the body from its beginning.

        Raises `Refused`, `aiohttp.ClientError` or `TimeoutError`.
        """
        response = await self._asked(method, url, headers, body, pauses_seconds)
        try:
            yield response
        finally:
            if response.content.at_eof():
                response.release()
            else:
                response.close()  # what was not read ends with the connection

    async def _asked(
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
                    # Its own message has the signed URL, and what is told of an outage is logged.
                    raise aiohttp.ConnectionTimeoutError("no connection in time") from None
            except aiohttp.ClientConnectionError:
                if pause_seconds is None:
                    raise
            await asyncio.sleep(pause_seconds)
        raise AssertionError("unreachable")


async def _refused(response: aiohttp.ClientResponse) -> Refused:
    async with response:
        body = await response.content.read(_LARGEST_ERROR_BYTES)
    match = _CODE.search(body)
    return Refused(response.status, match[1].decode(errors="replace") if match else str(response.status))
