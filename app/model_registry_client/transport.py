"""HTTP to the registry and to the storage behind it: retries, and responses turned into errors."""

from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self
from urllib.request import getproxies

import httpx

from model_registry_client.errors import Problem, RegistryError, ServerError, UsageError
from model_registry_client.json_values import dumps, loads
from model_registry_client.problems import problem_of
from model_registry_client.retries import TRANSIENT_ERRORS, Retries, RetryPolicy
from model_registry_client.threaded_transport import ThreadedTransport
from model_registry_client.urls import origin, registry_url_without_password

Content = bytes | Callable[[], AsyncIterable[bytes]]
"""A body, or a function that starts it again for each attempt. The function needs a Content-Length header."""
Params = Mapping[str, str | int | bool | None]

_NOT_OF_A_REGISTRY = frozenset({404, 405, 501})
"""A registry sends these with a problem of its own; other servers send them for paths that they do not know."""
_SET_THE_URL = "Set the URL with MODEL_REGISTRY_URL, --url or `model-registry login URL`."
_ADVICE = f"Check that the registry is running (`model-registry dev` starts one) at this URL. {_SET_THE_URL}"
_STORAGE_ADVICE = (
    "This is the storage behind the registry. If it cannot be reached from here, transfer through the registry: "
    "`proxied`."
)


