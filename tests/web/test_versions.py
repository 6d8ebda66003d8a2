"""Versions: listed in every state, read while they are pushed, and edited with merge patches."""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.database import version_json
from tests.support.bad_names import BAD_VERSIONS
from tests.support.problems import problem, wrong_field
from tests.support.rawhttp import message, send
from tests.support.registering import WEIGHTS, register, register_version
from tests.support.resources import MODELS, create, events, forged, let_expire, patch, reserve
from tests.support.service import Collect, RunningService, ServiceWith

VERSIONS = f"{MODELS}/m/versions"
ONE = f"{VERSIONS}/1.0"
ANY_ORDER = ("0.9", "nightly", "1.10.0", "1.9.0", "1.10.0rc1", "abc", "2.0.0.dev1", "v1.9.1")
BY_PRECEDENCE = ["2.0.0.dev1", "1.10.0", "1.10.0rc1", "v1.9.1", "1.9.0", "0.9", "abc", "nightly"]


@pytest.fixture
async def model(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a registry in which the model `m` has one version, 1.0."""
    await register(client, {"model_name": "m", "version": "1.0", "model_params": {"C": 1}}, {"model.bin": WEIGHTS})
    return client


async def labels(client: httpx.AsyncClient, **query: str | int) -> list[str]:
    page = await client.get(VERSIONS, params=query)
    assert page.status_code == 200, page.text
    return [item["version"] for item in page.json()["items"]]


async def set_state(session: AsyncSession, version: str, state: str) -> None:
    await session.execute(
        text("UPDATE model_info SET state = :state, generation = generation + 1 WHERE version = :version"),
        {"state": state, "version": version},
    )
    await session.commit()


def exact(response: httpx.Response) -> Any:
    """Return the body with every number as it is written."""
    return json.loads(response.text, parse_float=Decimal)


# Listed


async def test_versions_are_listed_newest_first_or_last_registered_first(client: httpx.AsyncClient) -> None:
    for version in ANY_ORDER:
        await register_version(client, "m", version)
    await register_version(client, "n", "99")

    assert await labels(client) == BY_PRECEDENCE
    assert await labels(client, order="precedence") == BY_PRECEDENCE
    assert await labels(client, order="created") == list(reversed(ANY_ORDER))


async def test_a_list_has_whole_versions(model: httpx.AsyncClient) -> None:
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "1.0"})
    await register_version(model, "m", "0.9")

    page = (await model.get(VERSIONS)).json()

    assert page["next_page_token"] is None
    assert page["items"] == [(await model.get(f"{VERSIONS}/{version}")).json() for version in ("1.0", "0.9")]


async def test_a_list_shows_versions_as_they_are_shown_alone(client: httpx.AsyncClient, collect: Collect) -> None:
    """PostgreSQL writes lists, and the service writes single versions."""
    odd = '\x01\t\n"\\/\x7f\u2028é\U0001f916'
    files = {f"{number:03}/'é": bytes([number % 7]) for number in range(105)}
    shown: dict[str, list[Any]] = {"pending": [], "ready": [], "removed": []}
    shown["pending"].append(await reserve(client, "m", "1-pending", files))
    for version, count in (("1", 1), ("2", 105), ("3", 0), ("4", 2), ("5", 1)):
        await register(
            client,
            {"model_name": "m", "version": version, "model_params": '{"a": 1.10, "b": 1e400, "\\u0001\\"": null}'},
            dict(list(files.items())[:count]),
        )
    await patch(client, f"{VERSIONS}/1", {"description": odd, "tags": {"k": odd, "n": 0.10}})
    await client.post(f"{VERSIONS}/2/yank", json={"reason": odd})
    for alias in ("b", "a", "a.b", "a-b"):
        await client.put(f"{MODELS}/m/aliases/{alias}", json={"version": "2"})
    shown["ready"] += [exact(await client.get(f"{VERSIONS}/{version}")) for version in ("3", "2", "1")]
    await client.delete(f"{VERSIONS}/4", params={"purge": "true"})
    purged = (await client.get(VERSIONS, params={"state": "removed"})).json()["items"][0]
    assert purged["purged_at"] is not None
    assert purged["file_path"] is purged["download_url"] is None
    shown["removed"].append(exact(await client.delete(f"{VERSIONS}/5")))
    shown["pending"][0].pop("uploads")

    for state, expected in shown.items():
        listed = exact(await client.get(VERSIONS, params={"state": state}))["items"]
        searched = exact(await client.get("/v1/versions", params={"filter": f"state = '{state}'"}))["items"]
        assert [each for each in listed if each["version"] != "4"] == expected
        assert [each for each in searched if each["version"] != "4"] == expected


@pytest.mark.parametrize("order", ["precedence", "created"])
async def test_pages_stay_right_while_versions_come_and_go(client: httpx.AsyncClient, order: str) -> None:
    for version in ("1.0", "2.0", "3.0", "4.0", "5.0"):
        await register_version(client, "m", version)
    seen: list[str] = []
    token = ""
    for added, removed in (("6.0", "5.0"), ("1.5", "4.0")):
        page = (await client.get(VERSIONS, params={"order": order, "limit": 2, "page_token": token})).json()
        seen += [item["version"] for item in page["items"]]
        token = page["next_page_token"]
        await register_version(client, "m", added)
        await client.delete(f"{VERSIONS}/{removed}")

    last = (await client.get(VERSIONS, params={"order": order, "limit": 2, "page_token": token})).json()

    assert seen == ["5.0", "4.0", "3.0", "2.0"]
    # What came in before the place that the pages are at is on the next list; what came in after it is on this one.
    assert [item["version"] for item in last["items"]] == (["1.5", "1.0"] if order == "precedence" else ["1.0"])
    assert last["next_page_token"] is None


@pytest.mark.parametrize("order", ["precedence", "created"])
@pytest.mark.parametrize(("at_once", "max_chars"), [(64, 10**6), (3, 10**6), (2, 0), (3, 0), (5, 2000)])
async def test_a_page_is_shorter_where_metadata_is_large(
    client: httpx.AsyncClient, order: str, at_once: int, max_chars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [f"{number}.0" for number in range(9, 0, -1)]
    for version in reversed(versions):
        info = {"model_name": "m", "version": version, "additional_metadata": {"a": "x" * 100}}
        assert (await client.post("/register_model", json=info)).status_code == 201
    monkeypatch.setattr(version_json, "_AT_ONCE", at_once)
    monkeypatch.setattr(version_json, "_MAX_PAGE_CHARS", max_chars)

    for limit in (1, 2, 4, 8, 9, 10):
        seen: list[str] = []
        token = ""
        while token is not None:
            page = (await client.get(VERSIONS, params={"order": order, "limit": limit, "page_token": token})).json()
            assert 1 <= len(page["items"]) <= (max(at_once - 1, 1) if max_chars == 0 else limit)
            seen += [item["version"] for item in page["items"]]
            token = page["next_page_token"]
        assert seen == versions


async def test_each_state_is_a_list(model: httpx.AsyncClient, database_session: AsyncSession, collect: Collect) -> None:
    for version in ("0.1", "0.2", "0.3", "0.4"):
        await register(model, {"model_name": "m", "version": version})
    await model.delete(f"{VERSIONS}/0.2")
    await model.delete(f"{VERSIONS}/0.3", params={"purge": "true"})
    await model.post(f"{VERSIONS}/0.4/yank")
    for version in ("2.0", "3.0"):
        await reserve(model, "m", version, {"b": b"two", "a": b"one"})
    await set_state(database_session, "3.0", "verifying")

    assert await labels(model) == await labels(model, state="ready") == ["1.0", "0.4", "0.1"]
    assert await labels(model, state="removed") == ["0.3", "0.2"]
    assert await labels(model, state="pending") == ["2.0"]
    assert await labels(model, state="verifying") == ["3.0"]
    (pending,) = (await model.get(VERSIONS, params={"state": "pending"})).json()["items"]
    assert [file["path"] for file in pending["files"]] == ["a", "b"]
    purged, removed = (await model.get(VERSIONS, params={"state": "removed"})).json()["items"]
    assert (purged["purged_at"] is None, removed["purged_at"]) == (False, None)
    assert (purged["files"], [file["path"] for file in removed["files"]]) == ([], ["model.bin"])
    for state in ("READY", "gone", "", "ready,removed"):
        problem(await model.get(VERSIONS, params={"state": state}), 422, "invalid-request")
    for order in ("", "newest", "1;drop"):
        problem(await model.get(VERSIONS, params={"order": order}), 422, "invalid-request")
    # A push whose lease is over is not there any more, whether it was collected yet or not.
    await let_expire(database_session)
    assert await labels(model, state="pending") == await labels(model, state="verifying") == []
    problem(await model.get(f"{VERSIONS}/2.0"), 404, "version-not-found")
    await collect()
    assert await labels(model, state="pending") == []


async def test_the_versions_of_a_model_without_any_are_an_empty_list(client: httpx.AsyncClient) -> None:
    await create(client, "m")
    await reserve(client, "n", "1.0")

    assert await labels(client) == []
    problem(await client.get(f"{MODELS}/none/versions"), 404, "model-not-found")
    assert "There is 'm'" in problem(await client.get(f"{MODELS}/M/versions"), 404, "model-not-found")["detail"]
    (pending,) = (await client.get(f"{MODELS}/n/versions", params={"state": "pending"})).json()["items"]
    assert pending["version"] == "1.0"


async def test_a_page_token_of_another_list_or_of_nobody_is_refused(client: httpx.AsyncClient) -> None:
    for name in ("m", "n"):
        for version in ("1.0", "2.0"):
            await register_version(client, name, version)
    token = (await client.get(VERSIONS, params={"limit": 1})).json()["next_page_token"]
    query = ["versions", "m", "ready", "precedence"]

    assert await labels(client, page_token=token) == ["1.0"]
    for path, parameters in (
        (VERSIONS, {"page_token": token, "order": "created"}),
        (VERSIONS, {"page_token": token, "state": "removed"}),
        (f"{MODELS}/n/versions", {"page_token": token}),
        (MODELS, {"page_token": token}),
        (VERSIONS, {"page_token": (await client.get(MODELS, params={"limit": 1})).json()["next_page_token"]}),
        (VERSIONS, {"page_token": forged(query, "m", "00", 2**63)}),
        (VERSIONS, {"page_token": forged(query, "m", "00", -1)}),
        (VERSIONS, {"page_token": forged(query, "m", "00", "1")}),
        (VERSIONS, {"page_token": forged(query, "m", "0", 1)}),
        (VERSIONS, {"page_token": forged(query, "m", 0, 1)}),
        (VERSIONS, {"page_token": forged(query, "m", "zz", 1)}),
        (VERSIONS, {"page_token": forged(query, "m'", "00", 1)}),
        (VERSIONS, {"page_token": forged(query, None, None, None)}),
        (VERSIONS, {"page_token": forged(query)}),
        (VERSIONS, {"page_token": "!"}),
    ):
        problem(await client.get(path, params=parameters), 422, "invalid-page-token")
    for limit in ("0", "1001", "-5", "ten"):
        problem(await client.get(VERSIONS, params={"limit": limit}), 422, "invalid-request")


# Read


async def test_a_version_is_read_by_label_alias_and_as_the_latest(model: httpx.AsyncClient) -> None:
    await register_version(model, "m", "2.0rc1")
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "2.0rc1"})

    one, latest, aliased = [await model.get(f"{VERSIONS}/{version}") for version in ("1.0", "latest", "@prod")]

    assert one.json() == latest.json() == (await model.get("/get_model_info/m/1.0")).json()
    assert one.headers["etag"] == latest.headers["etag"] != aliased.headers["etag"]
    assert aliased.json()["version"] == "2.0rc1"
    assert [answer.headers["x-model-version"] for answer in (one, latest, aliased)] == ["1.0", "1.0", "2.0rc1"]
    assert one.headers["cache-control"] == "no-cache"
    problem(await model.get(f"{VERSIONS}/9"), 404, "version-not-found")
    problem(await model.get(f"{VERSIONS}/@none"), 404, "alias-not-found")
    problem(await model.get(f"{MODELS}/none/versions/latest"), 404, "model-not-found")


async def test_a_push_is_read_by_its_label_alone(client: httpx.AsyncClient, database_session: AsyncSession) -> None:
    reserved = await reserve(
        client, "m", "1.0", {"b": b"two", "a": b"one"}, description="d", tags={"t": 1}, model_params={"C": 1}
    )

    pending = await client.get(ONE)
    await set_state(database_session, "1.0", "verifying")
    verifying = await client.get(ONE, headers={"If-None-Match": pending.headers["etag"]})

    assert pending.headers["x-model-version"] == "1.0"
    info = pending.json()
    assert info == {name: value for name, value in reserved.items() if name != "uploads"}
    assert (info["state"], info["description"], info["tags"], info["model_params"]) == (
        "pending",
        "d",
        {"t": 1},
        {"C": 1},
    )
    assert [(file["path"], file["size_bytes"]) for file in info["files"]] == [("a", 3), ("b", 3)]
    assert (info["file_count"], info["size_bytes"], info["file_path"], info["ready_at"]) == (2, 6, None, None)
    assert info["download_url"] is None
    assert (verifying.status_code, verifying.json()["state"]) == (200, "verifying")
    assert verifying.json() == info | {"state": "verifying"}
    for path in (
        f"{VERSIONS}/latest",
        "/get_model_info/m/1.0",
        "/get_latest_model_info/m",
        f"{ONE}/files",
        f"{ONE}/files/a",
        f"{ONE}/archive.tar",
        "/get_model/m/1.0",
    ):
        problem(await client.get(path), 404, "model-not-found")
    problem(await client.post(f"{ONE}/download_url", json={"path": "a"}), 404, "model-not-found")


async def test_the_etag_of_a_push_changes_when_it_is_ready(client: httpx.AsyncClient) -> None:
    reserved = await reserve(client, "m", "1.0", {"f": b"bytes"})
    pending = await client.get(ONE)
    (upload,) = reserved["uploads"]
    await client.put(upload["url"], content=b"bytes", headers=upload["headers"])

    held = await client.get(ONE, headers={"If-None-Match": pending.headers["etag"]})
    await client.post(f"{ONE}/commit")
    ready = await client.get(ONE, headers={"If-None-Match": pending.headers["etag"]})

    assert held.status_code == 304
    assert (ready.status_code, ready.json()["state"]) == (200, "ready")


async def seen_during(client: httpx.AsyncClient, url: str, change: Awaitable[httpx.Response]) -> set[int]:
    """Return the statuses that readers get while a change happens."""
    seen: set[int] = set()
    is_over = asyncio.Event()

    async def read() -> None:
        while not is_over.is_set():
            seen.add((await client.get(url)).status_code)

    readers = [asyncio.create_task(read()) for _ in range(6)]
    assert (await change).status_code == 200
    is_over.set()
    await asyncio.gather(*readers)
    return seen


async def test_a_push_is_there_at_every_moment_until_it_is_ready(client: httpx.AsyncClient) -> None:
    for number in range(12):
        url, content = f"{VERSIONS}/1.{number}", str(number).encode()
        (upload,) = (await reserve(client, "m", f"1.{number}", {"f": content}))["uploads"]
        await client.put(upload["url"], content=content, headers=upload["headers"])

        assert await seen_during(client, url, client.post(f"{url}/commit")) == {200}


async def test_a_push_is_there_or_it_is_not_while_it_is_given_up(client: httpx.AsyncClient) -> None:
    for number in range(12):
        await reserve(client, "m", f"1.{number}")
        url = f"{VERSIONS}/1.{number}"

        assert await seen_during(client, url, client.delete(url)) <= {200, 404}


async def test_a_version_is_read_under_conditions(model: httpx.AsyncClient) -> None:
    etag = (await model.get(ONE)).headers["etag"]

    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"1.1"'}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"1.1"'}, 412),
    ):
        for method in ("GET", "HEAD"):
            response = await model.request(method, ONE, headers=headers)
            assert response.status_code == status, headers
            if status != 412:
                assert (response.headers["etag"], response.headers["x-model-version"]) == (etag, "1.0")


async def test_the_etag_changes_with_everything_that_is_shown(model: httpx.AsyncClient) -> None:
    shown = {(first := await model.get(ONE)).headers["etag"]: first.json()}

    for change in (
        patch(model, ONE, {"description": "x"}),
        patch(model, ONE, {"tags": {"a": 1}}),
        patch(model, ONE, {"additional_metadata": {"a": 1}}),
        model.put(f"{MODELS}/m/aliases/prod", json={"version": "1.0"}),
        model.delete(f"{MODELS}/m/aliases/prod"),
        model.post(f"{ONE}/yank", json={"reason": "x"}),
        model.post(f"{ONE}/yank", json={"reason": "y"}),
        model.post(f"{ONE}/unyank"),
    ):
        answer = await change
        assert answer.status_code in {200, 201, 204}, answer.text
        now = await model.get(ONE)
        assert now.headers["etag"] not in shown
        shown[now.headers["etag"]] = now.json()
        if now.json()["aliases"] == [] and answer.content:
            assert (answer.headers["etag"], answer.json()) == (now.headers["etag"], now.json())
    for nothing in (model.post(f"{ONE}/unyank"), model.post(f"{ONE}/restore"), patch(model, ONE, {})):
        answer = await nothing
        assert shown[answer.headers["etag"]] == answer.json() == (await model.get(ONE)).json()


# Described


async def test_a_merge_patch_changes_what_it_names(model: httpx.AsyncClient) -> None:
    before = (await model.get(ONE)).json()

    first = await patch(
        model,
        ONE,
        {
            "description": "Trained in March.",
            "tags": {"team": "risk", "stage": 1},
            "additional_metadata": {"metrics": {"auc": 0.9, "f1": {"a": 1, "b": None}}, "list": [1, None], "x": None},
        },
    )
    second = await patch(
        model,
        ONE,
        {"tags": {"team": None}, "additional_metadata": {"metrics": {"f1": None, "auc": {"v": 1}}, "list": 2}},
    )
    third = await patch(model, ONE, {"description": None, "tags": None, "additional_metadata": None})

    assert first.status_code == 200
    assert first.json() == before | {
        "description": "Trained in March.",
        "tags": {"team": "risk", "stage": 1},
        "additional_metadata": {"metrics": {"auc": 0.9, "f1": {"a": 1}}, "list": [1, None]},
    }
    assert second.json() == first.json() | {
        "tags": {"stage": 1},
        "additional_metadata": {"metrics": {"auc": {"v": 1}}, "list": 2},
    }
    assert third.json() == before
    assert third.headers["etag"] == (await model.get(ONE)).headers["etag"]
    log = await events(model, "version.updated")
    assert [(event["model"], event["version"], sorted(event["details"]["patch"])) for event in log] == [
        ("m", "1.0", ["additional_metadata", "description", "tags"]),
        ("m", "1.0", ["additional_metadata", "tags"]),
        ("m", "1.0", ["additional_metadata", "description", "tags"]),
    ]
    assert log[1]["details"]["patch"]["additional_metadata"] == {
        "metrics": {"f1": None, "auc": {"v": 1}},
        "list": 2,
    }


async def test_rfc_7396_by_its_own_examples(model: httpx.AsyncClient) -> None:
    for original, change, result in (
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ):
        await model.delete(f"{VERSIONS}/x", params={"purge": "true"})
        name = f"r{abs(hash(json.dumps([original, change])))}"
        await model.post("/register_model", json={"model_name": name, "version": "x", "additional_metadata": original})
        patched = await patch(model, f"{MODELS}/{name}/versions/x", {"additional_metadata": change})
        assert patched.json()["additional_metadata"] == result, (original, change)


async def test_every_number_keeps_its_exact_value(model: httpx.AsyncClient) -> None:
    numbers = {
        "fraction": "0.1000000000000000055",
        "large": str(2**70),
        "unsigned": "9223372036854775809",
        "negative": "-9223372036854775809",
        "tiny": "1e-400",
        "huge": "1e400",
        "long": "3." + "14159" * 100,
        "trailing": "1.500",
    }
    body = ", ".join(f'"{name}": {number}' for name, number in numbers.items())

    first = await patch(model, ONE, f'{{"additional_metadata": {{"numbers": {{{body}}}}}, "tags": {{{body}}}}}')
    second = await patch(model, ONE, {"additional_metadata": {"other": [1]}, "tags": {"other": 1}})

    assert (first.status_code, second.status_code) == (200, 200), first.text
    for answer in (first, second, await model.get(ONE), await model.get("/get_model_info/m/1.0")):
        info = exact(answer)
        for shown in (info["additional_metadata"]["numbers"], info["tags"]):
            assert {name: Decimal(shown[name]) for name in numbers} == {
                name: Decimal(number) for name, number in numbers.items()
            }
    (event, _) = exact(await model.get("/v1/events"))["items"][-2:]
    assert event["details"]["patch"]["tags"]["fraction"] == Decimal("0.1000000000000000055")


async def test_a_patch_that_says_nothing_changes_nothing(model: httpx.AsyncClient) -> None:
    before = await model.get(ONE)

    for body in ("", "{}"):
        same = await patch(model, ONE, body)
        assert (same.status_code, same.json(), same.headers["etag"]) == (200, before.json(), before.headers["etag"])
    problem(await patch(model, ONE, {}, If_Match='"0.0"'), 412, "precondition-failed")
    assert await events(model, "version.updated") == []


async def test_a_patch_is_made_only_of_what_the_caller_knows(model: httpx.AsyncClient) -> None:
    etag = (await model.get(ONE)).headers["etag"]

    first = await patch(model, ONE, {"description": "1"}, If_Match=etag)
    outdated = await patch(model, ONE, {"description": "2"}, If_Match=etag)
    listed = await patch(model, ONE, {"description": "3"}, If_Match=f'"x", {first.headers["etag"]}')

    assert (first.status_code, listed.status_code) == (200, 200)
    assert problem(outdated, 412, "precondition-failed")["etag"] == first.headers["etag"]
    assert (await model.get(ONE)).json()["description"] == "3"
    for weak in (f"W/{listed.headers['etag']}", '"x"'):
        problem(await patch(model, ONE, {"description": "4"}, If_Match=weak), 412, "precondition-failed")
    wrong_field(await patch(model, ONE, {"description": "4"}, If_Match="x"), "header", "If-Match")
    assert (await patch(model, ONE, {"description": "4"}, If_Match="*")).status_code == 200


async def test_of_forty_patches_of_one_state_one_is_made(model: httpx.AsyncClient) -> None:
    etag = (await model.get(ONE)).headers["etag"]

    answers = await asyncio.gather(
        *(patch(model, ONE, {"additional_metadata": {str(i): i}}, If_Match=etag) for i in range(40))
    )

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 39}
    (winner,) = (answer for answer in answers if answer.status_code == 200)
    assert (await model.get(ONE)).json() == winner.json()
    assert len(await events(model, "version.updated")) == 1


async def test_patches_without_a_condition_are_all_made(model: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(patch(model, ONE, {"additional_metadata": {str(i): i}, "tags": {str(i): i}}) for i in range(20))
    )

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 20
    info = (await model.get(ONE)).json()
    assert info["additional_metadata"] == info["tags"] == {str(i): i for i in range(20)}
    assert len(await events(model, "version.updated")) == 20


FROZEN = (
    *("id", "model_name", "version", "number", "state", "file_path", "standardization_params", "model_params"),
    *("digest", "size_bytes", "file_count", "files", "is_prerelease", "yanked", "yank_reason", "aliases"),
    *("created_at", "created_by", "ready_at", "removed_at", "purge_after", "purged_at", "download_url"),
)


async def test_what_is_frozen_or_unknown_is_refused_by_its_name(model: httpx.AsyncClient) -> None:
    before = await model.get(ONE)
    assert set(FROZEN) | {"description", "tags", "additional_metadata"} == before.json().keys()

    for name in (*FROZEN, "name", "source", "storage_key", "", "ä"):
        for value in (before.json().get(name), None, "x"):
            wrong_field(await patch(model, ONE, {"description": "x", name: value}), "body", name)
    assert (await model.get(ONE)).headers["etag"] == before.headers["etag"]


DEEP = '{"a": ' * 63 + "{}" + "}" * 63
TOO_DEEP = '{"a": ' * 64 + "{}" + "}" * 64
WRONG_PATCHES: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "metadata that is a list": ('{"additional_metadata": []}', ("body", "additional_metadata")),
    "metadata that is a text": ('{"additional_metadata": "{}"}', ("body", "additional_metadata")),
    "metadata that is false": ('{"additional_metadata": false}', ("body", "additional_metadata")),
    "tags that are a number": ('{"tags": 0}', ("body", "tags")),
    "a nested tag": ('{"tags": {"a": {"b": 1}}}', ("body", "tags", "a")),
    "a nested null in a tag": ('{"tags": {"a": {"b": null}}}', ("body", "tags", "a")),
    "a description that is a list": ('{"description": []}', ("body", "description")),
    "NaN": ('{"additional_metadata": {"a": [NaN]}}', ("body", "additional_metadata", "a", 0)),
    "-Infinity": ('{"additional_metadata": {"a": -Infinity}}', ("body", "additional_metadata", "a")),
    "a huge exponent": ('{"additional_metadata": {"a": 1e1001}}', ("body", "additional_metadata", "a")),
    "a tiny exponent": ('{"additional_metadata": {"a": 1e-1001}}', ("body", "additional_metadata", "a")),
    "NUL": ('{"additional_metadata": {"a": "\\u0000"}}', ("body", "additional_metadata", "a")),
    "NUL in a key": ('{"additional_metadata": {"\\u0000": 1}}', ("body", "additional_metadata")),
    "half a character": ('{"additional_metadata": {"a": "\\udfff"}}', ("body", "additional_metadata", "a")),
    "a key twice": ('{"additional_metadata": {"a": 1, "a": 1}}', ("body", "additional_metadata", "a")),
    "too deep": (f'{{"additional_metadata": {TOO_DEEP}}}', ("body", "additional_metadata", *["a"] * 64)),
    "too deep in lists": (
        '{"additional_metadata": {"a": ' + "[" * 64 + "]" * 64 + "}}",
        ("body", "additional_metadata", "a", *[0] * 63),
    ),
    "a body that is too long": (json.dumps({"additional_metadata": {"a": "x" * 1024**2}}), ("body",)),
    "a list": ("[]", ("body",)),
    "a number": ("7", ("body",)),
    "no JSON": ("{", ("body",)),
}


@pytest.mark.parametrize(("body", "loc"), WRONG_PATCHES.values(), ids=WRONG_PATCHES)
async def test_a_patch_against_the_rules_changes_nothing(
    model: httpx.AsyncClient, body: str, loc: tuple[str | int, ...]
) -> None:
    before = await model.get(ONE)

    response = await patch(model, ONE, body)

    if loc[:1] == ("body",) and len(body) > 1024**2:
        assert response.status_code in {413, 422}
    else:
        wrong_field(response, *loc)
    assert (await model.get(ONE)).headers["etag"] == before.headers["etag"]
    assert await events(model, "version.updated") == []


async def test_merging_makes_nothing_deeper_than_is_allowed(model: httpx.AsyncClient) -> None:
    for document in (DEEP, DEEP.replace('{"a": ', '{"b": ', 1), DEEP.replace("{}", '{"c": 1}')):
        assert (await patch(model, ONE, f'{{"additional_metadata": {document}}}')).status_code == 200

    info = (await model.get(ONE)).json()
    depth, node = 0, info["additional_metadata"]
    while isinstance(node, dict):
        depth, node = depth + 1, node.get("a", node.get("c"))
    assert depth == 64
    again = await model.post(
        "/register_model",
        json={"model_name": "m", "version": "2.0", "additional_metadata": info["additional_metadata"]},
    )
    assert again.status_code == 201


async def test_metadata_has_a_limit_that_many_patches_do_not_pass(service_with: ServiceWith) -> None:
    service = await service_with(max_metadata_bytes=2000)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await register_version(client, "m", "1.0")
        # In characters the four are within the limit, in bytes they are not.
        answers = [await patch(client, ONE, {"additional_metadata": {str(i): "ü" * 300}}) for i in range(4)]
        smaller = await patch(client, ONE, {"additional_metadata": {"0": None, "9": "x" * 500}})
        described = await patch(client, ONE, {"description": "x" * 1500})

    assert [answer.status_code for answer in answers] == [200, 200, 200, 422]
    assert "2000 bytes" in wrong_field(answers[-1], "body", "additional_metadata")
    assert (smaller.status_code, described.status_code) == (200, 200)
    assert described.json()["additional_metadata"].keys() == {"1", "2", "9"}


async def test_tags_have_limits_that_many_patches_do_not_pass(model: httpx.AsyncClient) -> None:
    for start in range(0, 1000, 250):
        assert (await patch(model, ONE, {"tags": {f"k{i}": i for i in range(start, start + 250)}})).status_code == 200

    wrong_field(await patch(model, ONE, {"tags": {"one": "more"}}), "body", "tags")


async def test_a_long_patch_is_in_the_log_by_its_fields_alone(model: httpx.AsyncClient) -> None:
    await patch(model, ONE, {"additional_metadata": {"a": "x" * 20_000}, "description": "x"})

    (event,) = await events(model, "version.updated")
    assert event["details"] == {"fields": ["additional_metadata", "description"]}


async def test_a_patch_is_json_or_a_merge_patch(model: httpx.AsyncClient) -> None:
    for kind in ("application/merge-patch+json", "application/json", "APPLICATION/JSON;charset=utf-8"):
        assert (await patch(model, ONE, {"description": kind}, Content_Type=kind)).json()["description"] == kind
    for kind in ("text/plain", "application/json-patch+json", ""):
        refused = problem(await patch(model, ONE, {}, Content_Type=kind), 415, "unsupported-media-type")
        assert refused["accepted"] == ["application/merge-patch+json", "application/json"]


async def test_only_what_is_ready_is_described(model: httpx.AsyncClient, database_session: AsyncSession) -> None:
    await reserve(model, "m", "2.0")
    for state in ("pending", "verifying"):
        await set_state(database_session, "2.0", state)
        unfinished = problem(await patch(model, f"{VERSIONS}/2.0", {"description": "x"}), 409, "version-not-available")
        assert (unfinished["state"], unfinished["version"]) == (state, "2.0")
    await model.delete(ONE)
    await register_version(model, "m", "3.0")

    problem(await patch(model, ONE, {}), 404, "version-not-found")
    problem(await patch(model, f"{VERSIONS}/9", {}), 404, "version-not-found")
    problem(await patch(model, f"{MODELS}/none/versions/1", {}), 404, "model-not-found")
    yanked = await model.post(f"{VERSIONS}/3.0/yank")
    assert yanked.status_code == 200
    assert (await patch(model, f"{VERSIONS}/3.0", {"description": "x"})).json()["description"] == "x"


async def test_a_change_names_a_version_by_its_label_alone(model: httpx.AsyncClient) -> None:
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "1.0"})

    for version in ("latest", "@prod"):
        url = f"{VERSIONS}/{version}"
        for response in (
            await patch(model, url, {"description": "x"}),
            await model.delete(url),
            *[await model.post(f"{url}/{action}") for action in ("yank", "unyank", "restore")],
        ):
            wrong_field(response, "version")
    info = (await model.get(ONE)).json()
    assert (info["state"], info["description"], info["yanked"]) == ("ready", None, False)


# These are another path, or mean another version.
_IN_PATHS = {
    id_: label for id_, label in BAD_VERSIONS.items() if label not in {"", ".", "..", "1/0", "latest", "@champion"}
}


@pytest.mark.parametrize("version", _IN_PATHS.values(), ids=_IN_PATHS)
async def test_a_label_against_the_rule_is_refused_wherever_it_stands(
    client: httpx.AsyncClient, service: RunningService, version: str
) -> None:
    url = f"{VERSIONS}/" + "".join(f"%{byte:02X}" for byte in version.encode())
    for method, suffix in (
        *[("GET", suffix) for suffix in ("", "/files", "/files/a", "/archive.tar")],
        *[("POST", suffix) for suffix in ("/yank", "/unyank", "/restore", "/download_url")],
        ("PATCH", ""),
        ("DELETE", ""),
    ):
        answer = await send(service.address, message(method, f"{url}{suffix}"))
        assert answer is not None
        assert answer.status_code == 422, (method, suffix, answer.text)
        assert answer.json()["errors"][0]["loc"] == ["version"]
