"""F28, F29 and S3 out of reach: requests without bytes succeed, others get a 503 in time, and it heals by itself."""

import asyncio
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_registry.migrations import migrate
from model_registry_devstack import EmbeddedStack, StackAddresses
from tests.resilience.faults.measures import LATE_SECONDS, MIB, Backend, Users, lost, standing, until_written
from tests.support.processes import descendants
from tests.support.proxy import BlackHole, Mode, Proxy, Refuse
from tests.support.service import RunningService, ServiceWith, make_settings, running

pytestmark = pytest.mark.slow

SMALL, LARGE = b"weights", bytes(9 * MIB)
IN_PARTS = {"multipart_threshold_bytes": 5 * MIB, "multipart_part_bytes": 5 * MIB}


@dataclass(frozen=True)
class Away:
    """In which way the store is away, and the settings that say how long to wait for it."""

    mode: Mode
    settings: dict[str, float]


REFUSED = Away(Refuse(), {})
SILENT = Away(
    BlackHole(),
    {"s3_connect_timeout_seconds": 0.5, "s3_read_timeout_seconds": 2, "s3_operation_timeout_seconds": 2},
)
AWAY = pytest.mark.parametrize("away", [pytest.param(REFUSED, id="refused"), pytest.param(SILENT, id="silent")])


@pytest.fixture
async def store(stack: StackAddresses) -> AsyncIterator[Proxy]:
    address = httpx.URL(stack.s3_endpoint_url)
    async with Proxy.to(address.host, address.port or 80) as proxy:
        yield proxy


async def behind(proxy: Proxy, away: Away, service_with: ServiceWith) -> RunningService:
    return await service_with(s3_endpoint_url=f"http://127.0.0.1:{proxy.port}", **IN_PARTS, **away.settings)


async def timed(asked: Coroutine[Any, Any, httpx.Response]) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    answer = await asked
    return answer, time.monotonic() - begun


@AWAY
async def test_without_s3_whatever_needs_no_bytes_is_served_and_the_rest_is_503_in_time(
    store: Proxy, backend: Backend, service_with: ServiceWith, users: Users, away: Away
) -> None:
    service = await behind(store, away, service_with)
    async with users.client(service.url) as client:
        registered = await client.register("m", "1", {"a": SMALL, "b": SMALL + SMALL})
        await client.register("m", "2", {"f": SMALL})
        await client.register("m", "3")
        files = {"small": b"small", "large": LARGE}
        reserved = (await client.reserve("p", "1", files)).json()["uploads"]
        (upload,) = (each for each in reserved if each["method"] == "multipart")
        sent = {"f": b"sent and not committed"}
        await client.send((await client.reserve("q", "1", sent)).json()["uploads"], sent)

        store.misbehave(away.mode)

        served = await asyncio.gather(
            client.ask("GET", "/list_models"),
            client.ask("GET", "/get_model_info/m/1"),
            client.ask("GET", "/v1/models/m/versions/1/files"),
            client.ask("GET", "/v1/models"),
            client.ask("GET", "/v1/models/m/versions"),
            client.ask("GET", "/v1/events"),
            client.ask("HEAD", "/get_model/m/2"),
            client.ask("GET", "/get_model/m/2", params={"redirect": "true"}),
            client.ask("GET", "/get_model/m/1", headers={"If-None-Match": "*"}),
            client.ask("GET", "/healthz"),
            client.move("m", "champion", "2"),
            client.remove("m", "3"),
            client.push("m", "4", {"again": SMALL}),  # bytes that are stored already need not be sent
        )
        answers = await asyncio.gather(
            timed(client.register("n", "1")),
            timed(client.register("n", "2", {"f": LARGE})),
            timed(client.ask("PUT", "/v1/models/p/versions/1/files/small", content=files["small"])),
            timed(client.ask("POST", f"/v1/uploads/{upload['upload_id']}/parts", json={"part_numbers": [1]})),
            timed(client.commit("q", "1")),
            timed(client.ask("GET", "/get_model/m/2")),
            timed(client.ask("GET", "/get_model/m/1")),  # an archive
        )
        ready = await client.ask("GET", "/readyz")

        assert registered.status_code == 201
        assert [answer.status_code for answer in served] == [200] * 7 + [307, 304, 200, 201, 200, 200]
        for answer, seconds in answers:
            assert (answer.status_code, answer.json().get("unavailable")) == (503, "The object store"), answer.text
            assert int(answer.headers["retry-after"]) >= 1
            assert seconds < LATE_SECONDS, f"{answer.request.method} {answer.url.path}: {seconds:.2f} s"
        checks = ready.json()["checks"]
        assert (ready.status_code, [name for name in checks if not checks[name]["ok"]]) == (503, ["s3"])

        store.behave()
        await until_written(users, service.url)
        assert (await client.ask("GET", "/readyz")).status_code == 200
        assert (await client.ask("GET", "/get_model/m/2")).content == SMALL
        assert (await client.push("q", "1", sent)).status_code == 200
    await standing(users, backend, service.url)


