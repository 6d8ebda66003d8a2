"""Files that are pushed through the service: hashed on the way, and kept only if they are what was declared."""

import asyncio
import gzip
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.auth.permissions import ANONYMOUS, Actor
from model_registry.db_models import UploadDB
from model_registry.domain.entities import NewUpload, VersionRef
from model_registry.errors import Forbidden, UploadUnknown, VersionExists
from tests.support.bucket import Bucket
from tests.support.parts import CONTENT, send_parts
from tests.support.problems import slug
from tests.support.pushing import (
    GOOD,
    MIB,
    OTHER,
    VERSIONS,
    commit,
    count,
    entry,
    missing_from,
    push,
    read,
    reserve,
    send,
    uploads_of,
)
from tests.support.rawhttp import Ending, message
from tests.support.rawhttp import send as send_raw
from tests.support.service import Collect, RunningService, ServiceWith

FILE = f"{VERSIONS}/1.0/files/model.bin"


async def chunks_of(content: bytes, size: int = 100) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "chunked"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(OTHER, "digest-mismatch", id="other bytes"),
        pytest.param(GOOD[:-1], "size-mismatch", id="too short"),
        pytest.param(GOOD + b"x", "size-mismatch", id="too long"),
        pytest.param(GOOD * 1000, "size-mismatch", id="far too long"),
        pytest.param(b"", "size-mismatch", id="nothing"),
    ],
)
async def test_bytes_that_were_not_declared_are_not_kept(
    client: httpx.AsyncClient, collect: Collect, bucket: Bucket, content: bytes, problem: str, is_chunked: bool
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")

    refused = await client.put(FILE, content=chunks_of(content) if is_chunked else content)
    await collect()

    assert (refused.status_code, slug(refused)) == (422, problem)
    assert refused.json()["path"] == "model.bin"
    assert await bucket.keys() == set()
    assert (await client.put(FILE, content=GOOD)).status_code == 201
    assert (await commit(client)).status_code == 200


async def test_bytes_that_are_stored_already_are_compared(client: httpx.AsyncClient, bucket: Bucket) -> None:
    await push(client, {"model.bin": GOOD}, "0.9")
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")

    same = await client.put(FILE, content=GOOD)
    other = await client.put(FILE, content=OTHER)
    longer = await client.put(FILE, content=chunks_of(GOOD * 2))
    committed = await commit(client)

    assert same.status_code == 201
    assert (other.status_code, slug(other)) == (422, "digest-mismatch")
    assert (longer.status_code, slug(longer)) == (422, "size-mismatch")
    assert committed.status_code == 200
    assert len(await bucket.keys()) == 1


@pytest.mark.parametrize(
    ("path", "status", "problem"),
    [
        ("other.bin", 404, "file-not-found"),
        ("MODEL.bin", 404, "file-not-found"),
        ("model.bin/x", 404, "file-not-found"),
        ("../model.bin", 422, "invalid-field"),
        ("%2e%2e/model.bin", 422, "invalid-field"),
        ("a//b", 422, "invalid-field"),
        ("/model.bin", 422, "invalid-field"),
        ("a/", 422, "invalid-field"),
        ("./a", 422, "invalid-field"),
        ("a%00b", 422, "invalid-field"),
        ("a%5cb", 422, "invalid-field"),
        ("C:x", 422, "invalid-field"),
        ("a%0d%0ab", 404, "no-such-route"),
        ("a%1b%5B31m", 422, "invalid-field"),
        ("cafe%CC%81", 422, "invalid-field"),
        ("%E2%80%AEx", 422, "invalid-field"),
        ("x" * 1025, 422, "invalid-field"),
        ("", 422, "invalid-field"),
        ("a%2Fb", 404, "no-such-route"),
        ("%252e%252e", 404, "file-not-found"),
    ],
)
async def test_only_declared_paths_are_accepted(
    service: RunningService, client: httpx.AsyncClient, bucket: Bucket, path: str, status: int, problem: str
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")

    headers = ["Host: x", f"Content-Length: {len(GOOD)}", "Connection: close"]
    answer = await send_raw(service.address, message("PUT", f"{VERSIONS}/1.0/files/{path}", headers, GOOD))

    assert answer is not None
    assert (answer.status_code, answer.json()["type"].rpartition(":")[2]) == (status, problem), answer.text
    assert await bucket.keys() == set()


async def test_only_a_pending_version_accepts_files(client: httpx.AsyncClient, bucket: Bucket) -> None:
    await push(client, {"model.bin": GOOD}, transfer="proxied")
    keys = await bucket.keys()

    answers = {
        "the same": await client.put(FILE, content=GOOD),
        "another": await client.put(FILE, content=OTHER),
        "no version": await client.put(f"{VERSIONS}/2.0/files/model.bin", content=GOOD),
        "no model": await client.put("/v1/models/nobody/versions/1.0/files/model.bin", content=GOOD),
        "latest": await client.put(f"{VERSIONS}/latest/files/model.bin", content=GOOD),
        "alias": await client.put(f"{VERSIONS}/@champion/files/model.bin", content=GOOD),
    }
    await client.delete("/remove_model/fraud/1.0")
    answers["removed"] = await client.put(FILE, content=GOOD)

    assert {name: (answer.status_code, slug(answer)) for name, answer in answers.items()} == {
        "the same": (409, "version-exists"),
        "another": (409, "version-exists"),
        "no version": (404, "version-not-found"),
        "no model": (404, "model-not-found"),
        "latest": (422, "invalid-field"),
        "alias": (422, "invalid-field"),
        "removed": (409, "version-exists"),
    }
    assert await bucket.keys() == keys


async def test_the_same_file_can_be_sent_many_times_at_once(
    client: httpx.AsyncClient, collect: Collect, bucket: Bucket, database_session: AsyncSession
) -> None:
    await reserve(client, {"model.bin": GOOD, "again.bin": GOOD}, transfer="proxied")

    sent = await asyncio.gather(
        *(client.put(FILE, content=chunks_of(GOOD)) for _ in range(5)),
        *(client.put(f"{VERSIONS}/1.0/files/again.bin", content=chunks_of(GOOD)) for _ in range(5)),
        *(client.put(FILE, content=chunks_of(OTHER)) for _ in range(3)),
    )
    committed = await commit(client)
    await collect()

    assert sorted(answer.status_code for answer in sent) == [201] * 10 + [422] * 3
    assert committed.status_code == 200
    assert len(await bucket.keys()) == 1
    assert await count(database_session, UploadDB) == 0
    assert await read(client, "again.bin") == GOOD


async def test_encoded_bodies_are_refused(client: httpx.AsyncClient, collect: Collect, bucket: Bucket) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")

    zipped = gzip.compress(GOOD)
    answers = [
        await client.put(FILE, content=zipped, headers={"Content-Encoding": "gzip"}),
        await client.put(FILE, content=GOOD, headers={"Content-Encoding": "br"}),
        await client.post(VERSIONS, content=zipped, headers={"Content-Encoding": "gzip"}),
        await client.post(f"{VERSIONS}/1.0/commit", content=zipped, headers={"Content-Encoding": "gzip"}),
    ]
    await collect()

    # The size is looked at first.
    assert [answer.status_code for answer in answers] == [422, 415, 415, 415]
    assert await bucket.keys() == set()


@pytest.mark.parametrize("ending", ["close", "half-close"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "chunked"])
async def test_a_body_that_breaks_off_leaves_nothing(
    service: RunningService,
    client: httpx.AsyncClient,
    collect: Collect,
    bucket: Bucket,
    database_session: AsyncSession,
    ending: Ending,
    is_chunked: bool,
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")
    length = "Transfer-Encoding: chunked" if is_chunked else f"Content-Length: {len(GOOD)}"
    half = GOOD[: len(GOOD) // 2]
    body = f"{len(half):x}\r\n".encode() + half + b"\r\n" if is_chunked else half

    await send_raw(service.address, message("PUT", FILE, ["Host: x", length], body), ending=ending)
    async with asyncio.timeout(5):
        while await count(database_session, UploadDB):  # noqa: ASYNC110 - in another process, as it were
            await asyncio.sleep(0.01)
    await collect()

    assert await bucket.keys() == set()
    assert (await commit(client)).status_code == 409
    assert (await client.put(FILE, content=GOOD)).status_code == 201


@pytest.mark.parametrize("method", ["put", "multipart"])
async def test_every_file_can_be_sent_through_the_service_whatever_its_method(
    service_with: ServiceWith, method: str, bucket: Bucket
) -> None:
    service = await service_with(multipart_threshold_bytes=1 if method == "multipart" else MIB)
    async with httpx.AsyncClient(base_url=service.url) as client:
        upload = uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"]
        sent = await client.put(FILE, content=GOOD)
        again = await reserve(client, {"model.bin": GOOD})
        committed = await commit(client)
        await service.services.collector.collect()
        content = await read(client, "model.bin")

    assert upload["method"] == method
    assert (sent.status_code, missing_from(again), committed.status_code) == (201, set(), 200)
    assert content == GOOD
    assert len(await bucket.keys()) == 1


async def test_a_direct_push_can_be_finished_through_the_service(service_with: ServiceWith, bucket: Bucket) -> None:
    service = await service_with(multipart_threshold_bytes=MIB, multipart_part_bytes=5 * MIB)
    files = {"model.bin": CONTENT, "small": GOOD}
    async with httpx.AsyncClient(base_url=service.url) as client:
        uploads = uploads_of(await reserve(client, files))
        await send(client, uploads["small"], GOOD)
        await send_parts(client, uploads["model.bin"], {1: CONTENT[: 5 * MIB]})

        through_us = uploads_of(await reserve(client, files, transfer="proxied"))
        sent = await send(client, through_us["model.bin"], CONTENT)
        committed = await commit(client)
        await service.services.collector.collect()

    assert {path: upload["method"] for path, upload in through_us.items()} == {"model.bin": "proxy", "small": None}
    assert (sent.status_code, committed.status_code) == (201, 200)
    assert len(await bucket.keys()) == 2
    assert await bucket.unfinished() == []


async def test_no_client_gets_a_url_for_the_key_of_a_proxied_file(
    client: httpx.AsyncClient, bucket: Bucket, database_session: AsyncSession
) -> None:
    """Otherwise wrong bytes that arrive here would replace what the client sent there."""
    await reserve(client, {"model.bin": GOOD})
    is_begun, may_end = asyncio.Event(), asyncio.Event()

    async def wrong_bytes() -> AsyncIterator[bytes]:
        yield OTHER[:10]
        is_begun.set()
        await may_end.wait()
        yield OTHER[10:]

    through_us = asyncio.create_task(client.put(FILE, content=wrong_bytes()))
    await is_begun.wait()
    async with asyncio.timeout(5):
        while await count(database_session, UploadDB) < 2:  # noqa: ASYNC110 - in another process, as it were
            await asyncio.sleep(0.01)
    keys = set(await database_session.scalars(text("SELECT storage_key FROM uploads WHERE writable_until IS NULL")))
    uploads = uploads_of(await reserve(client, {"model.bin": GOOD}))
    await send(client, uploads["model.bin"], GOOD)
    committed = await commit(client)
    may_end.set()
    refused = await through_us

    assert len(keys) == 1
    assert not any(key in uploads["model.bin"]["url"] for key in keys)
    assert committed.status_code == 200
    assert refused.status_code == 422
    assert await read(client, "model.bin") == GOOD


async def test_a_large_file_passes_through_few_buffers(service_with: ServiceWith) -> None:
    service = await service_with(upload_buffer_slots=1)
    content = bytes(range(256)) * (20 * MIB // 256)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        committed = await push(client, {"model.bin": content}, transfer="proxied")
        received = await read(client, "model.bin")

    assert committed.status_code == 200, committed.text
    assert hashlib.sha256(received).digest() == hashlib.sha256(content).digest()


async def test_a_slower_upload_of_the_same_large_file_succeeds_too(client: httpx.AsyncClient, bucket: Bucket) -> None:
    content = bytes(range(256)) * (20 * MIB // 256)
    await reserve(client, {"model.bin": content}, transfer="proxied")
    is_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield content[:MIB]
        is_begun.set()
        await may_end.wait()
        async for chunk in chunks_of(content[MIB:], MIB):
            yield chunk

    sending = asyncio.create_task(client.put(FILE, content=slow()))
    await is_begun.wait()
    quick = await client.put(FILE, content=chunks_of(content, MIB))
    may_end.set()
    twin = await sending

    assert (quick.status_code, twin.status_code) == (201, 201), twin.text
    assert (await commit(client)).status_code == 200


async def test_no_upload_is_opened_for_a_ready_version(
    client: httpx.AsyncClient, service: RunningService, database_session: AsyncSession
) -> None:
    """No version would own it, so it would never be collected."""
    version_id = (await push(client, {"model.bin": GOOD})).json()["id"]
    upload = NewUpload(uuid4(), "blobs/late", "model.bin")

    async with service.services.database.transaction() as tx:
        is_open = await tx.uploads.open([upload], version_id, 900)

    assert not is_open
    assert await count(database_session, UploadDB) == 0


async def test_only_its_owner_can_continue_a_pending_version(
    client: httpx.AsyncClient, service_with: ServiceWith
) -> None:
    service = await service_with(multipart_threshold_bytes=1)
    proxied, parts = service.services.proxied_uploads, service.services.upload_parts
    somebody, nobody = Actor("somebody", ANONYMOUS.permissions), Actor("nobody", frozenset())
    ref = VersionRef("fraud", "1.0")
    body: dict[str, Any] = {"version": "1.0", "files": [entry("model.bin", GOOD)]}
    async with httpx.AsyncClient(base_url=service.url) as theirs:
        reserved = await theirs.post(VERSIONS, json=body)
    upload_id = UUID(uploads_of(reserved)["model.bin"]["upload_id"])

    with pytest.raises(VersionExists):
        await service.services.commits.commit(ref, {}, actor=somebody)
    with pytest.raises(VersionExists):
        await proxied.put_file(ref, "model.bin", chunks_of(GOOD), size_bytes=None, actor=somebody)
    with pytest.raises(UploadUnknown):
        await parts.status(upload_id, actor=somebody)
    with pytest.raises(UploadUnknown):
        await parts.sign(upload_id, [1], actor=somebody)
    with pytest.raises(Forbidden):
        await service.services.commits.commit(ref, {}, actor=nobody)
    with pytest.raises(Forbidden):
        await parts.status(upload_id, actor=nobody)
    with pytest.raises(Forbidden):
        await proxied.put_file(ref, "model.bin", chunks_of(GOOD), size_bytes=None, actor=nobody)
