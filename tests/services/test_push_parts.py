"""Files that are pushed in parts: resumed, put together, verified, and never changed afterwards."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import PartsRefused, StoredPart
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.parts import CONTENT, PART, PIECES, begin, listed, send_parts, sign
from tests.support.problems import slug
from tests.support.pushing import MIB, commit, expire, missing_from, read, reserve, send, uploads_of
from tests.support.service import RunningService, make_settings, running


@pytest.fixture(scope="module")
async def service(stack: StackAddresses, settings: Settings) -> AsyncIterator[RunningService]:
    """A service that sends small files in parts too."""
    async with running(make_settings(stack, multipart_threshold_bytes=MIB, multipart_part_bytes=PART)) as service:
        yield service


async def test_large_files_go_in_parts_whose_urls_are_fresh_on_request(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    first, second = [(await sign(client, upload, [1])).json()["parts"][0] for _ in range(2)]
    etags = await send_parts(client, upload)
    status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()

    committed = await commit(client, parts=listed(upload, etags))

    assert (upload["part_size"], upload["url"], upload["headers"]) == (PART, None, None)
    assert first["headers"] == second["headers"] == {"Content-Length": str(PART)}
    assert [(part["part_number"], part["size_bytes"]) for part in status["parts"]] == [(1, PART), (2, PART), (3, 9)]
    assert {part["part_number"]: part["etag"] for part in status["parts"]} == etags
    assert (status["part_count"], status["is_complete"]) == (3, False)
    assert committed.status_code == 200, committed.text
    assert await read(client, "model.bin") == CONTENT


@pytest.mark.parametrize("quotes", ["as they came", "quoted", "unquoted", "not at all"])
async def test_the_parts_may_be_listed_with_quotes_or_without_or_not_at_all(
    client: httpx.AsyncClient, quotes: str
) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload)
    spelt = {
        "as they came": listed(upload, etags),
        "quoted": listed(upload, {number: f'"{etag.strip(chr(34))}"' for number, etag in etags.items()}),
        "unquoted": listed(upload, {number: etag.strip('"') for number, etag in etags.items()}),
        "not at all": {},
    }

    committed = await commit(client, parts=spelt[quotes])

    assert committed.status_code == 200, committed.text


async def test_a_part_of_another_size_is_refused_by_storage(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    [part] = (await sign(client, upload, [3])).json()["parts"]

    shorter = await client.put(part["url"], content=b"short")
    longer = await client.put(part["url"], content=b"much longer")
    chunked = await client.put(part["url"], content=_chunks(PIECES[3]))

    assert (shorter.status_code, longer.status_code, chunked.status_code) == (403, 403, 403)
    assert (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()["parts"] == []


async def _chunks(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def test_a_lost_client_continues_where_it_was(client: httpx.AsyncClient) -> None:
    await send_parts(client, await begin(client), {2: PIECES[2]})

    # All that it knows is what it wants to push.
    upload = await begin(client)
    status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()
    incomplete = await commit(client)
    there = {part["part_number"] for part in status["parts"]}
    await send_parts(client, upload, {number: piece for number, piece in PIECES.items() if number not in there})
    whole = await reserve(client, {"model.bin": CONTENT})
    committed = await commit(client)

    assert there == {2}
    assert (incomplete.status_code, slug(incomplete)) == (409, "upload-incomplete")
    assert incomplete.json()["missing"] == [{"path": "model.bin", "part_numbers": [1, 3]}]
    assert missing_from(whole) == {"model.bin"}  # parts are not bytes of a version before they are put together
    assert committed.status_code == 200
    assert await read(client, "model.bin") == CONTENT


async def test_a_part_is_sent_again_over_a_wrong_one(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload, PIECES | {1: b"x" * PART})

    etags |= await send_parts(client, upload, {1: PIECES[1]})
    committed = await commit(client, parts=listed(upload, etags))

    assert committed.status_code == 200, committed.text
    assert await read(client, "model.bin") == CONTENT


async def test_the_same_part_is_sent_twice(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    for _ in range(2):
        await send_parts(client, upload)

    status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()
    committed = await commit(client)

    assert [part["part_number"] for part in status["parts"]] == [1, 2, 3]
    assert committed.status_code == 200, committed.text


async def test_the_client_selects_a_part_if_the_store_keeps_two(
    client: httpx.AsyncClient, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = service.services.blobs
    list_parts = store.list_parts
    upload = await begin(client)
    etags = await send_parts(client, upload)

    async def also_an_older_one(key: str, multipart_id: str) -> list[StoredPart] | None:
        parts = await list_parts(key, multipart_id)
        return parts and [*parts, StoredPart(2, PART, '"the older one"')]

    monkeypatch.setattr(store, "list_parts", also_an_older_one)
    refused = await commit(client)
    wrong = await commit(client, parts=listed(upload, etags | {2: "another"}))
    committed = await commit(client, parts=listed(upload, etags))

    assert (refused.status_code, slug(refused)) == (422, "invalid-field")
    assert refused.json()["errors"][0]["loc"] == ["body", "parts", upload["upload_id"]]
    assert refused.json()["errors"][0]["msg"].endswith(": 2")
    assert (wrong.status_code, wrong.json()["errors"][0]["loc"][-2:]) == (422, [1, "etag"])
    assert committed.status_code == 200, committed.text


async def test_wrong_bytes_in_a_part_are_found_and_the_file_gets_a_fresh_key(
    client: httpx.AsyncClient, bucket: Bucket, database_session: AsyncSession
) -> None:
    upload = await begin(client)
    await send_parts(client, upload, PIECES | {2: b"x" * PART})

    refused = [await commit(client) for _ in range(2)]
    pending = await database_session.scalar(text("SELECT state FROM model_info"))
    gone = [await client.get(f"/v1/uploads/{upload['upload_id']}"), await sign(client, upload, [1])]
    again = await begin(client)
    await send_parts(client, again)
    committed = await commit(client)

    for answer in refused:
        assert (answer.status_code, slug(answer)) == (422, "digest-mismatch")
        assert answer.json()["path"] == "model.bin"
    assert refused[0].json()["detail"] == refused[1].json()["detail"]
    assert refused[0].json()["found"] == refused[1].json()["found"] != refused[0].json()["declared"]
    assert pending == "pending"
    assert [(answer.status_code, slug(answer)) for answer in gone] == [(404, "upload-unknown")] * 2
    assert again["upload_id"] != upload["upload_id"]
    assert committed.status_code == 200
    assert await read(client, "model.bin") == CONTENT


async def test_after_one_wrong_file_only_that_file_is_sent_again(client: httpx.AsyncClient) -> None:
    good, bad = CONTENT, b"0" * len(CONTENT)
    files = {"good.bin": good, "bad.bin": bad, "small": b"small"}
    uploads = uploads_of(await reserve(client, files))
    await send_parts(client, uploads["good.bin"])
    await send_parts(client, uploads["bad.bin"])
    await send(client, uploads["small"], b"small")

    refused = await commit(client)
    again = await reserve(client, files)
    zeros = {number: bad[: len(piece)] for number, piece in PIECES.items()}
    await send_parts(client, uploads_of(again)["bad.bin"], zeros)
    committed = await commit(client)

    assert (refused.status_code, refused.json()["path"]) == (422, "bad.bin")
    assert missing_from(again) == {"bad.bin"}
    assert committed.status_code == 200
    assert await read(client, "bad.bin") == bad


async def test_a_refused_file_can_be_sent_through_the_service(client: httpx.AsyncClient, bucket: Bucket) -> None:
    await send_parts(client, await begin(client), PIECES | {2: b"x" * PART})
    assert (await commit(client)).status_code == 422

    sent = await client.put("/v1/models/fraud/versions/1.0/files/model.bin", content=CONTENT)
    committed = await commit(client)

    assert (sent.status_code, committed.status_code) == (201, 200)
    assert await read(client, "model.bin") == CONTENT


async def test_urls_of_parts_are_invalid_after_the_commit(client: httpx.AsyncClient, bucket: Bucket) -> None:
    upload = await begin(client)
    signed = (await sign(client, upload, PIECES)).json()["parts"]
    for part in signed:
        await send(client, part, PIECES[part["part_number"]])
    assert (await commit(client)).status_code == 200

    same = await send(client, signed[0], PIECES[1])
    other = await send(client, signed[0], b"x" * PART)

    assert (same.status_code, other.status_code) == (404, 404)
    [key] = await bucket.keys()
    assert await bucket.read(key) == CONTENT
    assert await bucket.unfinished() == []
    assert (await client.get(f"/v1/uploads/{upload['upload_id']}")).status_code == 404
    assert (await sign(client, upload, [1])).status_code == 404


@pytest.mark.parametrize(
    ("numbers", "where"),
    [
        ([1, 3], None),
        ([1, 2, 3, 4], 3),
        ([1, 2, 2, 3], 2),
        ([2, 1, 3], 1),
        ([3, 2, 1], 1),
        ([0, 1, 2, 3], 0),
        ([1, 2, 3, 10001], 3),
        ([-1], 0),
        ([], None),
    ],
    ids=str,
)
async def test_a_list_of_parts_that_were_not_sent_is_refused_and_changes_nothing(
    client: httpx.AsyncClient, numbers: list[int], where: int | None
) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload)
    claimed = [{"part_number": number, "etag": etags.get(number, "0" * 32)} for number in numbers]

    refused = await commit(client, parts={upload["upload_id"]: claimed})
    committed = await commit(client, parts=listed(upload, etags))

    assert (refused.status_code, slug(refused)) == (422, "invalid-field")
    [error] = refused.json()["errors"]
    place = ["body", "parts", upload["upload_id"]]
    assert error["loc"] == (place if where is None else [*place, where, "part_number"])
    assert committed.status_code == 200, committed.text


async def test_swapped_etags_are_refused(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload)

    refused = await commit(client, parts=listed(upload, {1: etags[2], 2: etags[1], 3: etags[3]}))
    committed = await commit(client, parts=listed(upload, etags))

    assert (refused.status_code, slug(refused)) == (422, "invalid-field")
    assert refused.json()["errors"][0]["loc"] == ["body", "parts", upload["upload_id"], 0, "etag"]
    assert committed.status_code == 200


async def test_a_part_that_is_listed_and_was_not_sent_is_missing(client: httpx.AsyncClient) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload, {1: PIECES[1]})

    incomplete = await commit(client, parts=listed(upload, etags | {2: etags[1]}))

    assert (incomplete.status_code, slug(incomplete)) == (409, "upload-incomplete")
    assert incomplete.json()["missing"] == [{"path": "model.bin", "part_numbers": [2, 3]}]


async def test_parts_of_another_version_are_unknown(client: httpx.AsyncClient) -> None:
    mine = await begin(client)
    etags = await send_parts(client, mine)
    theirs = await begin(client, "2.0", CONTENT[::-1])

    for upload_id in (theirs["upload_id"], str(uuid4()), "6f0e4a51", "{" + mine["upload_id"] + "}", "", "../x"):
        refused = await commit(client, parts=listed({"upload_id": upload_id}, etags))
        assert (refused.status_code, slug(refused)) == (404, "upload-unknown"), upload_id
    committed = await commit(client)

    assert committed.status_code == 200
    assert (await client.get(f"/v1/uploads/{theirs['upload_id']}")).status_code == 200


@pytest.mark.parametrize(
    ("numbers", "loc"),
    [
        ([0], ["part_numbers", 0]),
        ([1, 4], ["part_numbers", 1]),
        ([10001], ["part_numbers", 0]),
        ([-1], ["part_numbers", 0]),
        ([2**70], ["part_numbers", 0]),
        ([1, 1], ["part_numbers", 1]),
        ([True], ["part_numbers", 0]),
        (["1"], ["part_numbers", 0]),
        ([1.5], ["part_numbers", 0]),
        ([None], ["part_numbers", 0]),
        ([], ["part_numbers"]),
        ([*range(1, 1002)], ["part_numbers"]),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_numbers_that_no_part_has_are_refused(
    client: httpx.AsyncClient, numbers: list[Any], loc: list[Any]
) -> None:
    upload = await begin(client)

    refused = await sign(client, upload, numbers)

    assert (refused.status_code, slug(refused)) == (422, "invalid-field")
    assert refused.json()["errors"][0]["loc"] == ["body", *loc]


UNKNOWN = "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"


@pytest.mark.parametrize(
    "upload_id", ["6f0e4a51", UNKNOWN, UNKNOWN.upper(), f"urn:uuid:{UNKNOWN}", "%00", "..%5cx", "\u0661" * 32]
)
async def test_an_upload_that_is_not_there_is_unknown(client: httpx.AsyncClient, upload_id: str) -> None:
    answers = [
        await client.get(f"/v1/uploads/{upload_id}"),
        await client.post(f"/v1/uploads/{upload_id}/parts", json={"part_numbers": [1]}),
    ]

    for answer in answers:
        assert (answer.status_code, slug(answer)) == (404, "upload-unknown")


async def test_a_file_that_is_sent_with_one_put_has_no_parts(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await reserve(client, {"small": b"small"})
    upload_id = str(await database_session.scalar(text("SELECT id FROM uploads")))

    assert (await client.get(f"/v1/uploads/{upload_id}")).status_code == 404
    assert (await sign(client, {"upload_id": upload_id}, [1])).status_code == 404


async def test_an_object_that_an_interrupted_commit_completed_is_used(
    client: httpx.AsyncClient, bucket: Bucket, database_session: AsyncSession
) -> None:
    upload = await begin(client)
    etags = await send_parts(client, upload)
    row = (await database_session.execute(text("SELECT storage_key, multipart_id FROM uploads"))).one()
    await bucket.client.complete_multipart_upload(
        Bucket=bucket.name,
        Key=row.storage_key,
        UploadId=row.multipart_id,
        MultipartUpload={"Parts": [{"PartNumber": number, "ETag": etag} for number, etag in etags.items()]},
    )
    # As it dies.
    await database_session.execute(text("UPDATE model_info SET state = 'verifying'"))
    await database_session.commit()

    status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()
    again = await reserve(client, {"model.bin": CONTENT})
    committed = await commit(client, parts=listed(upload, etags))

    assert (status["is_complete"], status["parts"]) == (True, [])
    assert (again.status_code, again.json()["state"], missing_from(again)) == (200, "verifying", set())
    assert committed.status_code == 200, committed.text
    assert await read(client, "model.bin") == CONTENT


async def test_parts_that_the_store_lost_are_begun_again(
    client: httpx.AsyncClient, bucket: Bucket, database_session: AsyncSession
) -> None:
    upload = await begin(client)
    await send_parts(client, upload, {1: PIECES[1]})

    async def lose() -> None:
        """As a lifecycle rule of the bucket does with old multipart uploads."""
        [unfinished] = await bucket.unfinished()
        await bucket.client.abort_multipart_upload(
            Bucket=bucket.name, Key=unfinished["Key"], UploadId=unfinished["UploadId"]
        )

    await lose()
    incomplete = await commit(client)
    status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()
    await send_parts(client, upload, {1: PIECES[1]})
    await lose()
    again = await begin(client)
    await send_parts(client, again)
    committed = await commit(client)

    assert incomplete.json()["missing"] == [{"path": "model.bin", "part_numbers": [1, 2, 3]}]
    assert (status["is_complete"], status["parts"]) == (False, [])
    assert committed.status_code == 200, committed.text
    assert await read(client, "model.bin") == CONTENT
    assert await bucket.unfinished() == []


async def test_parts_cannot_be_signed_while_they_are_verified(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    upload = await begin(client)
    await database_session.execute(text("UPDATE model_info SET state = 'verifying'"))
    await database_session.commit()

    answer = await sign(client, upload, [1])
    through_us = await client.put("/v1/models/fraud/versions/1.0/files/model.bin", content=CONTENT)
    incomplete = await commit(client)
    after = await sign(client, upload, [1])

    assert (answer.status_code, slug(answer)) == (409, "version-not-available")
    assert (through_us.status_code, slug(through_us)) == (409, "version-not-available")
    # Nobody was verifying: to commit again finds that out, and opens the version again.
    assert (incomplete.status_code, after.status_code) == (409, 200)


async def test_concurrent_requests_for_the_first_urls_begin_one_upload(
    client: httpx.AsyncClient, bucket: Bucket
) -> None:
    upload = await begin(client)

    signed = await asyncio.gather(*(sign(client, upload, [1, 2, 3]) for _ in range(8)))

    assert {answer.status_code for answer in signed} == {200}
    assert len(await bucket.unfinished()) == 1
    for number, answer in enumerate(signed[:3]):  # whoever's URLs are used
        part = answer.json()["parts"][number]
        assert (await send(client, part, PIECES[number + 1])).status_code == 200
    assert (await commit(client)).status_code == 200


async def test_a_multipart_upload_that_does_not_count_is_aborted_later(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = service.services.blobs
    upload = await begin(client)
    abort = store.abort_multipart

    async def away(_key: str, _multipart_id: str | None) -> None:
        raise Unavailable("The object store")

    monkeypatch.setattr(store, "abort_multipart", away)
    statuses = {answer.status_code for answer in await asyncio.gather(*(sign(client, upload, [1]) for _ in range(8)))}
    left = len(await bucket.unfinished())
    monkeypatch.setattr(store, "abort_multipart", abort)

    await send_parts(client, upload)
    committed = await commit(client)

    assert statuses == {200, 503}
    assert left > 1
    assert committed.status_code == 200
    assert await bucket.unfinished() == []


async def test_all_uploads_to_the_key_of_an_abandoned_push_are_aborted(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket, database_session: AsyncSession
) -> None:
    await send_parts(client, await begin(client), {1: PIECES[1]})
    key = await database_session.scalar(text("SELECT storage_key FROM uploads"))
    await bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    await expire(database_session)

    await service.services.collector.collect()

    assert await bucket.unfinished() == []


async def test_parts_that_change_during_their_completion_can_be_committed_again(
    client: httpx.AsyncClient, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await send_parts(client, await begin(client))

    async def refuse(key: str, *_rest: object) -> None:
        raise PartsRefused(key, "InvalidPart")

    with monkeypatch.context() as patch:
        patch.setattr(service.services.blobs, "complete_multipart", refuse)
        refused = await commit(client)
    committed = await commit(client)

    assert (refused.status_code, slug(refused)) == (503, "parts-changed")
    assert refused.headers["retry-after"]
    assert committed.status_code == 200