class Transport:
    """Sends requests to the registry at `url`, and to storage at the URLs that the registry returns."""

    def __init__(self, url: str, policy: RetryPolicy | None = None) -> None:
        self.url = url.rstrip("/")
        self.policy = policy or RetryPolicy()
        self._reached: set[str] = set()
        self._shown_url = registry_url_without_password(self.url)
        timeout = httpx.Timeout(self.policy.timeout_seconds, connect=self.policy.connect_timeout_seconds, pool=None)
        # Shorter than servers keep idle connections, so that a request seldom gets one that is being closed.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=2)
        # Shared, because reading all certificates takes longer than a request.
        trusted = httpx.create_ssl_context()
        agent = {"User-Agent": _user_agent()}
        self._api = httpx.AsyncClient(timeout=timeout, limits=limits, verify=trusted, headers=agent)
        self._storage = httpx.AsyncClient(
            timeout=timeout, limits=limits, verify=trusted, headers={**agent, "Accept-Encoding": "identity"}
        )
        # Only httpx supports the proxies in the environment.
        self._downloads = self._storage
        if not getproxies():
            self._downloads = httpx.AsyncClient(
                timeout=timeout, transport=ThreadedTransport(trusted), headers=self._storage.headers
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._api.aclose()
        await self._storage.aclose()
        await self._downloads.aclose()

    async def request(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        idempotent: bool = True,
    ) -> httpx.Response:
        """Send a request and return the response, which has a status below 400 and its body read.

        Parameters
        ----------
        path
            The encoded path below the registry's URL. See `url_path`.
        json
            The body, encoded with `json_values.dumps`. Set another content type than `application/json` in `headers`.
        params
            The query. Parameters that are `None` are not sent.
        idempotent
            Whether repeating the request is safe. If not, it is repeated only after attempts that certainly did
            nothing.

        Raises
        ------
        Unreachable
            There was no response within the time of the policy.
        ServerError
            The registry returned a problem; the subclass depends on its status. 429 and 503 are retried first.
        """
        async with self.stream(
            method, path, json=json, params=params, headers=headers, content=content, idempotent=idempotent
        ) as response:
            return response

    async def get_json(self, path: str, params: Params | None = None) -> Any:
        """Return the body of a GET response as JSON, with exact numbers."""
        return self.json_of(await self.request("GET", path, params=params))

    def json_of(self, response: httpx.Response) -> Any:
        """Return the body of a response of the registry as JSON, with exact numbers."""
        try:
            return loads(response.text)
        except ValueError:
            raise self.not_a_registry() from None

    def not_a_registry(self) -> RegistryError:
        """Return the error for a response that this client does not understand."""
        return RegistryError(f"{self._shown_url} is not a model registry that this client supports. {_SET_THE_URL}")

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        params: Params | None = None,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        idempotent: bool = True,
        read: bool = True,
    ) -> AsyncIterator[httpx.Response]:
        """Like `request`. With `read=False` the caller reads the body and handles its `httpx.TransportError`."""
        sent_headers = {"Accept-Encoding": "identity"} if not read else {}
        if json is not None:
            content = dumps(json).encode()
            sent_headers["Content-Type"] = "application/json"
        sent_headers |= headers or {}
        query = {name: value for name, value in (params or {}).items() if value is not None}

        def build() -> httpx.Request:
            return self._api.build_request(
                method,
                f"{self.url}{path}",
                params=query or None,
                headers=sent_headers,
                content=content() if callable(content) else content,
            )

        retries = Retries(
            self.policy,
            self._shown_url,
            self._reached,
            _ADVICE,
            is_idempotent=idempotent,
            is_change=method not in {"GET", "HEAD"},
        )
        response = await self._send(self._api, build, retries, read=read)
        try:
            if response.status_code >= 400:
                problem = problem_of(response)
                if self._is_of_another_server(problem):
                    raise self.not_a_registry()
                raise ServerError.of(problem, after_lost_answer=retries.lost_a_response)
            if response.is_redirect:
                there = response.url.join(response.headers["location"]).copy_with(query=None, fragment=None)
                raise UsageError(f"{self._shown_url} redirects: use {str(there).removesuffix(path)} as the URL.")
            yield response
        finally:
            await response.aclose()

    def _is_of_another_server(self, problem: Problem) -> bool:
        """Return whether a registry at this URL cannot have sent the problem."""
        # The URL of a page of a registry: the registry itself says that nothing is below it.
        is_a_page = problem.slug == "no-such-route" and httpx.URL(self.url).path not in {"", "/"}
        return is_a_page or (not problem.slug and problem.status in _NOT_OF_A_REGISTRY)

    async def raw(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
    ) -> httpx.Response:
        """Send a request to a presigned URL and return the response of storage, with its body read.

        Returns 4xx responses and redirects as they are. Raises `Unreachable`, or a `ServerError` such as `Busy` for a
        5xx that remains after the retries.
        """
        async with self.raw_stream(method, url, headers=headers, content=content, read=True) as response:
            return response

    @asynccontextmanager
    async def raw_stream(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: Content | None = None,
        read: bool = False,
    ) -> AsyncIterator[httpx.Response]:
        """Like `raw`, but the caller reads the body and handles its `httpx.TransportError`."""
        client = self._storage if read else self._downloads

        def build() -> httpx.Request:
            body = content() if callable(content) else content
            return client.build_request(method, url, headers=headers, content=body)

        retries = Retries(self.policy, origin(url), self._reached, _STORAGE_ADVICE)
        response = await self._send(client, build, retries, read=read)
        try:
            if response.status_code >= 500 or response.status_code == 429:
                raise ServerError.of(problem_of(response))
            yield response
        finally:
            await response.aclose()

    async def _send(
        self, client: httpx.AsyncClient, build: Callable[[], httpx.Request], retries: Retries, *, read: bool
    ) -> httpx.Response:
        """Send a request until there is a response that need not be repeated."""
        while True:
            try:
                response = await client.send(build(), stream=True)
                try:
                    if read or response.status_code >= 400:
                        await response.aread()
                    if not await retries.may_repeat_after(response):
                        return response
                except BaseException:
                    await response.aclose()
                    raise
                await response.aclose()
            except TRANSIENT_ERRORS as error:
                await retries.pause_after(error)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise UsageError(f"{retries.where} is not a valid URL: {error}.") from None


def _user_agent() -> str:
    try:
        return f"model-registry-client/{version('model-registry-service')}"
    except PackageNotFoundError:
        return "model-registry-client"
