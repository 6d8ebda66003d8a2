"""Many requests over keep-alive connections, from a client that costs little compared with the server."""

import asyncio
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.processes import Server


@dataclass(frozen=True)
class Load:
    done: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def per_second(self) -> float:
        return self.done / self.seconds

    @property
    def cpu_ms(self) -> float:
        """The server's CPU time for each request."""
        return 1000 * self.cpu_seconds / self.done


Request = tuple[str, str, bytes]
"""Method, target, JSON body."""


def load(
    server: Server,
    request: Request | Callable[[int], Sequence[Request]],
    *,
    seconds: float = 1.5,
    connections: int = 16,
    headers: str = "",
) -> Load:
    """Send requests for `seconds`; every response must be a success.

    A callable gets a number, and returns requests that are sent one after the other and count as one.
    """
    build = request if callable(request) else lambda _number: [request]
    requests = ([_encoded(server, each, headers) for each in build(number)] for number in itertools.count())
    return asyncio.run(_load(server, requests, seconds, connections))


def _encoded(server: Server, request: Request, headers: str) -> bytes:
    method, target, body = request
    about = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{about}{headers}\r\n"
    return head.encode() + body


async def _load(server: Server, requests: Iterator[list[bytes]], seconds: float, connections: int) -> Load:
    waits: list[float] = []
    opened = [await asyncio.open_connection("127.0.0.1", server.port, limit=2**24) for _ in range(connections)]
    cpu, began = server.cpu_seconds(), time.perf_counter()

    async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (asked := time.perf_counter()) - began < seconds:
            for request in next(requests):
                writer.write(request)
                head = await reader.readuntil(b"\r\n\r\n")
                status = int(head[9:12])
                length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
                body = await reader.readexactly(length)
                if not 200 <= status < 400:
                    raise RuntimeError(f"{server.url}: {head.decode()}{body.decode(errors='replace')[:500]}")
            waits.append(time.perf_counter() - asked)

    await asyncio.gather(*(ask(*each) for each in opened))
    took = time.perf_counter() - began
    cpu = server.cpu_seconds() - cpu
    for _, writer in opened:
        writer.close()
    hundredths = statistics.quantiles(waits, n=100) if len(waits) > 1 else [waits[0]] * 99
    return Load(len(waits), took, cpu, 1000 * hundredths[49], 1000 * hundredths[98])
