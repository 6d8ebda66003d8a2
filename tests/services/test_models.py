"""Models as resources: create, find, edit and delete them, with or without versions."""

import asyncio
import json
from collections import Counter
from datetime import datetime

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.support.bad_names import BAD_MODEL_NAMES
from tests.support.problems import problem, wrong_field
from tests.support.rawhttp import message, send
from tests.support.registering import register, register_version
from tests.support.resources import MERGE_PATCH, MODELS, create, events, forged, found, let_expire, patch, reserve
from tests.support.service import Collect, RunningService

# Create


async def test_a_model_is_made(client: httpx.AsyncClient) -> None:
    made = await client.post(MODELS, json={"name": "Fraud.v2", "description": "Cards.", "tags": {"team": "risk"}})

    assert made.status_code == 201
    assert made.headers["location"] == f"{MODELS}/Fraud.v2"
    assert made.headers["content-type"] == "application/json"
    model = made.json()
    assert model == {
        "name": "Fraud.v2",
        "description": "Cards.",
        "tags": {"team": "risk"},
        "created_at": model["created_at"],
        "updated_at": model["created_at"],
        "latest_version": None,
        "version_count": 0,
        "aliases": [],
    }
    assert datetime.fromisoformat(model["created_at"]).utcoffset() is not None
    assert model["created_at"].endswith("Z")
    read = await client.get(made.headers["location"])
    assert read.json() == model
    assert read.headers["etag"] == made.headers["etag"]
    assert [event["model"] for event in await events(client, "model.created")] == ["Fraud.v2"]


async def test_a_model_needs_nothing_but_a_name(client: httpx.AsyncClient) -> None:
    model = (await create(client, "m")).json()

    assert (model["description"], model["tags"]) == (None, {})
    assert (await create(client, "n", description=None)).json()["description"] is None
    assert (await create(client, "o", description="")).json()["description"] == ""


async def test_a_name_is_taken_regardless_of_case(client: httpx.AsyncClient) -> None:
    await create(client, "fraud", description="first")
    await register_version(client, "Resnet", "1")

    for name, existing in (("Fraud", "fraud"), ("FRAUD", "fraud"), ("resnet", "Resnet")):
        taken = problem(await client.post(MODELS, json={"name": name}), 409, "model-name-taken")
        assert (taken["model_name"], taken["existing"]) == (name, existing)
        assert f"use '{existing}'" in taken["detail"]
    for name in ("fraud", "Resnet"):
        exists = problem(await client.post(MODELS, json={"name": name, "description": "x"}), 409, "model-exists")
        assert exists["model_name"] == name
    assert (await client.get(f"{MODELS}/fraud")).json()["description"] == "first"
    assert len(await events(client, "model.created")) == 1


async def test_of_many_that_make_a_model_one_does(client: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(
        *(client.post(MODELS, json={"name": name, "description": name}) for name in ["fraud", "Fraud", "FRAUD"] * 8)
    )

    assert Counter(answer.status_code for answer in answers) == {201: 1, 409: 23}
    (winner,) = (answer.json() for answer in answers if answer.status_code == 201)
    assert await found(client) == [winner["name"]]
    assert len(await events(client, "model.created")) == 1


async def test_the_name_of_a_model_that_only_a_push_has_made_can_be_made_and_then_stays(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect
) -> None:
    await reserve(client, "fraud", "1")
    await reserve(client, "other", "1")
    before = await client.get(f"{MODELS}/fraud")
    listed_before = await found(client)

    other_case = await client.post(MODELS, json={"name": "Other"})
    made = await client.post(MODELS, json={"name": "fraud", "tags": {"team": "risk"}})
    again = await client.post(MODELS, json={"name": "fraud"})
    await let_expire(database_session)
    await collect()

    problem(before, 404, "model-not-found")
    assert listed_before == []
    problem(other_case, 409, "model-name-taken")
    assert made.status_code == 201
    problem(again, 409, "model-exists")
    assert await found(client) == ["fraud"]
    assert (await client.get(f"{MODELS}/fraud")).json()["tags"] == {"team": "risk"}
    await create(client, "OTHER")


async def test_registering_under_a_model_that_was_made_keeps_what_is_said_of_it(client: httpx.AsyncClient) -> None:
    made = (await create(client, "m", description="Cards.", tags={"a": 1})).json()

    await register_version(client, "m", "1.0")
    wrong_case = await client.post("/register_model", json={"model_name": "M", "version": "2.0"})

    model = (await client.get(f"{MODELS}/m")).json()
    assert model == made | {"latest_version": "1.0", "version_count": 1}
    problem(wrong_case, 409, "model-name-taken")


@pytest.mark.parametrize("name", BAD_MODEL_NAMES.values(), ids=BAD_MODEL_NAMES)
async def test_a_name_against_the_rule_is_refused_wherever_it_stands(
    client: httpx.AsyncClient, service: RunningService, name: str
) -> None:
    rule = wrong_field(await client.post(MODELS, json={"name": name}), "body", "name")
    assert "a model name has" in rule or "no NUL" in rule
    if not name or "/" in name or name in {".", ".."}:
        return
    quoted = "".join(f"%{byte:02X}" for byte in name.encode())
    for method, suffix in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("GET", "/versions")):
        answer = await send(service.address, message(method, f"{MODELS}/{quoted}{suffix}"))
        assert answer is not None
        assert answer.status_code == 422, (method, suffix, answer.text)
        assert answer.json()["errors"][0]["loc"] == ["model_name"]
    assert await found(client) == []


