"""Wrong input, rule by rule: the problem names the field, and nothing is left behind."""

import asyncio
import base64
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.db_models import Base
from model_registry.domain.naming_rules import MAX_FILES, DistinctPaths
from tests.support.bad_names import BAD_MODEL_NAMES, BAD_VERSIONS
from tests.support.bucket import Bucket
from tests.support.contents import Registry
from tests.support.forms import BOUNDARY, FORM, NAMED, field, file, form, part, post_form, register_form
from tests.support.problems import assert_no_internals, assert_problem
from tests.support.rawhttp import Ending, RawAnswer, message, send
from tests.support.service import Collect, RunningService, ServiceWith, empty

JSON = "application/json"
HOST = "Host: registry"
MEBIBYTE = 1024**2

# What is sent

JSON_BODY = b'{"model_name": "fraud", "version": "1.0"}'


async def post_json(client: httpx.AsyncClient, body: str | bytes, **headers: str) -> httpx.Response:
    return await client.post("/register_model", content=body, headers={"Content-Type": JSON, **headers})


def json_with(extra: str) -> str:
    return '{"model_name": "fraud", "version": "1.0", ' + extra + "}"


def raw_post(body: bytes, *headers: str, content_type: str = FORM, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return message(
        "POST", "/register_model", [HOST, f"Content-Type: {content_type}", f"Content-Length: {size}", *headers], body
    )


def raw_chunked(*chunks: bytes, end: bool = True, content_type: str = FORM) -> bytes:
    body = b"".join(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n" for chunk in chunks)
    headers = [HOST, f"Content-Type: {content_type}", "Transfer-Encoding: chunked"]
    return message("POST", "/register_model", headers, body + (b"0\r\n\r\n" if end else b""))


# What must come back


def assert_refused_as_http(answer: RawAnswer | None) -> None:
    """The message is not a request: the server can refuse it in its own words, and closes the connection."""
    if answer is not None:
        assert 400 <= answer.status_code < 500 or answer.status_code == 501, answer.content[:200]
        assert answer.headers.get("connection", "close") == "close"
        assert_no_internals(answer)


@pytest.fixture
async def fresh(engine: AsyncEngine, bucket: Bucket) -> None:
    """An empty registry, without even the row with the oldest supported revision."""
    await empty(engine, Base.metadata.sorted_tables)
    await bucket.empty()


@pytest.fixture(scope="session")
async def one_client(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture
def client(one_client: httpx.AsyncClient, fresh: None) -> httpx.AsyncClient:
    """One client for all tests here, because to create a client takes longer than most of them."""
    return one_client


@pytest.fixture
def registry(engine: AsyncEngine, bucket: Bucket, collect: Collect, fresh: None) -> Registry:
    return Registry(engine, bucket, collect)


# Names and versions


def each(cases: dict[str, Any]) -> pytest.MarkDecorator:
    """Parametrize a test with the values. The keys are the ids."""
    return pytest.mark.parametrize("wrong", list(cases.values()), ids=list(cases))


@each(BAD_MODEL_NAMES)
async def test_a_model_name_against_the_rule_is_refused(
    client: httpx.AsyncClient, registry: Registry, wrong: str
) -> None:
    in_form = await post_form(client, field("model_name", wrong), field("version", "1.0"), file())
    in_json = await post_json(client, json.dumps({"model_name": wrong, "version": "1.0"}))

    assert_problem(in_form, 422, names="model_name", slug="invalid-field")
    assert_problem(in_json, 422, names="model_name", slug="invalid-field")
    await registry.assert_unchanged()


@each(BAD_VERSIONS)
async def test_a_version_against_the_rule_is_refused(client: httpx.AsyncClient, registry: Registry, wrong: str) -> None:
    in_form = await post_form(client, field("model_name", "fraud"), field("version", wrong), file())
    in_json = await post_json(client, json.dumps({"model_name": "fraud", "version": wrong}))

    assert_problem(in_form, 422, names="version", slug="invalid-field")
    assert_problem(in_json, 422, names="version", slug="invalid-field")
    await registry.assert_unchanged()


async def test_a_bad_name_after_the_file_leaves_nothing_of_the_file(
    client: httpx.AsyncClient, registry: Registry
) -> None:
    response = await post_form(client, file(), field("version", "1.0"), field("model_name", "a..b"))

    assert_problem(response, 422, names="model_name")
    await registry.assert_unchanged()


@pytest.mark.parametrize("wrong", ["a" * 100_000 + "!", "a." * 50_000 + "!", "-" * 100_000, "9" * 100_000])
@pytest.mark.parametrize("name", ["model_name", "version"])
async def test_a_long_name_is_refused_at_once(client: httpx.AsyncClient, name: str, wrong: str) -> None:
    started = time.perf_counter()
    response = await post_json(client, json.dumps({"model_name": "fraud", "version": "1.0", name: wrong}))
    elapsed = time.perf_counter() - started

    problem = assert_problem(response, 422, names=name)
    assert len(json.dumps(problem)) < 2000  # the value is shortened
    assert elapsed < 0.5


async def test_the_longest_names_are_taken(client: httpx.AsyncClient) -> None:
    info = await register_form(client, field("model_name", "m" * 128), field("version", "v" * 128), file())

    assert (await client.get(info["download_url"])).content == b"weights"


@pytest.mark.parametrize("content_type", ["form", "json"])
async def test_a_name_that_differs_in_case_alone_is_taken(
    client: httpx.AsyncClient, registry: Registry, content_type: str
) -> None:
    await register_form(client)
    before = await registry.content()

    if content_type == "form":
        response = await post_form(client, field("model_name", "Fraud"), field("version", "2.0"), file())
    else:
        response = await post_json(client, json.dumps({"model_name": "Fraud", "version": "2.0"}))

    problem = assert_problem(response, 409, slug="model-name-taken", says="'fraud'")
    assert (problem["model_name"], problem["existing"]) == ("Fraud", "fraud")
    await registry.assert_unchanged(before)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/get_model_info/Fraud/1.0"),
        ("GET", "/get_model_info/Fraud/latest"),
        ("GET", "/get_latest_model_info/Fraud"),
        ("GET", "/get_model/Fraud/1.0"),
        ("DELETE", "/remove_model/Fraud/1.0"),
    ],
)
async def test_a_name_in_the_wrong_case_is_not_found_and_the_answer_says_which_there_is(
    client: httpx.AsyncClient, registry: Registry, method: str, path: str
) -> None:
    await register_form(client)
    before = await registry.content()

    response = await client.request(method, path)

    assert_problem(response, 404, slug="model-not-found", says="'fraud'")
    await registry.assert_unchanged(before)


@pytest.mark.parametrize("version", ["latest", "@champion", "@", "LATEST", "a..b"])
async def test_only_a_label_can_be_removed(client: httpx.AsyncClient, registry: Registry, version: str) -> None:
    await register_form(client)
    before = await registry.content()

    response = await client.delete(f"/remove_model/fraud/{version}")

    assert_problem(response, 422, names="version")
    await registry.assert_unchanged(before)


@pytest.mark.parametrize("alias", ["", "Champion", "1.0", "12", "latest", "a" * 65, "-a", "a b", "v1", "@"])
async def test_what_cannot_be_an_alias_is_refused(client: httpx.AsyncClient, alias: str) -> None:
    for route in ("get_model_info", "get_model"):
        response = await client.get(f"/{route}/fraud/@{alias}")

        assert_problem(response, 422, names="version", says="alias")


# Paths of files

BAD_FILENAMES = {
    "an IE path": r'filename="C:\x.bin"',
    "an escaped IE path": r'filename="C:\\x.bin"',
    "a share": r'filename="\\host\x"',
    "an escaped share": r'filename="\\\\host\\x"',
    "a device": r'filename="\\?\x"',
    "a bare IE path": r"filename=C:\x.bin",
    "a drive": 'filename="c:x"',
    "a drive and a slash": 'filename="C:/x"',
    "a leading slash": 'filename="/etc/passwd"',
    "two leading slashes": 'filename="//host/share"',
    "a path outside": 'filename="../x"',
    "a path outside, later": 'filename="a/../../x"',
    "a path outside at the end": 'filename="a/.."',
    "a path outside by backslash": r'filename="..\..\x"',
    "only a dot": 'filename="."',
    "a dot segment": 'filename="./x"',
    "a dot at the end": 'filename="a/."',
    "an empty segment": 'filename="a//x"',
    "a slash at the end": 'filename="a/"',
    "a scheme": 'filename="file:///etc/passwd"',
    "CR and LF": 'filename="a%0D%0AX-Evil: 1"',
    "a NUL": 'filename="a\x00b"',
    "a tab": 'filename="a\tb"',
    "an escape": 'filename="a\x1b[31mb"',
    "a C1 control": 'filename="a\x85b"',
    "a delete": 'filename="a\x7fb"',
    "not NFC": 'filename="cafe\u0301.bin"',
    "reversed text": 'filename="a\u202egnp.exe"',
    "an isolate": 'filename="a\u2066b"',
    "a line separator": 'filename="a\u2028b"',
    "1025 bytes": f'filename="{"a" * 1025}"',
    "1026 bytes of two each": f'filename="{"é" * 513}"',
    "RFC 5987, a path outside": "filename*=UTF-8''..%2fx",
    "RFC 5987 over a good one": "filename=\"x\"; filename*=UTF-8''%2e%2e%2fx",
    "RFC 5987, a NUL": "filename*=UTF-8''a%00b",
    "RFC 5987, a backslash": "filename*=utf-8'en'a%5cb",
    "RFC 5987, CR and LF": "filename*=UTF-8''a%0d%0ab",
}


@each(BAD_FILENAMES)
async def test_a_path_against_the_rule_is_refused(client: httpx.AsyncClient, registry: Registry, wrong: str) -> None:
    response = await post_form(client, *NAMED, file('filename="good.bin"'), file(wrong))

    assert_problem(response, 422, names="model_file", slug="invalid-field")
    await registry.assert_unchanged()


@pytest.mark.parametrize(
    ("parameters", "path"),
    [
        ('filename="a b.bin"', "a b.bin"),
        ('filename="a;b=c.bin"', "a;b=c.bin"),
        ('filename="a%22b"', 'a"b'),
        (r'filename="a\"b"', 'a"b'),
        ('filename="%2e%2e%2fx"', "%2e%2e%2fx"),
        ('filename="a%00b"', "a%00b"),
        ('filename="a%252fb"', "a%252fb"),
        ('filename="模型/größe.bin"', "模型/größe.bin"),
        ("filename*=UTF-8''%e2%82%ac.bin", "€.bin"),
        ("filename=\"x\"; filename*=utf-8'en'%e2%82%ac.bin", "€.bin"),
        ("filename=\"a; filename*=utf-8''evil.bin\"", "a; filename*=utf-8''evil.bin"),
        ('filename="a; filename=evil.bin"', "a; filename=evil.bin"),
        ("filename=bare.bin", "bare.bin"),
        (f'filename="{"é" * 512}"', "é" * 512),
    ],
)
async def test_a_filename_is_taken_literally(client: httpx.AsyncClient, parameters: str, path: str) -> None:
    info = await register_form(client, *NAMED, file(parameters))

    assert [entry["path"] for entry in info["files"]] == [path]
    answer = await client.get("/get_model/fraud/1.0", params={"path": path})
    assert answer.content == b"weights"
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert "\n" not in answer.headers["content-disposition"]


@pytest.mark.parametrize(
    "parameters",
    [
        'filename="a"; filename="b"',
        "filename*=UTF-8''a; filename*=UTF-8''b",
        "filename=x y.bin",
        'filename="unclosed',
        "filename*=UTF-8''%ff",
        "filename*=iso-8859-1''%e9.bin",
        "filename*=nothing",
        b'filename="\xe9.bin"',
    ],
    ids=repr,
)
async def test_a_filename_that_can_be_read_in_two_ways_or_none_is_refused(
    client: httpx.AsyncClient, registry: Registry, parameters: str | bytes
) -> None:
    response = await post_form(client, *NAMED, file(parameters))

    assert_problem(response, 422)
    await registry.assert_unchanged()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("a.bin", "a.bin"),
        ("A.bin", "a.BIN"),
        ("straße", "STRASSE"),
        ("a/B/c", "A/b/C"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("A", "a/b/c"),
        ("a/b/c", "A/B"),
    ],
)
async def test_two_paths_that_no_disk_can_hold_together_are_refused(
    client: httpx.AsyncClient, registry: Registry, first: str, second: str
) -> None:
    response = await post_form(client, *NAMED, file(f'filename="{first}"'), file(f'filename="{second}"'))

    problem = assert_problem(response, 422, names="model_file", says=repr(first))
    assert problem["errors"][0]["value"] == second
    await registry.assert_unchanged()