@AWAY
async def test_a_service_starts_without_s3_and_is_ready_when_it_comes(
    store: Proxy, backend: Backend, service_with: ServiceWith, users: Users, away: Away
) -> None:
    store.misbehave(away.mode)
    service = await behind(store, away, service_with)
    async with users.client(service.url) as client:
        assert (await client.ask("GET", "/healthz")).status_code == 200
        assert (await client.ask("GET", "/readyz")).status_code == 503
        assert (await client.register("m", "1")).status_code == 503
    store.behave()
    await standing(users, backend, service.url)


async def test_a_large_upload_outlives_a_short_absence_of_s3(
    store: Proxy, backend: Backend, service_with: ServiceWith, users: Users
) -> None:
    """The service has more patience for data that was sent already than for a request that has only begun."""
    service = await behind(store, REFUSED, service_with)
    async with users.client(service.url) as client:

        async def away_for_a_moment() -> None:
            while not await backend.bucket.unfinished():  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.005)
            store.misbehave(Refuse())
            await asyncio.sleep(0.3)
            store.behave()

        answer, _ = await asyncio.gather(client.register("m", "1", {"f": bytes(64 * MIB)}), away_for_a_moment())
        assert answer.status_code == 201, answer.text
    await standing(users, backend, service.url)


@asynccontextmanager
async def own_backend(stack: EmbeddedStack, **changes: float) -> AsyncIterator[tuple[Backend, RunningService]]:
    """Run servers that only this test uses, and a service in front of them with some settings changed."""
    try:
        addresses = await asyncio.to_thread(stack.start)
        settings = make_settings(addresses, **changes)
        await asyncio.to_thread(migrate, settings.database_url.get_secret_value())
        async with Backend.of(addresses) as backend, running(settings) as service:
            yield backend, service
    finally:
        await asyncio.to_thread(stack.stop)


def process_in(folder: Path) -> int:
    """Return the process whose working directory this is."""
    found = [pid for pid in descendants(os.getpid()) if _directory(pid) == folder]
    assert len(found) == 1, found
    return found[0]


def _directory(pid: int) -> Path | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cwd").readlink()
    return None


async def test_a_killed_store_loses_nothing_that_was_acknowledged(users: Users, tmp_path: Path) -> None:
    """F28: `kill -9` twice, with clients that never stop."""
    folder = tmp_path / "data"
    async with own_backend(EmbeddedStack(folder, durable=False)) as (backend, service):
        is_over = asyncio.Event()

        async def insist(name: str) -> None:
            async with users.client(service.url, timeout_seconds=60) as client:
                for number in itertools.count():
                    content = (os.urandom(9 * MIB) if number % 4 == 0 else os.urandom(1000)) + name.encode()
                    answer = await client.register(name, str(number), {"f": content})
                    assert answer.status_code in {201, 503}, answer.text
                    if answer.status_code == 201:
                        with lost():  # a download may break off, but never looks complete
                            answer = await client.ask("GET", f"/get_model/{name}/{number}")
                            assert answer.status_code == 503 or answer.content == content
                    if is_over.is_set():
                        return

        clients = [asyncio.create_task(insist(name)) for name in ("a", "b", "c")]
        for _ in range(2):
            await asyncio.sleep(1)
            os.kill(process_in(folder / "seaweedfs"), signal.SIGKILL)
            # weed itself needs some seconds, and under load sometimes half a minute.
            await until_written(users, service.url, within_seconds=40)
        is_over.set()
        await asyncio.gather(*clients)

        assert users.statuses().count(201) >= 5
        await standing(users, backend, service.url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """48 MB of memory as a disk, where a stack in `tmp_path`/data has its store; `grow` enlarges it."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    disk = tmp_path / "data" / "seaweedfs"
    disk.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(mounted.stderr)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=200m", disk], check=True)


async def test_a_full_store_takes_nothing_more_and_gives_everything(users: Users, small_disk: Path) -> None:
    """F29"""
    async with (
        own_backend(EmbeddedStack(small_disk.parent, durable=False), s3_operation_timeout_seconds=3) as (
            backend,
            service,
        ),
        users.client(service.url) as client,
    ):
        contents: list[bytes] = []
        while shutil.disk_usage(small_disk).free > 7 * MIB:
            contents.append(os.urandom(6 * MIB))
            answer = await client.register("m", str(len(contents)), {"f": contents[-1]})
            assert answer.status_code == 201, answer.text

        refused = await asyncio.gather(
            client.register("m", "put", {"f": os.urandom(7 * MIB)}),
            client.register("m", "parts", {"f": os.urandom(20 * MIB)}),
        )
        assert [answer.status_code for answer in refused] == [503, 503]
        for number, content in enumerate(contents, 1):
            assert (await client.ask("GET", f"/get_model/m/{number}")).content == content
        for version in ("put", "parts"):
            assert (await client.ask("GET", f"/get_model_info/m/{version}")).status_code == 404

        grow(small_disk)
        await until_written(users, service.url)
        assert (await client.register("m", "parts", {"f": os.urandom(20 * MIB)})).status_code == 201
        await standing(users, backend, service.url)
