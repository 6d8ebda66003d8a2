"""A push: reserved in one request, sent to the object store, verified before it is visible."""

import asyncio
import hashlib
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import BlobDB, DeclaredFileDB, GarbageDB, ModelInfoDB, UploadDB
from tests.support.bucket import Bucket
from tests.support.problems import slug
from tests.support.pushing import (
    GOOD,
    MIB,
    OTHER,
    VERSIONS,
    actions,
    commit,
    count,
    entry,
    expire,
    missing_from,
    push,
    read,
    reserve,
    send,
    uploads_of,
)
from tests.support.registering import register
from tests.support.service import Collect, ServiceWith


@pytest.mark.parametrize("transfer", ["direct", "proxied"])
async def test_a_push_is_reserved_sent_and_committed(client: httpx.AsyncClient, transfer: str) -> None:
    files = {"model.bin": b"weights" * 100, "conf/labels.txt": b"ok\nfraud\n", "empty": b""}

    reserved = await reserve(
        client, files, transfer=transfer, model_params={"C": 1.0}, description="first", tags={"team": "risk"}
    )
    pending = reserved.json()
    before = await client.get("/get_model_info/fraud/1.0")
    for upload in pending["uploads"]:
        sent = await send(client, upload, files[upload["path"]])
        assert sent.status_code in {200, 201}, sent.text
    committed = await commit(client)

    assert reserved.status_code == 201
    assert reserved.headers["location"] == f"{VERSIONS}/1.0"
    assert reserved.headers["cache-control"] == "no-store"
    assert (pending["state"], pending["file_count"], pending["number"]) == ("pending", 3, 1)
    assert {upload["method"] for upload in pending["uploads"]} == {"put" if transfer == "direct" else "proxy"}
    assert before.status_code == 404
    assert committed.status_code == 200, committed.text
    info = committed.json()
    assert (info["state"], info["description"], info["tags"]) == ("ready", "first", {"team": "risk"})
    assert info["model_params"] == {"C": 1.0}
    assert [file["path"] for file in info["files"]] == ["conf/labels.txt", "empty", "model.bin"]
    for path, content in files.items():
        assert await read(client, path) == content
    assert (await client.get("/get_model_info/fraud/1.0")).json() == info


async def test_a_push_without_files_is_committed_at_once(client: httpx.AsyncClient) -> None:
    reserved = await reserve(client, {}, model_params={"C": 1})

    committed = await commit(client)

    assert (reserved.status_code, reserved.json()["uploads"]) == (201, [])
    assert (committed.status_code, committed.json()["file_count"], committed.json()["file_path"]) == (200, 0, None)
    assert committed.json()["digest"] == f"sha256:{hashlib.sha256().hexdigest()}"


async def test_a_version_with_one_file_shows_its_location(client: httpx.AsyncClient, bucket: Bucket) -> None:
    info = (await push(client, {"model.bin": GOOD})).json()

    [key] = await bucket.keys()
    assert info["file_path"] == f"s3://{bucket.name}/{key}"


async def test_media_types_are_kept(client: httpx.AsyncClient) -> None:
    file = entry("notes.txt", GOOD, media_type="text/plain; charset=utf-8")
    reserved = await client.post(VERSIONS, json={"version": "1.0", "files": [file]})
    await send(client, uploads_of(reserved)["notes.txt"], GOOD)

    info = (await commit(client)).json()

    assert [each["media_type"] for each in reserved.json()["files"]] == ["text/plain; charset=utf-8"]
    assert [each["media_type"] for each in info["files"]] == ["text/plain; charset=utf-8"]


# One PUT


async def test_wrong_bytes_are_refused_by_storage_and_sent_again_to_the_same_url(client: httpx.AsyncClient) -> None:
    upload = uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"]

    refused = await send(client, upload, OTHER)
    incomplete = await commit(client)
    sent = await send(client, upload, GOOD)
    committed = await commit(client)

    assert refused.status_code == 400
    assert (incomplete.status_code, slug(incomplete)) == (409, "upload-incomplete")
    assert incomplete.json()["missing"] == [{"path": "model.bin", "part_numbers": []}]
    assert "model.bin" in incomplete.json()["detail"]
    assert (sent.status_code, committed.status_code) == (200, 200)
    assert await read(client, "model.bin") == GOOD