def test_the_check_of_many_deep_paths_takes_little_memory() -> None:
    paths = DistinctPaths()
    tracemalloc.start()

    for number in range(300):
        paths.add(f"{number:05}" + "/a" * 500)

    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A hundred thousand of them are allowed in one version.
    assert peak / 300 < 16 * 1024


@pytest.mark.parametrize("step", ["renew", "close", "give_up", "garbage"])
async def test_a_registration_of_as_many_files_as_are_allowed_can_be_ended(
    service: RunningService, fresh: None, step: str
) -> None:
    # PostgreSQL takes 32,767 parameters a statement; MAX_FILES of them would only take longer to fail.
    ids = [uuid4() for _ in range(min(MAX_FILES, 33_000))]

    async with service.services.database.transaction() as tx:
        match step:
            case "renew":
                await tx.uploads.renew(ids, 10)
            case "close":
                await tx.uploads.close(ids)
            case "give_up":
                await tx.uploads.discard(ids)
            case _:
                await tx.garbage.add({str(each_id) for each_id in ids}, delay_seconds=0)


async def test_a_file_without_a_filename_is_refused(client: httpx.AsyncClient, registry: Registry) -> None:
    response = await post_form(client, *NAMED, field("model_file", "weights"))

    assert_problem(response, 422, names="model_file", says="filename")
    await registry.assert_unchanged()


async def test_an_empty_filename_with_content_is_refused(client: httpx.AsyncClient, registry: Registry) -> None:
    response = await post_form(client, *NAMED, file('filename=""'))

    assert_problem(response, 422, names="model_file", says="filename")
    await registry.assert_unchanged()


async def test_an_empty_filename_without_content_is_no_file(client: httpx.AsyncClient) -> None:
    info = await register_form(client, *NAMED, file('filename=""', b""))

    assert info["files"] == []


@pytest.mark.parametrize("name", ["model_name", "version", "model_params"])
@pytest.mark.parametrize("filename", ["", "x.json"])
async def test_a_file_where_a_plain_field_belongs_is_refused(
    client: httpx.AsyncClient, registry: Registry, name: str, filename: str
) -> None:
    response = await post_form(client, part(f'form-data; name="{name}"; filename="{filename}"', "{}"), file())

    assert_problem(response, 422, names=name)
    await registry.assert_unchanged()


@pytest.mark.parametrize("path", ["../x", "a\x00b", "/etc/passwd", "", "a\\b", "a" * 2000, "\ud800", "%", "a/"])
async def test_a_path_that_no_file_can_have_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    await register_form(client)
    encoded = "".join(f"%{byte:02x}" for byte in path.encode("utf-8", "surrogatepass"))

    response = await client.get(f"/get_model/fraud/1.0?path={encoded}")

    assert_problem(response, 404, slug="file-not-found")
    assert (await client.head(f"/get_model/fraud/1.0?path={encoded}")).status_code == 404


# Fields


@pytest.mark.parametrize("missing", ["model_name", "version"])
@pytest.mark.parametrize("content_type", ["form", "form, file first", "json"])
async def test_a_missing_field_is_named(
    client: httpx.AsyncClient, registry: Registry, content_type: str, missing: str
) -> None:
    given = {"model_name": "fraud", "version": "1.0"}
    del given[missing]
    fields = [field(name, value) for name, value in given.items()]

    if content_type == "json":
        response = await post_json(client, json.dumps(given))
    elif content_type == "form":
        response = await post_form(client, *fields, file())
    else:
        response = await post_form(client, file(), *fields)

    assert_problem(response, 422, names=missing, says="required")
    await registry.assert_unchanged()


UNKNOWN = [
    "model_parameters",
    "source",
    "artifact_location",
    "storage_key",
    "bucket",
    "file_path",
    "uri",
    "state",
    "id",
]


@pytest.mark.parametrize("unknown", UNKNOWN)
async def test_an_unknown_field_is_refused(client: httpx.AsyncClient, registry: Registry, unknown: str) -> None:
    in_form = await post_form(client, *NAMED, file(), field(unknown, "s3://elsewhere/x"))
    in_json = await post_json(client, json.dumps({"model_name": "f", "version": "1", unknown: "s3://elsewhere/x"}))

    assert_problem(in_form, 422, names=unknown, says="model_file")  # it says which fields there are
    assert_problem(in_json, 422, names=unknown)
    await registry.assert_unchanged()


