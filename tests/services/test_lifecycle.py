"""Changes of a version: yank, remove, restore and purge it, or give up a push."""

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.database.engine import Database
from model_registry.maintenance.collector import Collector
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.commit_eater import CommitEater
from tests.support.problems import problem, wrong_field
from tests.support.registering import WEIGHTS, register
from tests.support.resources import MODELS, create, events, found, let_expire, patch, reserve
from tests.support.service import Collect, RunningService, ServiceWith

VERSIONS = f"{MODELS}/m/versions"
ONE = f"{VERSIONS}/1.0"
TWO = f"{VERSIONS}/2.0"
PROD = f"{MODELS}/m/aliases/prod"
PURGE = {"purge": "true"}
FORCE = {"force": "true"}
MIB = 1024**2


@pytest.fixture
async def model(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a registry with two versions of the model `m`, of one file each. The second is the latest."""
    await register(client, {"model_name": "m", "version": "1.0"}, {"one.bin": b"one" + WEIGHTS})
    await register(client, {"model_name": "m", "version": "2.0"}, {"two.bin": b"two" + WEIGHTS})
    return client


async def changed(answer: Awaitable[httpx.Response]) -> dict[str, Any]:
    """The version that a successful change returned. Its ETag is that of the version as it is now."""
    response = await answer
    assert response.status_code == 200, response.text
    info: dict[str, Any] = response.json()
    assert response.headers["etag"]
    return info


async def latest(client: httpx.AsyncClient) -> str:
    answers = {
        (await client.get("/get_latest_model_info/m")).json()["version"],
        (await client.get(f"{VERSIONS}/latest")).json()["version"],
        (await client.get(MODELS)).json()["items"][0]["latest_version"],
        *[row["version"] for row in (await client.get("/list_models")).json() if row["is_latest"]],
        (await client.get("/get_model/m/latest")).headers["x-model-version"],
    }
    (version,) = answers
    return str(version)


async def log(client: httpx.AsyncClient, *, since: str = "") -> list[str]:
    """The actions in the log, or only those after the last `since`."""
    items = (await client.get("/v1/events", params={"limit": 1000})).json()["items"]
    actions = [str(item["action"]) for item in items]
    return actions[len(actions) - actions[::-1].index(since) :] if since else actions


# Yank


async def test_a_yanked_version_is_never_the_latest_but_stays_there(model: httpx.AsyncClient) -> None:
    assert await latest(model) == "2.0"

    yanked = await changed(model.post(f"{TWO}/yank", json={"reason": "Wrong labels."}))

    assert (yanked["yanked"], yanked["yank_reason"], yanked["state"]) == (True, "Wrong labels.", "ready")
    assert await latest(model) == "1.0"
    assert (await model.get(TWO)).json() == yanked
    assert (await model.get("/get_model_info/m/2.0")).json() == yanked
    assert (await model.get("/get_model/m/2.0")).content == b"two" + WEIGHTS
    assert [item["version"] for item in (await model.get(VERSIONS)).json()["items"]] == ["2.0", "1.0"]
    unyanked = await changed(model.post(f"{TWO}/unyank"))
    assert (unyanked["yanked"], unyanked["yank_reason"]) == (False, None)
    assert await latest(model) == "2.0"
    assert await log(model, since="version.registered") == ["version.yanked", "version.unyanked"]
    (event,) = await events(model, "version.yanked")
    assert (event["model"], event["version"], event["details"]) == ("m", "2.0", {"reason": "Wrong labels."})


async def test_to_yank_again_changes_the_reason_and_nothing_else(model: httpx.AsyncClient) -> None:
    first = await model.post(f"{TWO}/yank", json={"reason": "one"})
    same = await model.post(f"{TWO}/yank", json={"reason": "one"})
    other = await model.post(f"{TWO}/yank", json={"reason": "two"})
    none = await model.post(f"{TWO}/yank")
    null = await model.post(f"{TWO}/yank", json={"reason": None})

    assert (same.json(), same.headers["etag"]) == (first.json(), first.headers["etag"])
    assert other.json() == first.json() | {"yank_reason": "two"}
    assert other.headers["etag"] != first.headers["etag"]
    assert none.json() == null.json() == first.json() | {"yank_reason": None}
    assert [event["details"]["reason"] for event in await events(model, "version.yanked")] == ["one", "two", None]


async def test_to_unyank_what_is_not_yanked_changes_nothing(model: httpx.AsyncClient) -> None:
    before = await model.get(TWO)

    unyanked = await model.post(f"{TWO}/unyank")

    assert (unyanked.status_code, unyanked.json()) == (200, before.json())
    assert unyanked.headers["etag"] == before.headers["etag"]
    assert await events(model, "version.unyanked") == []


async def test_when_all_versions_are_yanked_none_is_the_latest(model: httpx.AsyncClient) -> None:
    await model.post(f"{ONE}/yank")
    await model.post(f"{TWO}/yank")

    for path in (f"{VERSIONS}/latest", "/get_latest_model_info/m", "/get_model/m/latest", f"{VERSIONS}/latest/files"):
        problem(await model.get(path), 404, "version-not-found")
    described = (await model.get(f"{MODELS}/m")).json()
    assert (described["latest_version"], described["version_count"]) == (None, 2)


async def test_a_reason_against_the_rules_is_refused(model: httpx.AsyncClient) -> None:
    url = f"{TWO}/yank"
    for body in ({"reason": 7}, {"reason": ["x"]}, {"reason": "x" * 4097}, {"reason": "a\x00b"}, {"reason": False}):
        wrong_field(await model.post(url, json=body), "body", "reason")
    wrong_field(await model.post(url, json={"reason": "x", "until": "May"}), "body", "until")
    for content in ("[]", "x", '"reason"', '{"reason": "a", "reason": "b"}'):
        answer = await model.post(url, content=content, headers={"Content-Type": "application/json"})
        problem(answer, 422, "invalid-field")
    problem(await model.post(url, content='{"reason": "x"}'), 415, "unsupported-media-type")
    assert (await model.get(TWO)).json()["yanked"] is False
    assert (await model.post(url, json={"reason": "ü" * 4096})).json()["yank_reason"] == "ü" * 4096


# Remove


async def test_a_removed_version_is_gone_everywhere(model: httpx.AsyncClient) -> None:
    before = (await model.get(TWO)).json()

    removed = await changed(model.delete(TWO))

    assert removed == before | {
        "state": "removed",
        "removed_at": removed["removed_at"],
        "purge_after": removed["purge_after"],
        "download_url": None,
    }
    assert removed["removed_at"] < removed["purge_after"]
    assert await latest(model) == "1.0"
    for path in (
        TWO,
        f"{TWO}/files",
        f"{TWO}/files/two.bin",
        f"{TWO}/archive.tar",
        "/get_model_info/m/2.0",
        "/get_model/m/2.0",
    ):
        problem(await model.get(path), 404, "version-not-found")
        assert (await model.head(path)).status_code == 404
    for response in (
        await model.post(f"{TWO}/download_url"),
        await model.post(f"{TWO}/yank"),
        await model.post(f"{TWO}/unyank"),
        await patch(model, TWO, {"description": "x"}),
        await model.delete(TWO),
        await model.delete(TWO, params=FORCE),
        await model.delete("/remove_model/m/2.0"),
    ):
        problem(response, 404, "version-not-found")
    problem(await model.put(PROD, json={"version": "2.0"}), 409, "version-not-available")
    assert [row["version"] for row in (await model.get("/list_models")).json()] == ["1.0"]
    assert [item["version"] for item in (await model.get(VERSIONS)).json()["items"]] == ["1.0"]
    assert (await model.get(MODELS)).json()["items"][0]["version_count"] == 1
    assert await log(model, since="version.registered") == ["version.removed"]


async def test_the_last_version_takes_nothing_along(model: httpx.AsyncClient) -> None:
    await model.delete(ONE)
    await model.delete(TWO)

    assert await found(model) == ["m"]
    assert (await model.get(VERSIONS)).json() == {"items": [], "next_page_token": None}
    problem(await model.get(f"{VERSIONS}/latest"), 404, "model-not-found")
    problem(await model.delete(f"{MODELS}/m"), 409, "model-in-use")
    third = await register(model, {"model_name": "m", "version": "3.0"})
    assert third.json()["number"] == 3


async def test_a_version_that_an_alias_points_at_is_removed_by_force_alone(model: httpx.AsyncClient) -> None:
    for alias in ("prod", "canary"):
        await model.put(f"{MODELS}/m/aliases/{alias}", json={"version": "2.0"})
    await model.put(f"{MODELS}/m/aliases/other", json={"version": "1.0"})

    for parameters in ({}, {"force": "false"}, PURGE):
        aliased = problem(await model.delete(TWO, params=parameters), 409, "version-aliased")
        assert (aliased["aliases"], aliased["version"]) == (["canary", "prod"], "2.0")
    assert (await model.get(TWO)).json()["aliases"] == ["canary", "prod"]
    removed = await changed(model.delete(TWO, params=FORCE))

    assert removed["aliases"] == []
    assert [alias["alias"] for alias in (await model.get(f"{MODELS}/m/aliases")).json()["items"]] == ["other"]
    for alias in ("prod", "canary"):
        problem(await model.get(f"{MODELS}/m/aliases/{alias}"), 404, "alias-not-found")
        problem(await model.get(f"{VERSIONS}/@{alias}"), 404, "alias-not-found")
        history = (await model.get(f"{MODELS}/m/aliases/{alias}/history")).json()["items"]
        assert [move["version"] for move in history] == [None, "2.0"]
    (event,) = await events(model, "version.removed")
    assert event["details"] == {"dropped_aliases": ["canary", "prod"]}


async def test_of_many_removals_one_is_made(model: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(model.delete(TWO) for _ in range(10)))

    assert sorted(answer.status_code for answer in answers) == [200] + [404] * 9
    assert await log(model, since="version.registered") == ["version.removed"]
    assert (await model.get(f"{MODELS}/m")).json()["version_count"] == 1


async def test_what_is_not_there_is_not_found(model: httpx.AsyncClient) -> None:
    await create(model, "bare")
    for url, slug in (
        (f"{VERSIONS}/9", "version-not-found"),
        (f"{MODELS}/none/versions/1", "model-not-found"),
        (f"{MODELS}/bare/versions/1", "model-not-found"),
        (f"{MODELS}/M/versions/1.0", "model-not-found"),
    ):
        for response in (
            await model.delete(url),
            await model.delete(url, params=PURGE),
            *[await model.post(f"{url}/{action}") for action in ("restore", "yank", "unyank")],
        ):
            missing = problem(response, 404, slug)
            assert ("There is 'm'" in missing["detail"]) is ("/M/" in url)
    for parameters in ({"force": "perhaps"}, {"purge": ""}, {"purge": "2"}):
        problem(await model.delete(TWO, params=parameters), 422, "invalid-request")
    assert (await model.get(TWO)).status_code == 200


# Restore


async def test_a_restored_version_is_as_it_was_but_for_its_aliases(model: httpx.AsyncClient) -> None:
    await model.put(PROD, json={"version": "2.0"})
    await model.post(f"{TWO}/yank", json={"reason": "x"})
    before = await model.get(TWO)
    file = await model.get("/get_model/m/2.0")
    removed = await model.delete(TWO, params=FORCE)

    restored = await model.post(f"{TWO}/restore")

    assert restored.status_code == 200
    assert restored.json() == before.json() | {"aliases": []}
    assert restored.headers["etag"] not in {before.headers["etag"], removed.headers["etag"]}
    assert (await model.get(TWO)).headers["etag"] == restored.headers["etag"]
    again = await model.get("/get_model/m/2.0")
    assert (again.content, again.headers["etag"]) == (file.content, file.headers["etag"])
    assert await latest(model) == "1.0"
    problem(await model.get(PROD), 404, "alias-not-found")
    assert (await model.get(f"{MODELS}/m")).json()["version_count"] == 2
    assert (await log(model))[-3:] == ["version.yanked", "version.removed", "version.restored"]


async def test_to_restore_what_is_ready_changes_nothing(model: httpx.AsyncClient) -> None:
    before = await model.get(TWO)

    answers = [await model.post(f"{TWO}/restore") for _ in range(2)]

    for answer in answers:
        assert (answer.status_code, answer.json(), answer.headers["etag"]) == (
            200,
            before.json(),
            before.headers["etag"],
        )
    assert await events(model, "version.restored") == []


async def test_of_many_restores_one_is_made(model: httpx.AsyncClient) -> None:
    await model.delete(TWO)

    answers = await asyncio.gather(*(model.post(f"{TWO}/restore") for _ in range(10)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 1
    assert len(await events(model, "version.restored")) == 1
    assert (await model.get(f"{MODELS}/m")).json()["version_count"] == 2


async def test_a_version_is_restored_until_the_collector_comes(service_with: ServiceWith) -> None:
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await register(client, {"model_name": "m", "version": "1.0"})
        await client.delete(ONE)
        restored = await client.post(f"{ONE}/restore")
        kept = await service.services.collector.collect()
        content = (await client.get("/get_model/m/1.0")).content
        await client.delete(ONE)
        purged = await service.services.collector.collect()
        refused = await client.post(f"{ONE}/restore")
        listed = (await client.get(VERSIONS, params={"state": "removed"})).json()["items"]

    assert (restored.status_code, kept.purged_versions, content) == (200, 0, WEIGHTS)
    assert purged.purged_versions == 1
    assert problem(refused, 409, "version-purged")["version"] == "1.0"
    assert listed[0]["purged_at"] is not None


# Purge


async def test_a_purge_gives_up_the_bytes_that_nothing_else_shows(
    model: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    shared, own = b"shared" * 100, b"own" * 100
    await register(model, {"model_name": "m", "version": "3.0"}, {"shared": shared, "own": own})
    await register(model, {"model_name": "n", "version": "1.0"}, {"again": shared})
    await collect()
    assert len(await bucket.keys()) == 4

    purged = await changed(model.delete(f"{VERSIONS}/3.0", params=PURGE))
    await collect()

    assert (purged["state"], purged["files"], purged["file_count"], purged["file_path"]) == ("removed", [], 2, None)
    assert purged["removed_at"] == purged["purged_at"]
    assert purged["digest"]
    contents = [await bucket.read(key) for key in await bucket.keys()]
    assert sorted(contents) == sorted([shared, b"one" + WEIGHTS, b"two" + WEIGHTS])
    assert (await model.get("/get_model/n/1.0")).content == shared
    assert await log(model, since="version.registered") == ["version.removed", "version.purged"]


async def test_what_was_removed_before_is_purged_later_and_once(
    model: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    removed = await changed(model.delete(TWO))

    purged = await changed(model.delete(TWO, params=PURGE))
    again = await changed(model.delete(TWO, params=PURGE))
    await collect()

    assert purged == removed | {"purged_at": purged["purged_at"], "files": [], "file_path": None}
    assert purged["purged_at"] is not None
    assert again == purged
    assert await log(model, since="version.registered") == ["version.removed", "version.purged"]
    assert [await bucket.read(key) for key in await bucket.keys()] == [b"one" + WEIGHTS]
    problem(await model.delete(TWO), 404, "version-not-found")
    assert problem(await model.post(f"{TWO}/restore"), 409, "version-purged")["version"] == "2.0"
    problem(await model.post(f"{TWO}/yank"), 404, "version-not-found")
    problem(await patch(model, TWO, {}), 404, "version-not-found")


async def test_a_label_is_never_used_twice(model: httpx.AsyncClient, collect: Collect) -> None:
    await model.delete(ONE)
    await model.delete(TWO, params=PURGE)
    await collect()

    for version, name, content in (("1.0", "one.bin", b"one" + WEIGHTS), ("2.0", "two.bin", b"two" + WEIGHTS)):
        same = await register(model, {"model_name": "m", "version": version}, {name: content})
        other = await register(model, {"model_name": "m", "version": version}, {"other": b"other"})
        without = await model.post("/register_model", json={"model_name": "m", "version": version})
        pushed = await model.post(VERSIONS, json={"version": version, "files": []})
        for response in (same, other, without):
            taken = problem(response, 409, "version-exists")
            assert taken["state"] == "removed"
            assert "never used twice" in taken["detail"]
        assert problem(pushed, 409, "version-exists")["state"] == "removed"
    with pytest.raises(AssertionError, match="version-exists"):
        await reserve(model, "m", "2.0", {"two.bin": b"two" + WEIGHTS})


async def test_bytes_that_a_push_counts_on_survive_a_purge(
    model: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    content = b"two" + WEIGHTS
    reserved = await reserve(model, "n", "1.0", {"f": content})
    assert reserved["uploads"][0]["already_stored"] is True

    await changed(model.delete(TWO, params=PURGE))
    await collect()
    committed = await model.post(f"{MODELS}/n/versions/1.0/commit")

    assert committed.status_code == 200, committed.text
    assert (await model.get("/get_model/n/1.0")).content == content


async def test_a_download_that_has_begun_survives_a_purge(service_with: ServiceWith, bucket: Bucket) -> None:
    service = await service_with(gc_grace_seconds=60)
    content = os.urandom(24 * MIB)
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        await register(client, {"model_name": "m", "version": "1.0"}, {"f": content})
        url = (await client.post(f"{ONE}/download_url")).json()["url"]
        received = bytearray()
        async with client.stream("GET", "/get_model/m/1.0") as response:
            chunks = response.aiter_raw(65536)
            received += await anext(chunks)
            await changed(client.delete(ONE, params=PURGE))
            await service.services.collector.collect()
            gone = await client.get("/get_model/m/1.0")
            async for chunk in chunks:
                received += chunk
        by_url = await client.get(url)

    problem(gone, 404, "model-not-found")
    assert bytes(received) == content
    assert by_url.content == content


# Give up a push


async def test_a_push_is_given_up_and_its_label_and_model_are_free(
    client: httpx.AsyncClient, collect: Collect, bucket: Bucket
) -> None:
    reserved = await reserve(client, "fraud", "1.0", {"f": b"bytes", "g": b"more"}, description="d")
    upload = reserved["uploads"][0]
    await client.put(upload["url"], content=b"bytes", headers=upload["headers"])
    url = f"{MODELS}/fraud/versions/1.0"

    given_up = await changed(client.delete(url))

    assert given_up == {name: value for name, value in reserved.items() if name != "uploads"} | {"state": "removed"}
    for response in (
        await client.get(url),
        await client.delete(url),
        await client.delete(url, params=PURGE),
        await client.post(f"{url}/commit"),
        await client.post(f"{url}/restore"),
    ):
        problem(response, 404, "model-not-found")
    assert await log(client) == ["version.discarded"]
    await collect()
    assert await bucket.keys() == set()
    assert (await create(client, "Fraud")).status_code == 201
    await client.delete(f"{MODELS}/Fraud")
    again = await register(client, {"model_name": "fraud", "version": "1.0"}, {"f": b"other bytes"})
    assert again.json()["number"] == 1
    # An earlier URL writes to a key that is not read.
    await client.put(upload["url"], content=b"bytes", headers=upload["headers"])
    assert (await client.get("/get_model/fraud/1.0")).content == b"other bytes"


async def test_a_push_into_a_model_that_has_others_frees_its_label_alone(model: httpx.AsyncClient) -> None:
    await reserve(model, "m", "3.0")

    problem(await model.delete("/remove_model/m/3.0"), 404, "version-not-found")
    await changed(model.delete(f"{VERSIONS}/3.0", params={"force": "true", "purge": "true"}))

    assert (await model.get(f"{MODELS}/m")).json()["version_count"] == 2
    again = await reserve(model, "m", "3.0", {"other": b"other"})
    assert again["number"] == 4


async def test_what_is_not_whole_yet_is_neither_yanked_nor_restored(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await reserve(model, "m", "3.0")

    for state in ("pending", "verifying"):
        await database_session.execute(text("UPDATE model_info SET state = :s WHERE version = '3.0'"), {"s": state})
        await database_session.commit()
        for action in ("yank", "unyank", "restore"):
            response = await model.post(f"{VERSIONS}/3.0/{action}")
            assert problem(response, 409, "version-not-available")["state"] == state
    await let_expire(database_session)
    for action in ("yank", "unyank", "restore"):
        problem(await model.post(f"{VERSIONS}/3.0/{action}"), 404, "version-not-found")
    problem(await model.delete(f"{VERSIONS}/3.0"), 404, "version-not-found")


async def test_a_push_can_be_given_up_while_it_is_verified(
    client: httpx.AsyncClient,
    service: RunningService,
    bucket: Bucket,
    collect: Collect,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reserved = await reserve(client, "m", "1.0", {"f": b"bytes"})
    (upload,) = reserved["uploads"]
    await client.put(upload["url"], content=b"bytes", headers=upload["headers"])
    has_begun, may_go_on = asyncio.Event(), asyncio.Event()
    store = service.services.blobs
    stored = store.stored

    async def held(key: str) -> Any:
        has_begun.set()
        await may_go_on.wait()
        return await stored(key)

    monkeypatch.setattr(store, "stored", held)
    committing = asyncio.create_task(client.post(f"{ONE}/commit"))
    await has_begun.wait()
    given_up = await client.delete(ONE)
    may_go_on.set()
    committed = await committing
    await collect()

    assert (given_up.status_code, given_up.json()["state"]) == (200, "removed")
    problem(committed, 409, "lease-lost")
    problem(await client.get(ONE), 404, "model-not-found")
    assert await bucket.keys() == set()
    assert await log(client) == ["version.discarded"]


async def test_a_registration_can_be_given_up_while_its_file_arrives(
    client: httpx.AsyncClient, bucket: Bucket, collect: Collect
) -> None:
    async def form() -> AsyncIterator[bytes]:
        yield b'--B\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nm\r\n'
        yield b'--B\r\nContent-Disposition: form-data; name="version"\r\n\r\n1.0\r\n'
        yield b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="f"\r\n\r\nbytes'
        while (response := await client.get(ONE)).status_code == 404:
            continue
        assert response.json()["state"] == "pending"
        await changed(client.delete(ONE))
        yield b"\r\n--B--\r\n"

    registered = await client.post(
        "/register_model", content=form(), headers={"Content-Type": "multipart/form-data; boundary=B"}
    )
    await collect()

    problem(registered, 409, "lease-lost")
    problem(await client.get(ONE), 404, "model-not-found")
    assert await bucket.keys() == set()


# Preconditions


async def test_a_change_is_made_only_of_what_the_caller_knows(model: httpx.AsyncClient) -> None:
    changes: list[tuple[str, str, dict[str, str]]] = [
        ("POST", f"{TWO}/yank", {}),
        ("POST", f"{TWO}/unyank", {}),
        ("DELETE", TWO, {}),
        ("POST", f"{TWO}/restore", {}),
        ("DELETE", TWO, PURGE),
    ]
    known = (await model.get(TWO)).headers["etag"]
    for method, url, parameters in changes:
        for outdated in ('"0"', f"W/{known}"):
            refused = await model.request(method, url, params=parameters, headers={"If-Match": outdated})
            changed = problem(refused, 412, "precondition-failed")
            assert (changed["etag"], changed["model_name"], changed["version"]) == (known, "m", "2.0")
        wrong_field(await model.request(method, url, headers={"If-Match": "2"}), "header", "If-Match")
        made = await model.request(method, url, params=parameters, headers={"If-Match": known})
        assert made.status_code == 200, made.text
        known = made.headers["etag"]
    # An error that does not depend on the precondition comes first.
    problem(await model.post(f"{TWO}/restore", headers={"If-Match": '"0"'}), 409, "version-purged")
    problem(await model.delete(TWO, headers={"If-Match": '"0"'}), 404, "version-not-found")
    pending = await reserve(model, "m", "3.0")
    problem(await model.delete(f"{VERSIONS}/3.0", headers={"If-Match": '"0"'}), 412, "precondition-failed")
    assert (await model.get(f"{VERSIONS}/3.0")).json()["id"] == pending["id"]


# Concurrent changes


async def test_whatever_is_done_at_once_ends_in_a_state_that_agrees_with_itself(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    chance = random.Random(7396)
    alias = {"version": "2.0"}
    actions: dict[str, Callable[[], Awaitable[httpx.Response]]] = {
        "remove": lambda: model.delete(TWO),
        "force": lambda: model.delete(TWO, params=FORCE),
        "restore": lambda: model.post(f"{TWO}/restore"),
        "yank": lambda: model.post(f"{TWO}/yank", json={"reason": "x"}),
        "unyank": lambda: model.post(f"{TWO}/unyank"),
        "describe": lambda: patch(model, TWO, {"description": "x"}),
        "describe the model": lambda: patch(model, f"{MODELS}/m", {"description": "x"}),
        "move": lambda: model.put(PROD, json=alias),
        "move back": lambda: model.put(PROD, json={"version": "1.0"}),
        "drop": lambda: model.delete(PROD),
        "read": lambda: model.get(TWO),
        "register": lambda: model.post(
            "/register_model", json={"model_name": "m", "version": f"9.{chance.randrange(10**6)}"}
        ),
    }
    allowed = {200, 201, 204, 404, 409}

    for _ in range(4):
        chosen = chance.choices([*actions], k=24)
        answers = await asyncio.gather(*(actions[name]() for name in chosen))
        seen = {answer.status_code for answer in answers}
        assert seen <= allowed, [answer.text for answer in answers if answer.status_code not in allowed]

        ready = (await model.get(VERSIONS, params={"limit": 1000})).json()["items"]
        removed = (await model.get(VERSIONS, params={"state": "removed"})).json()["items"]
        described = (await model.get(f"{MODELS}/m")).json()
        pointing = (await model.get(f"{MODELS}/m/aliases")).json()["items"]
        assert described["version_count"] == len(ready)
        assert {item["version"] for item in ready + removed} >= {"1.0", "2.0"}
        # An alias points at a ready version, and that version names the alias.
        assert {name: item["version"] for item in ready for name in item["aliases"]} == {
            each["alias"]: each["version"] for each in pointing
        }
        assert [name for item in removed for name in item["aliases"]] == []
        of_two = [
            event for event in (await model.get("/v1/events?limit=1000")).json()["items"] if event["version"] == "2.0"
        ]
        # The log has removals and restorations in turn too.
        turns = [event["action"] for event in of_two if event["action"] in {"version.removed", "version.restored"}]
        assert all(one != other for one, other in itertools.pairwise(turns)), of_two
        assert (turns[-1:] == ["version.removed"]) is ("2.0" in {item["version"] for item in removed})
        history = (await model.get(f"{PROD}/history")).json().get("items", [])
        if history:
            assert history[0]["version"] == (pointing[0]["version"] if pointing else None)
    sound = await database_session.scalar(
        text("SELECT version_count = (SELECT count(*) FROM model_info WHERE state = 'ready') FROM registered_models")
    )
    assert sound is True


async def test_of_a_purge_and_a_restore_at_once_both_agree(model: httpx.AsyncClient) -> None:
    for turn in range(6):
        version = f"3.{turn}"
        url = f"{VERSIONS}/{version}"
        await register(model, {"model_name": "m", "version": version}, {"f": version.encode()})
        await model.delete(url)

        restored, purged = await asyncio.gather(model.post(f"{url}/restore"), model.delete(url, params=PURGE))

        assert purged.status_code == 200
        if restored.status_code == 409:
            problem(restored, 409, "version-purged")
        else:
            assert restored.status_code == 200
        problem(await model.get(url), 404, "version-not-found")
        assert problem(await model.post(f"{url}/restore"), 409, "version-purged")
    assert (await model.get(f"{MODELS}/m")).json()["version_count"] == 2


# Lost COMMITs


@pytest.fixture
async def commits(stack: StackAddresses) -> AsyncIterator[CommitEater]:
    url = make_url(stack.database_url)
    eater = CommitEater(url.host or "127.0.0.1", url.port or 5432)
    yield eater
    eater.stop()


@pytest.mark.parametrize("lets_it_arrive", [True, False], ids=["the answer is lost", "the commit is lost"])
async def test_a_change_whose_commit_is_in_doubt_is_made_once(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    lets_it_arrive: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never(_self: Collector, _interval_seconds: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Collector, "run_forever", never)
    # On a busy machine, connecting again may take longer than the service waits for a server.
    defaults = {**(Database.run.__kwdefaults__ or {}), "patience_seconds": 10}
    monkeypatch.setattr(Database.run, "__kwdefaults__", defaults)
    url = make_url(stack.database_url).set(host="127.0.0.1", port=await commits.start())
    service = await service_with(database_url=url.render_as_string(hide_password=False))
    commits.lets_it_arrive = lets_it_arrive
    new = f"{MODELS}/new"
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        for version in ("1.0", "2.0"):
            await register(client, {"model_name": "m", "version": version}, {"f": version.encode()})
        await reserve(client, "p", "1.0")
        await client.put(PROD, json={"version": "2.0"})
        etag = (await client.get(ONE)).headers["etag"]

        changes: list[tuple[str, Callable[[], Awaitable[httpx.Response]], int, list[str]]] = [
            ("create", lambda: client.post(MODELS, json={"name": "new"}), 201, ["model.created"]),
            ("describe the model", lambda: patch(client, new, {"tags": {"a": 1}}), 200, ["model.updated"]),
            ("delete", lambda: client.delete(new), 204, ["model.deleted"]),
            ("describe", lambda: patch(client, ONE, {"tags": {"a": 1}}, If_Match=etag), 200, ["version.updated"]),
            ("yank", lambda: client.post(f"{ONE}/yank", json={"reason": "x"}), 200, ["version.yanked"]),
            ("unyank", lambda: client.post(f"{ONE}/unyank"), 200, ["version.unyanked"]),
            ("remove", lambda: client.delete(ONE), 200, ["version.removed"]),
            ("restore", lambda: client.post(f"{ONE}/restore"), 200, ["version.restored"]),
            ("force", lambda: client.delete(TWO, params=FORCE), 200, ["version.removed"]),
            ("purge", lambda: client.delete(TWO, params=PURGE), 200, ["version.purged"]),
            ("purge at once", lambda: client.delete(ONE, params=PURGE), 200, ["version.removed", "version.purged"]),
            ("give up", lambda: client.delete(f"{MODELS}/p/versions/1.0"), 200, ["version.discarded"]),
        ]

        for number, (name, change, status, actions) in enumerate(changes, start=1):
            before = await log(client)
            commits.commits_to_pass = 0
            response = await change()
            assert response.status_code == status, (name, response.text)
            assert commits.eaten == number, name
            assert (await log(client))[len(before) :] == actions, name
            if name == "describe":
                assert (response.json()["tags"], response.headers["etag"]) == (
                    {"a": 1},
                    (await client.get(ONE)).headers["etag"],
                )
            if name in {"yank", "unyank", "restore"}:
                assert response.json() == (await client.get(ONE)).json()
        described = (await client.get(f"{MODELS}/m")).json()
        history = (await client.get(f"{PROD}/history")).json()["items"]

    assert (described["version_count"], described["aliases"]) == (0, [])
    assert [move["version"] for move in history] == [None, "2.0"]