async def test_a_url_that_is_used_again_changes_no_published_bytes(client: httpx.AsyncClient, bucket: Bucket) -> None:
    upload = uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"]
    await send(client, upload, GOOD)
    assert (await commit(client)).status_code == 200

    same = await send(client, upload, GOOD)
    other = await send(client, upload, OTHER)
    bare = await client.put(upload["url"], content=OTHER)

    assert same.status_code == 412
    assert other.status_code in {400, 412}
    assert bare.status_code == 403
    [key] = await bucket.keys()
    assert await bucket.read(key) == GOOD
    assert await read(client, "model.bin") == GOOD


async def test_expired_urls_are_replaced_and_only_where_files_are_missing(
    client: httpx.AsyncClient, service_with: ServiceWith
) -> None:
    service = await service_with(presign_expiry_seconds=1)
    files = {"a": b"sent in time", "b": b"sent too late", "c": b"never sent"}
    first = uploads_of(await reserve(client, files))
    assert (await send(client, first["a"], files["a"])).status_code == 200
    async with httpx.AsyncClient(base_url=service.url) as hasty:
        expiring = uploads_of(await reserve(hasty, files))
    await asyncio.sleep(2.1)  # the store counts in seconds

    late = await send(client, expiring["b"], files["b"])
    again = await reserve(client, files)
    second = uploads_of(again)
    for path in ("b", "c"):
        assert (await send(client, second[path], files[path])).status_code == 200
    third = await reserve(client, files)
    committed = await commit(client)

    assert late.status_code == 403
    assert (again.status_code, again.json()["state"]) == (200, "pending")
    assert {path: upload["already_stored"] for path, upload in second.items()} == {"a": True, "b": False, "c": False}
    assert (second["a"]["method"], second["a"]["url"]) == (None, None)
    assert missing_from(third) == set()
    assert committed.status_code == 200