@pytest.mark.parametrize("repeated", ["model_name", "version", "model_params"])
async def test_a_repeated_field_is_refused(client: httpx.AsyncClient, registry: Registry, repeated: str) -> None:
    once = {"model_name": "fraud", "version": "1.0", "model_params": "{}"}
    fields = [field(name, value) for name, value in once.items()]

    response = await post_form(client, *fields, file(), field(repeated, once[repeated]))

    assert_problem(response, 422, names=repeated, says="twice")
    await registry.assert_unchanged()


@pytest.mark.parametrize("name", ["model_name", "version"])
@pytest.mark.parametrize("value", ["1", "1.5", "true", "null", "[]", '{"a": 1}', "123456789012345678901234567890"])
async def test_a_name_that_is_no_text_is_refused(
    client: httpx.AsyncClient, registry: Registry, name: str, value: str
) -> None:
    others = {"model_name": '"fraud"', "version": '"1.0"', name: value}
    body = "{" + ", ".join(f'"{key}": {item}' for key, item in others.items()) + "}"

    response = await post_json(client, body)

    assert_problem(response, 422, names=name)
    await registry.assert_unchanged()


@pytest.mark.parametrize("name", ["model_name", "version", "model_params"])
async def test_a_field_that_is_not_utf_8_is_refused(client: httpx.AsyncClient, registry: Registry, name: str) -> None:
    others = [field(other, "1") for other in ("model_name", "version") if other != name]

    response = await post_form(client, *others, field(name, b'{"a": "\xe9"}'), file())

    assert_problem(response, 422, names=name, says="UTF-8")
    await registry.assert_unchanged()


# Metadata

OBJECTS = ["standardization_params", "model_params", "additional_metadata"]
NO_OBJECTS = {
    "an array": "[]",
    "a string": '"x"',
    "a number": "1",
    "null": "null",
    "true": "true",
    "half an object": '{"a": ',
    "single quotes": "{'a': 1}",
    "a comment": "{} // x",
    "two objects": "{} {}",
    "a trailing comma": '{"a": 1,}',
    "white space": "  ",
    "a byte order mark": "\ufeff{}",
    "YAML": "a: 1",
    "NaN": "NaN",
    "a leading zero": '{"a": 01}',
    "a bare key": "{a: 1}",
    "a raw newline in text": '{"a": "\n"}',
    "a raw NUL in text": '{"a": "\x00"}',
}
BAD_VALUES: dict[str, tuple[str, str]] = {
    "NaN": ('{"a": NaN}', "a"),
    "Infinity": ('{"a": [1, Infinity]}', "a.1"),
    "-Infinity": ('{"a": {"b": -Infinity}}', "a.b"),
    "a NUL": (r'{"a": "x\u0000y"}', "a"),
    "a NUL deep down": (r'{"a": [{"b": "\u0000"}]}', "a.0.b"),
    "a lone high surrogate": (r'{"a": "\ud800"}', "a"),
    "a lone low surrogate": (r'{"a": ["\udfff"]}', "a.0"),
    "surrogates the wrong way round": (r'{"a": "\udc00\ud800"}', "a"),
    "a duplicate key": ('{"a": 1, "a": 1}', "a"),
    "a duplicate key deep down": ('{"a": [{}, {"b": {"c": 1, "d": 2, "c": 3}}]}', "a.1.b.c"),
    "a duplicate key in disguise": (r'{"a": 1, "\u0061": 2}', "a"),
    "a million digits": ('{"a": ' + "9" * 1_000_000 + "}", "a"),
    "a million digits after the point": ('{"a": 0.' + "9" * 1_000_000 + "}", "a"),
    "an exponent beyond bounds": ('{"a": 1e999999999999999999999}', "a"),
    "a million digits by exponent": ('{"a": 1e1000000}', "a"),
    "a million digits by negative exponent": ('{"a": 1e-1000000}', "a"),
}


@each(NO_OBJECTS)
async def test_what_is_no_json_object_is_refused(client: httpx.AsyncClient, registry: Registry, wrong: str) -> None:
    for name in OBJECTS:
        in_form = await post_form(client, *NAMED, file(), field(name, wrong))

        assert_problem(in_form, 422, names=name)
    assert_problem(await post_json(client, wrong), 422, names="body")
    await registry.assert_unchanged()


@pytest.mark.parametrize("wrong", ["[]", '"{}"', "1", "null", "true"])
async def test_metadata_that_is_no_object_is_refused_in_json(
    client: httpx.AsyncClient, registry: Registry, wrong: str
) -> None:
    for name in OBJECTS:
        response = await post_json(client, json_with(f'"{name}": {wrong}'))

        assert_problem(response, 422, names=name, says="object")
    await registry.assert_unchanged()


@each({"empty": b"", "UTF-16": "{}".encode("utf-16"), "Latin-1": b'{"model_name": "\xe9"}'})
async def test_a_json_body_that_is_not_utf_8_json_is_refused(
    client: httpx.AsyncClient, registry: Registry, wrong: bytes
) -> None:
    response = await post_json(client, wrong)

    assert_problem(response, 422, names="body")
    await registry.assert_unchanged()


@each(BAD_VALUES)
async def test_a_value_that_json_or_the_database_cannot_hold_is_named(
    client: httpx.AsyncClient, registry: Registry, wrong: tuple[str, str]
) -> None:
    document, way = wrong
    name = "additional_metadata"

    started = time.perf_counter()
    in_form = await post_form(client, *NAMED, field(name, document), file())
    in_json = await post_json(client, json_with(f'"{name}": {document}'))
    elapsed = time.perf_counter() - started

    assert_problem(in_form, 422, names=f"{name}.{way}")
    assert_problem(in_json, 422, names=f"{name}.{way}")
    assert len(in_form.content) + len(in_json.content) < 4000
    assert elapsed < 2
    await registry.assert_unchanged()


@pytest.mark.parametrize("key", [r"a\u0000", r"\ud800"])
async def test_a_key_that_the_database_cannot_hold_is_refused(
    client: httpx.AsyncClient, registry: Registry, key: str
) -> None:
    response = await post_form(client, *NAMED, field("model_params", f'{{"b": {{"{key}": 1}}}}'), file())

    problem = assert_problem(response, 422)
    assert problem["errors"][0]["loc"][:2] == ["model_params", "b"]
    await registry.assert_unchanged()


async def test_a_key_that_stands_twice_in_the_body_is_refused(client: httpx.AsyncClient, registry: Registry) -> None:
    response = await post_json(client, '{"model_name": "a", "version": "1", "model_name": "b"}')

    assert_problem(response, 422, names="model_name", says="twice")
    await registry.assert_unchanged()


def nested(depth: int, kind: str) -> str:
    """Return an object with this many levels."""
    if kind == "objects":
        return '{"a":' * (depth - 1) + "{}" + "}" * (depth - 1)
    return '{"a":' + "[" * (depth - 1) + "]" * (depth - 1) + "}"


@pytest.mark.parametrize("kind", ["objects", "arrays"])
@pytest.mark.parametrize("content_type", ["form", "json"])
async def test_64_levels_are_fine(client: httpx.AsyncClient, kind: str, content_type: str) -> None:
    document = nested(64, kind)

    if content_type == "form":
        response = await post_form(client, *NAMED, field("model_params", document))
    else:
        response = await post_json(client, json_with(f'"model_params": {document}'))

    assert response.status_code == 201, response.text
    assert response.json()["model_params"] == json.loads(document)


@pytest.mark.parametrize("kind", ["objects", "arrays"])
@pytest.mark.parametrize("depth", [65, 100, 1_000, 100_000])
@pytest.mark.parametrize("content_type", ["form", "json"])
async def test_more_levels_are_refused_at_once(
    client: httpx.AsyncClient, registry: Registry, kind: str, depth: int, content_type: str
) -> None:
    document = nested(depth, kind)

    started = time.perf_counter()
    if content_type == "form":
        response = await post_form(client, *NAMED, field("model_params", document), file())
    else:
        response = await post_json(client, json_with(f'"model_params": {document}'))
    elapsed = time.perf_counter() - started

    assert_problem(response, 422, slug="invalid-field", says="64 levels")
    assert elapsed < 1
    await registry.assert_unchanged()


@pytest.mark.parametrize("unclosed", ["[", '{"a":', '{"a":['])
async def test_levels_that_are_never_closed_are_refused_at_once(
    client: httpx.AsyncClient, registry: Registry, unclosed: str
) -> None:
    started = time.perf_counter()
    response = await post_json(client, unclosed * 100_000)

    assert_problem(response, 422, names="body")
    assert time.perf_counter() - started < 1
    await registry.assert_unchanged()


