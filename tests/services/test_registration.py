"""Registering: exactly one winner, retries that are safe, and failures that leave nothing."""

import asyncio
import hashlib
import itertools
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.auth.permissions import ANONYMOUS
from model_registry.db_models import EventDB, GarbageDB, ModelInfoDB, RegisteredModelDB, UploadDB
from model_registry.domain.entities import NewUpload, VersionRef
from model_registry.domain.version_labels import precedence
from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import Body
from model_registry.services import registration
from model_registry.transfer import upload_intents
from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import behind_proxies
from tests.support.bucket import Bucket
from tests.support.proxy import Refuse
from tests.support.registering import FORM, WEIGHTS, multipart, register
from tests.support.service import Collect, RunningService, ServiceWith, make_settings, running

MIB = 1024**2


async def eventually_empty(session: AsyncSession) -> None:
    """Wait until a failed registration has cleaned up."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        await session.rollback()
        rows = [
            await session.scalar(select(func.count()).select_from(table))
            for table in (ModelInfoDB, UploadDB, RegisteredModelDB)
        ]
        if rows == [0, 0, 0]:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(f"left behind: {rows} versions, uploads, models")


async def test_one_of_forty_concurrent_registrations_succeeds(
    client: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    info = {"model_name": "contested", "version": "1.0"}

    responses = await asyncio.gather(
        *(register(client, info, {"model.bin": f"weights {number}".encode()}) for number in range(40))
    )

    assert sorted(response.status_code for response in responses) == [201] + [409] * 39
    winner = next(response.json() for response in responses if response.status_code == 201)
    assert (await client.get("/get_model_info/contested/1.0")).json() == winner
    content = (await client.get("/get_model/contested/1.0")).content
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == winner["files"][0]["sha256"]
    await collect()
    assert await bucket.keys() == {winner["file_path"].removeprefix(f"s3://{bucket.name}/")}


async def test_numbers_of_a_model_count_up_without_gaps_under_concurrency(client: httpx.AsyncClient) -> None:
    responses = await asyncio.gather(
        *(client.post("/register_model", json={"model_name": "many", "version": f"1.{n}"}) for n in range(30))
    )

    assert sorted(response.json()["number"] for response in responses) == list(range(1, 31))


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_a_conflict_is_reported_before_the_file_is_read(
    client: httpx.AsyncClient, service: RunningService, tmp_path: Path
) -> None:
    await register(client, {"model_name": "known", "version": "1.0"})
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(1024 * MIB)

    curl = await asyncio.create_subprocess_exec(
        *("curl", "-sS", "-F", "model_name=known", "-F", "version=1.0", "-F", f"model_file=@{tmp_path}/large.bin"),
        *("-w", "\n%{http_code} %{size_upload}", f"{service.url}/register_model"),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await asyncio.wait_for(curl.communicate(), 20)

    answer, _, figures = output.decode().rpartition("\n")
    status, sent_bytes = figures.split()
    assert status == "409"
    assert json.loads(answer)["type"] == "urn:model-registry:problem:version-exists"
    assert int(sent_bytes) < 100 * MIB


async def test_a_client_that_sends_all_before_it_reads_sees_the_conflict_too(client: httpx.AsyncClient) -> None:
    info = {"model_name": "known", "version": "1.0"}
    await register(client, info)

    response = await register(client, info, {"large.bin": bytes(12 * MIB)})

    assert response.status_code == 409
    assert response.headers["connection"] == "close"


async def test_fields_can_follow_the_file(client: httpx.AsyncClient) -> None:
    body = multipart(
        [
            ("model_file", "model.bin", WEIGHTS),
            ("model_params", None, b'{"C": 1}'),
            ("version", None, b"1.0"),
            ("model_name", None, b"late"),
        ]
    )

    response = await client.post("/register_model", content=body, headers=FORM)

    assert response.status_code == 201
    assert response.json()["model_params"] == {"C": 1}
    assert (await client.get("/get_model/late/1.0")).content == WEIGHTS


async def test_a_conflict_that_is_known_only_after_the_file_leaves_no_object(
    client: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    await client.post("/register_model", json={"model_name": "late", "version": "1.0"})
    body = multipart([("model_file", "f", WEIGHTS), ("version", None, b"1.0"), ("model_name", None, b"late")])

    response = await client.post("/register_model", content=body, headers=FORM)

    assert response.status_code == 409
    await collect()
    assert await bucket.keys() == set()


async def test_the_same_bytes_are_stored_once(client: httpx.AsyncClient, collect: Collect, bucket: Bucket) -> None:
    for number in range(3):
        await register(client, {"model_name": f"model{number}", "version": "1"}, {"a.bin": WEIGHTS, "b.bin": WEIGHTS})

    await collect()

    assert len(await bucket.keys()) == 1
    assert (await client.get("/get_model/model2/1", params={"path": "b.bin"})).content == WEIGHTS


async def test_a_few_small_files_at_a_time_are_stored_while_their_form_arrives(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = service.services.blobs.put
    underway, most = 0, 0
    several = asyncio.Event()

    async def slow_put(key: str, body: Body) -> None:
        nonlocal underway, most
        underway += 1
        most = max(most, underway)
        if underway > 4:
            several.set()
        await asyncio.wait_for(several.wait(), 30)
        await asyncio.sleep(0.02)
        await put(key, body)
        underway -= 1

    monkeypatch.setattr(service.services.blobs, "put", slow_put)
    files = {f"{number}": f"content {number}".encode() for number in range(40)} | {"large": bytes(MIB), "empty": b""}

    registered = await asyncio.gather(
        *(register(client, {"model_name": "m", "version": str(version)}, files) for version in range(3))
    )

    assert [answer.status_code for answer in registered] == [201] * 3
    assert 4 < most <= 8 + 3
    for path, content in files.items():
        assert (await client.get("/v1/models/m/versions/0/files/" + path)).content == content


async def test_a_small_file_that_could_not_be_stored_fails_its_registration(
    client: httpx.AsyncClient,
    service: RunningService,
    bucket: Bucket,
    collect: Collect,
    database_session: AsyncSession,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put = service.services.blobs.put
    for failing in (0, 7, 29):
        number = itertools.count()

        async def put_but_one(key: str, body: Body) -> None:
            if next(number) == failing:  # noqa: B023 - used within this turn
                raise Unavailable("The object store")
            await put(key, body)

        monkeypatch.setattr(service.services.blobs, "put", put_but_one)
        files = {f"{number}": f"content {number}".encode() for number in range(30)}

        answer = await register(client, {"model_name": "m", "version": "1"}, files)

        assert answer.status_code == 503
        await eventually_empty(database_session)
        await collect()
        assert await bucket.keys() == set()


async def test_an_intent_is_recorded_once_however_often_it_is_tried(
    client: httpx.AsyncClient, service: RunningService, database_session: AsyncSession
) -> None:
    """As after a reply that was lost."""
    database = service.services.database
    version = VersionRef("m", "1")
    async with database.transaction() as tx:
        number = await tx.models.next_number("m")
        version_id = await tx.versions.reserve(
            version, number=number, precedence=precedence("1"), reservation=uuid4(), actor="a", lease_seconds=60
        )

    async def opened(upload: NewUpload, version_id: int | None) -> bool:
        return await database.run(lambda tx: tx.uploads.open([upload], version_id, 60), is_one_statement=True)

    first, second = (NewUpload(id_ := uuid4(), f"blobs/{id_}", "f") for _ in range(2))
    assert [await opened(first, version_id) for _ in range(2)] == [True, True]
    assert [await opened(second, None) for _ in range(2)] == [True, True]
    assert await database_session.scalar(select(func.count()).select_from(UploadDB)) == 2
    async with database.transaction() as tx:
        assert await tx.uploads.close([first.id, second.id]) == 2
    await database_session.execute(text("UPDATE model_info SET lease_expires_at = now() - interval '1 second'"))
    await database_session.commit()
    assert not await opened(first, version_id)


async def test_an_empty_file_is_a_file(client: httpx.AsyncClient) -> None:
    response = await register(client, {"model_name": "empty", "version": "1"}, {"empty.bin": b""})

    assert response.status_code == 201
    assert response.json()["size_bytes"] == 0
    download = await client.get("/get_model/empty/1")
    assert (download.status_code, download.content, download.headers["content-length"]) == (200, b"", "0")


async def test_a_browser_form_without_a_chosen_file_registers_no_file(client: httpx.AsyncClient) -> None:
    body = multipart(
        [("model_name", None, b"m"), ("version", None, b"1"), ("model_params", None, b""), ("model_file", "", b"")]
    )

    response = await client.post("/register_model", content=body, headers=FORM)

    assert response.status_code == 201
    assert (response.json()["file_count"], response.json()["model_params"]) == (0, {})


async def test_numbers_keep_their_exact_value(client: httpx.AsyncClient) -> None:
    params = (
        '{"big": 123456789012345678901234567890, "tiny": 0.1000000000000000055511151231257827, '
        '"e": 1e16, "u": 18446744073709551616}'
    )

    response = await client.post(
        "/register_model", data={"model_name": "exact", "version": "1", "model_params": params}, files={}
    )
    assert response.status_code == 415  # httpx sends urlencoded without a file
    response = await register(client, {"model_name": "exact", "version": "1", "model_params": params})

    expected = json.loads(params, parse_float=str, parse_int=str)
    answer = json.loads(response.text, parse_float=str, parse_int=str)["model_params"]
    assert answer["big"] == expected["big"]
    assert answer["tiny"] == expected["tiny"]
    assert answer["u"] == expected["u"]
    assert int(float(answer["e"])) == 10**16


async def test_json_registers_a_version_without_a_file(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    response = await client.post("/register_model", json=sample_model_info)

    assert response.status_code == 201
    info = response.json()
    assert {name: info[name] for name in sample_model_info} == sample_model_info
    assert (info["files"], info["file_path"], info["download_url"]) == ([], None, None)
    assert info["digest"] == f"sha256:{hashlib.sha256().hexdigest()}"


# Idempotency-Key


async def test_a_retry_with_its_idempotency_key_gets_the_first_response(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any], collect: Collect, bucket: Bucket
) -> None:
    first = await register(client, sample_model_info, {"m": WEIGHTS}, key="job-17")
    again = await register(client, sample_model_info, {"m": WEIGHTS}, key="job-17")

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    await collect()
    assert len(await bucket.keys()) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"version": "1.0.1"},
        {"model_name": "other"},
        {"model_params": {"C": 2.0}},
        {"additional_metadata": {}},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_idempotency_key_with_another_meaning_is_refused(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any], change: dict[str, Any]
) -> None:
    await register(client, sample_model_info, key="job-17")

    response = await register(client, sample_model_info | change, key="job-17")

    assert response.status_code == 422
    assert response.json()["type"] == "urn:model-registry:problem:idempotency-key-reused"
    assert len((await client.get("/list_models")).json()) == 1


async def test_an_idempotency_key_with_another_file_is_refused(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    await register(client, sample_model_info, {"m": b"one"}, key="job-17")

    response = await register(client, sample_model_info, {"m": b"two"}, key="job-17")

    assert response.status_code == 422


async def test_an_idempotency_key_compares_meaning_and_not_bytes(client: httpx.AsyncClient) -> None:
    one = {"model_name": "m", "version": "1", "model_params": '{"a": 1, "b": [0.50, 2]}'}
    two = {"model_name": "m", "version": "1", "model_params": '{ "b":[5e-1,2.0] ,"a":1.0}'}
    first = await register(client, one, key="k")

    again = await register(client, two, key="k")

    assert (again.status_code, again.content) == (201, first.content)


async def test_a_fresh_key_does_not_turn_a_duplicate_into_a_success(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    first = await register(client, sample_model_info, key="job-17")

    response = await register(client, sample_model_info, key="job-18")

    assert response.status_code == 409
    assert response.json()["digest"] == first.json()["digest"]


async def test_concurrent_requests_with_one_idempotency_key_create_one_version(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    responses = await asyncio.gather(*(register(client, sample_model_info, key="twin") for _ in range(10)))

    statuses = [response.status_code for response in responses]
    assert statuses.count(201) >= 1
    assert set(statuses) <= {201, 409}
    assert len({response.content for response in responses if response.status_code == 201}) == 1
    final = await register(client, sample_model_info, key="twin")
    assert final.status_code == 201


# Failures


async def test_a_truncated_upload_leaves_nothing(
    client: httpx.AsyncClient,
    service: RunningService,
    database_session: AsyncSession,
    collect: Collect,
    bucket: Bucket,
) -> None:
    body = multipart([("model_name", None, b"cut"), ("version", None, b"1"), ("model_file", "f", bytes(20 * MIB))])
    _reader, writer = await asyncio.open_connection(*service.address)
    writer.write(
        b"POST /register_model HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b0undary\r\n"
        + f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body[: 18 * MIB]
    )
    await writer.drain()
    for _ in range(200):
        if await database_session.scalar(select(func.count()).select_from(UploadDB)):
            break
        await database_session.rollback()
        await asyncio.sleep(0.01)

    writer.close()
    await writer.wait_closed()

    await eventually_empty(database_session)
    assert (await client.get("/get_model_info/cut/1")).status_code == 404
    await collect()
    assert await bucket.keys() == set()
    assert await bucket.unfinished() == []


async def test_an_oversized_upload_is_refused_and_leaves_nothing(
    service_with: ServiceWith, database_session: AsyncSession, collect: Collect, bucket: Bucket
) -> None:
    small = await service_with(max_upload_bytes=10 * MIB)
    async with httpx.AsyncClient(base_url=small.url) as client:
        info = {"model_name": "fat", "version": "1"}

        response = await register(client, info, {"f": bytes(10 * MIB + 1)})

        assert response.status_code == 413
        assert response.json()["type"] == "urn:model-registry:problem:upload-too-large"
        assert response.json()["limit_bytes"] == 10 * MIB
        await eventually_empty(database_session)
        await collect()
        assert await bucket.keys() == set()
        assert await bucket.unfinished() == []
        assert (await register(client, info, {"f": bytes(10 * MIB)})).status_code == 201


async def test_a_client_that_stalls_is_given_up_and_its_label_is_free_again(
    service_with: ServiceWith, database_session: AsyncSession
) -> None:
    impatient = await service_with(body_idle_timeout_seconds=0.3)
    head = multipart([("model_name", None, b"slow"), ("version", None, b"1"), ("model_file", "f", b"x")])[:-10]

    reader, writer = await asyncio.open_connection(*impatient.address)
    writer.write(
        b"POST /register_model HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b0undary\r\n"
        b"Content-Length: 1000000\r\n\r\n" + head
    )
    async with asyncio.timeout(10):
        answer = await reader.read()

    writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request-timeout" in answer
    await eventually_empty(database_session)


async def test_a_failed_registration_drops_only_the_model_that_it_created(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await register(client, {"model_name": "kept", "version": "1"})
    broken = [("model_params", None, b"not json")]

    for name in (b"kept", b"fresh"):
        body = multipart([("model_name", None, name), ("version", None, b"2"), ("model_file", "f", b"x"), *broken])
        response = await client.post("/register_model", content=body, headers=FORM)
        assert response.status_code == 422

    assert list(await database_session.scalars(select(RegisteredModelDB.name))) == ["kept"]
    assert await database_session.scalar(select(func.count()).select_from(ModelInfoDB)) == 1


async def test_the_service_refuses_to_reuse_the_label_of_a_removed_version(client: httpx.AsyncClient) -> None:
    info = {"model_name": "gone", "version": "1"}
    registered = (await register(client, info)).json()
    await client.delete("/remove_model/gone/1")

    response = await register(client, info)

    assert response.status_code == 409
    assert response.json()["state"] == "removed"
    assert response.json()["digest"] == registered["digest"]


async def test_the_label_of_a_crashed_registration_is_free_when_its_lease_expires(
    client: httpx.AsyncClient, database_session: AsyncSession, sample_model_info: dict[str, Any]
) -> None:
    name, version = sample_model_info["model_name"], sample_model_info["version"]
    await database_session.execute(
        text("INSERT INTO registered_models (name, is_provisional) VALUES (:n, true)"), {"n": name}
    )
    await database_session.execute(
        text(
            "INSERT INTO model_info (model_name, version, number, lease_expires_at) "
            "VALUES (:n, :v, 1, now() + interval '1 hour')"
        ),
        {"n": name, "v": version},
    )
    await database_session.commit()

    during = await register(client, sample_model_info)
    await database_session.execute(text("UPDATE model_info SET lease_expires_at = now() - interval '1 second'"))
    await database_session.commit()
    after = await register(client, sample_model_info)

    assert (during.status_code, during.json()["state"]) == (409, "pending")
    assert after.status_code == 201


async def test_a_long_upload_renews_its_lease(
    service_with: ServiceWith, database_session: AsyncSession, collect: Collect
) -> None:
    brief = await service_with(upload_lease_seconds=3)

    async def slow_form() -> AsyncIterator[bytes]:
        whole = multipart([("model_name", None, b"slow"), ("version", None, b"1"), ("model_file", "f", bytes(MIB))])
        yield whole[:-20]
        leases: set[Any] = set()
        async with asyncio.timeout(30):
            while len(leases) < 5:  # renewed four times, which is longer than one lease
                await database_session.rollback()
                leases |= set(await database_session.scalars(select(ModelInfoDB.lease_expires_at)))
                await collect()
                await asyncio.sleep(0.05)
        yield whole[-20:]

    async with httpx.AsyncClient(base_url=brief.url, timeout=30) as client:
        response = await client.post("/register_model", content=slow_form(), headers=FORM)

    assert response.status_code == 201


async def test_every_registration_and_removal_is_one_event(
    client: httpx.AsyncClient, database_session: AsyncSession, sample_model_info: dict[str, Any]
) -> None:
    registered = (await register(client, sample_model_info)).json()
    await register(client, sample_model_info)
    await client.delete("/remove_model/iris-classifier/1.0.0")
    await client.delete("/remove_model/iris-classifier/1.0.0")

    events = (await database_session.scalars(select(EventDB).order_by(EventDB.id))).all()

    assert [(event.actor, event.action, event.model_name, event.version) for event in events] == [
        ("anonymous", "version.registered", "iris-classifier", "1.0.0"),
        ("anonymous", "version.removed", "iris-classifier", "1.0.0"),
    ]
    assert events[0].details["digest"] == registered["digest"]


# Removal


async def test_a_removed_version_is_invisible_and_says_until_when_it_can_be_restored(
    client: httpx.AsyncClient, sample_model_info: dict[str, Any]
) -> None:
    await register(client, sample_model_info)

    response = await client.delete("/remove_model/iris-classifier/1.0.0")

    assert response.status_code == 200
    removed = response.json()
    assert removed["state"] == "removed"
    assert removed["purge_after"] > removed["removed_at"]
    for path in (
        "get_model_info/iris-classifier/1.0.0",
        "get_latest_model_info/iris-classifier",
        "get_model/iris-classifier/1.0.0",
    ):
        assert (await client.get(f"/{path}")).status_code == 404
    assert (await client.get("/list_models")).json() == []
    assert (await client.delete("/remove_model/iris-classifier/1.0.0")).status_code == 404


async def test_an_aliased_version_is_removed_only_by_force(
    client: httpx.AsyncClient, database_session: AsyncSession, sample_model_info: dict[str, Any]
) -> None:
    version_id = (await register(client, sample_model_info)).json()["id"]
    await database_session.execute(
        text(
            "INSERT INTO aliases (model_name, alias, version_id, updated_by) "
            "VALUES ('iris-classifier', 'champion', :id, 'x')"
        ),
        {"id": version_id},
    )
    await database_session.commit()
    by_alias = await client.get("/get_model_info/iris-classifier/@champion")

    refused = await client.delete("/remove_model/iris-classifier/1.0.0")
    forced = await client.delete("/remove_model/iris-classifier/1.0.0", params={"force": True})

    assert (by_alias.json()["aliases"], by_alias.headers["x-model-version"]) == (["champion"], "1.0.0")
    assert (refused.status_code, refused.json()["aliases"]) == (409, ["champion"])
    assert (forced.status_code, forced.json()["aliases"]) == (200, [])


# Pages


async def test_pages_stay_right_while_versions_are_added(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await client.post("/register_model", json={"model_name": f"m{number % 3}", "version": f"1.{number}"})
    everything = (await client.get("/list_models")).json()

    seen: list[dict[str, Any]] = []
    url: str | None = "/list_models?limit=2"
    while url:
        response = await client.get(url)
        seen += response.json()
        await client.post("/register_model", json={"model_name": "a-new-one", "version": f"{len(seen)}"})
        url = response.links.get("next", {}).get("url")

    assert [(row["model_name"], row["version"]) for row in seen] == [
        (row["model_name"], row["version"]) for row in everything
    ]


async def test_the_list_of_one_model_holds_only_its_versions(client: httpx.AsyncClient) -> None:
    for name in ("a", "ab", "b"):
        for version in ("1", "2", "3"):
            await client.post("/register_model", json={"model_name": name, "version": version})

    first = await client.get("/list_models", params={"model_name": "a", "limit": 2})
    second = await client.get(first.links["next"]["url"])

    assert [(row["model_name"], row["version"]) for row in first.json() + second.json()] == [
        ("a", "3"),
        ("a", "2"),
        ("a", "1"),
    ]
    assert "next" not in second.links
    foreign = await client.get(
        "/list_models", params={"page_token": first.links["next"]["url"].split("page_token=")[1].split("&")[0]}
    )
    assert foreign.status_code == 422


async def test_python_callers_can_register_numpy_values(service: RunningService, fresh: None) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield WEIGHTS

    info = await service.services.registry.register(
        "from-python",
        "1",
        files={"w.bin": chunks()},
        standardization_params={"mean": np.array([1.5, 2.5]), "n": np.int64(3), "nan": float("nan")},
        actor=ANONYMOUS,
    )

    assert info.standardization_params.parsed == {"mean": [1.5, 2.5], "n": 3, "nan": None}
    assert info.files[0].sha256.raw == hashlib.sha256(WEIGHTS).digest()


async def test_garbage_of_a_lost_race_is_reclaimed(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect
) -> None:
    await register(client, {"model_name": "a", "version": "1"})
    await register(client, {"model_name": "b", "version": "1"})

    assert await database_session.scalar(select(func.count()).select_from(GarbageDB)) == 1
    collected = await collect()
    await database_session.rollback()

    assert collected.deleted_objects == 1
    assert await database_session.scalar(select(func.count()).select_from(GarbageDB)) == 0


async def test_a_form_of_many_files_waits_once_for_a_database_that_is_away(
    stack: StackAddresses, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_intents, "RESTART_SECONDS", 1)
    monkeypatch.setattr(registration, "RESTART_SECONDS", 1)
    head = b'\r\n--B\r\nContent-Disposition: form-data; name="model_file"; filename="%d"\r\n\r\n%d'
    away_at = 0.0

    async with behind_proxies(stack) as (moved, postgres, _):

        async def form() -> AsyncIterator[bytes]:
            nonlocal away_at
            for name, value in ((b"model_name", b"m"), (b"version", b"1")):
                yield b'\r\n--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s' % (name, value)
            yield head % (0, 0) + head[:8]  # that it has ended is known by then
            await asyncio.sleep(0.5)
            postgres.misbehave(Refuse())
            away_at = time.monotonic()
            yield head[8:] % (1, 1)
            for number in range(2, 12):
                await asyncio.sleep(0.02)
                yield head % (number, number)
            yield b"\r\n--B--\r\n"

        async with running(make_settings(stack, database_url=moved.database_url)) as service:
            async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
                answer = await client.post(
                    "/register_model", content=form(), headers={"content-type": "multipart/form-data; boundary=B"}
                )
                waited = time.monotonic() - away_at
            postgres.behave()

    assert answer.status_code == 503
    assert waited < 5  # and not a second for each of the nine that are under way at once
