"""A: names, paths and locations (T01-T18), at every route."""

import ast
import json
import random
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

import model_registry
from tests.security.conftest import Watch
from tests.security.routes import DESCRIBED, WITH_JSON, Route, arrange, leaves, quoted, replaced
from tests.support.bucket import Bucket
from tests.support.problems import assert_problem
from tests.support.pushing import entry

SEGMENTS = {
    "T01 dot-dot": "..",
    "T01 encoded dot-dot": "%2e%2e",
    "T01 out of a folder": "..%2f..%2fetc%2fpasswd",
    "T02 doubly encoded": "%252e%252e%252fx%00",
    "T03 a backslash": "..\\..\\x",
    "T03 an encoded backslash": "..%5c..%5cx",
    "T04 a drive": "C:%5cx",
    "T04 a scheme": "file:%2f%2f%2fetc",
    "T05 a semicolon": ";..",
    "T05 a hash": "%23..%3f",
    "T08 NUL": "%00",
    "T09 a line end": "x%0d%0aSet-Cookie:%20a=b",
    "T09 an escape": "%1b%5b31m",
    "T10 an encoded slash": "fraud%2f1.0",
    "T12 reversed text": "fraud%e2%80%ae",
    "T13 bad UTF-8": "%ff%fe",
    "T13 overlong UTF-8": "%c0%ae%c0%ae",
    "T14 an underscore": "_catalog%7f",
    "T16 nothing": "",
    "T16 a dot": ".",
}


@pytest.mark.parametrize("wrong", SEGMENTS.values(), ids=SEGMENTS)
async def test_no_route_takes_a_bad_segment(client: httpx.AsyncClient, watch: Watch, wrong: str) -> None:
    """At the place of any parameter, in any route, even if the rest of the request is right."""
    await arrange(client)
    await watch.arranged()

    for route in DESCRIBED:
        for name in route.parameters("path"):
            answer = await watch.raw(route.message(route.target(**{name: wrong})))

            assert answer is not None, route.name
            assert 400 <= answer.status_code < 500, (route.name, name, answer.status_code)
            assert "set-cookie" not in answer.headers


TEXTS = {
    "T01 a path outside": "../../x",
    "T05 an address with a hash": "http:///#/../../etc/",
    "T08 NUL": "a\x00b",
    "T08 a lone surrogate": "\ud800",
    "T12 a reversed name": "fr\u202eaud",
}
# Fields of free text for people, or the client's own documents.
FREE = {"description", "tags", "reason", "parts", "model_params", "additional_metadata", "standardization_params"}


@pytest.mark.parametrize("wrong", TEXTS.values(), ids=TEXTS)
async def test_no_body_has_a_bad_text_in_it(client: httpx.AsyncClient, watch: Watch, wrong: str) -> None:
    """In every text of every JSON body. Free text may contain them, except for NUL and surrogates."""
    await arrange(client)
    await watch.arranged()

    for route in WITH_JSON:
        for way in leaves(route.example):
            if way[0] in FREE and wrong not in {"a\x00b", "\ud800"}:
                continue
            body = json.dumps(replaced(route.example, way, wrong)).encode()
            answer = await watch.raw(route.message(body=(body, "application/json")))

            assert answer is not None
            assert answer.status_code in {404, 422}, (route.name, way, answer.status_code)


@pytest.mark.parametrize("name", ["source", "uri", "artifact_location", "storage_key", "bucket", "file_path", "state"])
async def test_no_body_says_where_the_bytes_are(client: httpx.AsyncClient, watch: Watch, name: str) -> None:
    """T06: an unknown field is refused, at every depth of every body, except in the client's own documents."""
    await arrange(client)
    await watch.arranged()

    for route in WITH_JSON:
        example = route.example
        unknown = {name: "s3://elsewhere/x"}
        lists = [key for key in ("files", "moves") if key in example]
        for body in [example | unknown, *(example | {key: [example[key][0] | unknown]} for key in lists)]:
            answer = await watch.raw(route.message(body=(json.dumps(body).encode(), "application/json")))

            assert_problem(answer, 422, names=name)