@pytest.mark.parametrize(
    "number",
    [
        "9223372036854775808",
        "-9223372036854775809",
        "123456789012345678901234567890",
        "9" * 900,
        "0.1",
        "0.12345678901234567890123456789",
        "1e16",
        "1E+16",
        "1e400",
        "1e-400",
        "-0",
        "-0.0",
        "0e0",
        "5e-324",
    ],
)
@pytest.mark.parametrize("content_type", ["form", "json"])
async def test_a_number_keeps_its_exact_value(client: httpx.AsyncClient, content_type: str, number: str) -> None:
    document = f'{{"a": {number}, "b": [{number}]}}'

    if content_type == "form":
        response = await post_form(client, *NAMED, field("model_params", document))
    else:
        response = await post_json(client, json_with(f'"model_params": {document}'))

    assert response.status_code == 201, response.text
    for answer in (response, await client.get("/get_model_info/fraud/1.0")):
        kept = json.loads(answer.content, parse_int=Decimal, parse_float=Decimal)["model_params"]
        assert kept == {"a": Decimal(number), "b": [Decimal(number)]}


@pytest.mark.parametrize("name", OBJECTS)
async def test_an_oversized_metadata_field_is_refused(client: httpx.AsyncClient, registry: Registry, name: str) -> None:
    document = json.dumps({"a": "x" * MEBIBYTE})

    response = await post_form(client, *NAMED, file(), field(name, document))

    assert_problem(response, 422, names=name, says=str(MEBIBYTE))
    await registry.assert_unchanged()


async def test_a_metadata_field_of_exactly_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    document = json.dumps({"a": "x" * (MEBIBYTE - 9)})
    assert len(document) == MEBIBYTE

    await register_form(client, *NAMED, field("model_params", document))


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 64 * 1024):
        yield body[start : start + 64 * 1024]


@pytest.mark.parametrize("size_bytes", [MEBIBYTE + 1, 12 * MEBIBYTE])
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
async def test_an_oversized_json_body_is_refused(
    client: httpx.AsyncClient, registry: Registry, framing: str, size_bytes: int
) -> None:
    body = b'{"model_name": "fraud", "version": "1.0"}'.ljust(size_bytes)

    response = await client.post(
        "/register_model",
        content=body if framing == "Content-Length" else _pieces(body),
        headers={"Content-Type": JSON},
    )

    assert_problem(response, 422, names="body", says=str(MEBIBYTE))
    await registry.assert_unchanged()


async def test_a_name_field_of_megabytes_is_refused(client: httpx.AsyncClient, registry: Registry) -> None:
    response = await post_form(client, field("model_name", "m" * 3 * MEBIBYTE), field("version", "1"), file())

    assert_problem(response, 422, names="model_name")
    await registry.assert_unchanged()


@pytest.mark.parametrize("size_bytes", [1001, 9 * MEBIBYTE])
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
async def test_a_file_over_the_limit_is_too_large(
    service_with: ServiceWith, registry: Registry, framing: str, size_bytes: int
) -> None:
    service = await service_with(max_upload_bytes=1000 if size_bytes < MEBIBYTE else 8 * MEBIBYTE + 1)
    body = form(*NAMED, file(content=b"x" * size_bytes))

    async with httpx.AsyncClient(base_url=service.url) as client:
        response = await client.post(
            "/register_model",
            content=body if framing == "Content-Length" else _pieces(body),
            headers={"Content-Type": FORM},
        )

    assert_problem(response, 413, slug="upload-too-large")
    await registry.assert_unchanged()


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ('{"model_name": 1.5, "version": "1"}', "model_name"),
        ('{"model_name": 123456789012345678901234567890, "version": "1"}', "model_name"),
        ('{"model_name": {"a": null}, "version": "1"}', "model_name"),
        ('{"model_name": "a", "version": true}', "version"),
        ('{"version": "1"}', "model_name"),
        ('{"model_name": "a", "version": "1", "model_params": []}', "model_params"),
        ('{"model_name": "a", "version": "1", "more": null}', "more"),
        ("[true, null]", "body"),
        ('"text"', "body"),
    ],
)
async def test_an_error_speaks_json_and_not_python(client: httpx.AsyncClient, body: str, name: str) -> None:
    problem = assert_problem(await post_json(client, body), 422, names=name)

    told = json.dumps(problem["errors"]) + problem["detail"]
    for word in ("Decimal(", "b'", 'b\\"', "True", "None", "{'", "dictionary", "Extra inputs", "Input should"):
        assert word not in told


# The form itself

BAD_CONTENT_TYPES = {
    "none": None,
    "empty": "",
    "text": "text/plain",
    "a URL-encoded form": "application/x-www-form-urlencoded",
    "another multipart": f"multipart/mixed; boundary={BOUNDARY}",
    "octets": "application/octet-stream",
    "something like JSON": "application/vnd.registry+json",
    "two at once": "application/json, text/plain",
    "nonsense": ";;;",
    "JSON in a parameter": "text/plain; application/json",
}


@each(BAD_CONTENT_TYPES)
async def test_a_body_of_another_kind_is_unsupported(
    client: httpx.AsyncClient, registry: Registry, wrong: str | None
) -> None:
    request = client.build_request("POST", "/register_model", content=JSON_BODY)
    if wrong is not None:
        request.headers["Content-Type"] = wrong

    response = await client.send(request)

    assert_problem(response, 415, slug="unsupported-media-type", says="Content-Type")
    await registry.assert_unchanged()


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "GZIP", "nonsense"])
@pytest.mark.parametrize("content_type", [FORM, JSON])
async def test_an_encoded_body_is_unsupported(
    client: httpx.AsyncClient, registry: Registry, content_type: str, encoding: str
) -> None:
    body = form(*NAMED, file()) if content_type == FORM else JSON_BODY

    response = await client.post(
        "/register_model", content=body, headers={"Content-Type": content_type, "Content-Encoding": encoding}
    )

    assert_problem(response, 415, says="Content-Encoding")
    await registry.assert_unchanged()


@pytest.mark.parametrize(
    "twice",
    [
        ("Content-Encoding: identity", "Content-Encoding: gzip"),
        ("Content-Type: text/plain",),
        ("Idempotency-Key: a", "Idempotency-Key: b"),
    ],
    ids=lambda headers: headers[-1].partition(":")[0],
)
async def test_a_header_with_one_value_that_comes_twice_is_refused(
    service: RunningService, registry: Registry, twice: tuple[str, ...]
) -> None:
    answer = await send(service.address, raw_post(JSON_BODY, *twice, content_type=JSON))

    assert answer is not None
    assert answer.status_code in {400, 415, 422}, answer.text
    assert_problem(answer, answer.status_code)
    await registry.assert_unchanged()


BAD_BOUNDARIES = {
    "none": "multipart/form-data",
    "empty": "multipart/form-data; boundary=",
    "empty in quotes": 'multipart/form-data; boundary=""',
    "71 characters": f"multipart/form-data; boundary={'b' * 71}",
    "unclosed quotes": f'multipart/form-data; boundary="{BOUNDARY}',
    "another name": f"multipart/form-data; border={BOUNDARY}",
    "another boundary": "multipart/form-data; boundary=other",
    "nonsense": 'multipart/form-data; boundary="' + '"\\' * 2000,
}


@each(BAD_BOUNDARIES)
async def test_a_form_without_its_boundary_is_refused(
    client: httpx.AsyncClient, registry: Registry, wrong: str
) -> None:
    response = await client.post("/register_model", content=form(*NAMED, file()), headers={"Content-Type": wrong})

    assert_problem(response, 422, slug="invalid-form")
    await registry.assert_unchanged()


@pytest.mark.parametrize("boundary", ["b", "b" * 70, "'()+_,-./:=?", "--", "a b"])
@pytest.mark.parametrize("quote", ["", '"'])
async def test_any_lawful_boundary_is_taken(client: httpx.AsyncClient, boundary: str, quote: str) -> None:
    if not quote and any(char in "()<>@,;:/[]?= " for char in boundary):
        quote = '"'
    response = await client.post(
        "/register_model",
        content=form(*NAMED, file(), boundary=boundary),
        headers={"Content-Type": f"Multipart/Form-Data; charset=utf-8; boundary={quote}{boundary}{quote}"},
    )

    assert response.status_code == 201, response.text


