"""HTTP to the registry and to the storage behind it: retries, and answers turned into errors."""

import asyncio
import logging
import math
import random
import re
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote
from urllib.request import getproxies

import httpx
from pydantic import ValidationError

from model_registry_client.errors import Problem, RegistryError, ServerError, Unreachable, UsageError
from model_registry_client.json_values import dumps, loads
from model_registry_client.threaded_transport import Downloads

_BUSY = frozenset({408, 429, 500, 502, 503, 504})
"""Answers after which a retry may help."""
_NOT_OF_A_REGISTRY = frozenset({404, 405, 501})
"""Answers that a registry gives with a problem of its own; other servers, to what they have never heard of."""
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_PASSING_TROUBLE = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
_MAX_DETAIL_CHARS = 500
_PAGE = re.compile(r"\s*<(?:!doctype )?html", re.IGNORECASE)
_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)


def _without_signature(record: logging.LogRecord) -> bool:
    """httpx logs every URL whole, and a presigned one is a credential."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            each.copy_with(query=None) if isinstance(each, httpx.URL) and b"X-Amz-Signature" in each.query else each
            for each in record.args
        )
    return True


logging.getLogger("httpx").addFilter(_without_signature)

Content = bytes | Callable[[], AsyncIterable[bytes]]
"""A body, or what begins it anew for each attempt; that one needs a Content-Length among the headers."""
Params = Mapping[str, str | int | bool | None]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to insist, in seconds. No attempt begins later than `retry_seconds` after the first failure, and where
    nobody has ever answered, which is rather a wrong address than a restart, than `first_contact_seconds`."""

    retry_seconds: float = 60
    first_contact_seconds: float = 5
    base_delay_seconds: float = 0.2
    max_delay_seconds: float = 8
    connect_timeout_seconds: float = 5
    timeout_seconds: float = 45
    """Of silence, in an answer or before it; longer than the service waits in a commit."""


@dataclass
class _Outages:
    """Who does not answer, told once until there is an answer again."""

    say: Callable[[str], None]
    _away: set[str] = field(default_factory=set)

    def begins(self, where: str, what: str) -> None:
        if where not in self._away:
            self._away.add(where)
            self.say(what)

    def ends(self, where: str) -> None:
        self._away.discard(where)


_outages: ContextVar[_Outages] = ContextVar("outages")


@contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Within this, `say` hears when a server does not answer and is asked again; also of tasks that are made here."""
    token = _outages.set(_Outages(say))
    try:
        yield
    finally:
        _outages.reset(token)


def url_path(*segments: str) -> str:
    """`/a/b`, each segment encoded; raises `UsageError` for one that is empty or made of dots."""
    for segment in segments:
        if segment in {"", ".", ".."}:
            raise UsageError(f"{segment!r} is no name.")
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


class Transport:
    """Asks the registry at `url`, and storage at whatever URLs the registry hands out."""

    def __init__(self, url: str, policy: RetryPolicy | None = None) -> None:
        self.url = url.rstrip("/")
        self.policy = policy or RetryPolicy()
        self._reached: set[str] = set()
        self._shown_url = _shown(self.url)
        timeout = httpx.Timeout(self.policy.timeout_seconds, connect=self.policy.connect_timeout_seconds, pool=None)
        # Shorter than servers keep idle connections, so that a request seldom meets one that is being closed.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=2)
        # One for both: to read all certificates takes longer than a request.
        trusted = httpx.create_ssl_context()
        agent = {"User-Agent": _user_agent()}
        self._api = httpx.AsyncClient(timeout=timeout, limits=limits, verify=trusted, headers=agent)
        self._storage = httpx.AsyncClient(
            timeout=timeout, limits=limits, verify=trusted, headers={**agent, "Accept-Encoding": "identity"}
        )
        # httpx alone knows the proxies that the environment names.
        self._downloads = self._storage
        if not getproxies():
            self._downloads = httpx.AsyncClient(
                timeout=timeout, transport=Downloads(trusted), headers=self._storage.headers
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
        """The registry's answer below 400, its body read.

        Parameters
        ----------
        path
            Below the registry's URL, encoded: see `url_path`.
        json
            The body, by `json_values.dumps`; other content types than `application/json` go into `headers`.
        params
            The query; those that are `None` are left out.
        idempotent
            Whether doing it twice is as good as once. Where it is not, only attempts that certainly did nothing are
            repeated.

        Raises
        ------
        Unreachable
            No answer for as long as the policy says.
        ServerError
            The registry's problem, as its subclass; 429 and 503 were retried first.
        """
        async with self.stream(
            method, path, json=json, params=params, headers=headers, content=content, idempotent=idempotent
        ) as response:
            return response

    async def get_json(self, path: str, params: Params | None = None) -> Any:
        """The body of the answer to a GET, its numbers exact."""
        return self.json_of(await self.request("GET", path, params=params))

    def json_of(self, response: httpx.Response) -> Any:
        """The body of an answer of the registry, its numbers exact."""
        try:
            return loads(response.text)
        except ValueError:
            raise self.no_registry() from None

    def no_registry(self) -> RegistryError:
        """For an answer that is none of a registry's, or of one that this client does not understand."""
        return RegistryError(f"{self._shown_url} is no model registry that this client knows. {_NAME_IT}")

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
        """As `request`; with `read=False` the body is left to be read, and what breaks there is the caller's: an
        `httpx.TransportError`."""
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

        retries = _Retries(
            self.policy,
            self._shown_url,
            self._reached,
            _ADVICE,
            is_idempotent=idempotent,
            is_change=method not in {"GET", "HEAD"},
        )
        response = await self._answer(self._api, build, retries, read=read)
        try:
            if response.status_code >= 400:
                problem = problem_of(response)
                if self._is_of_another(problem):
                    raise self.no_registry()
                raise ServerError.of(problem, after_lost_answer=retries.lost_an_answer)
            if response.is_redirect:
                there = response.url.join(response.headers["location"]).copy_with(query=None, fragment=None)
                raise UsageError(f"{self._shown_url} is elsewhere: use {str(there).removesuffix(path)} as the URL.")
            yield response
        finally:
            await response.aclose()

    def _is_of_another(self, problem: Problem) -> bool:
        """Whether this cannot be what a registry says at its own URL."""
        # Below a page of a registry there is nothing, of which the registry tells.
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
        """Storage's answer to a presigned URL, 4xx and redirects as they are; its body read.

        Raises `Unreachable`, or `ServerError` (as `Busy` and so on) for a 5xx that lasted.
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
        """As `raw`, with the body left to be read; what breaks there is the caller's: an `httpx.TransportError`."""
        client = self._storage if read else self._downloads

        def build() -> httpx.Request:
            body = content() if callable(content) else content
            return client.build_request(method, url, headers=headers, content=body)

        retries = _Retries(self.policy, _origin(url), self._reached, _STORAGE_ADVICE)
        response = await self._answer(client, build, retries, read=read)
        try:
            if response.status_code >= 500 or response.status_code == 429:
                raise ServerError.of(problem_of(response))
            yield response
        finally:
            await response.aclose()

    async def _answer(
        self, client: httpx.AsyncClient, build: Callable[[], httpx.Request], retries: "_Retries", *, read: bool
    ) -> httpx.Response:
        """The first answer that is not to be asked for again."""
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
            except _PASSING_TROUBLE as error:
                await retries.pause_after(error)
            except (httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
                raise UsageError(f"{retries.where} is no URL that can be asked: {error}.") from None


@dataclass
class _Retries:
    """The attempts at one request."""

    policy: RetryPolicy
    where: str
    reached: set[str]
    advice: str
    is_idempotent: bool = True
    is_change: bool = False
    lost_an_answer: bool = False
    _attempts: int = 0
    _first_failure: float = math.inf

    async def may_repeat_after(self, response: httpx.Response) -> bool:
        """Whether this answer is to be forgotten; then the pause before the next attempt is over."""
        self.reached.add(self.where)
        status = response.status_code
        if status not in _BUSY and (outages := _outages.get(None)):
            outages.ends(self.where)
        is_undone = _did_nothing(response)
        if status not in _BUSY or not (self.is_idempotent or is_undone):
            return False
        delay = self._delay(_retry_after_seconds(response))
        if delay is None:
            return False
        self.lost_an_answer |= self.is_change and not is_undone
        self._tell(f"{self.where} answers {status} {response.reason_phrase}".rstrip())
        await asyncio.sleep(delay)
        return True

    async def pause_after(self, error: httpx.TransportError) -> None:
        """Wait for the next attempt, or raise `Unreachable` where there is to be none."""
        was_sent = not isinstance(error, _NEVER_SENT)
        self.lost_an_answer |= self.is_change and was_sent
        delay = self._delay(None) if self.is_idempotent or not was_sent else None
        if delay is None or _is_certificate_trouble(error):
            raise Unreachable(self._unreachable(error)) from error
        self._tell(f"No answer from {self.where}")
        await asyncio.sleep(delay)

    def _delay(self, asked_seconds: float | None) -> float | None:
        """Full jitter on what doubles; `None` when the time is up."""
        ceiling = min(self.policy.max_delay_seconds, self.policy.base_delay_seconds * 2 ** min(self._attempts, 32))
        self._attempts += 1
        delay = (asked_seconds or 0) + random.uniform(0, ceiling)  # noqa: S311 - no secret
        now = time.monotonic()
        self._first_failure = min(self._first_failure, now)
        return delay if now - self._first_failure + delay <= self._limit_seconds else None

    @property
    def _limit_seconds(self) -> float:
        return self.policy.retry_seconds if self.where in self.reached else self.policy.first_contact_seconds

    def _tell(self, what: str) -> None:
        if outages := _outages.get(None):
            outages.begins(self.where, f"{what}; trying for up to {self._limit_seconds:g} s.")

    def _unreachable(self, error: httpx.TransportError) -> str:
        said = [f"No answer from {self.where}: {self._reason(error)}."]
        if _is_certificate_trouble(error):
            said.append("Name the certificates of an authority of your own with SSL_CERT_FILE.")
        elif self.where not in self.reached:
            said.append(self.advice)
        if self.lost_an_answer:
            said.append("What was asked may have been done all the same.")
        return " ".join(said)

    def _reason(self, error: httpx.TransportError) -> str:
        match error:
            case httpx.ConnectTimeout():
                return f"no connection within {self.policy.connect_timeout_seconds:g} seconds"
            case httpx.TimeoutException():
                return f"silence for {self.policy.timeout_seconds:g} seconds"
            case _:
                return str(error).rstrip(".") or "the connection was cut"


_NAME_IT = "Name one with MODEL_REGISTRY_URL, --url or `model-registry login URL`."
_ADVICE = f"Is the registry running (`model-registry dev` starts one), and is this its address? {_NAME_IT}"
_STORAGE_ADVICE = (
    "It is the storage behind the registry; where that cannot be reached from here, "
    "transfer by way of the registry: `proxied`."
)


def _shown(url: str) -> str:
    """A registry's URL without the password that it may have; raises `UsageError` for one that cannot be."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UsageError(f"{url!r} is no URL: {error}.") from None
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise UsageError(f"{url!r} is no URL of a registry: one like https://models.example.org is expected.")
    if parsed.query or parsed.fragment:
        raise UsageError(f"{url!r} is no URL of a registry: that has neither a query nor a fragment.")
    if parsed.port is not None and not 0 < parsed.port < 65536:
        raise UsageError(f"{url!r} is no URL of a registry: ports are 1 to 65535.")
    return str(parsed.copy_with(userinfo=b""))


def _origin(url: str) -> str:
    return str(httpx.URL(url).copy_with(path="/", query=None, fragment=None, userinfo=b"")).rstrip("/")


def _is_certificate_trouble(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _did_nothing(response: httpx.Response) -> bool:
    """Whether the request was certainly not begun; other failures come from the midst of it, or from a gateway."""
    return response.status_code in {408, 429} or (
        response.status_code == 503 and problem_of(response).slug == "overloaded"
    )


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def problem_of(response: httpx.Response) -> Problem:
    """What the answer says, or what can be said of one that is no problem of the registry's."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text
        if _PAGE.match(text):
            text = title[1] if (title := _TITLE.search(text)) else ""
        said = " ".join(text.split())[:_MAX_DETAIL_CHARS]
        where = _origin(str(response.request.url))
        return Problem(
            status=response.status_code,
            title=response.reason_phrase,
            detail=f"{where} answered {response.status_code} {response.reason_phrase}: {said}".rstrip(": "),
        )


def _user_agent() -> str:
    try:
        return f"model-registry-client/{version('model-registry-service')}"
    except PackageNotFoundError:
        return "model-registry-client"