WRONG_BODIES: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "no name": ("{}", ("body", "name")),
    "nothing at all": ("", ("body", "name")),
    "a name that is null": ('{"name": null}', ("body", "name")),
    "a name that is a number": ('{"name": 1}', ("body", "name")),
    "a name that is a list": ('{"name": ["m"]}', ("body", "name")),
    "a long name": (json.dumps({"name": "m" * 5000}), ("body", "name")),
    "an unknown field": ('{"name": "m", "owner": "ada"}', ("body", "owner")),
    "a location": ('{"name": "m", "artifact_location": "s3://x"}', ("body", "artifact_location")),
    "a key twice": ('{"name": "m", "name": "n"}', ("body", "name")),
    "a list": ("[]", ("body",)),
    "a text": ('"m"', ("body",)),
    "null": ("null", ("body",)),
    "no JSON": ("{", ("body",)),
    "not UTF-8": ('{"name": "\udcff"}', ("body",)),
    "NUL in the description": ('{"name": "m", "description": "\\u0000"}', ("body", "description")),
    "half a character": ('{"name": "m", "description": "\\ud800"}', ("body", "description")),
    "a description that is a number": ('{"name": "m", "description": 1}', ("body", "description")),
    "a long description": (json.dumps({"name": "m", "description": "x" * 65_537}), ("body", "description")),
    "tags that are a list": ('{"name": "m", "tags": []}', ("body", "tags")),
    "tags that are null": ('{"name": "m", "tags": null}', ("body", "tags")),
    "a tag that is null": ('{"name": "m", "tags": {"a": null}}', ("body", "tags", "a")),
    "a tag that is an object": ('{"name": "m", "tags": {"a": {}}}', ("body", "tags", "a")),
    "a tag that is a list": ('{"name": "m", "tags": {"a": []}}', ("body", "tags", "a")),
    "a tag without a key": ('{"name": "m", "tags": {"": 1}}', ("body", "tags")),
    "a tag with a long key": (json.dumps({"name": "m", "tags": {"k" * 257: 1}}), ("body", "tags")),
    "a long tag": (json.dumps({"name": "m", "tags": {"a": "x" * 4097}}), ("body", "tags", "a")),
    "NUL in a tag": ('{"name": "m", "tags": {"a": "\\u0000"}}', ("body", "tags", "a")),
    "NaN": ('{"name": "m", "tags": {"a": NaN}}', ("body", "tags", "a")),
    "a huge number": ('{"name": "m", "tags": {"a": 1e100000}}', ("body", "tags", "a")),
    "too many tags": (json.dumps({"name": "m", "tags": {f"k{i}": i for i in range(1001)}}), ("body", "tags")),
    "too deep": ('{"name": "m", "tags": ' + '{"a": ' * 100 + "1" + "}" * 101, ("body", "tags", *["a"] * 64)),
}


@pytest.mark.parametrize(("body", "loc"), WRONG_BODIES.values(), ids=WRONG_BODIES)
async def test_a_body_against_the_rules_is_refused_and_the_field_named(
    client: httpx.AsyncClient, body: str, loc: tuple[str | int, ...]
) -> None:
    response = await client.post(
        MODELS, content=body.encode("utf-8", "surrogateescape"), headers={"Content-Type": "application/json"}
    )

    wrong_field(response, *loc)
    assert await found(client) == []


