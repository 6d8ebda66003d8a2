"""PostgreSQL dies, freezes, falls silent, fills up and loses responses.

Clients get a 503 in time, and nothing that was acknowledged is lost.
"""

import asyncio
import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import (
    LATE_SECONDS,
    LIMITS,
    MIB,
    Backend,
    Footprint,
    Users,
    back_to,
    behind_proxies,
    in_two,
    standing,
    until,
    until_written,
    writing,
)
from tests.resilience.faults.nursery import Nursery
from tests.resilience.faults.operations import OPERATIONS
from tests.resilience.faults.servers import OwnPostgres, own_postgres
from tests.support.bucket import Bucket
from tests.support.proxy import BlackHole, CutBefore, Proxy, SwallowReply
from tests.support.registering import FORM, multipart
from tests.support.service import RunningService, ServiceWith, make_settings, running

pytestmark = pytest.mark.slow

TERMINATE = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'model-registry'"
TWO_WAIT = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' HAVING count(*) = 2"


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnPostgres]:
    with own_postgres(tmp_path_factory.mktemp("postgres")) as postgres:
        yield postgres


@pytest.fixture(scope="module")
async def everything_beside(postgres: OwnPostgres, stack: StackAddresses) -> AsyncIterator[Backend]:
    async with Backend.of(postgres.beside(stack)) as backend:
        yield backend


@pytest.fixture
async def beside(everything_beside: Backend) -> Backend:
    """Our own PostgreSQL, emptied, and the store of this run."""
    backend = everything_beside
    await backend.execute("TRUNCATE registered_models, events, garbage, uploads, blobs, idempotency CASCADE")
    await backend.bucket.empty()
    return backend


@pytest.fixture(scope="module")
async def own_service(everything_beside: Backend) -> AsyncIterator[RunningService]:
    async with running(make_settings(everything_beside.stack, **LIMITS)) as service:
        yield service


async def test_a_killed_server_loses_nothing_that_was_acknowledged(
    postgres: OwnPostgres, beside: Backend, own_service: RunningService, users: Users
) -> None:
    """F09: `kill -9` of the postmaster under load, again and again."""
    async with writing(users, own_service.url):
        for _ in range(3):
            await asyncio.sleep(0.3)
            postgres.kill()
            await until_written(users, own_service.url)

    assert users.statuses().count(201) > 3
    assert set(users.statuses()) <= {201, 503}
    await standing(users, beside, own_service.url)


async def test_killed_backends_are_noticed_by_no_client(
    beside: Backend, own_service: RunningService, users: Users
) -> None:
    """F10: connections that died in the pool are replaced before they are used."""
    async with users.client(own_service.url) as client:
        for number in range(5):
            await asyncio.gather(*(client.register(f"m{each}", f"{number}") for each in range(4)))
            assert await beside.execute(TERMINATE)

    assert users.statuses() == [201] * 20
    await standing(users, beside, own_service.url)


async def test_a_backend_that_is_killed_in_mid_transaction_is_tried_again(
    beside: Backend, own_service: RunningService, users: Users
) -> None:
    """F10: its backend dies while it waits for a row."""
    async with users.client(own_service.url) as client, beside.engine.connect() as other:
        await client.register("m", "1")
        await other.execute(text("SELECT 1 FROM registered_models FOR UPDATE"))
        asked = asyncio.create_task(client.register("m", "2"))
        terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await until(lambda: beside.execute(terminate))
        await other.rollback()

        assert (await asked).status_code == 201

    await standing(users, beside, own_service.url)