WHOLE = form(*NAMED, file())
BAD_FORMS = {
    "empty": b"",
    "no end": form(*NAMED, file(), end=False),
    "an end without its dashes": WHOLE.removesuffix(b"--\r\n"),
    "an end in the middle of the last boundary": WHOLE[:-8],
    "an end in the file": WHOLE[: WHOLE.index(b"weights") + 3],
    "an end in the headers of the file": WHOLE[: WHOLE.index(b"model.bin")],
    "an end after the headers of the file": WHOLE[: WHOLE.index(b"weights")],
    "an end after the fields": WHOLE[: WHOLE.index(b'Content-Disposition: form-data; name="model_file"')],
    "only line feeds": WHOLE.replace(b"\r\n", b"\n"),
    "junk right before the first boundary": b"junk" + WHOLE,
    "junk without a boundary": b"junk" * 1000,
    "a megabyte of junk in front": b"j" * MEBIBYTE + b"\r\n" + WHOLE,
    "JSON": b'{"model_name": "fraud", "version": "1.0"}',
    "a part without a disposition": form(*NAMED, (b"Content-Type: text/plain", b"x"), file()),
    "a part without headers": form(*NAMED, file()).replace(b'Content-Disposition: form-data; name="version"', b""),
    "a part that is an attachment": form(*NAMED, part('attachment; name="model_file"; filename="a"')),
    "a part without a name": form(*NAMED, part('form-data; filename="a"', "x")),
    "a part with two dispositions": form(
        *NAMED, file('filename="a"', "x", 'Content-Disposition: form-data; name="model_file"; filename="b"')
    ),
    "a part with two names": form(*NAMED, part('form-data; name="x"; name="model_params"', "{}")),
    "a header without a colon": form(*NAMED, file('filename="a"', "x", "nonsense")),
    "a header with a bad name": form(*NAMED, file('filename="a"', "x", "X Y: z")),
    "a header over 8 KiB": form(*NAMED, file('filename="a"', "x", "X-Long: " + "a" * 8300)),
    "headers over 8 KiB": form(*NAMED, file('filename="a"', "x", "X-A: " + "a" * 5000, "X-B: " + "b" * 5000)),
    "a folded header over 8 KiB": form(*NAMED, file('filename="a"', "x", "X: a" + ("\r\n " + "a" * 900) * 10)),
    "a header without an end": form(*NAMED, end=False) + b"--" + BOUNDARY.encode() + b"\r\nX: " + b"a" * MEBIBYTE,
    "a hundred headers": form(*NAMED, file('filename="a"', "x", *(f"X-{number}: a" for number in range(100)))),
    "a length too small": form(*NAMED, file('filename="a"', "12345", "Content-Length: 4")),
    "a length too large": form(*NAMED, file('filename="a"', "12345", "Content-Length: 6")),
    "a negative length": form(*NAMED, file('filename="a"', "12345", "Content-Length: -1")),
    "a signed length": form(*NAMED, file('filename="a"', "12345", "Content-Length: +5")),
    "a length of many digits": form(*NAMED, file('filename="a"', "12345", "Content-Length: " + "9" * 5000)),
    "two lengths": form(*NAMED, file('filename="a"', "12345", "Content-Length: 5", "Content-Length: 5")),
    "a transfer encoding": form(*NAMED, file('filename="a"', "YWJj", "Content-Transfer-Encoding: base64")),
    "a content encoding": form(*NAMED, file('filename="a"', "YWJj", "Content-Encoding: gzip")),
}


@each(BAD_FORMS)
async def test_what_is_no_form_is_refused(client: httpx.AsyncClient, registry: Registry, wrong: bytes) -> None:
    response = await client.post("/register_model", content=wrong, headers={"Content-Type": FORM})

    assert response.status_code in {415, 422}, response.text
    assert_problem(response, response.status_code)
    await registry.assert_unchanged()


async def test_a_part_named_by_nothing_is_refused_and_the_answer_says_so(client: httpx.AsyncClient) -> None:
    response = await post_form(client, *NAMED, part('form-data; name=""', "x"))

    assert_problem(response, 422, says="name")


@each({"an epilogue": b"junk" * 100, "another form": form(field("model_name", "other")), "line ends": b"\r\n\r\n"})
async def test_what_comes_after_the_final_boundary_is_ignored(client: httpx.AsyncClient, wrong: bytes) -> None:
    response = await client.post("/register_model", content=WHOLE + wrong, headers={"Content-Type": FORM})

    assert response.status_code == 201, response.text
    assert response.json()["model_name"] == "fraud"


async def test_a_preamble_that_ends_with_a_line_end_is_ignored(client: httpx.AsyncClient) -> None:
    response = await client.post("/register_model", content=b"junk\r\n" + WHOLE, headers={"Content-Type": FORM})

    assert response.status_code == 201, response.text


async def test_a_form_of_single_bytes_is_read_as_any_other(service: RunningService, fresh: None) -> None:
    body = form(*NAMED, file(content=b"\r\n--front\r\n--"), boundary=BOUNDARY)

    answer = await send(service.address, raw_chunked(*(body[index : index + 1] for index in range(len(body)))))

    assert answer is not None
    assert answer.status_code == 201, answer.text
    assert answer.json()["size_bytes"] == 13


async def test_too_many_parts_are_refused(client: httpx.AsyncClient, registry: Registry) -> None:
    response = await post_form(client, *NAMED, *[file('filename=""', b"")] * 100_200)

    assert_problem(response, 422, slug="invalid-form")
    await registry.assert_unchanged()


# Idempotency-Key


@each({"empty": "", "256 characters": "k" * 256, "a space": "a b", "a tab": "a\tb", "Latin-1": "\xe9", "UTF-8": "é"})
async def test_an_idempotency_key_against_the_rule_is_refused(
    service: RunningService, registry: Registry, wrong: str
) -> None:
    for body, content_type in ((WHOLE, FORM), (JSON_BODY, JSON)):
        answer = await send(service.address, raw_post(body, f"Idempotency-Key: {wrong}", content_type=content_type))

        assert_problem(answer, 422, names="Idempotency-Key")
    await registry.assert_unchanged()


@pytest.mark.parametrize("control", ["\x01", "\x1b", "\x7f", "\x00"])
async def test_an_idempotency_key_with_a_control_character_is_refused(
    service: RunningService, registry: Registry, control: str
) -> None:
    answer = await send(service.address, raw_post(WHOLE, f"Idempotency-Key: a{control}b"))

    assert answer is not None
    assert answer.status_code in {400, 422}
    await registry.assert_unchanged()


async def test_an_idempotency_key_with_another_meaning_is_refused(
    client: httpx.AsyncClient, registry: Registry
) -> None:
    key = {"Idempotency-Key": "k" * 255}
    assert (await post_form(client, *NAMED, file(), **key)).status_code == 201
    before = await registry.content()

    other_bytes = await post_form(client, *NAMED, file(content="other"), **key)
    other_version = await post_form(client, field("model_name", "fraud"), field("version", "2.0"), file(), **key)
    other_model = await post_json(client, json.dumps({"model_name": "other", "version": "1.0"}), **key)

    for response in (other_bytes, other_version, other_model):
        assert_problem(response, 422, slug="idempotency-key-reused", says="new key")
    await registry.assert_unchanged(before)


# Queries


@pytest.mark.parametrize(
    "limit", ["0", "-1", "1001", "abc", "", "1.5", "1e2", "9" * 400, "0x10", "\uff11", "NaN", "%00"]
)
async def test_a_limit_out_of_bounds_is_refused(client: httpx.AsyncClient, limit: str) -> None:
    response = await client.get(f"/list_models?limit={limit}")

    problem = assert_problem(response, 422, names="limit")
    assert len(json.dumps(problem)) < 2000


