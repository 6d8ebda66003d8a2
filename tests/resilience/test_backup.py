"""Backup and restore, as docs/operations.md says: the database first, then the bucket, while everything goes on."""

import asyncio
import hashlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from model_registry.migrations import migrate
from model_registry.web.requests.paging import page_token
from model_registry.wiring import blob_store
from model_registry_devstack import StackAddresses
from model_registry_devstack.postgres import binaries
from tests.support.bucket import Bucket
from tests.support.checker import check
from tests.support.ledger import Ledger, read_ledgers
from tests.support.processes import environment
from tests.support.processes import run as run_command
from tests.support.registering import register
from tests.support.service import make_settings, running

pytestmark = pytest.mark.slow


def plain(url: str) -> str:
    return url.replace("+asyncpg", "")


@pytest.fixture
async def places(stack: StackAddresses) -> AsyncIterator[list[StackAddresses]]:
    """Two databases, each with a bucket: the original, and the place where it is restored."""
    names = [f"backup_{uuid4().hex}" for _ in range(2)]
    server = await asyncpg.connect(plain(stack.database_url))
    found = []
    for name in names:
        await server.execute(f"CREATE DATABASE {name}")
        url = make_url(stack.database_url).set(database=name).render_as_string(hide_password=False)
        place = replace(stack, database_url=url, s3_bucket=name.replace("_", "-"))
        await asyncio.to_thread(migrate, make_settings(place).database_url.get_secret_value())
        async with blob_store(make_settings(place)) as blobs:
            await blobs.create_bucket()
        found.append(place)
    yield found
    for place, name in zip(found, names, strict=True):
        async with Bucket.open(make_settings(place)) as bucket:
            await bucket.empty()
            await bucket.client.delete_bucket(Bucket=bucket.name)
        await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


async def tool(name: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        str(binaries() / name), *arguments, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    _, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()


async def work(client: httpx.AsyncClient, ledger: Ledger, prefix: str, is_over: asyncio.Event) -> None:
    """Register, and now and then purge an older version, at least ten times and until the event."""
    for number in itertools.count(1):
        if is_over.is_set() and number > 10:
            return
        content = f"{prefix} {number}".encode() * 1000
        version = f"{prefix}{number}"
        attempt = ledger.attempt("register", "m", version, files={"f": hashlib.sha256(content).hexdigest()})
        answer = await register(client, {"model_name": "m", "version": version}, {"f": content})
        ledger.ack(attempt, answer.status_code, digest=answer.json().get("digest"))
        if number % 4 == 0:
            purged = f"{prefix}{number - 2}"
            attempt = ledger.attempt("purge", "m", purged)
            answer = await client.delete(f"/v1/models/m/versions/{purged}", params={"purge": "true"})
            ledger.ack(attempt, answer.status_code)


async def copy(source: Bucket, target: Bucket) -> None:
    for key in await source.keys():
        try:
            await target.write(key, await source.read(key))
        except source.client.exceptions.NoSuchKey:
            continue  # deleted since it was listed


async def test_what_was_acknowledged_before_the_backup_is_all_there_after_it(
    places: list[StackAddresses], tmp_path: Path
) -> None:
    here, there = places
    dump = tmp_path / "registry.dump"
    # The grace time allows the bucket to be copied after the database.
    settings = make_settings(here, gc_grace_seconds=3600, gc_interval_seconds=0.2, purge_after_seconds=0)
    async with Bucket.open(settings) as source, Bucket.open(make_settings(there)) as target:
        with Ledger(tmp_path / "before") as before, Ledger(tmp_path / "during") as during:
            async with running(settings) as service, httpx.AsyncClient(base_url=service.url, timeout=30) as client:
                is_over = asyncio.Event()
                is_over.set()
                await work(client, before, "a", is_over)
                is_over.clear()
                working = asyncio.create_task(work(client, during, "b", is_over))
                await asyncio.sleep(0.3)
                await tool("pg_dump", "--format=custom", f"--file={dump}", f"--dbname={plain(here.database_url)}")
                await register(
                    client, {"model_name": "late", "version": "1"}, {"f": b"after the dump, before the copy"}
                )
                await copy(source, target)
                is_over.set()
                await working
        dumped_to = plain(there.database_url)
        await tool("pg_restore", "--clean", "--if-exists", "--no-owner", f"--dbname={dumped_to}", str(dump))
        # As if the dumped server had run for years, and this one were new.
        new_server = await asyncpg.connect(dumped_to)
        await new_server.execute("UPDATE events SET xid = (xid::text::bigint + 1000000000)::text::xid8")
        await new_server.close()
        code, _, errors = await run_command("migrate", env=environment(there), cwd=tmp_path)
        assert code == 0, errors
        code, said, errors = await run_command("verify", env=environment(there), cwd=tmp_path)
        assert code == 0, said + errors

        async with running(make_settings(there)) as service, httpx.AsyncClient(base_url=service.url) as client:
            await service.services.collector.collect()
            engine = create_async_engine(make_settings(there).database_url.get_secret_value())
            verdict = await check(read_ledgers([tmp_path / "before"]), engine, target)
            objects_unknown = [line for line in verdict.complaints if "in the bucket and not in" in line]
            await engine.dispose()
            # Only what was registered after the dump is missing; `verify` names its objects.
            others = [line for line in verdict.complaints if line not in objects_unknown and "nobody sent" not in line]
            assert others == [], str(verdict)
            assert verdict.acknowledged == verdict.readable > 5
            assert said.count("unknown: blobs/") >= len(objects_unknown) > 0

            # Work continues: labels, numbers and the log.
            assert (await register(client, {"model_name": "m", "version": "after"})).status_code == 201
            events: list[str] = []
            token = None
            while page := (await client.get("/v1/events", params={"after": token or ""})).json():
                token = page["next_page_token"]
                if not page["items"]:
                    break
                events += [event["version"] for event in page["items"] if event["action"] == "version.registered"]
            assert events[0] == "a1"
            assert events[-1] == "after"
            assert len(events) == len(set(events)) > 5
            lost = await client.get("/v1/events", params={"after": page_token(["events", None], 10**9, 1)})
            assert (lost.status_code, lost.json()["type"].rpartition(":")[2]) == (422, "unknown-position")


async def test_a_bucket_that_is_older_than_its_database_is_found_out(
    places: list[StackAddresses], tmp_path: Path
) -> None:
    here, there = places
    settings = make_settings(here)
    async with Bucket.open(settings) as source, Bucket.open(make_settings(there)) as target:
        async with running(settings) as service, httpx.AsyncClient(base_url=service.url) as client:
            await register(client, {"model_name": "m", "version": "1"}, {"f": b"old"})
            await copy(source, target)
            await register(client, {"model_name": "m", "version": "2"}, {"f": b"new"})
        mixed = replace(here, s3_bucket=there.s3_bucket)
        before = await target.keys()

        code, said, _ = await run_command("verify", env=environment(mixed), cwd=tmp_path)

        assert code == 1
        assert "m 2 f" in said
        async with running(make_settings(mixed)) as service, httpx.AsyncClient(base_url=service.url) as client:
            await service.services.collector.collect()
            # It only reports: nothing was deleted, and complete versions can be downloaded.
            assert await target.keys() == before
            assert (await client.get("/get_model/m/1")).content == b"old"
            assert (await client.get("/get_model/m/2")).status_code == 409
            assert (await register(client, {"model_name": "m", "version": "3"}, {"f": b"new"})).status_code == 201
            assert (await client.get("/get_model/m/2")).content == b"new"