async def test_a_body_of_another_kind_is_unsupported(client: httpx.AsyncClient) -> None:
    body = '{"name": "m"}'
    for kind in ("text/plain", MERGE_PATCH, "application/x-www-form-urlencoded", ""):
        refused = await client.post(MODELS, content=body, headers={"Content-Type": kind})
        assert problem(refused, 415, "unsupported-media-type")["accepted"] == ["application/json"]
    charset = await client.post(MODELS, content=body, headers={"Content-Type": "Application/JSON; charset=utf-8"})
    assert charset.status_code == 201


async def test_as_much_as_is_allowed_is_taken(client: httpx.AsyncClient) -> None:
    tags = {"k" * 256: "x" * 4096, "ü": "\u2028\u202e", "n": 2**70, "p": 0.5, "t": False} | {
        str(i): i for i in range(995)
    }

    model = (await create(client, "m" * 128, description="x" * 65_536, tags=tags)).json()

    assert (model["tags"], len(model["description"])) == (tags, 65_536)


# Read


async def test_a_name_is_read_in_its_exact_case(client: httpx.AsyncClient) -> None:
    await create(client, "Fraud")

    for response in (
        await client.get(f"{MODELS}/fraud"),
        await patch(client, f"{MODELS}/fraud", {}),
        await client.delete(f"{MODELS}/fraud"),
    ):
        assert "There is 'Fraud'" in problem(response, 404, "model-not-found")["detail"]


async def test_a_model_says_how_many_versions_it_has_and_which_is_the_latest(client: httpx.AsyncClient) -> None:
    versions = f"{MODELS}/m/versions"

    async def shown() -> tuple[str | None, int]:
        model = (await client.get(f"{MODELS}/m")).json()
        (listed,) = (await client.get(MODELS)).json()["items"]
        assert {name: value for name, value in model.items() if name != "aliases"} == listed
        return model["latest_version"], model["version_count"]

    for version in ("1.0", "2.0", "3.0rc1"):
        await register_version(client, "m", version)
    assert await shown() == ("2.0", 3)
    await reserve(client, "m", "9.0")
    assert await shown() == ("2.0", 3)
    await client.post(f"{versions}/2.0/yank")
    assert await shown() == ("1.0", 3)
    await client.delete(f"{versions}/1.0")
    assert await shown() == ("3.0rc1", 2)
    await client.post(f"{versions}/1.0/restore")
    await client.post(f"{versions}/1.0/restore")
    assert await shown() == ("1.0", 3)
    await client.delete(f"{versions}/1.0", params={"purge": "true"})
    await client.delete(f"{versions}/1.0", params={"purge": "true"})
    assert await shown() == ("3.0rc1", 2)
    for version in ("3.0rc1", "2.0", "9.0"):
        assert (await client.delete(f"{versions}/{version}")).status_code == 200
    assert await shown() == (None, 0)


async def test_a_model_shows_its_aliases(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "1.0")
    for alias in ("prod", "canary"):
        await client.put(f"{MODELS}/m/aliases/{alias}", json={"version": "1.0"})

    model = (await client.get(f"{MODELS}/m")).json()

    assert model["aliases"] == (await client.get(f"{MODELS}/m/aliases")).json()["items"]
    assert [alias["alias"] for alias in model["aliases"]] == ["canary", "prod"]


async def test_the_etag_changes_with_everything_that_is_shown_and_with_nothing_else(client: httpx.AsyncClient) -> None:
    url, versions = f"{MODELS}/m", f"{MODELS}/m/versions"
    seen = [(await create(client, "m")).headers["etag"]]

    async def expect(*, is_new: bool) -> None:
        response = await client.get(url, headers={"If-None-Match": ", ".join(seen)})
        assert response.status_code == (200 if is_new else 304), response.request.url
        etag = response.headers["etag"]
        assert (etag not in seen) is is_new
        seen.append(etag)

    await expect(is_new=False)
    await patch(client, url, {"description": "x"})
    await expect(is_new=True)
    await patch(client, url, {"tags": {"a": 1}})
    await expect(is_new=True)
    await register_version(client, "m", "1.0")
    await expect(is_new=True)
    await register_version(client, "m", "0.9")
    await expect(is_new=True)
    await client.put(f"{url}/aliases/prod", json={"version": "0.9"})
    await expect(is_new=True)
    await client.put(f"{url}/aliases/prod", json={"version": "1.0"})
    await expect(is_new=True)
    await client.delete(f"{url}/aliases/prod")
    assert (await client.get(url)).json()["aliases"] == []
    seen.append((await client.get(url)).headers["etag"])
    await client.post(f"{versions}/1.0/yank")
    await expect(is_new=True)
    await client.delete(f"{versions}/0.9")
    await expect(is_new=True)
    await patch(client, f"{versions}/1.0", {"description": "x"})
    await reserve(client, "m", "2.0")
    await register_version(client, "n", "1.0")
    await expect(is_new=False)