def token(*fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")


FORGED_TOKENS = {
    "nonsense": "nonsense",
    "not base64": "!!!!",
    "not ASCII": "é",
    "a NUL": "%00",
    "one letter": "a",
    "base64 of nothing known": base64.urlsafe_b64encode(b"\xff\xfe\x00").decode(),
    "base64 of an object": base64.urlsafe_b64encode(b'{"a":1,"b":2,"c":3,"d":4}').decode(),
    "base64 of text": base64.urlsafe_b64encode(b'"abcd"').decode(),
    "too short": token([None], "fraud"),
    "too long": token([None], "fraud", "00", 1, 2),
    "a bad name": token([None], "../x", "00", 1),
    "a name that is a number": token([None], 1, "00", 1),
    "a name that is a list": token([None], ["a"], "00", 1),
    "a precedence that is no hex": token([None], "fraud", "zz", 1),
    "a precedence that is null": token([None], "fraud", None, 1),
    "number zero": token([None], "fraud", "00", 0),
    "a negative number": token([None], "fraud", "00", -1),
    "a number beyond 64 bit": token([None], "fraud", "00", 2**63),
    "an infinite number": base64.urlsafe_b64encode(b'[[null],"fraud","00",1e999]').decode(),
    "a number that is text": token([None], "fraud", "00", "x"),
    "a number that is a list": token([None], "fraud", "00", [1]),
    "another query": token(["fraud"], "fraud", "00", 1),
    "deep": base64.urlsafe_b64encode(b"[" * 5000).decode(),
}


@each(FORGED_TOKENS)
async def test_a_forged_page_token_is_refused(client: httpx.AsyncClient, wrong: str) -> None:
    await register_form(client)

    response = await client.get(f"/list_models?page_token={wrong}")

    assert_problem(response, 422, names="page_token", slug="invalid-page-token")


async def test_a_page_token_of_another_query_is_refused(client: httpx.AsyncClient) -> None:
    for version in ("1", "2", "3"):
        await register_form(client, field("model_name", "fraud"), field("version", version))
    link = (await client.get("/list_models?limit=1")).links["next"]["url"]
    of_all = httpx.URL(link).params["page_token"]
    link = (await client.get("/list_models?limit=1&model_name=fraud")).links["next"]["url"]
    of_one = httpx.URL(link).params["page_token"]

    for query in (
        {"page_token": of_all, "model_name": "fraud"},
        {"page_token": of_one},
        {"page_token": of_one, "model_name": "other"},
    ):
        response = await client.get("/list_models", params=query)

        assert_problem(response, 422, names="page_token")


@pytest.mark.parametrize("name", ["", "a b", "..", "%00", "%ff", "a/b", "*", "x" * 1000])
async def test_a_list_of_what_cannot_be_a_model_is_refused(client: httpx.AsyncClient, name: str) -> None:
    response = await client.get(f"/list_models?model_name={name}")

    assert_problem(response, 422, names="model_name")


@pytest.mark.parametrize("value", ["maybe", "", "2", "None", "%00", "truee"])
async def test_a_redirect_or_a_force_that_is_neither_true_nor_false_is_refused(
    client: httpx.AsyncClient, registry: Registry, value: str
) -> None:
    await register_form(client)
    before = await registry.content()

    redirect = await client.get(f"/get_model/fraud/1.0?redirect={value}")
    force = await client.delete(f"/remove_model/fraud/1.0?force={value}")

    assert_problem(redirect, 422, names="redirect")
    assert_problem(force, 422, names="force")
    await registry.assert_unchanged(before)


# Paths and methods


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/get_model_info",
        "/get_model_info/fraud",
        "/get_model_info/fraud/1.0/",
        "/get_model_info/fraud/1.0/more",
        "/get_latest_model_info/",
        "/get_model//1.0",
        "/register_model/",
        "/GET_MODEL/fraud/1.0",
        "/v2/",
        "/.env",
        "/docs-assets/nothing",
        "/docs-assets/",
        "/docs-assets/%00",
        "/docs-assets/" + "a" * 400,
    ],
)
async def test_an_unknown_path_is_a_problem(client: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        response = await client.request(method, path)

        # What a folder of assets takes is known before what is in it.
        status = 405 if path.startswith("/docs-assets/") and method != "GET" else 404
        assert_problem(response, status)


ALLOWED = {
    "/register_model": {"POST"},
    "/get_model_info/fraud/1.0": {"GET"},
    "/get_latest_model_info/fraud": {"GET"},
    "/list_models": {"GET"},
    "/get_model/fraud/1.0": {"GET", "HEAD"},
    "/remove_model/fraud/1.0": {"DELETE"},
    "/healthz": {"GET"},
    "/docs-assets/favicon.png": {"GET", "HEAD"},
}


@pytest.mark.parametrize("path", ALLOWED)
async def test_a_wrong_method_is_a_problem_that_says_which_there_are(
    client: httpx.AsyncClient, registry: Registry, path: str
) -> None:
    await register_form(client)
    before = await registry.content()

    for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} - ALLOWED[path]:
        response = await client.request(method, path, headers={"X-HTTP-Method-Override": "DELETE"})

        assert_problem(response, 405, slug="method-not-allowed", says=method)
        assert {name.strip() for name in response.headers["allow"].split(",")} >= ALLOWED[path]
    await registry.assert_unchanged(before)


@each({key: name for key, name in BAD_MODEL_NAMES.items() if name not in {"", ".", ".."}})
async def test_reading_what_cannot_be_a_model_is_never_a_success(client: httpx.AsyncClient, wrong: str) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in wrong.encode())

    for path in (f"/get_model_info/{encoded}/1.0", f"/get_latest_model_info/{encoded}", f"/get_model/{encoded}/1.0"):
        response = await client.get(path)

        assert response.status_code in {400, 404, 422}, response.text
        assert_problem(response, response.status_code, names="model_name" if response.status_code == 422 else None)


RAW_TARGETS = {
    "dot-dot": "/get_model_info/../list_models",
    "dot-dot as the version": "/get_model_info/fraud/..",
    "encoded dot-dot": "/get_model_info/fraud/%2e%2e",
    "half-encoded dot-dot": "/get_model_info/fraud/.%2E",
    "doubly encoded dot-dot": "/get_model_info/%252e%252e/1.0",
    "dot-dot out of the assets": "/docs-assets/../../../../etc/passwd",
    "encoded dot-dot out of the assets": "/docs-assets/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
    "encoded slash out of the assets": "/docs-assets/..%2f..%2f..%2fetc%2fpasswd",
    "encoded backslash out of the assets": "/docs-assets/..%5c..%5cx",
    "an absolute path in the assets": "/docs-assets//etc/passwd",
    "NUL in the name": "/get_model_info/fraud%00/1.0",
    "NUL in the version": "/get_model_info/fraud/1.0%00",
    "NUL in the path": "/get_model/fraud/1.0?path=model.bin%00",
    "a path outside": "/get_model/fraud/1.0?path=..%2f..%2fetc%2fpasswd",
    "encoded slash between name and version": "/get_model_info/fraud%2F1.0",
    "encoded slash in the route": "/get_latest_model_info%2ffraud",
    "encoded slash in a download": "/get_model/fraud%2f1.0",
    "encoded slash in the name": "/get_model_info/a%2Fb/1.0",
    "encoded backslash": "/get_model_info/fraud%5C/1.0",
    "encoded backslash between": "/get_model_info/fraud%5c1.0",
    "a backslash": "/get_model_info\\fraud\\1.0",
    "bad UTF-8": "/get_model_info/%ff%fe/1.0",
    "overlong UTF-8": "/get_model_info/%c0%ae%c0%ae/1.0",
    "a surrogate in UTF-8": "/get_model_info/%ed%a0%80/1.0",
    "a lone percent sign": "/get_model_info/%/1.0",
    "bad hex": "/get_model_info/%zz/1.0",
    "IIS hex": "/get_model_info/%u002e%u002e/1.0",
    "encoded line end": "/get_model_info/x%0d%0aSet-Cookie:%20a=b/1.0",
    "a semicolon": "/get_model_info/fraud;a=b/1.0",
    "an encoded question mark": "/get_model_info/fraud/1.0%3fx",
    "an encoded hash": "/get_model_info/fraud/1.0%23x",
    "two slashes": "//get_model_info/fraud/1.0",
    "a host in the path": "//evil.example/get_model_info/fraud/1.0",
    "a star": "*",
    "60,000 letters": "/get_model_info/" + "a" * 60_000 + "/1.0",
}


@each(RAW_TARGETS)
async def test_a_tricky_target_reaches_nothing(
    service: RunningService, client: httpx.AsyncClient, registry: Registry, wrong: str
) -> None:
    await register_form(client)
    before = await registry.content()

    answer = await send(service.address, message("GET", wrong, [HOST]))

    assert answer is not None
    assert answer.status_code in {400, 404, 414, 422}, (answer.status_code, answer.content[:200])
    assert "set-cookie" not in answer.headers
    if answer.status_code in {404, 422}:
        assert_problem(answer, answer.status_code)
    assert b"weights" not in answer.content
    await registry.assert_unchanged(before)


@pytest.mark.parametrize(
    "target", ["/remove_model/fraud%2f1.0", "/remove_model%2Ffraud/1.0", "/remove_model/fraud%2F1%2e0"]
)
async def test_an_encoded_slash_removes_nothing(
    service: RunningService, client: httpx.AsyncClient, registry: Registry, target: str
) -> None:
    await register_form(client)
    before = await registry.content()

    answer = await send(service.address, message("DELETE", target, [HOST]))

    assert answer is not None
    assert answer.status_code in {400, 404, 422}
    assert (await client.get("/get_model_info/fraud/1.0")).status_code == 200
    await registry.assert_unchanged(before)


