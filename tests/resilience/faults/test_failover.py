"""The primary ends and a standby takes its address.

If the standby had to confirm each commit, everything acknowledged survives. If not, only what the standby lacked is
lost.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import LIMITS, Backend, Users, in_two, standing, until, until_written, writing
from tests.resilience.faults.servers import OwnPostgres, own_postgres, standby
from tests.support.bucket import Bucket
from tests.support.checker import check
from tests.support.ledger import read_ledgers
from tests.support.proxy import BlackHole, Proxy, Refuse
from tests.support.registering import FORM, multipart
from tests.support.service import RunningService, make_settings, running

pytestmark = pytest.mark.slow


async def sql(postgres: OwnPostgres, statement: str) -> object:
    """Execute one statement on this server; returns the first value of its first row."""
    engine = create_async_engine(postgres.url, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            result = await connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None
    finally:
        await engine.dispose()


@dataclass(frozen=True)
class Pair:
    """Two servers. `address` leads to the current primary, and the other one replicates through `link`."""

    stack: StackAddresses
    primary: OwnPostgres
    standby: OwnPostgres
    address: Proxy
    link: Proxy

    async def fail_over(self) -> None:
        self.address.misbehave(Refuse())
        self.primary.kill()
        await sql(self.standby, "SELECT pg_promote()")
        port = make_url(self.standby.url).port
        assert port is not None
        self.address.lead_to("127.0.0.1", port)
        self.address.behave()


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[OwnPostgres]:
    (tmp_path / "primary").mkdir()
    with own_postgres(tmp_path / "primary") as primary:
        yield primary


@pytest.fixture
async def pair(primary: OwnPostgres, stack: StackAddresses, bucket: Bucket, tmp_path: Path) -> AsyncIterator[Pair]:
    await bucket.empty()
    (tmp_path / "standby").mkdir()
    url = make_url(primary.url)
    assert url.port is not None
    async with (
        Proxy.to("127.0.0.1", url.port) as address,
        Proxy.to("127.0.0.1", url.port) as link,
        standby(primary, link, tmp_path / "standby") as copy,
    ):
        moved = url.set(port=address.port).render_as_string(hide_password=False)
        yield Pair(replace(stack, database_url=moved), primary, copy, address, link)


@pytest.fixture
async def in_charge(pair: Pair) -> AsyncIterator[Backend]:
    async with Backend.of(pair.stack) as backend:
        yield backend


@pytest.fixture
async def service(pair: Pair) -> AsyncIterator[RunningService]:
    async with running(make_settings(pair.stack, **LIMITS)) as service:
        yield service


async def confirm_each_commit(pair: Pair) -> None:
    await sql(pair.primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    await sql(pair.primary, "SELECT pg_reload_conf()")
    await until(lambda: sql(pair.primary, "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))


async def test_a_failover_to_a_standby_that_confirms_each_commit_loses_nothing(
    pair: Pair, in_charge: Backend, service: RunningService, users: Users
) -> None:
    """F15, M1: while clients write, and without a restart of the service."""
    await confirm_each_commit(pair)
    async with writing(users, service.url):
        await asyncio.sleep(1)
        await pair.fail_over()
        await until_written(users, service.url)

    assert users.statuses().count(201) > 3
    assert set(users.statuses()) <= {201, 503}
    await standing(users, in_charge, service.url)


async def test_what_the_standby_has_not_confirmed_is_not_acknowledged(
    pair: Pair, in_charge: Backend, service: RunningService, users: Users
) -> None:
    """F15, M1: the standby falls silent in mid-upload; a repeated request gets no success from the primary alone."""
    await confirm_each_commit(pair)
    content = b"m 2" * 60_000  # more than what is read before the intent is recorded
    body = multipart([("model_name", None, b"m"), ("version", None, b"2"), ("model_file", "model.bin", content)])
    may_go_on = asyncio.Event()
    async with users.client(service.url) as client:
        assert (await client.register("m", "1")).status_code == 201

        async def ask(content: bytes | AsyncIterator[bytes]) -> int:
            headers = {**FORM, "Idempotency-Key": "same"}
            return (await client.ask("POST", "/register_model", content=content, headers=headers)).status_code

        asked = asyncio.create_task(ask(in_two(body, may_go_on)))
        await until(lambda: in_charge.execute("SELECT 1 FROM uploads"))
        pair.link.misbehave(BlackHole())
        may_go_on.set()
        statuses = [await asked, await ask(body), await ask(body)]
        assert set(statuses) <= {503, 409}
        pair.link.misbehave(Refuse())
        await pair.fail_over()
        await until_written(users, service.url)

        assert (await client.ask("GET", "/get_model/m/1")).status_code == 200
        await in_charge.expire()
        assert await ask(body) == 201
        client.intend("register", "m", "2", {"model.bin": content})

    await standing(users, in_charge, service.url)


async def test_a_failover_to_a_standby_that_lags_loses_what_it_lacked_and_no_more(
    pair: Pair, in_charge: Backend, service: RunningService, users: Users
) -> None:
    """F15: no standby confirms the commits. What is lost is lost completely, and its label is free."""
    async with users.client(service.url) as client:
        assert (await client.register("m", "kept")).status_code == 201
        await until(
            lambda: sql(pair.primary, "SELECT 1 FROM pg_stat_replication WHERE replay_lsn = pg_current_wal_lsn()")
        )
        pair.link.misbehave(Refuse())
        assert (await client.register("m", "lost")).status_code == 201
        await pair.fail_over()
        await until_written(users, service.url)

        assert (await client.ask("GET", "/get_model/m/kept")).content == b"m kept"
        assert (await client.ask("GET", "/get_model/m/lost")).status_code == 404
        await in_charge.settle()
        verdict = await check(read_ledgers(users.ledgers), in_charge.engine, in_charge.bucket)
        assert all("lost" in complaint or "M4" in complaint for complaint in verdict.complaints), verdict
        assert verdict.unknown_objects == 1
        assert (await client.register("m", "lost")).status_code == 201