async def test_a_model_is_read_under_conditions(client: httpx.AsyncClient) -> None:
    etag = (await create(client, "m")).headers["etag"]

    for headers, status in (
        ({"If-None-Match": etag}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": f'"x", W/{etag}'}, 304),
        ({"If-None-Match": '"x"'}, 200),
        ({"If-Match": etag}, 200),
        ({"If-Match": '"x"'}, 412),
        ({"If-Match": etag, "If-None-Match": etag}, 304),
    ):
        for method in ("GET", "HEAD"):
            response = await client.request(method, f"{MODELS}/m", headers=headers)
            assert response.status_code == status, headers
            if status != 412:
                assert response.headers["etag"] == etag
                assert response.headers["cache-control"] == "no-cache"
            if status == 304 or method == "HEAD":
                assert response.content == b""


# List


async def test_models_are_listed_by_name(client: httpx.AsyncClient) -> None:
    for name in ("b", "B2", "a-1", "a", "a.1", "a_1", "Z"):
        await create(client, name)

    assert await found(client) == ["B2", "Z", "a", "a-1", "a.1", "a_1", "b"]


async def test_a_search_is_for_a_part_of_the_name_in_any_case(client: httpx.AsyncClient) -> None:
    names = ["Fraud-Detector", "fraud_net", "a.b", "axb", "100", "plain"]
    for name in names:
        await create(client, name)

    for search, expected in {
        "FRAUD": ["Fraud-Detector", "fraud_net"],
        "-det": ["Fraud-Detector"],
        "_": ["fraud_net"],
        "a.b": ["a.b"],
        ".": ["a.b"],
        "10": ["100"],
        "": sorted(names),
        "%": [],
        "'": [],
        "\\": [],
        "' OR 1=1 --": [],
        "fraud detector": [],
        "fraud*": [],
        "\u017f": [],
        "\ufffd": [],
        "x" * 256: [],
    }.items():
        assert await found(client, search=search) == expected, search
    for search in ("x" * 257, "a\x00b"):
        wrong_field(await client.get(MODELS, params={"search": search}), "query", "search")


async def test_a_search_is_for_tags_with_these_values(client: httpx.AsyncClient) -> None:
    for name, tags in {
        "one": {"team": "risk", "stage": 1, "live": True},
        "two": {"team": "risk", "stage": "1", "live": False},
        "three": {"team": "Risk", "stage": 1.0, "live": "true", "a=b": "c=d"},
        "four": {"stage": 0.1000000000000000055, "team.sub": "x", "größe": "groß"},
        "five": {"stage": -2.5e-7, "big": 2**70, "empty": ""},
    }.items():
        await create(client, name, tags=tags)

    for query, expected in {
        "tag.team=risk": ["one", "two"],
        "tag.team=Risk": ["three"],
        "tag.team=ris": [],
        "tag.stage=1": ["one", "three", "two"],
        "tag.stage=1.0": ["one", "three"],
        "tag.stage=1.00e0": ["one", "three"],
        "tag.stage=10e-1": ["one", "three"],
        "tag.stage=01": [],
        "tag.stage=%D9%A1": [],
        "tag.stage=0.1": ["four"],
        "tag.stage=-0.00000025": ["five"],
        "tag.stage=-2.5e-07": ["five"],
        "tag.stage=1e999999999": [],
        "tag.stage=1e-999999999": [],
        "tag.stage=1e99999999999999999999": [],
        f"tag.stage={'9' * 4000}": [],
        "tag.big=1180591620717411303424": ["five"],
        "tag.live=true": ["one", "three"],
        "tag.live=false": ["two"],
        "tag.live=True": [],
        "tag.empty=": ["five"],
        "tag.missing=": [],
        "tag.team=null": [],
        "tag.team.sub=x": ["four"],
        "tag.gr%C3%B6%C3%9Fe=gro%C3%9F": ["four"],
        "tag.a%3Db=c%3Dd": ["three"],
        "tag.team=risk&tag.live=true": ["one"],
        "tag.team=risk&tag.live=true&tag.stage=1": ["one"],
        "tag.team=risk&tag.team=risk": ["one", "two"],
        "tag.team=risk&search=TW": ["two"],
        "tag.team=risk%25": [],
        "tag.team=%7B%22a%22%3A1%7D": [],
        "tag.te'am=x": [],
    }.items():
        response = await client.get(f"{MODELS}?{query}")
        assert response.status_code == 200, (query, response.text)
        assert [item["name"] for item in response.json()["items"]] == expected, query
    for query, loc in {
        "tag.=x": "tag.",
        f"tag.{'k' * 257}=x": None,
        f"tag.k={'v' * 4097}": "tag.k",
        "tag.k=a%00b": "tag.k",
        "tag.k%00=a": "tag.k\x00",
        "tag.team=risk&tag.team=Risk": "tag.team",
        "&".join(f"tag.k{i}=x" for i in range(33)): None,
    }.items():
        response = await client.get(f"{MODELS}?{query}")
        errors = problem(response, 422, "invalid-field")["errors"]
        assert errors[0]["loc"][0] == "query"
        if loc:
            assert errors[0]["loc"][1] == loc


async def test_pages_stay_right_while_models_come_and_go(client: httpx.AsyncClient) -> None:
    for name in "bdfhj":
        await create(client, name, tags={"kind": "old"})
    seen: list[str] = []
    token: str | None = ""

    for added, deleted in (("e", "b"), ("i", "d"), ("a", "e"), ("c", "a")):
        page = (await client.get(MODELS, params={"limit": 2, "page_token": token or ""})).json()
        seen += [item["name"] for item in page["items"]]
        token = page["next_page_token"]
        await create(client, added)
        await client.delete(f"{MODELS}/{deleted}")
        if token is None:
            break

    assert seen == ["b", "d", "e", "f", "h", "i", "j"]
    assert token is None


async def test_a_page_ends_where_the_list_does(client: httpx.AsyncClient) -> None:
    assert (await client.get(MODELS)).json() == {"items": [], "next_page_token": None}
    for name in "abcd":
        await create(client, name)

    whole = (await client.get(MODELS, params={"limit": 4})).json()
    first = (await client.get(MODELS, params={"limit": 3})).json()
    last = (await client.get(MODELS, params={"limit": 1000, "page_token": first["next_page_token"]})).json()

    assert whole["next_page_token"] is None
    assert first["items"] + last["items"] == whole["items"]
    assert last["next_page_token"] is None


async def test_a_token_of_another_query_or_of_nobody_is_refused(client: httpx.AsyncClient) -> None:
    for name in ("fraud-1", "fraud-2", "fraud-3"):
        await create(client, name, tags={"a": "b"})
        await register_version(client, name, "1")
    token = (await client.get(MODELS, params={"limit": 1})).json()["next_page_token"]
    searching = (await client.get(MODELS, params={"limit": 1, "search": "FRAUD"})).json()["next_page_token"]
    tagged = (await client.get(MODELS, params={"limit": 1, "tag.a": "b"})).json()["next_page_token"]

    same_search = await client.get(MODELS, params={"limit": 5, "search": "FRAUD", "page_token": searching})
    assert [item["name"] for item in same_search.json()["items"]] == ["fraud-2", "fraud-3"]
    for query in (
        {"page_token": searching},
        {"page_token": tagged},
        {"page_token": token, "search": "fraud"},
        {"page_token": token, "tag.a": "b"},
        {"page_token": tagged, "tag.a": "c"},
        {"page_token": searching, "search": "fraud"},
        {"page_token": forged(["models", None, []], "a'--")},
        {"page_token": forged(["models", None, []], 1)},
        {"page_token": forged(["models", None, []], None)},
        {"page_token": forged(["models", None, []], "a", "b")},
        {"page_token": forged(["models", None, []])},
        {"page_token": forged(["models", None, []], "a\x00")},
        {"page_token": forged(["models", None, []], {"a": 1})},
        {"page_token": forged(["versions", "fraud-1", "ready", "precedence"], "fraud-1", "", 1)},
        {"page_token": forged()},
        {"page_token": "W1td"},
        {"page_token": token + "A"},
        {"page_token": "ü"},
        {"page_token": "x" * 10_000},
    ):
        problem(await client.get(MODELS, params=query), 422, "invalid-page-token")
    for limit in ("0", "-1", "1001", "10000000000", "x", "1.5", ""):
        problem(await client.get(MODELS, params={"limit": limit}), 422, "invalid-request")


# Edit


async def test_a_merge_patch_changes_what_it_names(client: httpx.AsyncClient) -> None:
    url = f"{MODELS}/m"
    made = (await create(client, "m", description="Cards.", tags={"team": "risk", "stage": 1, "live": True})).json()

    changed = await patch(client, url, {"tags": {"team": None, "stage": "2", "owner": "ada", "never": None}})
    cleared = await patch(client, url, {"description": None})
    emptied = await patch(client, url, {"tags": None, "description": "Cards again."})

    assert changed.status_code == 200
    model = changed.json()
    assert model == made | {
        "tags": {"stage": "2", "live": True, "owner": "ada"},
        "updated_at": model["updated_at"],
    }
    assert model["updated_at"] > made["updated_at"]
    assert (cleared.json()["description"], cleared.json()["tags"]) == (None, model["tags"])
    assert (emptied.json()["description"], emptied.json()["tags"]) == ("Cards again.", {})
    read = await client.get(url)
    assert read.json() == emptied.json()
    assert read.headers["etag"] == emptied.headers["etag"]
    assert [event["details"]["patch"] for event in await events(client, "model.updated")] == [
        {"tags": {"team": None, "stage": "2", "owner": "ada", "never": None}},
        {"description": None},
        {"tags": None, "description": "Cards again."},
    ]


async def test_a_tag_keeps_its_exact_number(client: httpx.AsyncClient) -> None:
    await create(client, "m")
    numbers = ("0.1000000000000000055", str(2**70), "1E-400", "-0.0", "1e16", "123456789012345678.125")

    for number in numbers:
        response = await patch(client, f"{MODELS}/m", f'{{"tags": {{"n": {number}}}}}')
        assert response.status_code == 200
    kept = await patch(client, f"{MODELS}/m", '{"tags": {"n": 0.1000000000000000055}}')
    untouched = await patch(client, f"{MODELS}/m", {"description": "x"})

    assert '"n": 0.1000000000000000055}' in kept.text
    assert '"n": 0.1000000000000000055}' in untouched.text


async def test_a_patch_that_says_nothing_changes_nothing(client: httpx.AsyncClient) -> None:
    made = await create(client, "m", description="x")

    for body in ("", "{}"):
        same = await patch(client, f"{MODELS}/m", body)
        assert (same.status_code, same.json(), same.headers["etag"]) == (200, made.json(), made.headers["etag"])
        refused = await patch(client, f"{MODELS}/m", body, If_Match='"x"')
        problem(refused, 412, "precondition-failed")
    assert await events(client, "model.updated") == []


async def test_a_patch_is_made_only_of_what_the_caller_knows(client: httpx.AsyncClient) -> None:
    url = f"{MODELS}/m"
    etag = (await create(client, "m")).headers["etag"]

    first = await patch(client, url, {"description": "1"}, If_Match=etag)
    outdated = await patch(client, url, {"description": "2"}, If_Match=etag)

    assert first.status_code == 200
    assert problem(outdated, 412, "precondition-failed")["etag"] == first.headers["etag"]
    for condition, status in (
        (first.headers["etag"], 200),
        ("*", 200),
        (f"W/{first.headers['etag']}", 412),
        ('"x"', 412),
    ):
        response = await patch(client, url, {}, If_Match=condition)
        assert response.status_code == status, condition
    for nonsense in ("x", "", '"x'):
        wrong_field(await patch(client, url, {}, If_Match=nonsense), "header", "If-Match")
    several = await patch(client, url, {"description": "3"}, If_Match=f'"x", {first.headers["etag"]}')
    assert several.status_code == 200
    problem(await patch(client, f"{MODELS}/none", {}, If_Match="*"), 404, "model-not-found")


async def test_of_forty_patches_of_one_state_one_is_made(client: httpx.AsyncClient) -> None:
    url = f"{MODELS}/m"
    etag = (await create(client, "m")).headers["etag"]

    answers = await asyncio.gather(*(patch(client, url, {"tags": {str(i): i}}, If_Match=etag) for i in range(40)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 39}
    (winner,) = (answer for answer in answers if answer.status_code == 200)
    assert (await client.get(url)).json() == winner.json()
    assert {answer.json()["etag"] for answer in answers if answer.status_code == 412} == {winner.headers["etag"]}
    assert len(await events(client, "model.updated")) == 1


async def test_patches_without_a_condition_are_all_made(client: httpx.AsyncClient) -> None:
    await create(client, "m")

    answers = await asyncio.gather(*(patch(client, f"{MODELS}/m", {"tags": {str(i): i}}) for i in range(20)))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.headers["etag"] for answer in answers}) == 20
    model = (await client.get(f"{MODELS}/m")).json()
    assert model["tags"] == {str(i): i for i in range(20)}
    assert model["updated_at"] == max(answer.json()["updated_at"] for answer in answers)


