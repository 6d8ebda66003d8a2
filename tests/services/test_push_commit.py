"""The end of a push: verified without anybody waiting too long for it, resumed by whoever commits again, done once."""

import asyncio
import hashlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import BlobDamaged, StoredObject
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.parts import CONTENT, begin, listed, send_parts
from tests.support.problems import slug
from tests.support.processes import environment, free_port, line_with, resident_bytes, started, until_ready
from tests.support.pushing import GOOD, MIB, VERSIONS, actions, commit, push, read, reserve, send, uploads_of
from tests.support.service import RunningService, ServiceWith

COMMIT = f"{VERSIONS}/1.0/commit"


class Gate:
    """Holds the reads of a service until it is opened."""

    def __init__(self, service: RunningService, monkeypatch: pytest.MonkeyPatch) -> None:
        self._is_open = asyncio.Event()
        self.reached = asyncio.Event()
        self.reads = 0
        read = service.services.blobs.read

        @asynccontextmanager
        async def gated(key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
            self.reads += 1
            self.reached.set()
            await self._is_open.wait()
            async with read(key, start, stop) as chunks:
                yield chunks

        monkeypatch.setattr(service.services.blobs, "read", gated)

    def open(self) -> None:
        self._is_open.set()


async def impatient(service_with: ServiceWith, **changes: Any) -> RunningService:
    return await service_with(multipart_threshold_bytes=MIB, multipart_part_bytes=5 * MIB, **changes)


async def state_of(session: AsyncSession) -> str:
    await session.rollback()
    state = await session.scalar(text("SELECT state FROM model_info"))
    assert isinstance(state, str)
    return state


async def test_slow_verification_continues_after_the_response(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    service = await impatient(service_with, commit_wait_seconds=0.1)
    gate = Gate(service, monkeypatch)
    async with httpx.AsyncClient(base_url=service.url) as client:
        upload = await begin(client)
        parts = listed(upload, await send_parts(client, upload))

        accepted = await commit(client, parts=parts)
        joined = [await commit(client, parts=parts), await commit(client)]
        otherwise = await commit(client, parts={upload["upload_id"]: []})
        invisible = await client.get("/get_model_info/fraud/1.0")
        listing = await client.get("/list_models")
        polled = await client.get(accepted.headers["location"])
        gate.open()
        async with asyncio.timeout(10):
            while (committed := await commit(client)).status_code == 202:
                assert committed.json()["state"] == "verifying"
        verified = gate.reads
        content = await read(client, "model.bin")

    for answer in (accepted, *joined):
        assert answer.status_code == 202
        assert answer.headers["location"] == f"{VERSIONS}/1.0"
        assert answer.headers["retry-after"] == "1"
        assert answer.json()["state"] == "verifying"
        assert [file["path"] for file in answer.json()["files"]] == ["model.bin"]
    assert (otherwise.status_code, slug(otherwise)) == (409, "commit-in-progress")
    assert (invisible.status_code, listing.json()) == (404, [])
    assert (polled.status_code, polled.json()["state"]) == (200, "verifying")
    assert (committed.status_code, committed.json()["state"]) == (200, "ready")
    assert verified == 1
    assert content == CONTENT
    assert await actions(database_session) == ["version.registered"]


async def test_a_commit_that_has_not_begun_gets_no_response(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    """Otherwise a version that still accepts files would be `verifying`."""
    service = await impatient(service_with, commit_wait_seconds=0.05)
    gate = Gate(service, monkeypatch)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client))
        await database_session.execute(text("SELECT FROM model_info FOR UPDATE"))

        committing = asyncio.create_task(commit(client))
        await asyncio.sleep(0.3)
        assert not committing.done()
        await database_session.rollback()
        accepted = await committing
        gate.open()

    assert (accepted.status_code, accepted.json()["state"]) == (202, "verifying")


async def test_a_repeated_commit_raises_what_slow_verification_found(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    service = await impatient(service_with, commit_wait_seconds=0.1)
    gate = Gate(service, monkeypatch)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client, content=CONTENT[::-1]))

        accepted = await commit(client)
        gate.open()
        async with asyncio.timeout(10):
            while await state_of(database_session) == "verifying":  # noqa: ASYNC110 - in another process, as it were
                await asyncio.sleep(0.01)
        refused = await commit(client)

    assert accepted.status_code == 202
    assert (refused.status_code, slug(refused)) == (422, "digest-mismatch")


async def test_verification_continues_when_the_client_leaves(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    service = await impatient(service_with)
    gate = Gate(service, monkeypatch)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client))
    leaving = httpx.AsyncClient(base_url=service.url)
    committing = asyncio.create_task(commit(leaving))
    await gate.reached.wait()

    committing.cancel()
    await asyncio.wait({committing})
    await leaving.aclose()
    gate.open()

    async with asyncio.timeout(10):
        while await state_of(database_session) != "ready":  # noqa: ASYNC110 - in another process, as it were
            await asyncio.sleep(0.01)