async def test_a_frozen_server_is_a_503_in_time(
    postgres: OwnPostgres, beside: Backend, own_service: RunningService, users: Users
) -> None:
    """F11: connections from the pool and new ones, for every kind of request.

    A connection that was used within the last 100 ms is not checked, so its request counts as already under way.
    """
    async with users.client(own_service.url) as client:
        await asyncio.gather(*(client.register("m", f"{number}") for number in range(4)))
        await asyncio.sleep(0.2)
        with postgres.frozen():
            answers = await asyncio.gather(
                *(client.register("m", f"1.{number}") for number in range(10)),
                *(client.ask("GET", "/get_model_info/m/1") for _ in range(10)),
                *(client.ask("GET", "/readyz") for _ in range(2)),
            )
            assert {answer.status_code for answer in answers} == {503}
            assert users.slowest_seconds() < LATE_SECONDS
            assert (await client.ask("GET", "/healthz")).status_code == 200

    await standing(users, beside, own_service.url)


async def test_a_read_only_server_is_a_503_for_writes_alone(
    beside: Backend, own_service: RunningService, users: Users
) -> None:
    """F15: as after a failover to a server that was not promoted."""
    async with users.client(own_service.url) as client, beside.engine.connect() as connection:
        admin = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await client.register("m", "1")
        await admin.execute(text("ALTER DATABASE model_registry SET default_transaction_read_only = on"))
        await admin.execute(text(TERMINATE))
        register, push = await client.register("m", "2"), await client.push("m", "3")
        read, move = await client.ask("GET", "/get_model/m/1"), await client.move("m", "champion", "1")
        await admin.execute(text("ALTER DATABASE model_registry RESET default_transaction_read_only"))
        await admin.execute(text(TERMINATE))

        assert (register.status_code, push.status_code, move.status_code) == (503, 503, 503)
        assert (read.status_code, read.content) == (200, b"m 1")

    await standing(users, beside, own_service.url)


@pytest.fixture(scope="module")
async def proxied(stack: StackAddresses) -> AsyncIterator[tuple[StackAddresses, Proxy]]:
    async with behind_proxies(stack) as (moved, postgres, _):
        yield replace(moved, s3_endpoint_url=stack.s3_endpoint_url), postgres


@pytest.fixture(scope="module")
async def struck(proxied: tuple[StackAddresses, Proxy]) -> AsyncIterator[RunningService]:
    """A service whose PostgreSQL is behind the proxy."""
    async with running(make_settings(proxied[0], **LIMITS)) as service:
        yield service


@pytest.fixture
def through(proxied: tuple[StackAddresses, Proxy]) -> Iterator[tuple[StackAddresses, Proxy]]:
    yield proxied
    proxied[1].behave()


# How many COMMITs precede the one that counts, and how many events that one has.
LOST = {
    "reserve": (0, 0),
    "commit": (2, 1),
    "move": (0, 1),
    "swap": (0, 2),
    "purge": (0, 2),
}


@pytest.mark.parametrize("mode", [pytest.param(CutBefore, id="F12"), pytest.param(SwallowReply, id="F13")])
@pytest.mark.parametrize("name", LOST)
async def test_a_lost_commit_is_answered_as_if_nothing_had_happened(
    through: tuple[StackAddresses, Proxy],
    backend: Backend,
    service: RunningService,
    struck: RunningService,
    users: Users,
    name: str,
    mode: type[CutBefore] | type[SwallowReply],
) -> None:
    """F12: the COMMIT does not arrive. F13: it arrives, and its response does not."""
    _, proxy = through
    operation = OPERATIONS[name]
    skip, events = LOST[name]
    count = "SELECT count(*) FROM events"
    async with users.client(service.url) as other, users.client(struck.url) as client:
        await operation.prepare(other)
        # Get the tasks done that a process does only once: its first collection, and the probe of the store.
        await client.push("first", "1")
        ((before,),) = await backend.execute(count)
        proxy.struck = 0
        proxy.misbehave(mode(b"COMMIT;", skip=skip))
        answer = await operation.ask(client)
        if events == 0 and answer.status_code == 503:
            # On a busy machine: a change without an event is not checked for long.
            answer = await operation.ask(client)
        proxy.behave()

        assert proxy.struck == 1
        assert answer.status_code in {200, 201}, answer.text
        ((after,),) = await backend.execute(count)
        assert after - before == events
        await operation.see(client)

    await standing(users, backend, service.url)