WRONG_PATCHES: dict[str, tuple[str, tuple[str | int, ...]]] = {
    "another name": ('{"name": "n"}', ("body", "name")),
    "a time": ('{"created_at": "2020-01-01T00:00:00Z"}', ("body", "created_at")),
    "a count": ('{"version_count": 0}', ("body", "version_count")),
    "metadata": ('{"additional_metadata": {}}', ("body", "additional_metadata")),
    "parameters": ('{"model_params": null}', ("body", "model_params")),
    "what nobody knows": ('{"owner": null}', ("body", "owner")),
    "tags that are a list": ('{"tags": [1]}', ("body", "tags")),
    "tags that are a text": ('{"tags": "a"}', ("body", "tags")),
    "tags that are false": ('{"tags": false}', ("body", "tags")),
    "a nested tag": ('{"tags": {"a": {"b": null}}}', ("body", "tags", "a")),
    "a list as a tag": ('{"tags": {"a": [1]}}', ("body", "tags", "a")),
    "a tag without a key": ('{"tags": {"": "x"}}', ("body", "tags")),
    "a long tag": (json.dumps({"tags": {"a": "x" * 4097}}), ("body", "tags", "a")),
    "a description that is an object": ('{"description": {}}', ("body", "description")),
    "a long description": (json.dumps({"description": "x" * 65_537}), ("body", "description")),
    "a list": ("[]", ("body",)),
    "null": ("null", ("body",)),
    "a text": ('"x"', ("body",)),
    "a key twice": ('{"tags": {"a": 1, "a": 2}}', ("body", "tags", "a")),
    "no JSON": ("{'a': 1}", ("body",)),
    "Infinity": ('{"tags": {"a": Infinity}}', ("body", "tags", "a")),
    "NUL": ('{"tags": {"a\\u0000": 1}}', ("body", "tags")),
}


