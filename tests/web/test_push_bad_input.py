"""Wrong bodies of a push, rule by rule: the problem names the place, and nothing is left behind."""

import json
import unicodedata
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.db_models import Base
from tests.support.problems import slug
from tests.support.pushing import GOOD, MIB, VERSIONS, commit, entry
from tests.support.rawhttp import message
from tests.support.rawhttp import send as send_raw
from tests.support.service import RunningService, empty

FILE = entry("model.bin", GOOD)
SHA = FILE["sha256"]
HEX = SHA.removeprefix("sha256:")
JSON = {"content-type": "application/json"}


async def refused(client: httpx.AsyncClient, body: Any, **where: Any) -> dict[str, Any]:
    """Return the problem of a push that can never succeed."""
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    answer = await client.post(where.get("at", VERSIONS), content=content, headers=JSON)
    assert (answer.status_code, slug(answer)) == (422, "invalid-field"), answer.text
    problem: dict[str, Any] = answer.json()
    error: dict[str, Any] = problem["errors"][0]
    assert len(problem["errors"]) == 1
    assert error["msg"]
    return error


def each_of(field: str, *values: Any) -> list[tuple[str, Any]]:
    return [(field, value) for value in values]


@pytest.fixture(scope="module")
async def client(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    """One client for all tests here, because to create a client takes longer than most of them."""
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
async def nothing_is_left_behind(engine: AsyncEngine) -> AsyncIterator[None]:
    """The registry is empty before and after each test."""
    tables = Base.metadata.sorted_tables
    anything = text("SELECT " + " OR ".join(f"EXISTS (SELECT FROM {table.name})" for table in tables))
    await empty(engine, tables)
    yield
    async with engine.connect() as connection:
        assert not await connection.scalar(anything)


def with_file(**changes: Any) -> dict[str, Any]:
    return {"version": "1.0", "files": [FILE | changes]}


def without(name: str) -> dict[str, Any]:
    return {"version": "1.0", "files": [{key: value for key, value in FILE.items() if key != name}]}


DIGITS = "\u0660" * 64
WRONG_DIGESTS = [
    "md5:d41d8cd98f00b204e9800998ecf8427e",
    "sha1:da39a3ee5e6b4b0d3255bfef95601890afd80709",
    f"sha512:{HEX}{HEX}",
    f"SHA256:{HEX}",
    f"sha256:{HEX.upper()}",
    f"sha256:{HEX[:63]}",
    f"sha256:{HEX}0",
    f"sha256:{HEX[:63]}g",
    f"sha256:{DIGITS}",
    f" sha256:{HEX}",
    f"sha256: {HEX}",
    f"sha256:{HEX}\n",
    f"sha256:sha256:{HEX}",
    "sha256:",
    "",
]
WRONG_SIZES = [-1, 2**63, 10**30, 1.0, 1.5, "900", True, None, [900], {"bytes": 900}]
WRONG_PATHS = [
    "",
    ".",
    "..",
    "../x",
    "a/../../x",
    "a/..",
    "./a",
    "a/.",
    "a//b",
    "a/",
    "/etc/passwd",
    "//host/share",
    "C:\\x",
    "C:/x",
    "a/c:x",
    "..\\x",
    "\\\\?\\x",
    "a\\b",
    "a\u0000b",
    "a\nb",
    "a\r\nSet-Cookie: x",
    "\u001b[31m",
    "a\u007f",
    "\u202etxt.exe",
    "a\u2028b",
    unicodedata.normalize("NFD", "café"),
    "\ud800",
    "x" * 1025,
    "é" * 513,
]
DOCUMENTS = ("standardization_params", "model_params", "additional_metadata")
WRONG_MEDIA_TYPES = ["", "text", "text/", "/plain", "text/plain\r\nX: 1", "a/b/c", "text/pläin", "x/" + "y" * 300]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        *[
            pytest.param(with_file(sha256=each), ["files", 0, "sha256"], id=f"sha256 {each!r}")
            for each in WRONG_DIGESTS
        ],
        *[
            pytest.param(with_file(size_bytes=each), ["files", 0, "size_bytes"], id=f"size {each}")
            for each in WRONG_SIZES
        ],
        *[
            pytest.param(with_file(media_type=each), ["files", 0, "media_type"], id=f"{each[:20]!r}")
            for each in WRONG_MEDIA_TYPES
        ],
        *[
            pytest.param(with_file(**{name: value}), ["files", 0, name], id=f"{name} is {value!r}")
            for name in ("path", "sha256", "media_type")
            for value in (1, True, ["x"], {"x": 1})
        ],
        *[
            pytest.param(with_file(**{name: "x"}), ["files", 0, name], id=f"file with {name}")
            for name in ("source", "uri", "storage_key", "url", "md5", "Path")
        ],
        *[pytest.param(without(name), ["files", 0, name], id=f"no {name}") for name in FILE],
        pytest.param(with_file(path=None), ["files", 0, "path"], id="path is null"),
        pytest.param(with_file(sha256=None), ["files", 0, "sha256"], id="sha256 is null"),
    ],
)
async def test_a_wrong_file_is_refused(client: httpx.AsyncClient, body: dict[str, Any], loc: list[Any]) -> None:
    error = await refused(client, body)

    assert error["loc"] == ["body", *loc]


