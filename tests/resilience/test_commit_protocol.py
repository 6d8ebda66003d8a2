"""The commit protocol when responses are lost, leases expire and readers fall silent."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import ModelInfoDB, UploadDB
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.commit_eater import CommitEater
from tests.support.processes import environment, free_port, started, until_ready
from tests.support.registering import FORM, WEIGHTS, multipart, register
from tests.support.service import Collect, ServiceWith

pytestmark = pytest.mark.slow

MIB = 1024**2


@pytest.fixture
async def commits(stack: StackAddresses) -> AsyncIterator[CommitEater]:
    url = make_url(stack.database_url)
    eater = CommitEater(url.host or "127.0.0.1", url.port or 5432)
    yield eater
    eater.stop()


@pytest.mark.parametrize("lets_it_arrive", [True, False], ids=["the answer is lost", "the commit is lost"])
async def test_a_lost_commit_is_found_out_about(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    database_session: AsyncSession,
    lets_it_arrive: bool,
) -> None:
    url = make_url(stack.database_url).set(host="127.0.0.1", port=await commits.start())
    service = await service_with(database_url=url.render_as_string(hide_password=False))
    commits.lets_it_arrive = lets_it_arrive
    await asyncio.sleep(0.5)  # the collector's first run has commits of its own

    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        for passed in range(2):  # reserve, publish
            commits.commits_to_pass = passed
            response = await register(client, {"model_name": "m", "version": f"1.{passed}"})
            assert response.status_code == 201, response.text
            assert (await client.get(f"/get_model/m/1.{passed}")).content == WEIGHTS
        assert commits.eaten == 2
        commits.commits_to_pass = 0
        removed = await client.delete("/remove_model/m/1.0")

    assert commits.eaten == 3
    assert (removed.status_code, removed.json()["state"]) == (200, "removed")
    assert await database_session.scalar(select(func.count()).select_from(UploadDB)) == 0
    states = (await database_session.scalars(select(ModelInfoDB.state).order_by(ModelInfoDB.version))).all()
    assert states == ["removed", "ready"]


async def test_a_write_that_outlived_its_lease_leaves_no_unknown_object(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect, bucket: Bucket
) -> None:
    body = multipart([("model_name", None, b"m"), ("version", None, b"1"), ("model_file", "f", b"late " * 20)])

    async def frozen_form() -> AsyncIterator[bytes]:
        yield body[:-60]
        await asyncio.sleep(0.3)
        for table in ("model_info", "uploads"):
            await database_session.execute(text(f"UPDATE {table} SET lease_expires_at = now() - interval '1 second'"))
        await database_session.commit()
        winner = await register(client, {"model_name": "m", "version": "1"})
        assert winner.status_code == 201
        await collect()
        yield body[-60:]

    zombie = await client.post("/register_model", content=frozen_form(), headers=FORM)
    await collect()

    assert zombie.status_code == 409
    assert zombie.json()["type"] == "urn:model-registry:problem:lease-lost"
    assert (await client.get("/get_model/m/1")).content == WEIGHTS
    assert len(await bucket.keys()) == 1


async def test_a_shutdown_in_mid_upload_is_a_503_that_holds_no_label(
    stack: StackAddresses,
    settings: Settings,
    fresh: None,
    database_session: AsyncSession,
    collect: Collect,
    bucket: Bucket,
    tmp_path: Path,
) -> None:
    port = free_port()
    body = multipart([("model_name", None, b"m"), ("version", None, b"1"), ("model_file", "f", bytes(20 * MIB))])
    env = environment(stack, SHUTDOWN_GRACE_SECONDS="1", GC_GRACE_SECONDS="0")
    async with started("serve", "--port", str(port), env=env, cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST /register_model HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b0undary\r\n"
            + f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body[: 18 * MIB]
        )
        await writer.drain()
        await asyncio.sleep(0.5)

        process.send_signal(signal.SIGTERM)
        answer = await asyncio.wait_for(reader.read(), 60)
        writer.close()
        assert await asyncio.wait_for(process.wait(), 60) == 0

    assert answer.startswith(b"HTTP/1.1 503 ")
    assert await database_session.scalar(select(func.count()).select_from(ModelInfoDB)) == 0
    await collect()
    assert await bucket.keys() == set()
    assert await bucket.unfinished() == []


async def test_readers_that_take_nothing_keep_nobody_waiting(service_with: ServiceWith) -> None:
    service = await service_with(s3_max_connections=2, body_idle_timeout_seconds=1)
    silent = []
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        await register(client, {"model_name": "m", "version": "1"}, {"f": bytes(48 * MIB)})
        for _ in range(2):
            reader = socket.create_connection(service.address)
            reader.sendall(b"GET /get_model/m/1 HTTP/1.1\r\nHost: x\r\n\r\n")
            silent.append(reader)
        await asyncio.sleep(0.3)

        readiness = await client.get("/readyz")
        download = await client.get("/get_model/m/1")

    for reader in silent:
        reader.close()
    assert readiness.status_code == 200
    assert len(download.content) == 48 * MIB


async def test_one_stuck_object_keeps_no_other_from_being_deleted(
    client: httpx.AsyncClient, service_with: ServiceWith, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as other:
        for version in ("1", "2", "3"):
            await register(other, {"model_name": "m", "version": version}, {"f": version.encode()})
            await other.delete(f"/remove_model/m/{version}")
    stuck = min(await bucket.keys())
    store = service.services.blobs
    delete = store.delete

    async def refusing(keys: list[str]) -> set[str]:
        await delete([key for key in keys if key != stuck])
        return {stuck} & set(keys)

    monkeypatch.setattr(store, "delete", refusing)
    collected = await service.services.collector.collect()

    assert collected.deleted_objects == 2
    assert await bucket.keys() == {stuck}
