"""Bytes over plain HTTP: one client for every server. It compares all that it gets with what was sent."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPResponse
from os import urandom
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from benchmarks.processes import Server

THREADS = 16
_PIECE = 2**20
_NOISE = urandom(_PIECE)
LEAST_CPU_SECONDS = 0.01
"""The tick of the clock of proc(5). A shorter time counts as one tick."""


class Family(Server):
    """A server with all the processes that it has started: MLflow's command starts the one that responds.

    Memory that they share is counted in each of them, as `ps` does.
    """

    def members(self) -> list[Server]:
        parents = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has ended meanwhile
        found = [self.pid]
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return [Server(self.url, pid) for pid in found]

    def cpu_seconds(self) -> float:
        return sum(member.cpu_seconds() for member in self.members())

    def resident_mib(self, which: str = "VmRSS") -> float:
        return sum(member.resident_mib(which) for member in self.members())


@dataclass(frozen=True)
class Content:
    """`size_bytes` that are different for each number, in pieces of at most 1 MiB; so nothing is stored already."""

    number: int
    size_bytes: int

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, self.size_bytes, _PIECE):
            head = self.number.to_bytes(8) + at.to_bytes(8)
            yield head + _NOISE[len(head) : min(_PIECE, self.size_bytes - at)]

    def whole(self) -> bytes:
        return b"".join(self)


@dataclass(frozen=True)
class Spent:
    """The cost of some work; `cpu_seconds` are the server's own."""

    seconds: float
    cpu_seconds: float
    first_byte_seconds: float = 0


def spent(server: Server, work: Callable[[], float | None]) -> Spent:
    """Measure the cost of the work, which may return how long the first byte of a response took."""
    cpu, began = server.cpu_seconds(), time.perf_counter()
    first_byte = work()
    seconds = time.perf_counter() - began
    return Spent(seconds, max(server.cpu_seconds() - cpu, LEAST_CPU_SECONDS), first_byte or 0)


def opened(url: str) -> "closing[HTTPConnection]":
    return closing(HTTPConnection(urlsplit(url).netloc, timeout=600))


def ask(
    connection: HTTPConnection,
    method: str,
    target: str,
    body: bytes | Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> HTTPResponse:
    """Send a request and return its response, to be read; raises if it is not a success."""
    connection.request(method, target, body=body, headers=headers or {})
    response = connection.getresponse()
    if not 200 <= response.status < 300:
        raise RuntimeError(f"{method} {target}: {response.status} {response.read()[:500].decode(errors='replace')}")
    return response


def ask_json(connection: HTTPConnection, method: str, target: str, body: object = None) -> dict[str, Any]:
    encoded = None if body is None else orjson.dumps(body)
    headers = {} if encoded is None else {"Content-Type": "application/json"}
    answer: dict[str, Any] = orjson.loads(ask(connection, method, target, encoded, headers).read())
    return answer


def fetch(url: str, target: str, content: Content) -> float:
    """Download a file, compare it with this content, and return how long its first byte took."""
    with opened(url) as connection:
        began = time.perf_counter()
        response = ask(connection, "GET", target)
        got = response.read(1)
        first_byte = time.perf_counter() - began
        for piece in content:
            if got + response.read(len(piece) - len(got)) != piece:
                raise RuntimeError(f"{url}{target} gives back other bytes than it was given.")
            got = b""
        if response.read(1):
            raise RuntimeError(f"{url}{target} gives back more than it was given.")
    return first_byte


@dataclass(frozen=True)
class Small:
    """A request with a small body and a small response; `expected` is compared with the body of the response."""

    method: str
    target: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    expected: bytes | None = None


def ask_all(url: str, requests: Sequence[Small]) -> None:
    """Send the requests in `THREADS` threads, each with a kept connection of its own."""

    def work(own: Sequence[Small]) -> None:
        with opened(url) as connection:
            for each in own:
                body = ask(connection, each.method, each.target, each.body, each.headers).read()
                if each.expected is not None and body != each.expected:
                    raise RuntimeError(f"{url}{each.target} gives back other bytes than it was given.")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, (requests[at::THREADS] for at in range(THREADS))))
