"""A schema with data is upgraded to the newest revision while services run, and services take turns."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from model_registry.errors import Unavailable
from model_registry.migrations import alembic_config, head_revision, migrate, online
from model_registry.object_store.blob_store import storage_key
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.processes import environment, run, started
from tests.support.service import make_settings, running

pytestmark = pytest.mark.slow

EARLIER = [script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()][:0:-1]
WEIGHTS = b"weights from before"
SHA256 = hashlib.sha256(WEIGHTS).digest()
MANIFEST = hashlib.sha256(f"{SHA256.hex()}  {len(WEIGHTS)}  model.bin\n".encode()).digest()


async def connect(stack: StackAddresses) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(stack.database_url.replace("+asyncpg", ""))


@pytest.fixture
async def old(stack: StackAddresses) -> AsyncIterator[StackAddresses]:
    """The servers with an empty database of the test's own."""
    name = f"old_{uuid4().hex}"
    server = await connect(stack)
    await server.execute(f"CREATE DATABASE {name}")
    url = make_url(stack.database_url).set(database=name).render_as_string(hide_password=False)
    yield replace(stack, database_url=url)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def upgrade(stack: StackAddresses, revision: str) -> None:
    url = make_settings(stack).database_url.get_secret_value()
    await asyncio.to_thread(command.upgrade, alembic_config(url), revision)


async def upgrade_to_head(stack: StackAddresses) -> None:
    await asyncio.to_thread(migrate, make_settings(stack).database_url.get_secret_value())


async def fill(stack: StackAddresses, bucket: Bucket) -> None:
    """Create two versions, one of them removed, and an unfinished one; only with columns that every revision has."""
    key = storage_key(uuid4())
    await bucket.write(key, WEIGHTS)
    database = await connect(stack)
    try:
        await database.execute("INSERT INTO registered_models (name, next_number) VALUES ('m', 4)")
        await database.execute(
            "INSERT INTO blobs (sha256, size_bytes, storage_key) VALUES ($1, $2, $3)", SHA256, 19, key
        )
        for number, (state, facts) in enumerate(
            [("ready", "NULL, NULL"), ("removed", "now() + interval '1 day', NULL"), ("pending", "NULL, now()")], 1
        ):
            await database.execute(
                "INSERT INTO model_info (model_name, version, number, state, digest, size_bytes, file_count, ready_at,"
                f" model_params, tags, purge_after, lease_expires_at) SELECT 'm', $1, $2, '{state}', $3, 19, 1, now(),"
                f""" '{{"C": 0.1000000000000000055}}', '{{"team": "a"}}', {facts}""",
                f"{number}.0",
                number,
                None if state == "pending" else MANIFEST,
            )
        await database.execute(
            "INSERT INTO version_files SELECT id, 'model.bin', $1, 19, 'application/octet-stream' FROM model_info"
            " WHERE state <> 'pending'",
            SHA256,
        )
        if await database.fetchval("SELECT version_num FROM alembic_version") > "0001":
            await database.execute("UPDATE registered_models SET version_count = 1")
        for version in ("1.0", "2.0"):
            await database.execute(
                "INSERT INTO events (actor, action, model_name, version) VALUES ('a', 'version.registered', 'm', $1)",
                version,
            )
    finally:
        await database.close()


@pytest.mark.parametrize("revision", EARLIER)
async def test_data_of_every_earlier_revision_are_all_there_after_the_upgrade(
    old: StackAddresses, bucket: Bucket, revision: str
) -> None:
    await upgrade(old, revision)
    await fill(old, bucket)

    await upgrade_to_head(old)

    async with running(make_settings(old)) as service, httpx.AsyncClient(base_url=service.url) as client:
        await service.services.collector.collect()
        assert (await client.get("/readyz")).status_code == 200
        info = (await client.get("/get_latest_model_info/m")).json()
        assert (info["version"], info["digest"], info["tags"]) == ("1.0", f"sha256:{MANIFEST.hex()}", {"team": "a"})
        assert "0.1000000000000000055" in (await client.get("/get_model_info/m/1.0")).text
        assert (await client.get("/get_model/m/1.0")).content == WEIGHTS
        assert (await client.get("/v1/models/m")).json()["version_count"] == 1
        found = (await client.get("/v1/versions", params={"filter": "tags.team = 'a'"})).json()["items"]
        assert [item["version"] for item in found] == ["1.0"]
        assert [e["version"] for e in (await client.get("/v1/events")).json()["items"]] == ["1.0", "2.0"]
        assert (await client.post("/v1/models/m/versions/2.0/restore")).status_code == 200
        assert (await client.get("/get_model/m/2.0")).content == WEIGHTS
        assert (await client.post("/register_model", json={"model_name": "m", "version": "3.0"})).json()["number"] == 4