@pytest.mark.parametrize("path", WRONG_PATHS, ids=repr)
async def test_a_wrong_path_is_refused(client: httpx.AsyncClient, path: str) -> None:
    error = await refused(client, with_file(path=path))

    assert error["loc"] == ["body", "files", 0, "path"]


@pytest.mark.parametrize(
    ("paths", "index"),
    [
        (["a", "a"], 1),
        (["a", "b", "A"], 2),
        (["straße", "STRASSE"], 1),
        (["a", "a/b"], 1),
        (["a/b/c", "a/b"], 1),
        (["Data/x", "data"], 1),
        (["data", "DATA/x"], 1),
        (["é", unicodedata.normalize("NFD", "é")], 1),
    ],
    ids=str,
)
async def test_paths_that_clash_are_refused(client: httpx.AsyncClient, paths: list[str], index: int) -> None:
    error = await refused(client, {"files": [FILE | {"path": path} for path in paths]})

    assert error["loc"] == ["body", "files", index, "path"]


async def test_the_same_bytes_have_one_size(client: httpx.AsyncClient) -> None:
    error = await refused(client, {"files": [FILE, FILE | {"path": "b", "size_bytes": 1}]})

    assert (error["loc"], error["value"]) == (["body", "files", 1, "size_bytes"], 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *each_of("version", 1, 1.0, True, [], {}),
        *[pair for name in (*DOCUMENTS, "tags") for pair in each_of(name, "text", 1, True, [], None)],
        *each_of("description", 1, True, [], {}, "x" * 65_537),
        *each_of("files", "text", 1, True, {}, None),
        *each_of("transfer", 1, True, [], {}, "", "DIRECT", "carrier pigeon"),
        *[
            (name, "x")
            for name in ("source", "uri", "storage_key", "bucket", "artifact_location", "model_name", "name", "state")
        ],
        *[(name, "x") for name in ("Files", "number", "digest", "created_by", "reservation", "is_direct", "")],
    ],
    ids=lambda value: str(value)[:30],
)
async def test_a_wrong_field_is_refused(client: httpx.AsyncClient, field: str, value: Any) -> None:
    error = await refused(client, {"version": "1.0", "files": [FILE], field: value})

    assert error["loc"] == ["body", field]


