"""Decides whether and when a request is repeated, and reports outages while it waits."""

import asyncio
import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from model_registry_client.errors import Unreachable
from model_registry_client.problems import problem_of

TRANSIENT_ERRORS = (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError, httpx.ProxyError)
_TRANSIENT_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to retry, in seconds.

    No attempt begins later than `retry_seconds` after the first failure. Until a server has responded once, the limit
    is `first_contact_seconds`: then the address is probably wrong.
    """

    retry_seconds: float = 60
    first_contact_seconds: float = 5
    base_delay_seconds: float = 0.2
    max_delay_seconds: float = 8
    connect_timeout_seconds: float = 5
    timeout_seconds: float = 45
    """Maximum seconds without a byte, before or within a response. Longer than the service waits in a commit."""


@dataclass
class _Outages:
    """Reports each server that does not respond, once until it responds again."""

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
def reporting_outages(say: Callable[[str], None]) -> Iterator[None]:
    """In this context, and in tasks created in it, call `say` when a server does not respond and is tried again."""
    token = _outages.set(_Outages(say))
    try:
        yield
    finally:
        _outages.reset(token)


@dataclass
class Retries:
    """The attempts at one request to the server `where`. Servers that have responded are in `reached`."""

    policy: RetryPolicy
    where: str
    reached: set[str]
    advice: str
    is_idempotent: bool = True
    is_change: bool = False
    lost_a_response: bool = False
    _attempts: int = 0
    _first_failure: float = math.inf

    async def may_repeat_after(self, response: httpx.Response) -> bool:
        """Return whether to repeat the request after this response. If so, first wait for the next attempt."""
        self.reached.add(self.where)
        status = response.status_code
        if status not in _TRANSIENT_STATUSES and (outages := _outages.get(None)):
            outages.ends(self.where)
        is_undone = _did_nothing(response)
        if status not in _TRANSIENT_STATUSES or not (self.is_idempotent or is_undone):
            return False
        delay = self._delay(_retry_after_seconds(response))
        if delay is None:
            return False
        self.lost_a_response |= self.is_change and not is_undone
        self._report(f"{self.where} responds with {status} {response.reason_phrase}".rstrip())
        await asyncio.sleep(delay)
        return True

    async def pause_after(self, error: httpx.TransportError) -> None:
        """Wait for the next attempt. Raises `Unreachable` if the request must not be repeated."""
        was_sent = not isinstance(error, _NEVER_SENT)
        self.lost_a_response |= self.is_change and was_sent
        delay = self._delay(None) if self.is_idempotent or not was_sent else None
        if delay is None or _is_certificate_trouble(error):
            raise Unreachable(self._unreachable(error)) from error
        self._report(f"No response from {self.where}")
        await asyncio.sleep(delay)

    def _delay(self, asked_seconds: float | None) -> float | None:
        """Return the delay in seconds: exponential with full jitter. `None` if the time is up."""
        ceiling = min(self.policy.max_delay_seconds, self.policy.base_delay_seconds * 2 ** min(self._attempts, 32))
        self._attempts += 1
        delay = (asked_seconds or 0) + random.uniform(0, ceiling)  # noqa: S311 - not a secret
        now = time.monotonic()
        self._first_failure = min(self._first_failure, now)
        return delay if now - self._first_failure + delay <= self._limit_seconds else None

    @property
    def _limit_seconds(self) -> float:
        return self.policy.retry_seconds if self.where in self.reached else self.policy.first_contact_seconds

    def _report(self, what: str) -> None:
        if outages := _outages.get(None):
            outages.begins(self.where, f"{what}. Retrying for up to {self._limit_seconds:g} s.")

    def _unreachable(self, error: httpx.TransportError) -> str:
        said = [f"No response from {self.where}: {self._reason(error)}."]
        if _is_certificate_trouble(error):
            said.append("If you have your own certificate authority, set SSL_CERT_FILE to its certificates.")
        elif self.where not in self.reached:
            said.append(self.advice)
        if self.lost_a_response:
            said.append("The request may have been carried out.")
        return " ".join(said)

    def _reason(self, error: httpx.TransportError) -> str:
        match error:
            case httpx.ConnectTimeout():
                return f"no connection within {self.policy.connect_timeout_seconds:g} seconds"
            case httpx.TimeoutException():
                return f"no data for {self.policy.timeout_seconds:g} seconds"
            case _:
                return str(error).rstrip(".") or "the connection was closed"


def _is_certificate_trouble(error: BaseException) -> bool:
    return "CERTIFICATE_VERIFY_FAILED" in str(error)


def _did_nothing(response: httpx.Response) -> bool:
    """Return whether the server certainly did not start the request. Other failures may come halfway through it."""
    return response.status_code in {408, 429} or (
        response.status_code == 503 and problem_of(response).slug == "overloaded"
    )


def _retry_after_seconds(response: httpx.Response) -> float | None:
    """Read Retry-After: seconds or a date (RFC 9110, section 10.2.3)."""
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
