"""F31, F34, F35, F38, F39, F45: clients that are slow, fall silent or are cut off, and a service with little room."""

import asyncio
import contextlib
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from model_registry.server import http11
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import (
    MIB,
    Backend,
    Client,
    Footprint,
    ServiceProcess,
    Users,
    back_to,
    lost,
    serving,
    standing,
)
from tests.support.processes import resident_bytes, until_ready
from tests.support.proxy import Proxy, RandomReset
from tests.support.registering import register
from tests.support.service import RunningService, ServiceWith

pytestmark = pytest.mark.slow

IDLE_SECONDS = 4
NEVER_READING = 50
PIECE = bytes(range(256)) * 1024


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory for temporary files: of 1 MB, if we may mount a file system."""
    folder = tmp_path_factory.mktemp("temporary")
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    is_small = subprocess.run(command, capture_output=True, check=False).returncode == 0
    yield folder
    if is_small:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
async def served(
    stack: StackAddresses, settings: Settings, temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[ServiceProcess]:
    """The service as a separate process, for the tests that leave it alive."""
    folder = tmp_path_factory.mktemp("served")
    limits: dict[str, Any] = {
        "BODY_IDLE_TIMEOUT_SECONDS": str(IDLE_SECONDS),
        "MIN_UPLOAD_BYTES_PER_SECOND": "1",
        "UPLOAD_BUFFER_SLOTS": "8",
        "DATABASE_POOL_TIMEOUT_SECONDS": "10",
    }
    async with serving(stack, folder, variables={"TMPDIR": str(temporary)}, **limits) as process:
        await until_ready(process.url)
        yield process


@asynccontextmanager
async def watched(measure: Callable[[], int]) -> AsyncIterator[list[int]]:
    """Yield a list whose only item is the highest value of `measure` in the block."""
    highest = [measure()]

    async def watch() -> None:
        while True:
            highest[0] = max(highest[0], measure())
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield highest
    finally:
        watching.cancel()
        await asyncio.wait({watching})


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Sockets = list[Connection]


@pytest.fixture
async def sockets() -> AsyncIterator[Sockets]:
    """The connections that a test opens by hand. They are closed at the end."""
    opened: Sockets = []
    yield opened
    for _, writer in opened:
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def connected(sockets: Sockets, url: str, text: str, *, read_ahead_bytes: int = 2**16) -> Connection:
    """Open a connection and begin a request; at most `read_ahead_bytes` of the response are read ahead."""
    address = httpx.URL(url)
    assert address.port is not None
    reader, writer = await asyncio.open_connection(address.host, address.port, limit=read_ahead_bytes)
    sockets.append((reader, writer))
    writer.write(text.replace("\n", "\r\n").encode())
    await writer.drain()
    return reader, writer


async def begun_upload(sockets: Sockets, url: str, model: str, size_bytes: int) -> Connection:
    """Begin a registration of `size_bytes`, up to the start of its file."""
    fields = "".join(
        f'--B\nContent-Disposition: form-data; name="{name}"\n\n{value}\n'
        for name, value in (("model_name", model), ("version", "1"))
    )
    form = f'{fields}--B\nContent-Disposition: form-data; name="model_file"; filename="f"\n\n'
    length = len(form.replace("\n", "\r\n")) + size_bytes + len("\r\n--B--\r\n")
    content_type = "multipart/form-data; boundary=B"
    head = f"POST /register_model HTTP/1.1\nHost: x\nContent-Type: {content_type}\nContent-Length: {length}\n\n"
    return await connected(sockets, url, head + form)


async def status(reader: asyncio.StreamReader, timeout_seconds: float = 20) -> int:
    """Return the status of the response; 0 if the connection ended without one."""
    try:
        line = await asyncio.wait_for(reader.readline(), timeout_seconds)
    except ConnectionError:
        return 0
    return int(line.split()[1]) if line else 0


async def dawdled(connection: Connection, size_bytes: int, seconds: float) -> int:
    """Send the file of an upload that has begun, one byte at a time, and its end; returns the status."""
    reader, writer = connection
    for _ in range(size_bytes):
        writer.write(b".")
        await asyncio.sleep(seconds / size_bytes)
    writer.write(b"\r\n--B--\r\n")
    return await status(reader)


async def finished(connection: Connection, size_bytes: int, may_end: asyncio.Event) -> int:
    """Send the file of an upload that has begun, the last byte when it may end; returns the status."""
    reader, writer = connection
    writer.write(b"." * (size_bytes - 1))
    await may_end.wait()
    writer.write(b".\r\n--B--\r\n")
    return await status(reader)


async def forgotten(client: Client, models: list[str]) -> None:
    """Purge the models that were registered without a ledger, because the checker would report them."""
    for model in models:
        assert (await client.remove(model, "1", purge=True)).status_code == 200


async def test_clients_that_dawdle_or_fall_silent_are_given_up_and_disturb_nobody(
    served: ServiceProcess, backend: Backend, users: Users, sockets: Sockets
) -> None:
    """F34: 30 that send nothing more, and 30 that send a byte now and then."""
    async with users.client(served.url) as client:

        async def seconds(name: str) -> float:
            """Return the second-longest time of some registrations, each with its download."""
            each = []
            for number in range(15):
                begun = time.monotonic()
                assert (await client.register(name, str(number))).status_code == 201
                assert (await client.ask("GET", f"/get_model/{name}/{number}")).status_code == 200
                each.append(time.monotonic() - begun)
            return statistics.quantiles(each, n=15)[-1]

        await seconds("warm")
        alone = await seconds("alone")
        silent = [await begun_upload(sockets, served.url, f"silent{number}", 2**30) for number in range(30)]
        slow = [await begun_upload(sockets, served.url, f"slow{number}", 30) for number in range(30)]

        dawdling = [asyncio.create_task(dawdled(connection, 30, IDLE_SECONDS * 2)) for connection in slow]
        crowded = await seconds("crowded")

        assert crowded < 4 * alone + 8
        assert await asyncio.gather(*(status(reader) for reader, _ in silent)) == [408] * 30
        # They were slow for longer than a silence may last, and succeed nevertheless.
        assert await asyncio.gather(*dawdling) == [201] * 30
        await forgotten(client, [f"slow{number}" for number in range(30)])
    await standing(users, backend, served.url)


async def rest_of(reader: asyncio.StreamReader) -> int:
    """Return how many bytes come until the connection ends."""
    received = 0
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(MIB):
            received += len(data)
    return received


async def until_cut_off(served: ServiceProcess, readers: int) -> None:
    """Wait until the service's metrics say that it has cut off this many downloads."""
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=served.url) as client:
        while (in_flight := _in_flight((await client.get("/metrics")).text)) > 1:  # this request is one
            assert time.monotonic() - begun < 60, f"{in_flight} of {readers} are still there"
            await asyncio.sleep(0.05)