@pytest.mark.parametrize(("body", "loc"), WRONG_PATCHES.values(), ids=WRONG_PATCHES)
async def test_a_patch_against_the_rules_changes_nothing(
    client: httpx.AsyncClient, body: str, loc: tuple[str | int, ...]
) -> None:
    made = await create(client, "m", tags={"a": 1})

    wrong_field(await patch(client, f"{MODELS}/m", body), *loc)

    assert (await client.get(f"{MODELS}/m")).headers["etag"] == made.headers["etag"]


async def test_tags_have_limits_that_many_patches_do_not_pass(client: httpx.AsyncClient) -> None:
    url = f"{MODELS}/m"
    await create(client, "m")
    for start in range(0, 1000, 200):
        tags = {f"k{i}": i for i in range(start, start + 200)}
        assert (await patch(client, url, {"tags": tags})).status_code == 200

    assert "1000 tags" in wrong_field(await patch(client, url, {"tags": {"one": "more"}}), "body", "tags")
    assert (await patch(client, url, {"tags": {"one": "more", "k0": None}})).status_code == 200
    answers = [
        await patch(client, url, {"tags": {f"k{i}": "ü" * 4096 for i in range(start, start + 7)}})
        for start in (1, 11, 21)
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    assert "together" in wrong_field(answers[-1], "body", "tags")


async def test_a_patch_is_json_or_a_merge_patch(client: httpx.AsyncClient) -> None:
    url = f"{MODELS}/m"
    await create(client, "m")

    for kind in (MERGE_PATCH, "application/json", "application/merge-patch+json; charset=utf-8"):
        assert (await patch(client, url, {"description": kind}, Content_Type=kind)).json()["description"] == kind
    for kind in ("text/plain", "application/json-patch+json", "application/xml", "json", ""):
        refused = problem(await patch(client, url, {}, Content_Type=kind), 415, "unsupported-media-type")
        assert refused["accepted"] == [MERGE_PATCH, "application/json"]
    encoded = await patch(client, url, {}, Content_Encoding="gzip")
    problem(encoded, 415, "unsupported-media-type")


async def test_a_long_patch_is_in_the_log_by_its_fields_alone(client: httpx.AsyncClient) -> None:
    await create(client, "m")

    await patch(client, f"{MODELS}/m", {"description": "x" * 60_000, "tags": {"a": 1}})

    (event,) = await events(client, "model.updated")
    assert event["details"] == {"fields": ["description", "tags"]}


# Delete


async def test_a_model_that_never_had_a_version_is_deleted(client: httpx.AsyncClient) -> None:
    await create(client, "fraud", description="x")

    deleted = await client.delete(f"{MODELS}/fraud")

    assert (deleted.status_code, deleted.content) == (204, b"")
    for response in (
        await client.get(f"{MODELS}/fraud"),
        await client.delete(f"{MODELS}/fraud"),
        await patch(client, f"{MODELS}/fraud", {}),
        await client.get(f"{MODELS}/fraud/versions"),
    ):
        problem(response, 404, "model-not-found")
    assert await found(client) == []
    assert (await create(client, "FRAUD")).json()["description"] is None
    assert [event["model"] for event in await events(client, "model.deleted")] == ["fraud"]


async def test_a_model_that_had_a_version_is_never_deleted(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect
) -> None:
    for name in ("pending", "ready", "removed", "purged"):
        await create(client, name)
        if name != "pending":
            await register(client, {"model_name": name, "version": "1"})
    await reserve(client, "pending", "1")
    await client.delete(f"{MODELS}/removed/versions/1")
    await client.delete(f"{MODELS}/purged/versions/1", params={"purge": "true"})
    await collect()

    for name in ("pending", "ready", "removed", "purged"):
        in_use = problem(await client.delete(f"{MODELS}/{name}"), 409, "model-in-use")
        assert in_use["model_name"] == name
    assert await found(client) == ["pending", "purged", "ready", "removed"]
    # A push that failed never made a version.
    await let_expire(database_session)
    await collect()
    assert (await client.delete(f"{MODELS}/pending")).status_code == 204


async def test_a_model_that_only_a_push_has_made_is_not_there(client: httpx.AsyncClient) -> None:
    await reserve(client, "fraud", "1")

    for response in (
        await client.get(f"{MODELS}/fraud"),
        await client.delete(f"{MODELS}/fraud"),
        await patch(client, f"{MODELS}/fraud", {"description": "x"}),
    ):
        problem(response, 404, "model-not-found")
    assert (await client.get(f"{MODELS}/fraud/versions/1")).json()["state"] == "pending"


async def test_of_a_delete_and_registrations_at_once_all_agree(client: httpx.AsyncClient) -> None:
    for turn in range(16):
        name = f"m{turn}"
        await create(client, name)

        deleted, *registered = await asyncio.gather(
            client.delete(f"{MODELS}/{name}"),
            *(client.post("/register_model", json={"model_name": name, "version": str(i)}) for i in range(3)),
        )

        assert {response.status_code for response in registered} == {201}
        assert deleted.status_code in {204, 409}
        assert (await client.get(f"{MODELS}/{name}")).json()["version_count"] == 3


async def test_a_model_is_deleted_only_as_the_caller_knows_it(client: httpx.AsyncClient) -> None:
    etag = (await create(client, "m")).headers["etag"]
    now = (await patch(client, f"{MODELS}/m", {"description": "x"})).headers["etag"]
    await register_version(client, "n", "1.0")

    refused = await client.delete(f"{MODELS}/m", headers={"If-Match": etag})
    wrong_field(await client.delete(f"{MODELS}/m", headers={"If-Match": "x"}), "header", "If-Match")
    in_use = await client.delete(f"{MODELS}/n", headers={"If-Match": '"0"'})
    deleted = await client.delete(f"{MODELS}/m", headers={"If-Match": now})

    assert problem(refused, 412, "precondition-failed")["etag"] == now
    problem(in_use, 409, "model-in-use")
    assert deleted.status_code == 204
    assert await events(client, "model.created") != []
    assert [event["model"] for event in await events(client, "model.deleted")] == ["m"]


async def test_of_many_deletes_one_is_made(client: httpx.AsyncClient) -> None:
    await create(client, "m")

    answers = await asyncio.gather(*(client.delete(f"{MODELS}/m") for _ in range(10)))

    assert Counter(answer.status_code for answer in answers) == {204: 1, 404: 9}
    assert len(await events(client, "model.deleted")) == 1