MALFORMED = {
    "no slash": message("GET", "list_models", [HOST]),
    "an address instead of a path": message("GET", "@evil", [HOST]),
    "a raw byte": message("GET", b"/get_model_info/\xff/1.0", [HOST]),
    "a raw NUL": message("GET", b"/get_model_info/\x00/1.0", [HOST]),
    "a raw control character": message("GET", b"/get_model_info/\x01/1.0", [HOST]),
    "a space in the target": message("GET", "/get_model_info/a b/1.0", [HOST]),
    "a line end in the target": message("GET", "/get_model_info/a\r\nX: y/1.0", [HOST]),
    "no version": b"GET /list_models\r\nHost: x\r\n\r\n",
    "HTTP/9.9": message("GET", "/list_models", [HOST], version="HTTP/9.9"),
    "HTTP/2 out of the blue": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a TLS greeting": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 64,
    "an unknown method": message("EVIL", "/list_models", [HOST]),
    "a method in lower case": message("get", "/list_models", [HOST]),
    "CONNECT": message("CONNECT", "evil.example:443", [HOST]),
    "a header without a colon": message("GET", "/list_models", [HOST, "nonsense"]),
    "a space before the colon": message("GET", "/list_models", [HOST, "X : y"]),
    "an empty header name": message("GET", "/list_models", [HOST, ": y"]),
    "a NUL in a header": message("GET", "/list_models", [HOST, "X: a\x00b"]),
    "a bare carriage return in a header": message("GET", "/list_models", [HOST, "X: a\rb"]),
    "a folded header": message("GET", "/list_models", [HOST, "X: a", " b"]),
    "no host": message("GET", "/list_models", []),
    "two hosts": message("GET", "/list_models", [HOST, "Host: evil.example"]),
    "a header of a megabyte": message("GET", "/list_models", [HOST, "X: " + "a" * MEBIBYTE]),
    "ten thousand headers": message("GET", "/list_models", [HOST, *["X: a"] * 10_000]),
}


@each(MALFORMED)
async def test_a_malformed_message_is_refused(service: RunningService, fresh: None, wrong: bytes) -> None:
    answer = await send(service.address, wrong)

    assert_refused_as_http(answer)


CHUNKED_JSON = f"{len(JSON_BODY):x}\r\n".encode() + JSON_BODY + b"\r\n0\r\n\r\n"


def _json_message(*headers: str, body: bytes = JSON_BODY, version: str = "HTTP/1.1") -> bytes:
    return message("POST", "/register_model", [HOST, f"Content-Type: {JSON}", *headers], body, version)


SMUGGLED = {
    "a length and chunks": _json_message(
        f"Content-Length: {len(JSON_BODY)}", "Transfer-Encoding: chunked", body=CHUNKED_JSON
    ),
    "chunks and a length": _json_message(
        "Transfer-Encoding: chunked", f"Content-Length: {len(CHUNKED_JSON)}", body=CHUNKED_JSON
    ),
    "two lengths": _json_message(f"Content-Length: {len(JSON_BODY)}", "Content-Length: 2"),
    "two equal lengths": _json_message(*[f"Content-Length: {len(JSON_BODY)}"] * 2),
    "a list of lengths": _json_message(f"Content-Length: {len(JSON_BODY)}, {len(JSON_BODY)}"),
    "a signed length": _json_message(f"Content-Length: +{len(JSON_BODY)}"),
    "a negative length": _json_message("Content-Length: -1"),
    "a length in hex": _json_message(f"Content-Length: 0x{len(JSON_BODY):x}"),
    "a length with a point": _json_message(f"Content-Length: {len(JSON_BODY)}.0"),
    "an empty length": _json_message("Content-Length: "),
    "a length of 30 digits": _json_message("Content-Length: " + "9" * 30),
    "a length of 5000 digits": _json_message("Content-Length: " + "9" * 5000),
    "an unknown coding": _json_message("Transfer-Encoding: xchunked", body=CHUNKED_JSON),
    "identity": _json_message("Transfer-Encoding: identity", body=CHUNKED_JSON),
    "gzip and chunks": _json_message("Transfer-Encoding: gzip, chunked", body=CHUNKED_JSON),
    "gzip and chunks in two headers": _json_message(
        "Transfer-Encoding: gzip", "Transfer-Encoding: chunked", body=CHUNKED_JSON
    ),
    "chunks twice": _json_message("Transfer-Encoding: chunked, chunked", body=CHUNKED_JSON),
    "chunks in HTTP/1.0": _json_message("Transfer-Encoding: chunked", body=CHUNKED_JSON, version="HTTP/1.0"),
    "a chunk size that is no hex": _json_message("Transfer-Encoding: chunked", body=b"zz\r\n" + JSON_BODY),
    "a negative chunk size": _json_message("Transfer-Encoding: chunked", body=b"-1\r\n" + JSON_BODY),
    "a chunk size of 80 bits": _json_message("Transfer-Encoding: chunked", body=b"f" * 20 + b"\r\n" + JSON_BODY),
    "a chunk longer than its size": _json_message("Transfer-Encoding: chunked", body=b"2\r\n{}x\r\n0\r\n\r\n"),
    "chunks with bare line feeds": _json_message(
        "Transfer-Encoding: chunked", body=CHUNKED_JSON.replace(b"\r\n", b"\n")
    ),
}


@each(SMUGGLED)
async def test_a_body_whose_end_is_in_doubt_is_refused(
    service: RunningService, registry: Registry, wrong: bytes
) -> None:
    answer = await send(service.address, wrong)

    assert_refused_as_http(answer)
    await registry.assert_unchanged()


async def test_a_second_request_inside_a_refused_one_is_not_answered(
    service: RunningService, client: httpx.AsyncClient, registry: Registry
) -> None:
    await register_form(client)
    before = await registry.content()
    smuggled = message("DELETE", "/remove_model/fraud/1.0", [HOST])

    answer = await send(
        service.address,
        message(
            "POST",
            "/register_model",
            [HOST, f"Content-Type: {JSON}", f"Content-Length: {5 + len(smuggled)}", "Transfer-Encoding: chunked"],
            b"0\r\n\r\n" + smuggled,
        ),
    )

    assert_refused_as_http(answer)
    await registry.assert_unchanged(before)


BIG_FILE = form(*NAMED, file(content=b"x" * (9 * MEBIBYTE)))
# Where a body is cut: the whole that was announced, and how much of it is sent.
CUTS: dict[str, tuple[bytes, int]] = {
    "before anything": (WHOLE, 0),
    "in a field": (WHOLE, WHOLE.index(b"1.0")),
    "in the headers of the file": (WHOLE, WHOLE.index(b"model.bin")),
    "in the file": (WHOLE, WHOLE.index(b"weights") + 3),
    "in the last boundary": (WHOLE, len(WHOLE) - 5),
    "in the second file": (form(*NAMED, file(), file('filename="b"', "second")), len(WHOLE)),
    "in a file that goes up in parts": (BIG_FILE, len(BIG_FILE) - 1000),
    "in a file before the names": (form(file(), *NAMED), 150),
}


@pytest.mark.parametrize("ending", ["half-close", "close"])
@pytest.mark.parametrize("framing", ["Content-Length", "chunked"])
@pytest.mark.parametrize("cut", list(CUTS.values()), ids=list(CUTS))
async def test_a_body_that_is_cut_registers_nothing(
    service: RunningService, registry: Registry, cut: tuple[bytes, int], framing: str, ending: Ending
) -> None:
    body, sent_bytes = cut

    if framing == "Content-Length":
        request = raw_post(body[:sent_bytes], length=len(body))
    else:
        request = raw_chunked(*[body[:sent_bytes]] if sent_bytes else (), end=False)
    answer = await send(service.address, request, ending=ending)

    assert answer is None or 400 <= answer.status_code < 500
    await registry.assert_unchanged()


async def test_a_whole_form_without_the_end_of_its_chunks_registers_nothing(
    service: RunningService, registry: Registry
) -> None:
    answer = await send(service.address, raw_chunked(WHOLE, end=False), ending="half-close")

    assert answer is None or 400 <= answer.status_code < 500
    await registry.assert_unchanged()


@pytest.mark.parametrize("ending", ["half-close", "close"])
async def test_json_that_is_cut_registers_nothing(service: RunningService, registry: Registry, ending: Ending) -> None:
    answer = await send(
        service.address, raw_post(JSON_BODY, content_type=JSON, length=len(JSON_BODY) + 1), ending=ending
    )

    assert answer is None or 400 <= answer.status_code < 500
    await registry.assert_unchanged()


