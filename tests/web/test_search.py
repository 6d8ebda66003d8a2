"""Search for versions of all models over HTTP."""

from typing import Any

import httpx
import pytest

from tests.support.registering import register


async def registered(client: httpx.AsyncClient, name: str, version: str, **more: Any) -> None:
    answer = await register(client, {"model_name": name, "version": version, **more})
    assert answer.status_code == 201, answer.text


async def found(client: httpx.AsyncClient, **params: Any) -> list[str]:
    response = await client.get("/v1/versions", params=params)
    assert response.status_code == 200, response.text
    return [f"{item['model_name']} {item['version']}" for item in response.json()["items"]]


@pytest.fixture
async def models(client: httpx.AsyncClient) -> None:
    await registered(client, "fraud", "1.0", additional_metadata={"metrics": {"auc": 0.91}}, model_params={"C": 1})
    await registered(client, "fraud", "2.0", additional_metadata={"metrics": {"auc": 0.97}}, model_params={"C": 10})
    await registered(client, "churn", "1.0", additional_metadata={"metrics": {"auc": "high"}})
    patched = await client.patch("/v1/models/churn/versions/1.0", json={"tags": {"team": "growth"}})
    assert patched.status_code == 200


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, ["churn 1.0", "fraud 2.0", "fraud 1.0"]),
        ({"filter": "additional_metadata.metrics.auc >= 0.95"}, ["fraud 2.0"]),
        ({"filter": "model_params.C = 1 OR tags.team = 'growth'"}, ["churn 1.0", "fraud 1.0"]),
        ({"filter": "NOT model_name = 'fraud'"}, ["churn 1.0"]),
        ({"filter": "model_name ILIKE 'FR%'", "order_by": "number"}, ["fraud 1.0", "fraud 2.0"]),
        ({"order_by": "model_name"}, ["churn 1.0", "fraud 1.0", "fraud 2.0"]),
        ({"order_by": "created_at ASC"}, ["fraud 1.0", "fraud 2.0", "churn 1.0"]),
        ({"filter": "version IN ('2.0', '3.0')", "order_by": "size_bytes desc"}, ["fraud 2.0"]),
        ({"filter": "tags.team = ''' OR 1=1 --'"}, []),
        ({"filter": ""}, ["churn 1.0", "fraud 2.0", "fraud 1.0"]),
    ],
)
async def test_a_search_answers_what_the_filter_is_for_in_the_order_that_was_asked(
    client: httpx.AsyncClient, models: None, params: dict[str, str], expected: list[str]
) -> None:
    assert await found(client, **params) == expected


async def test_a_search_shows_whole_versions(client: httpx.AsyncClient, models: None) -> None:
    answer = await client.get("/v1/versions", params={"filter": "version = '2.0'"})

    [item] = answer.json()["items"]
    assert item == (await client.get("/get_model_info/fraud/2.0")).json()
    assert answer.json()["next_page_token"] is None


async def test_only_ready_versions_are_found_unless_the_filter_speaks_of_states(
    client: httpx.AsyncClient, models: None
) -> None:
    await client.delete("/remove_model/fraud/1.0")
    await client.post("/v1/models/fraud/versions", json={"version": "3.0", "files": []})

    assert await found(client, filter="model_name = 'fraud'") == ["fraud 2.0"]
    assert await found(client, filter="state = 'removed'") == ["fraud 1.0"]
    assert await found(client, filter="state = 'pending'") == ["fraud 3.0"]
    assert await found(client, filter="model_name = 'fraud' AND state IN ('ready', 'removed')") == [
        "fraud 2.0",
        "fraud 1.0",
    ]


@pytest.mark.parametrize("order_by", ["created_at DESC", "created_at", "model_name", "number DESC", "size_bytes"])
async def test_pages_have_every_version_once_while_others_are_registered(
    client: httpx.AsyncClient, order_by: str
) -> None:
    there = []
    for number in range(7):
        await registered(client, f"m{number % 3}", f"{number}.0")
        there.append(f"m{number % 3} {number}.0")
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 2, "order_by": order_by, "filter": "model_name LIKE 'm%'"}

    for page in range(10):
        answer = (await client.get("/v1/versions", params=params)).json()
        seen += [f"{item['model_name']} {item['version']}" for item in answer["items"]]
        await registered(client, f"m{page % 3}", f"{page}.1")
        if answer["next_page_token"] is None or len(seen) > 30:
            break
        params["page_token"] = answer["next_page_token"]

    assert len(seen) == len(set(seen))
    assert set(there) <= set(seen)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("model_nam = 'x'", 1),
        ("number >", 9),
        ("number = 'x'", 10),
        ("(number = 1", 12),
        ("number = 1 AND", 15),
        ("number = 1; DROP TABLE model_info", 11),
        ("version > '1.0'", 9),
        ("state = 'gone'", 9),
    ],
)
async def test_a_bad_filter_is_refused_at_the_column_where_it_broke(
    client: httpx.AsyncClient, text: str, column: int
) -> None:
    response = await client.get("/v1/versions", params={"filter": text})

    assert response.status_code == 422
    problem = response.json()
    assert problem["type"] == "urn:model-registry:problem:invalid-filter"
    assert problem["column"] == column, problem["detail"]
    assert f"column {column}" in problem["detail"]
    assert problem["errors"][0]["loc"] == ["query", "filter"]


@pytest.mark.parametrize(
    "params",
    [
        {"order_by": "digest"},
        {"order_by": "created_at sideways"},
        {"order_by": "created_at; DROP TABLE model_info"},
        {"limit": "0"},
        {"limit": "1001"},
        {"page_token": "nonsense"},
        {"filter": "a" * 50_000},
        {"filter": "(" * 5_000},
        {"filter": "tags.x = '\x00'"},
    ],
)
async def test_nonsense_in_a_search_is_a_422(client: httpx.AsyncClient, params: dict[str, str]) -> None:
    response = await client.get("/v1/versions", params=params)

    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_token_of_another_search_is_refused(client: httpx.AsyncClient, models: None) -> None:
    first = await client.get("/v1/versions", params={"limit": 1, "filter": "number > 0", "order_by": "created_at"})
    token = first.json()["next_page_token"]
    others: list[dict[str, Any]] = [
        {},
        {"filter": "number > 1", "order_by": "created_at"},
        {"filter": "number > 0", "order_by": "created_at DESC"},
        {"filter": "number > 0", "order_by": "number"},
    ]

    for other in others:
        response = await client.get("/v1/versions", params={**other, "page_token": token})
        assert response.status_code == 422
        assert response.json()["type"] == "urn:model-registry:problem:invalid-page-token"
    same = {"filter": "number > 0", "order_by": "created_at", "page_token": token}
    assert (await client.get("/v1/versions", params=same)).status_code == 200