async def test_a_silent_server_holds_no_caller_longer_than_it_may(
    nursery: Nursery, through: tuple[StackAddresses, Proxy], backend: Backend, users: Users
) -> None:
    """F14: with a pool of two connections that were alive a moment ago; afterwards both are still available.

    A request that comes within 100 ms of the one before waits as long as that one does.
    """
    moved, proxy = through
    async with (
        nursery.serving(moved, DATABASE_POOL_SIZE="2", DATABASE_POOL_TIMEOUT_SECONDS="0.5") as process,
        users.client(process.url) as client,
    ):
        await asyncio.gather(*(client.register("m", f"{number}") for number in range(8)))
        before = Footprint.of(process.pid)
        await asyncio.sleep(0.2)
        proxy.misbehave(BlackHole())
        for _ in range(2):
            begun = time.monotonic()
            answers = await asyncio.gather(
                *(client.ask("GET", "/get_model_info/m/1") for _ in range(8)), client.ask("GET", "/readyz")
            )
            assert {answer.status_code for answer in answers} == {503}
            assert time.monotonic() - begun < LATE_SECONDS
        proxy.behave()

        await until_written(users, process.url)
        for number in range(4):
            # As many requests as the pool has connections, so that none has to wait for one.
            both = await asyncio.gather(*(client.register("m", f"2.{number}.{each}") for each in range(2)))
            assert {answer.status_code for answer in both} == {201}
        await back_to(before, process.pid)
        await standing(users, backend, process.url)


async def test_a_server_that_falls_silent_in_mid_transaction_is_not_asked_to_roll_back(
    through: tuple[StackAddresses, Proxy], backend: Backend, users: Users, service_with: ServiceWith
) -> None:
    """F14: a statement is under way, and waits for a row that another transaction holds."""
    moved, proxy = through
    service = await service_with(
        database_url=moved.database_url,
        database_pool_size=2,
        database_pool_timeout_seconds=2,
        database_statement_timeout_seconds=2,
    )
    async with users.client(service.url) as client, backend.engine.connect() as other:
        await client.register("m", "1")
        await other.execute(text("SELECT 1 FROM registered_models FOR UPDATE"))
        asked = [asyncio.create_task(client.register("m", f"2.{number}")) for number in range(2)]
        await until(lambda: backend.execute(TWO_WAIT))
        proxy.misbehave(BlackHole())
        begun = time.monotonic()
        assert {answer.status_code for answer in await asyncio.gather(*asked)} == {503}
        # The time limit of the statement plus a second, and one attempt to release the label.
        assert time.monotonic() - begun < LATE_SECONDS
        proxy.behave()
        await other.rollback()
        await until_written(users, service.url)

    await standing(users, backend, service.url)


async def test_a_label_that_could_not_be_given_up_is_free_when_the_server_answers_again(
    through: tuple[StackAddresses, Proxy], backend: Backend, users: Users, service_with: ServiceWith
) -> None:
    """F14: it falls silent in the middle of a registration, long before the lease expires."""
    moved, proxy = through
    service = await service_with(
        database_url=moved.database_url, database_pool_timeout_seconds=0.5, database_statement_timeout_seconds=0.5
    )
    content = b"weights " * 20_000  # more than what is read before the intent is recorded
    body = multipart([("model_name", None, b"m"), ("version", None, b"1"), ("model_file", "model.bin", content)])
    may_go_on = asyncio.Event()
    async with users.client(service.url) as client:
        client.intend("register", "m", "1", {"model.bin": content})
        asked = asyncio.create_task(
            client.ask("POST", "/register_model", content=in_two(body, may_go_on), headers=FORM)
        )
        await until(lambda: backend.execute("SELECT 1 FROM uploads"))
        proxy.misbehave(BlackHole())
        may_go_on.set()
        assert (await asked).status_code == 503
        for _ in range(3):
            assert (await client.ask("GET", "/readyz")).status_code == 503
        proxy.behave()

        async def is_registered() -> bool:
            return (await client.register("m", "1", {"model.bin": content})).status_code == 201

        await until(is_registered)

    await standing(users, backend, service.url)