async def test_clients_send_nothing_to_a_store_that_enforces_no_checksums(
    service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await service_with()

    async def never(_key: str) -> bool:
        return False

    monkeypatch.setattr(service.services.blobs, "enforces_checksums", never)
    async with httpx.AsyncClient(base_url=service.url) as client:
        reserved = await reserve(client, {"model.bin": GOOD})
        committed = await push(client, {"model.bin": GOOD})

    assert uploads_of(reserved)["model.bin"]["method"] == "proxy"
    assert committed.status_code == 200


# Again


async def test_the_same_push_again_returns_the_version_as_it_is(client: httpx.AsyncClient) -> None:
    files = {"model.bin": GOOD}
    first = await reserve(client, files, model_params={"C": 1.0, "deep": {"b": 2, "a": 1}}, description="one")

    while_pending = await reserve(client, files, model_params={"deep": {"a": 1, "b": 2.0}, "C": 1}, description="two")
    await send(client, uploads_of(while_pending)["model.bin"], GOOD)
    committed = await commit(client)
    once_more = await commit(client)
    when_ready = await reserve(client, files, model_params={"C": 1, "deep": {"a": 1, "b": 2}}, description="three")

    assert (first.status_code, while_pending.status_code) == (201, 200)
    assert first.json()["id"] == while_pending.json()["id"]
    assert while_pending.json()["description"] == "two"
    assert (committed.status_code, once_more.status_code) == (200, 200)
    assert once_more.json() == committed.json()
    assert when_ready.status_code == 200
    answer = when_ready.json()
    assert [(each["already_stored"], each["method"]) for each in answer.pop("uploads")] == [(True, None)]
    assert answer == committed.json()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"files": [entry("model.bin", OTHER)]}, id="other bytes"),
        pytest.param({"files": [entry("other.bin", GOOD)]}, id="another path"),
        pytest.param({"files": []}, id="no files"),
        pytest.param({"model_params": {"C": 2}}, id="other model_params"),
        pytest.param({"standardization_params": {"mean": [1]}}, id="other standardization_params"),
    ],
)
async def test_another_push_of_a_label_that_is_taken_is_refused(
    client: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    body = {"version": "1.0", "files": [entry("model.bin", GOOD)], "model_params": {"C": 1}}
    reserved = await client.post(VERSIONS, json=body)

    while_pending = await client.post(VERSIONS, json=body | change)
    await send(client, uploads_of(reserved)["model.bin"], GOOD)
    info = (await commit(client)).json()
    when_ready = await client.post(VERSIONS, json=body | change)
    await client.delete("/remove_model/fraud/1.0")
    when_removed = await client.post(VERSIONS, json=body)

    for answer, state in ((while_pending, "pending"), (when_ready, "ready"), (when_removed, "removed")):
        assert (answer.status_code, slug(answer)) == (409, "version-exists")
        assert (answer.json()["state"], answer.json()["digest"]) == (state, info["digest"])


async def test_a_name_that_differs_in_case_alone_is_refused(client: httpx.AsyncClient) -> None:
    await push(client, {"model.bin": GOOD})

    answer = await client.post("/v1/models/Fraud/versions", json={"files": []})

    assert (answer.status_code, slug(answer)) == (409, "model-name-taken")
    assert answer.json()["existing"] == "fraud"


async def test_a_push_without_a_version_takes_the_next_number_that_is_free(client: httpx.AsyncClient) -> None:
    for label in ("2", "3"):
        await push(client, {"model.bin": GOOD}, label)

    labels = []
    for _ in range(2):
        reserved = (await reserve(client, {"model.bin": GOOD}, None)).json()
        labels.append((reserved["version"], reserved["number"]))
        assert (await commit(client, reserved["version"])).status_code == 200

    # 1 and 2 are the numbers of the first two; the label of number 3 is taken.
    assert labels == [("4", 4), ("5", 5)]


async def test_a_registration_in_progress_cannot_be_committed(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    is_reserved, may_end = asyncio.Event(), asyncio.Event()

    async def slow_form() -> Any:
        for name, value in (("model_name", "fraud"), ("version", "1.0")):
            yield f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        yield b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="f"\r\n\r\nhalf'
        is_reserved.set()
        await may_end.wait()
        yield b"\r\n--B--\r\n"

    headers = {"content-type": "multipart/form-data; boundary=B"}
    registering = asyncio.create_task(client.post("/register_model", content=slow_form(), headers=headers))
    await is_reserved.wait()
    while await count(database_session, ModelInfoDB) == 0:  # noqa: ASYNC110 - in another process, as it were
        await asyncio.sleep(0.01)

    committed = await commit(client)
    pushed = await reserve(client, {"f": b"half"})
    sent = await client.put(f"{VERSIONS}/1.0/files/f", content=b"half")
    may_end.set()
    registered = await registering

    assert (committed.status_code, slug(committed)) == (409, "version-exists")
    assert (pushed.status_code, slug(pushed)) == (409, "version-exists")
    assert (sent.status_code, slug(sent)) == (404, "file-not-found")
    assert registered.status_code == 201, registered.text


# The same bytes


async def test_the_same_bytes_are_sent_once(client: httpx.AsyncClient, bucket: Bucket) -> None:
    await register(client, {"model_name": "elsewhere", "version": "1"}, {"f": GOOD})
    files = {"known": GOOD, "b": OTHER, "a": OTHER, "new": b"new"}

    reserved = await reserve(client, files)
    for path in missing_from(reserved):
        await send(client, uploads_of(reserved)[path], files[path])
    committed = await commit(client)

    assert missing_from(reserved) == {"a", "new"}
    assert committed.status_code == 200, committed.text
    assert {path: await read(client, path) for path in files} == files
    assert len(await bucket.keys()) == 3


async def test_a_purge_keeps_the_bytes_that_a_push_counts_on(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await register(client, {"model_name": "fraud", "version": "0.9"}, {"f": GOOD})
        reserved = await reserve(client, {"model.bin": GOOD})
        await client.delete("/remove_model/fraud/0.9")
        collected = await service.services.collector.collect()

        committed = await commit(client)
        content = await read(client, "model.bin")

    assert missing_from(reserved) == set()
    assert (collected.purged_versions, collected.deleted_objects) == (1, 0)
    assert committed.status_code == 200
    assert content == GOOD


async def test_bytes_that_only_an_expired_push_counted_on_are_collected(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await register(client, {"model_name": "fraud", "version": "0.9"}, {"f": GOOD})
        assert missing_from(await reserve(client, {"model.bin": GOOD})) == set()
        await client.delete("/remove_model/fraud/0.9")
        await service.services.collector.collect()
        assert len(await bucket.keys()) == 1
        await expire(database_session)

        await service.services.collector.collect()

    assert await bucket.keys() == set()
    for table in (BlobDB, DeclaredFileDB, UploadDB, GarbageDB):
        assert await count(database_session, table) == 0


async def damage(session: AsyncSession, bucket: Bucket) -> str:
    """Damage the only object, mark it as `verify` does, and return its key."""
    [key] = await bucket.keys()
    await bucket.client.delete_object(Bucket=bucket.name, Key=key)
    await bucket.write(key, b"rotten")
    await session.execute(text("UPDATE blobs SET damaged_at = now()"))
    await session.commit()
    return key


async def test_bytes_known_to_be_damaged_are_sent_again_and_heal_every_version(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    first = await push(client, {"model.bin": GOOD}, "1.0")
    etag = (await client.get("/get_model_info/fraud/1.0")).headers["etag"]
    damaged_key = await damage(database_session, bucket)

    reserved = await reserve(client, {"model.bin": GOOD}, "2.0")
    await send(client, uploads_of(reserved)["model.bin"], GOOD)
    committed = await commit(client, "2.0")
    await collect()

    assert missing_from(reserved) == {"model.bin"}
    assert committed.status_code == 200
    for version in ("1.0", "2.0"):
        assert await read(client, "model.bin", version) == GOOD
    healed = await client.get("/get_model_info/fraud/1.0")
    assert healed.json()["file_path"] == committed.json()["file_path"] != first.json()["file_path"]
    assert healed.headers["etag"] != etag
    assert damaged_key not in await bucket.keys()
    assert await actions(database_session) == ["version.registered", "version.healed", "version.registered"]


async def test_a_commit_asks_for_bytes_that_were_damaged_after_the_reservation(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket
) -> None:
    await push(client, {"model.bin": GOOD}, "1.0")
    assert missing_from(await reserve(client, {"model.bin": GOOD}, "2.0")) == set()
    await damage(database_session, bucket)

    incomplete = await commit(client, "2.0")
    through_us = await client.put(f"{VERSIONS}/2.0/files/model.bin", content=GOOD)
    committed = await commit(client, "2.0")

    assert (incomplete.status_code, slug(incomplete)) == (409, "upload-incomplete")
    assert (through_us.status_code, committed.status_code) == (201, 200)
    for version in ("1.0", "2.0"):
        assert await read(client, "model.bin", version) == GOOD


# Left alone


async def test_an_abandoned_push_frees_its_label_and_its_storage(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    service = await service_with(multipart_threshold_bytes=MIB)
    files = {"sent": GOOD, "never sent": OTHER, "in parts": bytes(6 * MIB)}
    async with httpx.AsyncClient(base_url=service.url) as client:
        first = uploads_of(await reserve(client, files))
        await send(client, first["sent"], GOOD)
        parts = await client.post(f"/v1/uploads/{first['in parts']['upload_id']}/parts", json={"part_numbers": [1]})
        await send(client, parts.json()["parts"][0], bytes(6 * MIB))
        assert len(await bucket.unfinished()) == 1
        await expire(database_session)

        committed = await commit(client)
        status = await client.get(f"/v1/uploads/{first['in parts']['upload_id']}")
        collected = await service.services.collector.collect()
        by_somebody_else = await reserve(client, {"quite": b"another thing"})

    assert (committed.status_code, status.status_code) == (404, 404)
    assert collected.expired_versions == 1
    assert await bucket.keys() == set()
    assert await bucket.unfinished() == []
    assert by_somebody_else.status_code == 201


async def test_an_expired_push_does_not_wait_for_the_collector_to_free_its_label(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    first = uploads_of(await reserve(client, {"model.bin": OTHER}))["model.bin"]
    await send(client, first, OTHER)
    await expire(database_session)

    second = await push(client, {"model.bin": GOOD})
    await collect()

    assert second.status_code == 200
    assert await read(client, "model.bin") == GOOD
    assert len(await bucket.keys()) == 1


async def test_an_object_that_is_sent_after_its_collection_is_collected_too(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    upload = uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"]
    await send(client, upload, GOOD)
    await expire(database_session)
    await collect()
    assert await bucket.keys() == set()

    late = await send(client, upload, GOOD)
    await collect()
    assert len(await bucket.keys()) == 1  # known, and kept in mind until its URL cannot be used any more
    await database_session.execute(text("UPDATE garbage SET writable_until = now(), not_before = now()"))
    await database_session.commit()
    await collect()

    assert late.status_code == 200
    assert await bucket.keys() == set()
    assert await count(database_session, GarbageDB) == 0


async def test_an_object_that_is_sent_after_its_purge_is_collected_too(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        upload = uploads_of(await reserve(client, {"model.bin": GOOD}))["model.bin"]
        await send(client, upload, GOOD)
        await commit(client)
        await client.delete("/remove_model/fraud/1.0")
        await service.services.collector.collect()
        assert await bucket.keys() == set()

        late = await send(client, upload, GOOD)
        await database_session.execute(text("UPDATE garbage SET writable_until = now(), not_before = now()"))
        await database_session.commit()
        await service.services.collector.collect()

    assert late.status_code == 200
    assert await bucket.keys() == set()
    assert await count(database_session, GarbageDB) == 0


async def test_every_request_about_a_push_renews_the_lease(
    service_with: ServiceWith, database_session: AsyncSession
) -> None:
    service = await service_with(multipart_threshold_bytes=MIB)
    files = {"in parts": bytes(2 * MIB), "put": GOOD}
    async with httpx.AsyncClient(base_url=service.url) as client:
        upload_id = uploads_of(await reserve(client, files))["in parts"]["upload_id"]
        put = f"{VERSIONS}/1.0/files/put"

        async def renews(request: httpx.Response) -> bool:
            await database_session.rollback()
            left = await database_session.scalar(
                text("SELECT EXTRACT(epoch FROM lease_expires_at - now()) FROM model_info")
            )
            await database_session.execute(text("UPDATE model_info SET lease_expires_at = now() + interval '9 s'"))
            await database_session.commit()
            assert left is not None
            return bool(left > 800)

        assert await renews(await reserve(client, files))
        assert await renews(await client.post(f"/v1/uploads/{upload_id}/parts", json={"part_numbers": [1]}))
        assert await renews(await client.get(f"/v1/uploads/{upload_id}"))
        assert await renews(await client.put(put, content=GOOD))
        assert await renews(await client.put(put, content=GOOD)), "once more, which only compares"
        incomplete = await commit(client)
        assert incomplete.status_code == 409
        assert await renews(incomplete)


async def test_bytes_in_flight_keep_the_lease(service_with: ServiceWith) -> None:
    service = await service_with(upload_lease_seconds=3)
    content = b"slowly " * 8
    async with httpx.AsyncClient(base_url=service.url) as client:

        async def drop_by_drop() -> Any:
            for start in range(0, len(content), 8):
                await asyncio.sleep(0.6)
                yield content[start : start + 8]

        await reserve(client, {"model.bin": content}, transfer="proxied")
        for _ in range(2):  # stored, then compared
            sent = await client.put(f"{VERSIONS}/1.0/files/model.bin", content=drop_by_drop())
            assert sent.status_code == 201, sent.text
        committed = await commit(client)

    assert committed.status_code == 200


# Many


async def test_more_files_than_one_statement_takes(client: httpx.AsyncClient) -> None:
    files = {f"{number % 7}/{number}": b"the same" for number in range(5001)}

    reserved = await reserve(client, files)
    [path] = missing_from(reserved)
    await send(client, uploads_of(reserved)[path], b"the same")
    committed = await commit(client)

    assert len(uploads_of(reserved)) == 5001
    assert (committed.status_code, committed.json()["file_count"]) == (200, 5001)
    assert await read(client, "4/5001" if "4/5001" in files else "2/5000") == b"the same"


async def test_more_uploads_than_one_statement_takes(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect
) -> None:
    files = {str(number): str(number).encode() for number in range(5001)}

    reserved = await reserve(client, files)
    assert len({upload["url"] for upload in uploads_of(reserved).values()}) == 5001
    await expire(database_session)
    await collect()

    assert await count(database_session, UploadDB) == 0
    assert await count(database_session, GarbageDB) == 5001


@pytest.mark.parametrize("path", ["a b.bin", "ü/模型.bin", "50%.bin", "a%2Fb", "q?x=1&y#frag", "semi;colon", "+plus+"])
async def test_odd_paths_can_be_sent_through_the_service(client: httpx.AsyncClient, path: str) -> None:
    upload = uploads_of(await reserve(client, {path: GOOD}, transfer="proxied"))[path]

    sent = await send(client, upload, GOOD)
    committed = await commit(client)

    assert unquote(upload["url"]).endswith(f"/files/{path}")
    assert (sent.status_code, committed.status_code) == (201, 200), sent.text
    assert await read(client, path) == GOOD
