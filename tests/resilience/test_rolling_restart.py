"""Replicas are replaced one after the other under load, behind a balancer that only knows /readyz, and no request is
lost."""

import asyncio
import contextlib
import hashlib
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from model_registry_devstack import StackAddresses
from tests.support.processes import environment, free_port, started, until_ready
from tests.support.registering import WEIGHTS, register

pytestmark = pytest.mark.slow

DELAY_SECONDS = 1.5
PROBE_SECONDS = 0.2


class Balancer:
    """Gives each new connection to the next replica that was ready when it was last asked."""

    def __init__(self) -> None:
        self.replicas: list[str] = []
        self._ready: list[str] = []
        self._turn = itertools.count()
        self._connections: set[asyncio.Task[None]] = set()

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
        chosen = httpx.URL(self._ready[next(self._turn) % len(self._ready)])
        reader, writer = await asyncio.open_connection(chosen.host, chosen.port)
        try:
            await asyncio.gather(_pump(client_reader, writer), _pump(reader, client))
        except ConnectionError:
            return  # one of the two is gone
        finally:
            client.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()


async def test_no_request_is_lost_while_replicas_are_replaced(
    stack: StackAddresses, fresh: None, tmp_path: Path
) -> None:
    env = environment(stack, SHUTDOWN_DELAY_SECONDS=str(DELAY_SECONDS), SHUTDOWN_GRACE_SECONDS="10")
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
            async with httpx.AsyncClient(
                base_url=url, timeout=30
            ) as client:  # keeps its connections, never tries again
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

        loads = [asyncio.create_task(load(f"c{number}-")) for number in range(3)]
        for each in loads:
            cleanup.callback(each.cancel)
        await asyncio.sleep(0.5)
        exits = []
        for process in old:
            await start()
            process.send_signal(signal.SIGTERM)
            exits.append(await asyncio.wait_for(process.wait(), 25))
            del balancer.replicas[0]
        await asyncio.sleep(0.5)
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
    env = environment(stack, SHUTDOWN_DELAY_SECONDS="4", SHUTDOWN_GRACE_SECONDS="1")
    async with (
        started("serve", "--port", str(port), "--workers", workers, env=env, cwd=tmp_path) as process,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        await until_ready(str(client.base_url).rstrip("/"))
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while (readiness := await client.get("/readyz")).status_code == 200:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.02)

        health = await client.get("/healthz")
        registered = await register(client, {"model_name": "m", "version": "1"})
        download = await client.get("/get_model/m/1")
        assert await asyncio.wait_for(process.wait(), 20) == 0

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
    async with started(
        "serve", "--port", str(port), env=environment(stack, SHUTDOWN_DELAY_SECONDS="60"), cwd=tmp_path
    ) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        for each in signals:
            process.send_signal(each)
            await asyncio.sleep(0.5)  # a signal that comes before the last was handled is one with it

        assert await asyncio.wait_for(process.wait(), 20) == 0
