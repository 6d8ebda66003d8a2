"""The OpenAPI document is complete, valid, and matches the responses of the service."""

import copy
import json
from hashlib import sha256
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.api import create_app
from model_registry.web.problems import MEDIA_TYPE
from model_registry.web.responses.schemas import DIGEST_EXAMPLE
from tests.support.rawhttp import message, send
from tests.support.registering import WEIGHTS, register
from tests.support.service import RunningService

APP = create_app()
DOCUMENT = APP.openapi()
JSON = "application/json"
PROBLEM = {"$ref": "#/components/schemas/Problem"}
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
REQUEST_BODIES = [
    pytest.param(media, id=f"{name}: {media_type}")
    for name, (_, _, operation) in OPERATIONS.items()
    for media_type, media in operation.get("requestBody", {}).get("content", {}).items()
]
RESPONSE_BODIES = [
    pytest.param(int(status), media_type, media, id=f"{name}: {status} {media_type}")
    for name, (_, _, operation) in OPERATIONS.items()
    for status, response in operation["responses"].items()
    for media_type, media in response.get("content", {}).items()
]
EVERYWHERE = {400, 500}
STATUSES = {
    "register_model": {201, 408, 409, 413, 415, 422, 503},
    "get_model_info": {200, 304, 404, 412, 422, 503},
    "get_latest_model_info": {200, 304, 404, 412, 422, 503},
    "list_models": {200, 422, 503},
    "get_model": {200, 206, 304, 307, 404, 409, 412, 416, 422, 503},
    "head_model": {200, 304, 404, 409, 412, 422, 503},
    "remove_model": {200, 404, 409, 422, 503},
    "find_models": {200, 422, 503},
    "create_model": {201, 408, 409, 415, 422, 503},
    "get_model_resource": {200, 304, 404, 412, 422, 503},
    "update_model": {200, 404, 408, 412, 415, 422, 503},
    "delete_model": {204, 404, 409, 412, 422, 503},
    "list_versions": {200, 404, 422, 503},
    "get_version": {200, 304, 404, 412, 422, 503},
    "update_version": {200, 404, 408, 409, 412, 415, 422, 503},
    "remove_version": {200, 404, 409, 412, 422, 503},
    "restore_version": {200, 404, 409, 412, 422, 503},
    "yank_version": {200, 404, 408, 409, 412, 415, 422, 503},
    "unyank_version": {200, 404, 409, 412, 422, 503},
    "list_files": {200, 404, 409, 422, 503},
    "get_file": {200, 206, 304, 307, 404, 409, 412, 416, 422, 503},
    "head_file": {200, 304, 404, 409, 412, 422, 503},
    "get_archive": {200, 206, 304, 404, 409, 412, 416, 422, 503},
    "head_archive": {200, 304, 404, 409, 412, 422, 503},
    "download_url": {200, 404, 408, 409, 415, 422, 503},
    "list_aliases": {200, 404, 422, 503},
    "get_alias": {200, 304, 404, 412, 422, 503},
    "put_alias": {200, 201, 404, 408, 409, 412, 415, 422, 503},
    "delete_alias": {204, 404, 412, 422, 503},
    "get_alias_history": {200, 404, 422, 503},
    "roll_back_alias": {200, 404, 409, 412, 422, 503},
    "swap_aliases": {200, 404, 408, 409, 412, 415, 422, 503},
    "list_events": {200, 422, 503},
    "push_version": {200, 201, 408, 409, 413, 415, 422, 429, 503},
    "commit_version": {200, 202, 404, 408, 409, 413, 415, 422, 503},
    "put_file": {201, 404, 408, 409, 415, 422, 503},
    "sign_parts": {200, 404, 408, 409, 415, 422, 503},
    "upload_status": {200, 404, 503},
    "healthz": {200},
    "readyz": {200, 503},
    "metrics": {200},
    "version": {200},
}
FRAUD = {"model_name": "fraud-detector", "version": "2.4.0"}
INFO = "/get_model_info/fraud-detector/2.4.0"
FILE = "/get_model/fraud-detector/2.4.0"
MODEL = "/v1/models/fraud-detector"
VERSION = f"{MODEL}/versions/2.4.0"
ALIASES = "/v1/models/fraud-detector/aliases"
CHAMPION = f"{ALIASES}/champion"


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema that a reference points at."""
    if reference := schema.get("$ref"):
        named: dict[str, Any] = DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]
        return named
    return schema


def examples_of(media: dict[str, Any]) -> list[Any]:
    """Return the examples of a body, which are beside its schema or in it."""
    schema = resolved(media["schema"])
    by_name = [example["value"] for example in media.get("examples", {}).values()]
    return by_name + [holder["example"] for holder in (media, schema) if "example" in holder]


def faults(instance: object, schema: dict[str, Any], *, exactly: bool = False) -> list[str]:
    """Return the errors of a value. With `exactly`, missing and additional members are errors too."""
    components = copy.deepcopy(DOCUMENT["components"])
    if exactly:
        for component in components["schemas"].values():
            if "properties" in component and "additionalProperties" not in component:
                component["additionalProperties"] = False
                component["required"] = list(component["properties"])
    validator = OAS31Validator(schema | {"components": components})
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(instance)]


def schema_of(operation_id: str, status: int, media_type: str = JSON) -> dict[str, Any]:
    schema: dict[str, Any] = OPERATIONS[operation_id][2]["responses"][str(status)]["content"][media_type]["schema"]
    return schema


def problem_examples(operation_id: str) -> dict[str, dict[str, Any]]:
    """Return the examples of problems by slug."""
    return {
        slug: example["value"]
        for response in OPERATIONS[operation_id][2]["responses"].values()
        for slug, example in response.get("content", {}).get(MEDIA_TYPE, {}).get("examples", {}).items()
    }


async def register_fraud(client: httpx.AsyncClient, key: str | None = None) -> httpx.Response:
    return await register(client, FRAUD, {"model.joblib": WEIGHTS}, key=key)


async def test_the_document_is_valid_openapi(client: httpx.AsyncClient) -> None:
    served = (await client.get("/openapi.json")).json()

    assert served == json.loads(json.dumps(DOCUMENT))
    assert served["openapi"].startswith("3.1")
    assert [str(error) for error in OpenAPIV31SpecValidator(served).iter_errors()] == []


def test_every_route_is_in_the_document_under_the_name_of_its_handler() -> None:
    routes = [route for route in iter_route_contexts(APP.routes) if isinstance(route.original_route, APIRoute)]

    described = {(path, method): name for name, (method, path, _) in OPERATIONS.items()}

    assert described == {
        (route.path_format, method.lower()): route.name
        for route in routes
        if route.include_in_schema
        for method in route.methods or ()
    }
    # Names are how generated clients call these, so none may change by accident.
    assert set(STATUSES) <= set(OPERATIONS)


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_every_operation_is_described(operation_id: str) -> None:
    _, _, operation = OPERATIONS[operation_id]

    assert operation["summary"]
    assert operation["description"]
    tags = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert operation["tags"]
    assert all(tags[tag] for tag in operation["tags"])
    for parameter in operation.get("parameters", []):
        assert parameter["description"]
        # No null in it: a parameter can be left out, and is never null.
        assert isinstance(parameter["schema"]["type"], str)
        if parameter["in"] == "path":
            assert parameter["schema"]["example"], "Swagger UI fills its form from here"
        if parameter["in"] == "header":
            assert parameter["name"].istitle()
    assert all(response["description"] for response in operation["responses"].values())


@pytest.mark.parametrize("operation_id", STATUSES)
def test_every_status_is_described(operation_id: str) -> None:
    _, _, operation = OPERATIONS[operation_id]

    assert {int(status) for status in operation["responses"]} == STATUSES[operation_id] | EVERYWHERE


@pytest.mark.parametrize("media", REQUEST_BODIES)
def test_every_request_body_has_an_example_that_fits(media: dict[str, Any]) -> None:
    examples = examples_of(media)

    assert examples
    for example in examples:
        assert faults(example, media["schema"]) == []
        if isinstance(example, dict):
            assert example.keys() == resolved(media["schema"])["properties"].keys()


@pytest.mark.parametrize(("status", "media_type", "media"), RESPONSE_BODIES)
def test_every_response_body_has_an_example_that_fits(status: int, media_type: str, media: dict[str, Any]) -> None:
    examples = examples_of(media)

    assert examples
    for example in examples:
        assert faults(example, media["schema"], exactly=True) == []
    if status >= 400:
        assert media_type == MEDIA_TYPE
        assert media["schema"] == PROBLEM
        for example in examples:
            assert example["status"] == status
            assert example["type"].startswith("urn:model-registry:problem:")
            assert not example["detail"].startswith("None")


def test_every_problem_is_described_with_its_body_where_there_is_one() -> None:
    for method, _, operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            has_no_body = method == "head" or status == "204" or 300 <= int(status) < 400
            assert ("content" not in response) is has_no_body, f"{method} {operation['operationId']} {status}"
            if int(status) >= 400 and not has_no_body:
                assert list(response["content"]) == [MEDIA_TYPE]


async def test_the_examples_of_the_form_register_a_version(client: httpx.AsyncClient) -> None:
    content = OPERATIONS["register_model"][2]["requestBody"]["content"]
    form = content["multipart/form-data"]["schema"]
    fields = {name: field["examples"][0] for name, field in form["properties"].items() if name != "model_file"}

    as_form = await client.post(
        "/register_model",
        data=fields,
        files=[("model_file", ("model.joblib", WEIGHTS)), ("model_file", ("labels.txt", b"ok\nfraud\n"))],
    )
    for example in examples_of(content[JSON]):
        as_json = await client.post("/register_model", json=example | {"version": "2.5.0"})
        assert (as_json.status_code, as_json.text[:1]) == (201, "{"), as_json.text

    assert (as_form.status_code, as_form.json()["file_count"]) == (201, 2)
    # The service names its fields where it refuses another one.
    refused = await client.post("/register_model", data={"colour": "red"}, files={"model_file": b""})
    assert refused.json()["detail"].endswith(f"a registration has {', '.join(form['properties'])}")


async def alias_answers(client: httpx.AsyncClient) -> dict[str, httpx.Response]:
    """Return a response of each route. At the end, no alias points at version 2.4.0."""
    await register(client, FRAUD | {"version": "2.3.1"})
    return {
        "put_alias": await client.put(CHAMPION, json={"version": "2.3.1"}),
        "swap_aliases": await client.post(
            f"{ALIASES}:swap", json={"moves": [{"alias": "champion", "version": "2.4.0", "expected_version": "2.3.1"}]}
        ),
        "list_aliases": await client.get(ALIASES),
        "get_alias": await client.get(CHAMPION),
        "get_alias_history": await client.get(f"{CHAMPION}/history"),
        "roll_back_alias": await client.post(f"{CHAMPION}/rollback"),
    }


async def alias_problems(client: httpx.AsyncClient) -> dict[str, list[httpx.Response]]:
    """Return every problem that needs no failure of the service."""
    for version in ("2.3.0", "2.3.1"):
        await register(client, FRAUD | {"version": version})
    first: dict[str, list[httpx.Response]] = {
        "list_aliases": [
            await client.get("/v1/models/alexnet/aliases"),
            await client.get("/v1/models/fraud%20detector/aliases"),
            await client.get(ALIASES, params={"limit": 5000}),
            await client.get(ALIASES, params={"page_token": "x"}),
        ],
        "get_alias": [
            await client.get("/v1/models/alexnet/aliases/champion"),
            await client.get(f"{ALIASES}/2.0"),
            await client.get(CHAMPION),
            await client.get(CHAMPION, params={"at": "2020-01-31T12:00:00Z"}),
        ],
        "delete_alias": [await client.delete(CHAMPION)],
        "get_alias_history": [
            await client.get(f"{CHAMPION}/history"),
            await client.get(f"{CHAMPION}/history", params={"page_token": "x"}),
        ],
        "roll_back_alias": [await client.post(f"{CHAMPION}/rollback")],
    }
    await client.put(CHAMPION, json={"version": "2.3.0"})
    never = await client.post(f"{CHAMPION}/rollback")
    await client.put(CHAMPION, json={"version": "2.4.0"})
    await client.delete("/remove_model/fraud-detector/2.3.0")
    outdated = {"If-Match": '"0"'}
    move = {"alias": "champion", "version": "2.3.1", "expected_version": "2.3.1"}
    then = {
        "get_alias": [await client.get(CHAMPION, headers=outdated)],
        "put_alias": [
            await client.put("/v1/models/alexnet/aliases/champion", json={"version": "2.4.0"}),
            await client.put(CHAMPION, json={"version": "9"}),
            await client.put(CHAMPION, json={"version": "2.3.0"}),
            await client.put(CHAMPION, json={"version": "2.3.1"}, headers=outdated),
            await client.put(CHAMPION, content=b"x", headers={"content-type": "text/plain"}),
            await client.put(f"{ALIASES}/2.0", json={"version": "2.4.0"}),
        ],
        "delete_alias": [await client.delete(CHAMPION, headers=outdated)],
        "roll_back_alias": [never, await client.post(f"{CHAMPION}/rollback")],
        "swap_aliases": [
            await client.post(f"{ALIASES}:swap", json={"moves": [move]}),
            await client.post(f"{ALIASES}:swap", json={"moves": [move | {"version": "2.3.0"}]}),
            await client.post("/v1/models/fraud%20detector/aliases:swap", json={"moves": [move]}),
        ],
    }
    await client.delete(CHAMPION)
    return {name: first.get(name, []) + then.get(name, []) for name in first | then}


async def test_answers_have_exactly_the_fields_that_are_described(client: httpx.AsyncClient) -> None:
    registered = await register_fraud(client)
    answers = {
        "register_model": registered,
        "get_model_info": await client.get(INFO),
        "get_latest_model_info": await client.get("/get_latest_model_info/fraud-detector"),
        "list_models": await client.get("/list_models"),
        **await alias_answers(client),
        "list_events": await client.get("/v1/events"),
        "remove_model": await client.delete("/remove_model/fraud-detector/2.4.0"),
        "healthz": await client.get("/healthz"),
        "readyz": await client.get("/readyz"),
        "version": await client.get("/version"),
    }

    assert_bodies_as_described(answers)


def assert_bodies_as_described(answers: dict[str, httpx.Response]) -> None:
    for operation_id, answer in answers.items():
        assert answer.headers["content-type"] == JSON
        assert answer.status_code in STATUSES[operation_id]
        assert answer.json()
        schema = schema_of(operation_id, answer.status_code)
        assert faults(answer.json(), schema, exactly=True) == [], operation_id


async def test_answers_about_resources_have_exactly_the_fields_that_are_described(client: httpx.AsyncClient) -> None:
    created = await client.post("/v1/models", json={"name": "fraud-detector", "tags": {"team": "risk"}})
    await register_fraud(client)
    await client.put(CHAMPION, json={"version": "2.4.0"})
    answers = {
        "create_model": created,
        "find_models": await client.get("/v1/models"),
        "get_model_resource": await client.get(MODEL),
        "update_model": await client.patch(MODEL, json={"tags": {"stage": 1}}),
        "list_versions": await client.get(f"{MODEL}/versions"),
        "get_version": await client.get(VERSION),
        "update_version": await client.patch(VERSION, json={"tags": {"live": True}}),
        "yank_version": await client.post(f"{VERSION}/yank", json={"reason": "x"}),
        "unyank_version": await client.post(f"{VERSION}/unyank"),
        "list_files": await client.get(f"{VERSION}/files", params={"presign": "true"}),
        "download_url": await client.post(f"{VERSION}/download_url"),
        "remove_version": await client.delete(VERSION, params={"force": "true"}),
        "restore_version": await client.post(f"{VERSION}/restore"),
    }

    assert_bodies_as_described(answers)
    for operation_id in ("find_models", "list_versions", "list_files"):
        assert answers[operation_id].json()["items"], operation_id


async def test_the_examples_of_bodies_about_resources_are_taken(client: httpx.AsyncClient) -> None:
    def example_of(operation_id: str) -> Any:
        content = OPERATIONS[operation_id][2]["requestBody"]["content"]
        (example,) = {json.dumps(media["example"]) for media in content.values()}
        return json.loads(example)

    answers = [
        await client.post("/v1/models", json=example_of("create_model")),
        await client.patch(MODEL, json=example_of("update_model")),
        await register_fraud(client),
        await client.patch(VERSION, json=example_of("update_version")),
        await client.post(f"{VERSION}/yank", json=example_of("yank_version")),
        await client.post(f"{VERSION}/download_url", json=example_of("download_url")),
    ]

    assert [answer.status_code for answer in answers] == [201, 200, 201, 200, 200, 200]


async def test_answers_have_the_headers_that_are_described(client: httpx.AsyncClient) -> None:
    registered = await register_fraud(client)
    etag = (await client.get(FILE)).headers["etag"]
    answers = {
        "register_model": [registered],
        "get_model_info": [
            await client.get(INFO),
            await client.get(INFO, headers={"If-None-Match": "*"}),
        ],
        "get_latest_model_info": [await client.get("/get_latest_model_info/fraud-detector")],
        "get_model": [
            await client.get(FILE),
            await client.get(FILE, headers={"Range": "bytes=0-9"}),
            await client.get(FILE, headers={"If-None-Match": etag}),
            await client.get(FILE, headers={"Range": "bytes=99999-"}),
            await client.get(FILE, params={"redirect": "true"}),
        ],
        "head_model": [await client.head(FILE), await client.head(FILE, headers={"If-None-Match": etag})],
        "put_alias": [
            await client.put(CHAMPION, json={"version": "2.4.0"}),
            await client.put(CHAMPION, json={"version": "2.4.0"}),
        ],
        "get_alias": [await client.get(CHAMPION), await client.get(CHAMPION, headers={"If-None-Match": "*"})],
    }

    seen = {(operation_id, answer.status_code) for operation_id, group in answers.items() for answer in group}
    assert {status for operation_id, status in seen if operation_id == "get_model"} == {200, 206, 304, 307, 416}
    assert_headers_as_described(answers)


def assert_headers_as_described(answers: dict[str, list[httpx.Response]]) -> None:
    for operation_id, group in answers.items():
        for answer in group:
            described = OPERATIONS[operation_id][2]["responses"][str(answer.status_code)]["headers"]
            missing = [name for name in described if name not in answer.headers]
            assert missing == [], f"{operation_id} {answer.status_code}"


async def test_answers_about_resources_have_the_headers_that_are_described(client: httpx.AsyncClient) -> None:
    created = await client.post("/v1/models", json={"name": "fraud-detector"})
    await register_fraud(client)
    file, archive = f"{VERSION}/files/model.joblib", f"{VERSION}/archive.tar"
    any_etag = {"If-None-Match": "*"}
    part, beyond = {"Range": "bytes=0-9"}, {"Range": "bytes=99999-"}
    answers = {
        "create_model": [created],
        "get_model_resource": [await client.get(MODEL), await client.get(MODEL, headers=any_etag)],
        "update_model": [await client.patch(MODEL, json={})],
        "get_version": [await client.get(VERSION), await client.get(VERSION, headers=any_etag)],
        "update_version": [await client.patch(VERSION, json={})],
        "yank_version": [await client.post(f"{VERSION}/yank")],
        "unyank_version": [await client.post(f"{VERSION}/unyank")],
        "list_files": [await client.get(f"{VERSION}/files")],
        "get_file": [
            *[await client.get(file, headers=headers) for headers in ({}, part, beyond, any_etag)],
            await client.get(file, params={"redirect": "true"}),
        ],
        "head_file": [await client.head(file), await client.head(file, headers=any_etag)],
        "get_archive": [await client.get(archive, headers=headers) for headers in ({}, part, beyond, any_etag)],
        "head_archive": [await client.head(archive), await client.head(archive, headers=any_etag)],
        "download_url": [await client.post(f"{VERSION}/download_url")],
        "remove_version": [await client.delete(VERSION)],
        "restore_version": [await client.post(f"{VERSION}/restore")],
    }

    assert [answer.status_code for answer in answers["get_file"]] == [200, 206, 416, 304, 307]
    assert [answer.status_code for answer in answers["get_archive"]] == [200, 206, 416, 304]
    assert_headers_as_described(answers)


async def test_problems_read_as_their_examples_do(client: httpx.AsyncClient, service: RunningService) -> None:
    """The examples have the same words as the problems that the service sends."""
    key = "3f0c8a52-6f0e-4a51-9b6e-0a4f3a1f7c11"
    post = client.post
    await register_fraud(client, key)
    bad_form = {"content-type": "multipart/form-data; boundary=b"}
    reused = await post("/register_model", json={**FRAUD, "version": "3"}, headers={"Idempotency-Key": key})
    answers = {
        "register_model": [
            await register_fraud(client),
            await post("/register_model", json={"model_name": "Fraud-Detector", "version": "1"}),
            await post("/register_model", content=b"x", headers={"content-type": "text/plain"}),
            await post("/register_model", json={"model_name": "fraud detector", "version": "1"}),
            await post("/register_model", content=b"--b\r\n", headers=bad_form),
            reused,
        ],
        "get_model_info": [
            await client.get("/get_model_info/fraud%20detector/2.4.0"),
            await client.get("/get_model_info/fraud-detector/@champion"),
            await client.get(INFO, headers={"If-Match": '"0"'}),
        ],
        "list_models": [
            await client.get("/list_models", params={"limit": 5000}),
            await client.get("/list_models", params={"page_token": "x"}),
        ],
        "get_model": [
            await client.get(FILE, params={"path": "model.onnx"}),
            await client.get(FILE, headers={"Range": "bytes=99999-"}),
            await client.get("/get_model/alexnet/1"),
        ],
        "remove_model": [await client.delete("/remove_model/fraud-detector/9")],
        **await alias_problems(client),
        "list_events": [
            await client.get("/v1/events", params={"limit": 5000}),
            await client.get("/v1/events", params={"after": "x"}),
            await client.get("/v1/events", params={"model": "fraud detector"}),
        ],
    }

    two_hosts = await send(service.address, message("GET", "/list_models", ["Host: a", "Host: b", "Connection: close"]))

    assert two_hosts is not None
    assert words(two_hosts.json()) == words(problem_examples("list_models")["bad-request"])
    assert_problems_as_described(answers)


def assert_problems_as_described(answers: dict[str, list[httpx.Response]]) -> None:
    for operation_id, group in answers.items():
        examples = problem_examples(operation_id)
        for answer in group:
            assert answer.headers["content-type"] == MEDIA_TYPE
            assert faults(answer.json(), PROBLEM) == []
            slug = answer.json()["type"].rpartition(":")[2]
            assert answer.status_code in STATUSES[operation_id] | EVERYWHERE
            assert words(answer.json()) == words(examples[slug]), slug


NEEDS_A_FAULT = {
    "bad-request",
    "internal-error",
    "request-timeout",
    "unavailable",
    "overloaded",
    "too-many-pending",
    "unknown-position",
}


async def test_problems_about_resources_read_as_their_examples_do(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    """The routes have no other problems, except for failures of the message, the client or the service."""
    await register_fraud(client)
    await client.put(CHAMPION, json={"version": "2.4.0"})
    aliased = await client.delete(VERSION)
    await client.delete(CHAMPION)
    several, pending = f"{MODEL}/versions/2.5.0", f"{MODEL}/versions/2.6.0"
    await register(client, FRAUD | {"version": "2.5.0"}, {"model.joblib": WEIGHTS, "labels.txt": b"ok"})
    entry = {"path": "f", "size_bytes": 1, "sha256": f"sha256:{'0' * 64}"}
    await client.post(f"{MODEL}/versions", json={"version": "2.6.0", "files": [entry]})
    await register(client, FRAUD | {"version": "2.0.0"})
    purged = f"{MODEL}/versions/2.0.0"
    await client.delete(purged, params={"purge": "true"})
    no_model, no_version, bad_name = "/v1/models/alexnet", f"{MODEL}/versions/9", "/v1/models/fraud%20detector"
    no_alias = f"{MODEL}/versions/@champion"
    outdated, text_body = {"If-Match": '"0"'}, {"content-type": "text/plain"}
    beyond = {"Range": "bytes=99999-"}
    patch = client.patch
    bad_limit, bad_token, perhaps = {"limit": 5000}, {"page_token": "x"}, "perhaps"

    await client.post("/v1/models", json={"name": "unused"})

    async def of_reads(suffix: str) -> list[httpx.Response]:
        urls = (f"{no_model}/versions/1", no_version, no_alias, f"{bad_name}/versions/1")
        return [await client.get(url + suffix) for url in urls]

    async def of_changes(action: str) -> list[httpx.Response]:
        urls = (f"{no_model}/versions/1", no_version, pending, f"{bad_name}/versions/1")
        changed = await client.post(f"{VERSION}/{action}", headers=outdated)
        return [changed, *[await client.post(f"{url}/{action}") for url in urls]]

    answers = {
        "find_models": [
            await client.get("/v1/models", params=bad_limit),
            await client.get("/v1/models", params=bad_token),
            await client.get("/v1/models", params={"search": "a" * 300}),
        ],
        "create_model": [
            await client.post("/v1/models", json={"name": "fraud-detector"}),
            await client.post("/v1/models", json={"name": "Fraud-Detector"}),
            await client.post("/v1/models", content=b"x", headers=text_body),
            await client.post("/v1/models", json={}),
        ],
        "get_model_resource": [
            await client.get(no_model),
            await client.get(bad_name),
            await client.get(MODEL, headers=outdated),
        ],
        "update_model": [
            await patch(no_model, json={}),
            await patch(MODEL, json={}, headers=outdated),
            await patch(MODEL, content=b"x", headers=text_body),
            await patch(MODEL, json={"owner": "ada"}),
        ],
        "delete_model": [
            *[await client.delete(url) for url in (no_model, MODEL, bad_name)],
            await client.delete("/v1/models/unused", headers=outdated),
        ],
        "list_versions": [
            await client.get(f"{no_model}/versions"),
            await client.get(f"{bad_name}/versions"),
            await client.get(f"{MODEL}/versions", params=bad_limit),
            await client.get(f"{MODEL}/versions", params=bad_token),
        ],
        "get_version": [*await of_reads(""), await client.get(VERSION, headers=outdated)],
        "update_version": [
            await patch(f"{no_model}/versions/1", json={}),
            await patch(no_version, json={}),
            await patch(pending, json={}),
            await patch(VERSION, json={}, headers=outdated),
            await patch(VERSION, content=b"x", headers=text_body),
            await patch(VERSION, json={"model_params": {}}),
        ],
        "remove_version": [
            aliased,
            *[await client.delete(f"{url}/versions/9") for url in (no_model, MODEL, bad_name)],
            await client.delete(VERSION, params={"force": perhaps}),
            await client.delete(VERSION, headers=outdated),
        ],
        "restore_version": [*await of_changes("restore"), await client.post(f"{purged}/restore")],
        "yank_version": [
            *(await of_changes("yank"))[:4],
            await client.post(f"{VERSION}/yank", json={"reason": 7}),
            await client.post(f"{VERSION}/yank", content=b"x", headers=text_body),
        ],
        "unyank_version": await of_changes("unyank"),
        "list_files": [
            *await of_reads("/files"),
            await client.get(f"{VERSION}/files", params=bad_limit),
            await client.get(f"{VERSION}/files", params=bad_token),
        ],
        "get_file": [
            *await of_reads("/files/model.joblib"),
            await client.get(f"{VERSION}/files/model.onnx"),
            await client.get(f"{VERSION}/files/model.joblib", headers=outdated),
            await client.get(f"{VERSION}/files/model.joblib", headers=beyond),
            await client.get(f"{VERSION}/files/model.joblib", params={"redirect": perhaps}),
        ],
        "get_archive": [
            *await of_reads("/archive.tar"),
            await client.get(f"{VERSION}/archive.tar", headers=outdated),
            await client.get(f"{VERSION}/archive.tar", headers=beyond),
        ],
        "download_url": [
            await client.post(f"{no_model}/versions/1/download_url"),
            await client.post(f"{no_version}/download_url"),
            await client.post(f"{no_alias}/download_url"),
            await client.post(f"{VERSION}/download_url", json={"path": "model.onnx"}),
            await client.post(f"{VERSION}/download_url", content=b"x", headers=text_body),
            await client.post(f"{several}/download_url"),
        ],
    }
    await database_session.execute(text("UPDATE blobs SET damaged_at = now()"))
    await database_session.commit()
    answers["list_files"].append(await client.get(f"{VERSION}/files", params={"presign": "true"}))
    answers["get_file"].append(await client.get(f"{VERSION}/files/model.joblib"))
    answers["get_archive"].append(await client.get(f"{VERSION}/archive.tar"))
    answers["download_url"].append(await client.post(f"{VERSION}/download_url"))

    assert_problems_as_described(answers)
    for operation_id, group in answers.items():
        seen = {answer.json()["type"].rpartition(":")[2] for answer in group}
        assert seen == problem_examples(operation_id).keys() - NEEDS_A_FAULT, operation_id


IN_PARTS = {"path": "model.joblib", "size_bytes": 100 * 1024**2, "sha256": f"sha256:{'1' * 64}"}


async def test_answers_to_a_push_are_as_described(client: httpx.AsyncClient, database_session: AsyncSession) -> None:
    push = json.loads(json.dumps(OPERATIONS["push_version"][2]["requestBody"]["content"][JSON]["example"]))
    file = {"path": "model.joblib", "size_bytes": len(WEIGHTS), "sha256": f"sha256:{sha256(WEIGHTS).hexdigest()}"}
    parts = OPERATIONS["sign_parts"][2]["requestBody"]["content"][JSON]["example"]
    reserved = await client.post(f"{MODEL}/versions", json=push | {"files": [file]})
    in_parts = await client.post(f"{MODEL}/versions", json={"files": [IN_PARTS]})
    upload = f"/v1/uploads/{in_parts.json()['uploads'][0]['upload_id']}"
    signed = await client.post(f"{upload}/parts", json=parts)
    sent = await client.put(signed.json()["parts"][0]["url"], content=bytes(16 * 1024**2))
    answers = {
        "push_version": [reserved, in_parts, await client.post(f"{MODEL}/versions", json=push | {"files": [file]})],
        "sign_parts": [signed],
        "upload_status": [await client.get(upload)],
        "put_file": [await client.put(f"{VERSION}/files/model.joblib", content=WEIGHTS)],
        "commit_version": [await client.post(f"{VERSION}/commit")],
    }

    assert sent.status_code == 200
    assert len(answers["upload_status"][0].json()["parts"]) == 1
    for operation_id, group in answers.items():
        for answer in group:
            assert_bodies_as_described({operation_id: answer})
    assert_headers_as_described({"push_version": answers["push_version"]})


async def test_problems_of_a_push_read_as_their_examples_do(
    client: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    """The routes have no other problems, except for failures of the message, the client or the service."""

    async def change(statement: str) -> None:
        await database_session.execute(text(statement))
        await database_session.commit()

    versions, removed, ready = f"{MODEL}/versions", f"{MODEL}/versions/1", f"{MODEL}/versions/2"
    for version in ("1", "2"):
        await register(client, FRAUD | {"version": version}, {"model.joblib": WEIGHTS})
    await client.delete(removed)
    file = {"path": "model.joblib", "size_bytes": 1024, "sha256": DIGEST_EXAMPLE}
    body = {"version": "2.4.0", "files": [file]}
    too_large, text_body = b" " * (32 * 1024**2 + 1), {"content-type": "text/plain"}
    as_json = {"content-type": JSON}
    unknown = "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"
    post, put = client.post, client.put
    await post(versions, json=body)
    in_parts = await post(versions, json={"version": "3", "files": [IN_PARTS]})
    upload = f"/v1/uploads/{in_parts.json()['uploads'][0]['upload_id']}"
    answers = {
        "push_version": [
            await post(versions, json=body | {"version": "2"}),
            await post("/v1/models/Fraud-Detector/versions", json=body),
            await post(versions, json={"files": [file | {"size_bytes": 200 * 1024**3 + 1}]}),
            await post(versions, content=too_large, headers=as_json),
            await post(versions, content=b"x", headers=text_body),
            await post("/v1/models/fraud%20detector/versions", json=body),
        ],
        "put_file": [
            await put("/v1/models/alexnet/versions/1/files/model.joblib", content=b"x"),
            await put(f"{versions}/9/files/model.joblib", content=b"x"),
            await put(f"{VERSION}/files/model.onnx", content=b"x"),
            await put(f"{ready}/files/model.joblib", content=WEIGHTS),
            await put(f"{VERSION}/files/model.joblib", content=bytes(1024), headers={"Content-Encoding": "gzip"}),
            await put(f"{VERSION}/files/model.joblib", content=bytes(1000)),
            await put(f"{VERSION}/files/model.joblib", content=bytes(1024)),
            await put(f"{VERSION}/files/%2e%2e/model.joblib", content=b"x"),
        ],
        "sign_parts": [
            await post(f"/v1/uploads/{unknown}/parts", json={"part_numbers": [1]}),
            await post(f"{upload}/parts", json={"part_numbers": [8]}),
            await post(f"{upload}/parts", content=b"x", headers=text_body),
        ],
        "upload_status": [await client.get(f"/v1/uploads/{unknown}")],
        "commit_version": [
            await post("/v1/models/alexnet/versions/1/commit"),
            await post(f"{versions}/9/commit"),
            await post(f"{removed}/commit"),
            await post(f"{VERSION}/commit", json={"parts": {unknown: []}}),
            await post(f"{versions}/3/commit"),
            await post(f"{VERSION}/commit", json={"parts": {unknown: [{"part_number": 0, "etag": "x"}]}}),
            await post(f"{VERSION}/commit", content=too_large, headers=as_json),
            await post(f"{VERSION}/commit", content=b"x", headers=text_body),
        ],
    }
    await change("UPDATE model_info SET state = 'verifying' WHERE state = 'pending'")
    answers["put_file"].append(await put(f"{VERSION}/files/model.joblib", content=bytes(1024)))
    answers["sign_parts"].append(await post(f"{upload}/parts", json={"part_numbers": [1]}))
    await change("UPDATE uploads SET state = 'refused', found_size_bytes = 1000")
    answers["commit_version"].append(await post(f"{VERSION}/commit"))
    await change(f"UPDATE uploads SET found_sha256 = '\\x{sha256(bytes(1024)).hexdigest()}'")
    answers["commit_version"].append(await post(f"{VERSION}/commit"))
    await change("UPDATE model_info SET created_by = 'somebody'")
    answers["commit_version"].append(await post(f"{VERSION}/commit"))

    assert_problems_as_described(answers)
    races = {"lease-lost", "commit-in-progress", "parts-changed"}
    for operation_id, group in answers.items():
        seen = {answer.json()["type"].rpartition(":")[2] for answer in group}
        assert seen == problem_examples(operation_id).keys() - NEEDS_A_FAULT - races, operation_id


def words(problem: dict[str, Any]) -> dict[str, Any]:
    """Return a problem without the parts that differ each time."""
    said = {name: value for name, value in problem.items() if name not in {"instance", "request_id"}}
    said |= dict.fromkeys(said.keys() & {"digest", "sha256", "etag", "size_bytes"})
    for name in ("model_name", "version", "generation"):
        if name in said:
            said["detail"] = said["detail"].replace(repr(said[name]), name)
            said[name] = None
    if "size_bytes" in said:
        said["detail"] = "".join(char for char in said["detail"] if not char.isdigit())
    return said