async def test_concurrent_commits_verify_once(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    service = await impatient(service_with)
    gate = Gate(service, monkeypatch)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client))

        committing = asyncio.gather(*(commit(client) for _ in range(10)))
        await gate.reached.wait()
        gate.open()
        committed = await committing

    assert {answer.status_code for answer in committed} == {200}
    assert len({answer.text for answer in committed}) == 1
    assert gate.reads == 1
    assert await actions(database_session) == ["version.registered"]


async def test_another_process_finishes_the_commit_of_a_process_that_stopped(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    stopped, other = await impatient(service_with), await impatient(service_with)
    gate = Gate(stopped, monkeypatch)
    async with (
        httpx.AsyncClient(base_url=stopped.url) as to_the_stopped,
        httpx.AsyncClient(base_url=other.url) as to_the_other,
    ):
        await send_parts(to_the_stopped, await begin(to_the_stopped))
        waiting = asyncio.create_task(commit(to_the_stopped))
        await gate.reached.wait()

        committed = await commit(to_the_other)
        gate.open()
        awake = await waiting

    assert (committed.status_code, awake.status_code) == (200, 200), awake.text
    assert awake.json() == committed.json()
    assert await actions(database_session) == ["version.registered"]


async def test_a_commit_that_outlived_its_lease_gives_up(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession, bucket: Bucket
) -> None:
    zombie, other = await impatient(service_with), await impatient(service_with)
    gate = Gate(zombie, monkeypatch)
    async with (
        httpx.AsyncClient(base_url=zombie.url) as to_the_zombie,
        httpx.AsyncClient(base_url=other.url) as to_the_other,
    ):
        await send_parts(to_the_zombie, await begin(to_the_zombie))
        waiting = asyncio.create_task(commit(to_the_zombie))
        await gate.reached.wait()
        await database_session.execute(text("UPDATE model_info SET lease_expires_at = now() - interval '1 s'"))
        await database_session.commit()
        winner = await push(to_the_other, {"another.bin": GOOD})
        await other.services.collector.collect()

        gate.open()
        given_up = await waiting
        await other.services.collector.collect()

    assert winner.status_code == 200
    assert given_up.status_code in {409, 422}
    assert await state_of(database_session) == "ready"
    assert len(await bucket.keys()) == 1


async def test_a_version_whose_verification_stopped_is_pending_again_if_a_file_is_missing(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")
    await database_session.execute(text("UPDATE model_info SET state = 'verifying'"))
    await database_session.commit()

    incomplete = await commit(client)

    assert incomplete.status_code == 409
    assert await state_of(database_session) == "pending"
    assert (await client.put(f"{VERSIONS}/1.0/files/model.bin", content=GOOD)).status_code == 201
    assert (await commit(client)).status_code == 200


# The store


async def test_reading_back_continues_where_it_broke(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await impatient(service_with)
    store = service.services.blobs
    read = store.read
    starts = []

    @asynccontextmanager
    async def breaking(key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        starts.append(start)

        async def some(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            yield await anext(chunks)
            if len(starts) < 9:
                raise BlobDamaged(key) if len(starts) % 2 else Unavailable("The object store")
            async for chunk in chunks:
                yield chunk

        async with read(key, start, stop) as chunks:
            yield some(chunks)

    monkeypatch.setattr(store, "read", breaking)
    monkeypatch.setattr("model_registry.transfer.object_digest._PAUSE_SECONDS", 0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client))
        committed = await commit(client)

    assert committed.status_code == 200
    assert starts == sorted(set(starts))
    assert len(starts) == 9


async def test_a_commit_waits_for_a_store_that_is_away_and_then_says_so(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch, database_session: AsyncSession
) -> None:
    service = await impatient(service_with)

    @asynccontextmanager
    async def away(_key: str, _start: int, _stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        raise Unavailable("The object store")
        yield

    monkeypatch.setattr("model_registry.transfer.object_digest._PAUSE_SECONDS", 0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await send_parts(client, await begin(client))
        with monkeypatch.context() as patch:
            patch.setattr(service.services.blobs, "read", away)
            unavailable = await commit(client)
        pending = await state_of(database_session)
        committed = await commit(client)

    assert (unavailable.status_code, pending) == (503, "pending")
    assert unavailable.headers["retry-after"] == "2"
    assert committed.status_code == 200


async def test_an_object_that_the_store_returns_incomplete_is_refused(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await impatient(service_with)

    @asynccontextmanager
    async def shorter(key: str, _start: int, _stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        raise BlobDamaged(key)
        yield

    monkeypatch.setattr("model_registry.transfer.object_digest._PAUSE_SECONDS", 0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        upload = await begin(client)
        await send_parts(client, upload)
        with monkeypatch.context() as patch:
            patch.setattr(service.services.blobs, "read", shorter)
            refused = await commit(client)
        again = await begin(client)
        await send_parts(client, again)
        committed = await commit(client)

    assert (refused.status_code, slug(refused)) == (422, "size-mismatch")
    assert again["upload_id"] != upload["upload_id"]
    assert committed.status_code == 200


async def test_an_object_is_missing_until_the_store_shows_it(
    client: httpx.AsyncClient, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send(client, uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"], GOOD)

    async def not_yet(_key: str) -> StoredObject | None:
        return None

    with monkeypatch.context() as patch:
        patch.setattr(service.services.blobs, "stored", not_yet)
        incomplete = await commit(client)
    committed = await commit(client)

    assert (incomplete.status_code, slug(incomplete)) == (409, "upload-incomplete")
    assert committed.status_code == 200


async def test_objects_are_read_back_if_the_store_keeps_no_checksums(
    client: httpx.AsyncClient, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = service.services.blobs
    stored = store.stored
    files = {"right.bin": GOOD, "wrong.bin": GOOD[::-1]}
    uploads = uploads_of(await reserve(client, files))
    await send(client, uploads["right.bin"], files["right.bin"])
    wrong_key = httpx.URL(uploads["wrong.bin"]["url"]).path.partition("/blobs/")[2]

    async def without(key: str) -> StoredObject | None:
        found = await stored(key)
        return found and StoredObject(found.size_bytes, None)

    monkeypatch.setattr(store, "stored", without)
    await store.put(f"blobs/{wrong_key}", _Bytes(GOOD))
    refused = await commit(client)

    assert (refused.status_code, slug(refused), refused.json()["path"]) == (422, "digest-mismatch", "wrong.bin")


class _Bytes:
    def __init__(self, content: bytes) -> None:
        self.pieces = [memoryview(content)]

    def __len__(self) -> int:
        return len(self.pieces[0])


# A process of its own

SIZE = 300 * MIB
PIECE = bytes(range(256)) * (16 * MIB // 256)


async def test_a_large_file_is_verified_in_little_memory_and_after_a_crash_by_the_next_process(
    stack: StackAddresses, settings: Settings, fresh: None, tmp_path: Path
) -> None:
    port, other_port = free_port(), free_port()
    pieces = {number: PIECE[: min(len(PIECE), SIZE - (number - 1) * len(PIECE))] for number in range(1, 20)}
    content = hashlib.sha256()
    for piece in pieces.values():
        content.update(piece)
    file = {"path": "model.bin", "size_bytes": SIZE, "sha256": f"sha256:{content.hexdigest()}"}
    highest = 0

    async def watch(pid: int) -> None:
        nonlocal highest
        while True:
            highest = max(highest, resident_bytes(pid))
            await asyncio.sleep(0.02)

    env = environment(stack, COMMIT_WAIT_SECONDS="0.05")
    async with started("serve", "--port", str(port), env=env, cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            reserved = await client.post(VERSIONS, json={"version": "1.0", "files": [file]})
            upload = uploads_of(reserved)["model.bin"]
            await asyncio.gather(*(send_parts(client, upload, dict([piece])) for piece in pieces.items()))
            accepted = await client.post(COMMIT)
        process.send_signal(signal.SIGKILL)
        await process.wait()
    env = environment(stack, COMMIT_WAIT_SECONDS="60")
    async with started("serve", "--port", str(other_port), env=env, cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{other_port}")
        before = resident_bytes(process.pid)
        watching = asyncio.create_task(watch(process.pid))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{other_port}", timeout=60) as client:
            committed = await client.post(COMMIT)
        watching.cancel()

    assert (accepted.status_code, accepted.json()["state"]) == (202, "verifying")
    assert (committed.status_code, committed.json()["state"]) == (200, "ready")
    assert highest - before < 60 * MIB


STALLING = """
import asyncio
from contextlib import asynccontextmanager
from model_registry.cli import main
from model_registry.object_store.s3 import S3BlobStore

@asynccontextmanager
async def stalled(self, key, start, stop):
    print("stalled", flush=True)
    await asyncio.sleep(3600)
    yield

S3BlobStore.read = stalled
main()
"""


async def test_a_shutdown_in_mid_verification_is_quiet_and_loses_nothing(
    stack: StackAddresses, settings: Settings, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    port = free_port()
    env = environment(stack, MULTIPART_THRESHOLD_BYTES=str(MIB), COMMIT_WAIT_SECONDS="0.05", SHUTDOWN_GRACE_SECONDS="1")
    command = [sys.executable, "-c", STALLING]
    async with started("serve", "--port", str(port), env=env, cwd=tmp_path, command=command) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as pusher:
            await send_parts(pusher, await begin(pusher, content=PIECE), {1: PIECE})
            accepted = await commit(pusher)
        await line_with(process.stdout, "stalled")

        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 20)

    committed = await commit(client)
    assert (accepted.status_code, process.returncode) == (202, 0)
    assert not any(word in errors for word in (b"Traceback", b"was destroyed", b"never retrieved")), errors.decode()
    assert committed.status_code == 200, committed.text