async def test_an_exhausted_pool_is_a_503_and_the_process_stays_alive(
    backend: Backend, users: Users, service_with: ServiceWith
) -> None:
    """F16: both connections wait for a row, and there are fifty clients."""
    service = await service_with(
        database_pool_size=2,
        database_pool_timeout_seconds=0.5,
        database_statement_timeout_seconds=60,
        database_lock_timeout_seconds=60,
    )
    async with users.client(service.url) as client, backend.engine.connect() as other:
        await client.register("m", "1")
        await other.execute(text("SELECT 1 FROM registered_models FOR UPDATE"))
        holding = [asyncio.create_task(client.register("m", f"2.{number}")) for number in range(2)]
        await until(lambda: backend.execute(TWO_WAIT))
        answers = await asyncio.gather(*(client.ask("GET", "/get_model_info/m/1") for _ in range(50)))
        health = await client.ask("GET", "/healthz")
        slowest = max(answer.elapsed.total_seconds() for answer in answers)
        await other.rollback()

        assert {answer.status_code for answer in answers} == {503}
        assert slowest < LATE_SECONDS
        assert health.status_code == 200
        assert {answer.status_code for answer in await asyncio.gather(*holding)} == {201}

    await standing(users, backend, service.url)


async def test_a_label_that_a_stalled_transaction_holds_is_a_503_in_time(
    backend: Backend, users: Users, service_with: ServiceWith
) -> None:
    """F17: the transaction has written the label, and neither commits nor rolls back."""
    service = await service_with(database_lock_timeout_seconds=0.3)
    async with users.client(service.url) as client, backend.engine.connect() as other:
        await client.register("m", "1")
        await other.execute(text("UPDATE model_info SET version = '2'"))
        begun = time.monotonic()
        register, push = await asyncio.gather(client.register("m", "2"), client.push("m", "2"))
        assert time.monotonic() - begun < LATE_SECONDS
        await other.rollback()

        assert (register.status_code, push.status_code) == (503, 503)
        assert (await client.register("m", "2")).status_code == 201

    await standing(users, backend, service.url)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, OwnPostgres]]:
    """A disk that is just large enough, and a PostgreSQL on it."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=160m,mode=755", "tmpfs", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("this root may not mount")
    try:
        with own_postgres(disk) as postgres:
            yield disk, postgres
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def fill(file: Path) -> None:
    """Write zeros until no space is left."""
    with contextlib.suppress(OSError), file.open("wb", buffering=0) as filler:
        while True:
            filler.write(bytes(MIB // 4))


def enlarge(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=400m", disk], check=True)


async def test_a_full_disk_is_a_503_and_loses_nothing(
    stack: StackAddresses, bucket: Bucket, small_disk: tuple[Path, OwnPostgres], users: Users
) -> None:
    """F30: also if PostgreSQL itself goes down, and cannot restart because there is no space."""
    disk, postgres = small_disk
    await bucket.empty()
    async with (
        Backend.of(postgres.beside(stack)) as backend,
        running(make_settings(backend.stack)) as service,
        users.client(service.url) as client,
    ):
        for number in range(5):
            await client.register("m", f"{number}")
        fill(disk / "filler")
        # The next write needs a new WAL file, finds no space, and takes the whole server down.
        with contextlib.suppress(DBAPIError):
            await backend.execute("SELECT pg_switch_wal()")
        for number in range(8):
            await client.register("m", f"1.{number}")
        assert users.statuses()[-5:] == [503] * 5
        assert (await client.ask("GET", "/healthz")).status_code == 200

        enlarge(disk)
        await until_written(users, service.url, within_seconds=20)
        await standing(users, backend, service.url)