@pytest.mark.parametrize("body", [WHOLE[:-20], b""], ids=["in the file", "before anything"])
async def test_a_body_that_stalls_is_given_up(service_with: ServiceWith, registry: Registry, body: bytes) -> None:
    service = await service_with(body_idle_timeout_seconds=0.3)

    answer = await send(service.address, raw_post(body, length=len(WHOLE)))

    assert_problem(answer, 408, slug="request-timeout")
    await registry.assert_unchanged()


async def test_uploads_that_stall_do_not_keep_others_from_uploading(
    service_with: ServiceWith, client: httpx.AsyncClient
) -> None:
    service = await service_with(upload_buffer_slots=4)
    stalled = []
    for version in range(4):
        _, writer = await asyncio.open_connection(*service.address)
        begun = form(field("model_name", "slow"), field("version", f"v{version}"), file(), end=False)
        writer.write(raw_post(begun, length=MEBIBYTE))
        await writer.drain()
        stalled.append(writer)
    await asyncio.sleep(0.5)

    try:
        answer = await send(service.address, raw_post(WHOLE), timeout_seconds=5)
    finally:
        for writer in stalled:
            writer.close()

    assert answer is not None
    assert answer.status_code in {201, 503}, answer.text


async def test_a_socket_that_never_finishes_its_headers_is_closed(service: RunningService) -> None:
    async def is_closed(beginning: bytes) -> bool:
        try:
            await send(service.address, beginning, timeout_seconds=10.5)
        except TimeoutError:
            return False
        return True

    assert all(
        await asyncio.gather(*map(is_closed, [b"", b"GET /list_mod", b"GET /list_models HTTP/1.1\r\nHost: x\r\nX"]))
    )


async def test_a_host_that_is_not_ours_is_refused(service_with: ServiceWith) -> None:
    service = await service_with(allowed_hosts="registry,registry.internal")

    for hosts, status in {
        ("Host: registry",): 200,
        ("Host: REGISTRY:8000",): 200,
        ("Host: evil.example",): 400,
        ("Host: evil.example:80",): 400,
        ("Host: registry.evil.example",): 400,
        ("Host: a@registry",): 400,
        ("Host: registry/x?",): 400,
        ("Host: ",): 400,
        ("Host: registry", "Host: evil.example"): 400,
    }.items():
        answer = await send(service.address, message("GET", "/list_models", hosts))

        assert answer is not None
        assert answer.status_code == status, hosts


async def test_a_redirect_goes_where_the_settings_say_whatever_the_host_header(
    service: RunningService, client: httpx.AsyncClient, bucket: Bucket
) -> None:
    await register_form(client)

    answer = await send(
        service.address,
        message("GET", "/get_model/fraud/1.0?redirect=true", ["Host: evil.example", "X-Forwarded-Host: evil.example"]),
    )

    assert answer is not None
    assert answer.status_code == 307
    assert httpx.URL(answer.headers["location"]).host == httpx.URL(bucket.client.meta.endpoint_url).host


# Conditions and ranges

ODD_HEADERS = {
    "Range": [
        "bytes=", "bytes=-", "bytes=5-1", "bytes=a-b", "bytes=0-0x1", "bytes=+0-1", "bytes", "=", "chars=0-1",
        "bytes=0-" + "9" * 40, "bytes=" + "9" * 40 + "-", "bytes=0-0,2-2", "bytes=" + ",".join(["0-1"] * 9000),
        "bytes=\xb2-\xb3", "bytes=0-1-2", "bytes =0-1", "bytes=--1", "bytes=0-9223372036854775807",
    ],
    "If-Match": ["", '"', '""', "x", "W/", "*, *", "\xff", '"a' * 5000, ",,,,", "*x"],
    "If-None-Match": ["", '"', '""', "x", "W/", "*, *", "\xff", '"a' * 5000, ",,,,", "*x"],
    "If-Range": ["", '"', "x", "W/*", "Fri, 31 Dec 9999 23:59:59 -1200", "\xff"],
    "If-Modified-Since": [
        "", "x", "0", ",,,", "Fri, 31 Dec 9999 23:59:59 -1200", "Mon, 01 Jan 0001 00:00:00 +2359",
        "Sat, 01 Jan 2000 00:00:00 +99999999", "Sat, 01 Jan 99999999999999 00:00:00 GMT",
        "Sat, 99 Jan 2000 99:99:99 GMT", "Tue, 1", "\xb2", "9" * 5000, "Fri, 31 Dec 9999 23:59:59 -0000",
    ],
}  # fmt: skip
ODD_HEADERS["If-Unmodified-Since"] = ODD_HEADERS["If-Modified-Since"]


@pytest.mark.parametrize("name", ODD_HEADERS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_nonsense_in_a_condition_or_a_range_is_never_our_failure(
    service: RunningService, client: httpx.AsyncClient, name: str, method: str
) -> None:
    await register_form(client)

    statuses = {}
    for value in ODD_HEADERS[name]:
        headers = [HOST, f"{name}: {value}", *(["Range: bytes=0-1"] if name == "If-Range" else [])]
        for target in ("/get_model/fraud/1.0", "/get_model_info/fraud/1.0"):
            if method == "GET" or "info" not in target:
                answer = await send(service.address, message(method, target, headers))
                statuses[value, target] = 0 if answer is None else answer.status_code

    assert {key: status for key, status in statuses.items() if status not in {200, 206, 304, 400, 412, 416}} == {}


@pytest.mark.parametrize("wanted", ["bytes=7-", "bytes=99-", "bytes=-0", "bytes=9223372036854775807-"])
async def test_a_range_beyond_the_end_says_how_long_the_file_is(client: httpx.AsyncClient, wanted: str) -> None:
    await register_form(client)

    response = await client.get("/get_model/fraud/1.0", headers={"Range": wanted})

    assert_problem(response, 416, slug="range-not-satisfiable")
    assert response.headers["content-range"] == "bytes */7"


async def test_a_failed_precondition_is_a_problem(client: httpx.AsyncClient) -> None:
    await register_form(client)

    response = await client.get("/get_model/fraud/1.0", headers={"If-Match": '"other"'})

    assert_problem(response, 412, slug="precondition-failed", says="If-Match")


# Other people's browsers, and the log


async def test_a_page_of_another_site_can_neither_write_nor_read(client: httpx.AsyncClient, registry: Registry) -> None:
    headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}

    written = await client.post("/register_model", content=JSON_BODY, headers=headers)
    preflight = await client.options(
        "/register_model", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    read = await client.get("/list_models", headers={"Origin": "https://evil.example"})

    assert_problem(written, 415)
    for response in (written, preflight, read):
        assert not [name for name in response.headers if name.startswith("access-control-")]
    await registry.assert_unchanged()


@pytest.mark.parametrize("wrong", ["a b", "x" * 129, "\xff", "<script>", 'a"b', "a;b", ""])
async def test_a_request_id_that_is_no_sane_token_is_replaced(service: RunningService, wrong: str) -> None:
    answer = await send(service.address, message("GET", "/nothing", [HOST, f"X-Request-ID: {wrong}"]))

    problem = assert_problem(answer, 404)
    assert problem["request_id"] not in {wrong, ""}


class Lines(logging.Handler):
    """The log lines that the handler of the service writes."""

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))


@pytest.mark.parametrize("log_format", ["console", "json"])
async def test_a_request_is_one_line_in_the_log(service_with: ServiceWith, log_format: str) -> None:
    service = await service_with(log_format=log_format)
    root = logging.getLogger()
    formatter = root.handlers[0].formatter
    assert formatter is not None
    log = Lines(formatter)
    root.addHandler(log)
    cases: list[tuple[str, list[str]]] = [
        ("/get_model_info/x%0d%0a%7b%22level%22:%22error%22%7d/1.0", []),
        ("/nothing%0aforged=1", []),
        ("/nothing%1b%5b31m", []),
        ("/nothing", ['User-Agent: \\n{"level": "error"}']),
        ("/nothing", ["X-Request-ID: a\\nforged"]),
        ("/list_models?page_token=%0aforged", []),
        ("/nothing%e2%80%a8forged%c2%85forged", []),
        ("/" + "n" * 50_000, []),
    ]

    try:
        for target, headers in cases:
            log.lines.clear()
            answer = await send(service.address, message("GET", target, [HOST, *headers]))
            await asyncio.sleep(0.02)

            assert answer is not None
            assert 400 <= answer.status_code < 500
            (line,) = log.lines
            assert len(line.splitlines()) == 1
            assert "\x1b[31m" not in line
            assert len(line) < 2000
            if log_format == "json":
                assert json.loads(line)["level"] == "info"
    finally:
        root.removeHandler(log)