async def test_a_key_is_never_made_of_what_a_client_says(
    client: httpx.AsyncClient, watch: Watch, bucket: Bucket
) -> None:
    """T06."""
    await arrange(client)
    await watch.arranged()

    uuid = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    keys = await bucket.keys()
    assert keys
    assert all(re.fullmatch(f"blobs/{uuid}", key) for key in keys)


async def test_no_tag_and_no_metadata_switches_a_rule_off(client: httpx.AsyncClient, watch: Watch) -> None:
    """T07: the response to a bad path does not depend on the other fields."""
    dice = random.Random(7)
    words = ["mlflow.prompt.is_prompt", "trusted", "internal", "skip_validation", "path", "true", "__class__", "admin"]
    push = Route("POST", "/v1/models/{name}/versions")
    answers = set()

    for _ in range(40):
        said = {dice.choice(words): dice.choice(["true", "1", *words]) for _ in range(dice.randint(0, 4))}
        body: dict[str, Any] = {
            "version": "1.0",
            "files": [entry("../../x", b"x")],
            "tags": said,
            dice.choice(["model_params", "additional_metadata", "standardization_params"]): said,
        }
        answer = await watch.raw(push.message(body=(json.dumps(body).encode(), "application/json")))
        problem = assert_problem(answer, 422, names="files.0.path")
        answers.add(json.dumps(problem["errors"]))

    assert len(answers) == 1


@pytest.mark.parametrize("wrong", ["a" * 100_000 + "!", "a." * 50_000, "%" * 100_000, "(" * 100_000])
async def test_long_nonsense_in_a_body_takes_no_time(client: httpx.AsyncClient, watch: Watch, wrong: str) -> None:
    """T17 and T18: in every text of every JSON body."""
    await arrange(client)
    await watch.arranged()
    slow = []

    for route in WITH_JSON:
        for way in leaves(route.example):
            if way[0] in {"model_params", "parts"}:
                continue
            body = json.dumps(replaced(route.example, way, wrong)).encode()
            started = time.perf_counter()
            answer = await watch.raw(route.message(body=(body, "application/json")))
            if time.perf_counter() - started > 2:
                slow.append((route.name, way))

            assert answer is not None
            assert answer.status_code in {404, 422}, (route.name, way, answer.status_code)
            assert len(answer.content) < 4000
    assert slow == []


@pytest.mark.parametrize("wrong", ["a" * 50_000 + "!", "a." * 25_000, "(" * 20_000, "1" * 50_000, "%25" * 15_000])
async def test_long_nonsense_in_an_address_takes_no_time(client: httpx.AsyncClient, watch: Watch, wrong: str) -> None:
    """T18: in every parameter of every route, in its path and in its query."""
    await arrange(client)
    await watch.arranged()
    slow = []

    for route in DESCRIBED:
        if route.method == "DELETE":
            continue
        targets = [route.target(**{name: wrong}) for name in route.parameters("path")]
        if route.method == "GET":
            targets += [f"{route.target()}?{name}={wrong}" for name in route.parameters("query")]
        for target in targets:
            started = time.perf_counter()
            answer = await watch.raw(route.message(target))
            if time.perf_counter() - started > 2:
                slow.append((route.name, target[:60]))

            assert answer is not None
            assert answer.status_code in {200, 404, 422}, (route.name, answer.status_code)
            assert answer.status_code == 200 or len(answer.content) < 4000
    assert slow == []


def test_what_is_decoded_is_decoded_once() -> None:
    """T02: the server unquotes the path. Our code does not do it again, except for a filename by RFC 8187."""
    found = {
        path.name: node.attr if isinstance(node, ast.Attribute) else node.id
        for path in Path(model_registry.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id).startswith("unquote")
    }

    assert found == {"multipart.py": "unquote_to_bytes"}


@pytest.mark.parametrize("name", ["con", "latest", "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"])
async def test_a_name_that_only_looks_special_is_a_name(client: httpx.AsyncClient, watch: Watch, name: str) -> None:
    """T14: the rule for names forbids no word. The test is that nothing takes these names for something else."""
    made = await client.post("/v1/models", json={"name": name})
    await watch.arranged()

    assert made.status_code == 201
    assert (await client.get(f"/v1/models/{quoted(name)}")).json()["name"] == name
    assert (await client.get(f"/get_model_info/{name}/latest")).status_code == 404