async def test_the_upgrade_keeps_no_writer_waiting(old: StackAddresses) -> None:
    await upgrade(old, "0002")
    database = await connect(old)
    await database.execute("INSERT INTO registered_models (name) SELECT 'm' || i FROM generate_series(1, 20) AS i")
    insert = (
        "INSERT INTO model_info (model_name, version, number, state, digest, ready_at, tags)"
        " SELECT 'm' || $1::int, i, i, 'ready', sha256(i::text::bytea), now(), jsonb_build_object('n', i)"
        " FROM generate_series($2::int, $3::int) AS i"
    )
    await database.execute(insert, 20, 1, 30_000)
    waited: list[float] = []
    is_done = asyncio.Event()

    async def write(model: int) -> None:
        connection = await connect(old)
        number = 0
        while not is_done.is_set():
            number += 1
            began = time.monotonic()
            await connection.execute(insert, model, number, number)
            waited.append(time.monotonic() - began)
        await connection.close()

    writers = [asyncio.create_task(write(model)) for model in (1, 2, 3)]
    await upgrade_to_head(old)
    is_done.set()
    await asyncio.gather(*writers)
    rows = await database.fetchval("SELECT count(*) FROM model_info")
    invalid = await database.fetchval("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
    await database.close()

    assert rows == 30_000 + len(waited)
    assert invalid == 0
    # An index that is not built concurrently blocks writers until it is built.
    assert max(waited) < 2


async def test_a_migrator_that_meets_a_long_transaction_gives_up_and_is_run_again(
    old: StackAddresses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(online, "LOCK_TIMEOUT_SECONDS", 1)
    await upgrade(old, "0001")
    blocker = await connect(old)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT count(*) FROM model_info")

    began = time.monotonic()
    with pytest.raises(Unavailable):
        await upgrade_to_head(old)
    gave_up_after = time.monotonic() - began
    await transaction.rollback()
    await blocker.close()
    await upgrade_to_head(old)

    assert gave_up_after < 4


async def test_a_migrator_that_is_killed_half_way_is_run_again(old: StackAddresses, tmp_path: Path) -> None:
    await upgrade(old, "0002")
    blocker = await connect(old)
    watcher = await connect(old)
    transaction = blocker.transaction()
    await transaction.start()
    # So that the first index exists, and waits to become valid.
    await blocker.execute("LOCK model_info IN ROW EXCLUSIVE MODE")
    half_built = "SELECT count(*) FROM pg_index WHERE NOT indisvalid"
    async with started("migrate", env=environment(old), cwd=tmp_path) as migrator:
        async with asyncio.timeout(90):
            while not await watcher.fetchval(half_built):  # noqa: ASYNC110 - only asking tells
                await asyncio.sleep(0.05)
        migrator.send_signal(signal.SIGKILL)
        await migrator.wait()
    await transaction.commit()
    await blocker.close()
    async with asyncio.timeout(90):
        building = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'CREATE INDEX%'"
        while await watcher.fetchval(building):  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.05)

    code, _, errors = await run("migrate", env=environment(old), cwd=tmp_path)

    assert code == 0, errors
    assert await watcher.fetchval("SELECT version_num FROM alembic_version") == head_revision()
    assert await watcher.fetchval(half_built) == 0
    await watcher.close()


async def test_migrators_wait_for_each_other(old: StackAddresses, tmp_path: Path) -> None:
    results = await asyncio.gather(*(run("migrate", env=environment(old), cwd=tmp_path) for _ in range(3)))

    assert [code for code, _, _ in results] == [0, 0, 0], results


async def next_revision(stack: StackAddresses, floor: str) -> None:
    """Do what a migration of a later version does to the schema."""
    database = await connect(stack)
    await database.execute("ALTER TABLE model_info ADD COLUMN licence text")
    await database.execute("UPDATE alembic_version SET version_num = '9999'")
    await database.execute("UPDATE schema_floor SET oldest_revision = $1", floor)
    await database.close()


async def test_a_service_goes_on_when_the_schema_is_upgraded_below_it(old: StackAddresses, tmp_path: Path) -> None:
    await upgrade_to_head(old)
    async with running(make_settings(old)) as service, httpx.AsyncClient(base_url=service.url) as client:
        await next_revision(old, floor=head_revision())

        assert (await client.get("/readyz")).status_code == 200
        assert (await client.post("/register_model", json={"model_name": "m", "version": "1"})).status_code == 201
        assert (await client.get("/get_model_info/m/1")).status_code == 200
        # A return to the previous version is possible: it still starts.
        async with running(make_settings(old)) as another:
            assert httpx.URL(another.url) != httpx.URL(service.url)


async def test_a_service_that_cannot_work_with_a_newer_schema_says_so(old: StackAddresses, tmp_path: Path) -> None:
    await upgrade_to_head(old)
    async with running(make_settings(old)) as service, httpx.AsyncClient(base_url=service.url) as client:
        await next_revision(old, floor="9999")

        readiness = await client.get("/readyz")

    code, _, errors = await run("serve", "--port", "0", env=environment(old), cwd=tmp_path)
    assert readiness.status_code == 503
    assert "Start a newer version" in readiness.json()["checks"]["schema"]["detail"]
    assert code == 1
    assert "needs services made for 9999 or later" in errors