def _in_flight(metrics: str) -> int:
    line = next(line for line in metrics.splitlines() if line.startswith("model_registry_requests_in_flight "))
    return int(float(line.split()[1]))


async def test_readers_that_take_nothing_cost_little_and_are_cut_off(
    served: ServiceProcess, backend: Backend, users: Users, sockets: Sockets
) -> None:
    """F35: 50 of them, on a file far larger than the buffers on the way; and once more, at no further cost."""
    size = 64 * MIB
    async with users.client(served.url) as client:
        await client.register("m", "1", {"f": PIECE * (size // len(PIECE))})
        assert len((await client.ask("GET", "/get_model/m/1")).content) == size
        before = Footprint.of(served.pid)

        request = "GET /get_model/m/1 HTTP/1.1\nHost: x\n\n"
        for version in ("2", "3"):
            async with watched(lambda: resident_bytes(served.pid)) as highest:
                readers = [
                    await connected(sockets, served.url, request, read_ahead_bytes=1024) for _ in range(NEVER_READING)
                ]
                assert (await client.ask("GET", "/readyz")).status_code == 200
                assert (await client.register("m", version)).status_code == 201
                await until_cut_off(served, len(readers))
            assert highest[0] - before.resident_bytes < NEVER_READING * 8 * MIB
            assert max(await asyncio.gather(*(rest_of(reader) for reader, _ in readers))) < size
            if version == "2":
                filled = Footprint.of(served.pid)
        await back_to(filled, served.pid)
    await standing(users, backend, served.url)


def connections_of(port: int) -> int:
    """Return the connections of a server's port that the kernel still holds, closed by the server or not."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[1].endswith(f":{port:04X}") and line.split()[3] != "0A" for line in lines)


async def test_a_reader_that_takes_nothing_loses_its_connection(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F35: its download is given up first; the data that was written to it must not stay forever."""
    monkeypatch.setattr(http11, "SILENCE_SECONDS", 1)
    service = await service_with(body_idle_timeout_seconds=0.5)
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        await register(client, {"model_name": "m", "version": "1"}, {"f": bytes(32 * MIB)})
    with socket.create_connection(service.address) as reader:
        reader.sendall(b"GET /get_model/m/1 HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(30):
            while connections_of(service.address[1]) == 0:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.01)

        async with asyncio.timeout(60):
            while connections_of(service.address[1]) > 0:  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
async def test_nothing_is_ever_spooled(served: ServiceProcess, backend: Backend, users: Users, temporary: Path) -> None:
    """F31: the directory for temporary files has room for 1 MB, and the service uses none of it."""
    content = PIECE * (24 * MIB // len(PIECE))
    async with users.client(served.url) as client, watched(lambda: shutil.disk_usage(temporary).used) as highest:
        await asyncio.gather(
            client.register("m", "form", {"f": content + b"1"}),
            client.push("m", "direct", {"f": content + b"2"}),
            client.push("m", "through us", {"f": content + b"3"}, transfer="proxied"),
        )
        await client.register("m", "two", {"a": content, "b": b"b"})
        archive = await client.ask("GET", "/get_model/m/two")

        assert users.statuses().count(503) == 0
        assert len(archive.content) > len(content)
    assert highest == [0]
    await standing(users, backend, served.url)


async def test_a_storm_of_resets_loses_nothing_and_makes_nothing_up(
    served: ServiceProcess, backend: Backend, users: Users
) -> None:
    """F38: each client repeats its request until its version exists, with the same Idempotency-Key."""
    address = httpx.URL(served.url)
    assert address.port is not None
    async with Proxy.to(address.host, address.port) as proxy:
        proxy.misbehave(RandomReset(0.06))

        async def insist(name: str, sizes: list[int]) -> None:
            async with users.client(f"http://127.0.0.1:{proxy.port}") as client:
                for number, size in enumerate(sizes):
                    await until_there(client, name, str(number), os.urandom(size))

        small = [insist(f"small{number}", [1000] * 12) for number in range(4)]
        large = [insist(f"large{number}", [MIB] * 2) for number in range(3)]
        await asyncio.gather(*small, *large)

        assert proxy.struck > 10
    await standing(users, backend, served.url)


async def until_there(client: Client, name: str, version: str, content: bytes) -> None:
    async with asyncio.timeout(60):
        while True:
            with lost():
                answer = await client.register(name, version, {"f": content}, key=f"{name}-{version}")
                if answer.status_code == 201:
                    break
                # The previous request, whose connection we lost, may still be running.
                assert answer.status_code == 409, answer.text
            await asyncio.sleep(0.01)
        while True:
            with lost():
                assert (await client.ask("GET", f"/get_model/{name}/{version}")).content == content
                return


def data_bytes(pid: int) -> int:
    """Return the private writable memory of a process: `VmData` of proc(5), which RLIMIT_DATA bounds."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmData:")[2].split()[0]) * 1024


@pytest.fixture
async def patient(stack: StackAddresses, settings: Settings, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    """A service that waits for clients that this busy machine slows down."""
    async with serving(stack, tmp_path, UPLOAD_BUFFER_SLOTS="8", BODY_IDLE_TIMEOUT_SECONDS="120") as process:
        await until_ready(process.url)
        yield process


async def test_many_large_uploads_stay_below_a_memory_ceiling(
    patient: ServiceProcess, backend: Backend, users: Users
) -> None:
    """F45: 40 uploads of 12 MiB at once, in a process that may take 128 MiB more than it has."""
    uploads, size = 40, 12 * MIB
    async with users.client(patient.url, timeout_seconds=120) as client:

        async def upload(number: int) -> int:
            content = number.to_bytes(8, "big") + PIECE * (size // len(PIECE))
            return (await client.register("m", str(number), {"f": content})).status_code

        # The first uploads fill pools and start threads.
        assert await asyncio.gather(*(upload(uploads + number) for number in range(8))) == [201] * 8
        ceiling = data_bytes(patient.pid) + 128 * MIB
        resource.prlimit(patient.pid, resource.RLIMIT_DATA, (ceiling, resource.RLIM_INFINITY))
        statuses = await asyncio.gather(*(upload(number) for number in range(uploads)))

    assert set(statuses) <= {201, 503}
    assert statuses.count(201) > uploads / 2
    await standing(users, backend, patient.url)


async def test_sigterm_lets_finish_what_can_and_ends_the_rest_cleanly(
    stack: StackAddresses, service: RunningService, backend: Backend, users: Users, sockets: Sockets, tmp_path: Path
) -> None:
    """F39: 20 uploads and 20 downloads, half of which would never end."""
    content = PIECE * (32 * MIB // len(PIECE))
    # A second SIGTERM ends the delay.
    times: dict[str, Any] = {"SHUTDOWN_DELAY_SECONDS": "600", "SHUTDOWN_GRACE_SECONDS": "8"}
    is_ending = asyncio.Event()
    names = [f"slow{number}" for number in range(10)]
    async with serving(stack, tmp_path, **times) as process, users.client(process.url, timeout_seconds=60) as client:
        await until_ready(process.url)
        assert (await client.register("m", "0", {"f": content})).status_code == 201

        async def download() -> int:
            with lost():
                answer = await client.http.get("/get_model/m/0")
                assert answer.status_code == 503 or answer.content == content
                return answer.status_code
            return 0

        request = "GET /get_model/m/0 HTTP/1.1\nHost: x\n\n"
        for _ in range(10):
            await connected(sockets, process.url, request, read_ahead_bytes=1024)
        stuck = [await begun_upload(sockets, process.url, f"stuck{number}", 2**30) for number in range(10)]
        slow = [await begun_upload(sockets, process.url, name, 10) for name in names]
        uploads = [asyncio.create_task(finished(connection, 10, is_ending)) for connection in slow]
        downloads = [asyncio.create_task(download()) for _ in range(10)]

        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            while (await client.ask("GET", "/readyz")).status_code != 503:
                pass
        assert (await client.ask("GET", "/get_model_info/m/0")).status_code == 200
        process.send_signal(signal.SIGTERM)
        is_ending.set()
        code = await process.exit_code()

        assert code == 0
        assert await asyncio.gather(*uploads) == [201] * 10
        assert set(await asyncio.gather(*downloads)) <= {200, 503, 0}
        assert {await status(reader) for reader, _ in stuck} <= {503, 0}
    async with users.client(service.url) as client:
        await forgotten(client, names)
    await standing(users, backend, service.url)