@pytest.mark.parametrize(
    ("tags", "loc"),
    [
        ({"team": ["risk"]}, ["tags", "team"]),
        ({"team": {"name": "risk"}}, ["tags", "team"]),
        ({"team": None}, ["tags", "team"]),
        ({"team": "x" * 4097}, ["tags", "team"]),
        ({"": "x"}, ["tags"]),
        ({"x" * 257: "x"}, ["tags"]),
        ({str(number): 1 for number in range(1001)}, ["tags"]),
        ({"a": "\u0000"}, ["tags", "a"]),
        ({"a\u0000": 1}, ["tags"]),
        ({"a": "\ud800"}, ["tags", "a"]),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_wrong_tags_are_refused(client: httpx.AsyncClient, tags: dict[str, Any], loc: list[Any]) -> None:
    error = await refused(client, {"files": [], "tags": tags})

    assert error["loc"][:2] == ["body", loc[0]]
    assert len(error["loc"]) == len(loc) + 1


WRONG_LABELS = ["", "latest", "LATEST", "0" * 40, "aB" * 20, "a..b", ".a", "a.", "-a", "a b", "a/b", "@a", "ü", "a\n"]


@pytest.mark.parametrize("label", [*WRONG_LABELS, "x" * 129, "a\u0000"], ids=repr)
async def test_a_wrong_label_is_refused(client: httpx.AsyncClient, label: str) -> None:
    error = await refused(client, {"version": label, "files": []})

    assert error["loc"][-1] == "version"


@pytest.mark.parametrize("name", ["-a", "a..b", "a--b", "a%20b", "a%00", "%C3%BC", "x" * 129, "_a", "a.", "%2e%2e"])
async def test_a_wrong_model_name_is_refused(client: httpx.AsyncClient, name: str, service: RunningService) -> None:
    body = b'{"files": []}'
    headers = ["Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]

    answer = await send_raw(service.address, message("POST", f"/v1/models/{name}/versions", headers, body))

    assert answer is not None
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == ["model_name"]


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ('{"files": [], "files": []}', ["body", "files"]),
        ('{"version": "1.0", "version": "1.0", "files": []}', ["body", "version"]),
        ('{"files": [], "model_params": {"a": {"b": 1, "b": 1}}}', ["body", "model_params", "a", "b"]),
        (
            '{"files": [{"path": "a", "path": "b", "size_bytes": 0, "sha256": "' + SHA + '"}]}',
            ["body", "files", 0, "path"],
        ),
        ('{"files": [], "model_params": {"a": NaN}}', ["body", "model_params", "a"]),
        ('{"files": [], "model_params": {"a": -Infinity}}', ["body", "model_params", "a"]),
        ('{"files": [], "model_params": {"a": 1e9999}}', ["body", "model_params", "a"]),
        ('{"files": [], "model_params": {"a": "\\u0000"}}', ["body", "model_params", "a"]),
        ('{"files": []', ["body"]),
        ("[]", ["body"]),
        ('"files"', ["body"]),
        ("null", ["body"]),
        ("{}", ["body", "files"]),
        ("", ["body", "files"]),
        (b'{"files": [], "description": "\xff"}', ["body"]),
        ('{"files": [null]}', ["body", "files", 0]),
        ('{"files": [[]]}', ["body", "files", 0]),
        ('{"files": ["model.bin"]}', ["body", "files", 0]),
    ],
    ids=str,
)
async def test_what_is_no_push_is_refused(client: httpx.AsyncClient, body: str | bytes, loc: list[Any]) -> None:
    error = await refused(client, body)

    assert error["loc"] == loc


@pytest.mark.parametrize("depth", [100, 100_000])
@pytest.mark.parametrize("field", ["model_params", "tags", "files", "version"])
async def test_deep_nesting_is_refused(client: httpx.AsyncClient, field: str, depth: int) -> None:
    error = await refused(client, f'{{"{field}": ' + '[{"a":' * depth + "1" + "}]" * depth + "}")

    assert "64 levels" in error["msg"]


@pytest.mark.parametrize("field", DOCUMENTS)
async def test_each_document_is_as_small_as_in_a_registration(client: httpx.AsyncClient, field: str) -> None:
    error = await refused(client, {"files": [], field: {"a": "x" * MIB}})

    assert error["loc"] == ["body", field]
    assert "1048576" in error["msg"]


async def test_a_manifest_has_at_most_100_000_files(client: httpx.AsyncClient) -> None:
    files = [{"path": str(number), "size_bytes": 0, "sha256": SHA} for number in range(100_001)]

    error = await refused(client, {"files": files})

    assert (error["loc"], error["value"]) == (["body", "files"], "100001 items")


@pytest.mark.parametrize("route", ["versions", "versions/1.0/commit"])
@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "chunked"])
async def test_a_body_that_is_too_large_is_refused(client: httpx.AsyncClient, route: str, is_announced: bool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield b" " * MIB

    content = b" " * (32 * MIB + 1) if is_announced else chunks()
    answer = await client.post(f"/v1/models/fraud/{route}", content=content, headers=JSON)

    assert (answer.status_code, slug(answer)) == (413, "body-too-large")
    assert answer.json()["limit_bytes"] == 32 * MIB


async def test_a_file_that_is_too_large_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(VERSIONS, json=with_file(size_bytes=200 * 1024**3 + 1))

    assert (answer.status_code, slug(answer)) == (413, "upload-too-large")


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
async def test_only_json_is_taken(client: httpx.AsyncClient, content_type: str) -> None:
    for route in (VERSIONS, f"{VERSIONS}/1.0/commit", "/v1/uploads/6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52/parts"):
        answer = await client.post(route, content=b'{"files": []}', headers={"content-type": content_type})

        assert (answer.status_code, slug(answer)) == (415, "unsupported-media-type")


# Commit


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({"parts": []}, ["parts"]),
        ({"parts": None}, ["parts"]),
        ({"parts": "x"}, ["parts"]),
        ({"uploads": {}}, ["uploads"]),
        ({"files": []}, ["files"]),
        ({"parts": {"%": None}}, ["parts", "%"]),
        ({"parts": {"%": {}}}, ["parts", "%"]),
        ({"parts": {"%": ["x"]}}, ["parts", "%", 0]),
        ({"parts": {"%": [{}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": 1}]}}, ["parts", "%", 0, "etag"]),
        ({"parts": {"%": [{"part_number": 1, "etag": 1}]}}, ["parts", "%", 0, "etag"]),
        ({"parts": {"%": [{"part_number": 1, "etag": "x" * 257}]}}, ["parts", "%", 0, "etag"]),
        ({"parts": {"%": [{"part_number": "1", "etag": "x"}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": 1.5, "etag": "x"}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": True, "etag": "x"}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": 0, "etag": "x"}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": 10001, "etag": "x"}]}}, ["parts", "%", 0, "part_number"]),
        ({"parts": {"%": [{"part_number": 1, "etag": "x", "size": 1}]}}, ["parts", "%", 0, "size"]),
        ({"parts": {"%": [{"part_number": 1, "etag": "x"}] * 10001}}, ["parts", "%"]),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_wrong_commit_is_refused(client: httpx.AsyncClient, body: dict[str, Any], loc: list[Any]) -> None:
    upload_id = "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"
    written = json.dumps(body).replace("%", upload_id)

    error = await refused(client, written, at=f"{VERSIONS}/1.0/commit")

    assert error["loc"] == ["body", *[upload_id if step == "%" else step for step in loc]]


@pytest.mark.parametrize("body", [{}, {"part_numbers": None}, {"part_numbers": 1}, {"part_numbers": {"1": 1}}])
async def test_a_wrong_request_for_parts_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    error = await refused(client, body, at="/v1/uploads/6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52/parts")

    assert error["loc"] == ["body", "part_numbers"]


@pytest.mark.parametrize("label", ["latest", "@champion", "0" * 40, "a..b", "%00"])
async def test_only_a_label_can_be_committed(client: httpx.AsyncClient, label: str) -> None:
    answer = await commit(client, label)

    assert (answer.status_code, slug(answer)) == (422, "invalid-field")


async def test_what_is_not_there_cannot_be_committed(client: httpx.AsyncClient) -> None:
    answer = await commit(client)

    assert (answer.status_code, slug(answer)) == (404, "model-not-found")
