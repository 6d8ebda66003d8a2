"""Replicas are replaced one by one under load, behind a balancer that knows only `/readyz`, and no request is lost.

No process here waits for its delay to end. A second SIGTERM ends the delay, once the test has seen what it waits for.
"""

import asyncio
import contextlib
import hashlib
import itertools
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from model_registry_devstack import StackAddresses
from tests.support.processes import descendants, environment, free_port, line_with, started, until_ready
from tests.support.registering import WEIGHTS, register

pytestmark = pytest.mark.slow

DELAY_SECONDS = "600"
PROBE_SECONDS = 0.2


class Balancer:
    """Gives each new connection to the next replica that was ready at the last check."""

    def __init__(self) -> None:
        self.replicas: list[str] = []
        self._ready: list[str] = []
        self._turn = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()
        self._connected: Counter[str] = Counter()

    async def until_forgotten(self, url: str) -> None:
        """Wait until this replica gets no new connections and has no old ones."""
        async with asyncio.timeout(60):
            while url in self._ready or self._connected[url]:  # noqa: ASYNC110 - as short as it can be
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        probing = asyncio.create_task(self._probe_for_ever())
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            probing.cancel()
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(probing, *self._connections, return_exceptions=True)

    async def _probe_for_ever(self) -> None:
        async with httpx.AsyncClient(timeout=2) as client:
            while True:
                ready = []
                for url in self.replicas:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(f"{url}/readyz")).status_code == 200:
                            ready.append(url)
                self._ready = ready
                await asyncio.sleep(PROBE_SECONDS)

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        while not self._ready:  # noqa: ASYNC110 - as a balancer does
            await asyncio.sleep(0.05)
        url = self._ready[next(self._turn) % len(self._ready)]
        self._connected[url] += 1
        try:
            reader, writer = await asyncio.open_connection(httpx.URL(url).host, httpx.URL(url).port)
            with contextlib.closing(writer):
                await asyncio.gather(_pump(client_reader, writer), _pump(reader, client))
        except ConnectionError:
            return  # one of the two is gone
        finally:
            self._connected[url] -= 1
            client.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def test_no_request_is_lost_while_replicas_are_replaced(
    stack: StackAddresses, fresh: None, tmp_path: Path
) -> None:
    env = environment(stack, SHUTDOWN_DELAY_SECONDS=DELAY_SECONDS, SHUTDOWN_GRACE_SECONDS="10")
    balancer = Balancer()
    answers: Counter[str] = Counter()
    is_over = asyncio.Event()
    registered: dict[str, str] = {}

    async with AsyncExitStack() as cleanup:

        async def start() -> asyncio.subprocess.Process:
            port = free_port()
            process = await cleanup.enter_async_context(started("serve", "--port", str(port), env=env, cwd=tmp_path))
            await until_ready(f"http://127.0.0.1:{port}")
            balancer.replicas.append(f"http://127.0.0.1:{port}")
            return process

        old = [await start(), await start()]
        url = await cleanup.enter_async_context(balancer.listening())

        async def load(name: str) -> None:
            # The client keeps its connections, and never retries.
            async with httpx.AsyncClient(base_url=url, timeout=30) as client:
                for number in itertools.count():
                    if is_over.is_set():
                        return
                    version, content = f"{name}{number}", f"{name} {number}".encode() * 5000
                    try:
                        answer = await register(client, {"model_name": "m", "version": version}, {"f": content})
                        answers[f"register {answer.status_code}"] += 1
                        registered[version] = hashlib.sha256(content).hexdigest()
                        answer = await client.get(f"/get_model/m/{version}")
                        answers[f"download {answer.status_code} {answer.content == content}"] += 1
                        answers[f"list {(await client.get('/v1/models/m/versions')).status_code}"] += 1
                    except httpx.TransportError as error:
                        answers[repr(error)] += 1

        async def until_registered(count: int) -> None:
            async with asyncio.timeout(60):
                while len(registered) < count:  # noqa: ASYNC110 - as short as it can be
                    await asyncio.sleep(0.02)

        loads = [asyncio.create_task(load(f"c{number}-")) for number in range(3)]
        for each in loads:
            cleanup.callback(each.cancel)
        await until_registered(1)
        exits = []
        for process in old:
            await start()
            process.send_signal(signal.SIGTERM)
            await balancer.until_forgotten(balancer.replicas[0])
            process.send_signal(signal.SIGTERM)
            exits.append(await asyncio.wait_for(process.wait(), 60))
            del balancer.replicas[0]
        await until_registered(len(registered) + 5)
        is_over.set()
        await asyncio.gather(*loads)

        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            listed = []
            token = ""
            while token is not None:
                page = (await client.get("/v1/models/m/versions", params={"page_token": token, "limit": 1000})).json()
                listed += [item["version"] for item in page["items"]]
                token = page["next_page_token"]

    assert exits == [0, 0]
    assert set(answers) == {"register 201", "download 200 True", "list 200"}, answers
    assert sorted(listed) == sorted(registered)
    assert len(registered) > 10


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_process_that_ends_says_so_first_and_closes_what_it_answers(
    stack: StackAddresses, fresh: None, tmp_path: Path, workers: str
) -> None:
    port = free_port()
    env = environment(stack, SHUTDOWN_DELAY_SECONDS=DELAY_SECONDS, SHUTDOWN_GRACE_SECONDS="1", LOG_FORMAT="json")
    async with (
        started("serve", "--port", str(port), "--workers", workers, env=env, cwd=tmp_path) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        # One worker is ready before the other can handle signals.
        for _ in range(int(workers)):
            await line_with(process.stderr, "Application startup complete.")
        serving = descendants(process.pid) if workers != "1" else {process.pid}
        process.send_signal(signal.SIGTERM)
        for _ in range(int(workers)):
            await line_with(process.stderr, '"draining"')

        readiness = await client.get("/readyz")
        health = await client.get("/healthz")
        registered = await register(client, {"model_name": "m", "version": "1"})
        download = await client.get("/get_model/m/1")
        for pid in serving:
            os.kill(pid, signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0

    assert readiness.status_code == 503
    assert "about to end" in readiness.json()["detail"]
    assert readiness.headers["retry-after"] == "2"
    assert [answer.status_code for answer in (health, registered, download)] == [200, 201, 200]
    assert download.content == WEIGHTS
    assert {answer.headers["connection"] for answer in (readiness, health, registered, download)} == {"close"}


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["Ctrl-C", "told twice"])
async def test_who_is_in_a_hurry_does_not_wait_for_balancers(
    stack: StackAddresses, fresh: None, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    port = free_port()
    env = environment(stack, SHUTDOWN_DELAY_SECONDS=DELAY_SECONDS, LOG_FORMAT="json")
    async with started("serve", "--port", str(port), env=env, cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        for each in signals[:-1]:
            process.send_signal(each)
            # Two signals that arrive before the first is handled are one.
            await line_with(process.stderr, '"draining"')
        process.send_signal(signals[-1])

        assert await asyncio.wait_for(process.wait(), 60) == 0
