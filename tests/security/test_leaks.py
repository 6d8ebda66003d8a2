"""E: what files, errors, logs and pages reveal (T73-T89)."""

import ast
import asyncio
import contextlib
import pickle
import random
import re
import socket
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from packaging.version import Version
from sqlalchemy.engine import make_url

import model_registry
from model_registry.object_store.http import SignedRequests
from model_registry_devstack import StackAddresses
from tests.security.conftest import Outside, Watch
from tests.security.routes import DESCRIBED, HOST, ROUTES, WITH_BYTES, Route, arrange, quoted
from tests.support.checkout import ROOT
from tests.support.problems import assert_no_internals, assert_problem
from tests.support.processes import environment, free_port, run, until_ready
from tests.support.proxy import Refuse
from tests.support.pushing import entry
from tests.support.rawhttp import message
from tests.support.registering import register
from tests.support.service import RunningService, ServiceWith

# Files


INERT = {
    "x-content-type-options": "nosniff",
    "content-security-policy": "sandbox; default-src 'none'",
    "cross-origin-resource-policy": "same-origin",
}
SCRIPT = b"<script>alert(document.domain)</script>"


@pytest.mark.parametrize("name", ["x.html", "x.svg", "x.js", "x.xhtml", "x.pdf", "noextension", "x.html.gz"])
async def test_a_file_is_never_a_page(client: httpx.AsyncClient, watch: Watch, name: str) -> None:
    """T73: by any route, method, range or condition."""
    assert (await register(client, {"model_name": "fraud", "version": "1.0"}, {name: SCRIPT})).status_code == 201
    await watch.arranged()

    assert len(WITH_BYTES) >= 3
    for route in WITH_BYTES:
        target = route.target(path=name)
        whole = await client.get(target)
        answers = {
            "whole": whole,
            "HEAD": await client.head(target),
            "a part": await client.get(target, headers={"Range": "bytes=0-7"}),
            "not modified": await client.get(target, headers={"If-None-Match": whole.headers["etag"]}),
            "as a page would": await client.get(target, headers={"Accept": "text/html", "Sec-Fetch-Dest": "document"}),
        }

        assert [answer.status_code for answer in answers.values()] == [200, 200, 206, 304, 200]
        for how, answer in answers.items():
            assert {key: answer.headers.get(key) for key in INERT} == INERT, (route.name, how)
            if answer.status_code != 304:
                assert answer.headers["content-type"] in {"application/octet-stream", "application/x-tar"}
                assert answer.headers["content-disposition"].startswith("attachment; filename=")


async def test_a_signed_address_gives_no_page_either(client: httpx.AsyncClient, watch: Watch) -> None:
    """T74: its type and its disposition are signed, and no other values are accepted."""
    await register(client, {"model_name": "fraud", "version": "1.0"}, {"x.html": SCRIPT})
    await watch.arranged()
    manifest = await client.get("/v1/models/fraud/versions/1.0/files?presign=true")
    link = await client.post("/v1/models/fraud/versions/1.0/download_url", json={})
    redirect = await client.get("/get_model/fraud/1.0?redirect=true")

    async with httpx.AsyncClient() as anybody:
        for url in (manifest.json()["items"][0]["url"], link.json()["url"], redirect.headers["location"]):
            got = await anybody.get(url)
            others = [
                await anybody.get(f"{url}&response-content-type=text/html"),
                await anybody.get(url.replace("octet-stream", "xhtml%2Bxml")),
                await anybody.get(url.replace("attachment", "inline")),
                await anybody.get(re.sub("response-content-disposition=[^&]*&?", "", url)),
            ]

            assert (got.status_code, got.content) == (200, SCRIPT)
            assert got.headers["content-type"] == "application/octet-stream"
            assert got.headers["content-disposition"] == 'attachment; filename="x.html"'
            assert [other.status_code for other in others] == [403] * len(others)


class _Evil:
    """Runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


async def test_a_pickle_stays_what_it_is(client: httpx.AsyncClient, watch: Watch, tmp_path: Path) -> None:
    """T84: it is stored, read back, listed and downloaded, and never opened."""
    content = pickle.dumps(_Evil(tmp_path / "was here"))
    files = {"model.pkl": content, "model.joblib": content, "model.pt": content, "x.safetensors": content}

    assert (await register(client, {"model_name": "fraud", "version": "1.0"}, files)).status_code == 201
    await watch.arranged()
    for route in DESCRIBED:
        if route.method == "GET" and route.parameters("path"):
            await client.get(route.target(path="model.pkl"))
    got = await client.get("/v1/models/fraud/versions/1.0/files/model.pkl")

    assert got.content == content
    assert not (tmp_path / "was here").exists()


OPENERS = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal", "joblib", "torch", "tensorflow",
    "numpy", "sklearn", "safetensors", "yaml", "zipfile", "gzip", "bz2", "lzma", "xml", "lxml", "code", "codeop",
}  # fmt: skip
RUNNERS = {"eval", "exec", "compile", "__import__", "literal_eval", "system", "popen", "loads_unsafe", "input"}


def test_the_server_has_nothing_that_runs_what_it_reads() -> None:
    """T84: no import of a module that unpickles, unpacks or parses code, and no call that runs any."""
    package = Path(model_registry.__file__).parent
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    used = {name.name.partition(".")[0] for name in names} & OPENERS
                case ast.ImportFrom(module=str(module), level=0):
                    used = {module.partition(".")[0]} & OPENERS
                case ast.Call(func=ast.Name(id=name)) if name in RUNNERS:
                    used = {name}
                case ast.Call(func=ast.Attribute(attr=name, value=ast.Name(id=owner))) if owner != "re":
                    used = {name} & RUNNERS
                case ast.keyword(arg="shell", value=ast.Constant(value=True)):
                    used = {"shell=True"}
                case _:
                    continue
            found |= {(str(path.relative_to(package)), each) for each in used}

    assert found == set()


# Errors


@pytest.mark.parametrize("wrong", [SCRIPT.decode(), "\"'><img src=x onerror=alert(1)>", "x" * 5000, "\u202e\x07"])
async def test_what_comes_back_in_an_error_is_data(client: httpx.AsyncClient, watch: Watch, wrong: str) -> None:
    """T76: as JSON, short, and never in a header, wherever the value was."""
    await arrange(client)
    await watch.arranged()

    for route in DESCRIBED:
        places = [{"target": route.target(**{name: quoted(wrong)})} for name in route.parameters("path")]
        places += [{"target": f"{route.target()}?{name}={quoted(wrong)}"} for name in route.parameters("query")]
        if route.method == "DELETE":
            places = places[: len(route.parameters("path"))]
        for place in places:
            answer = await watch.raw(route.message(place["target"]))

            assert answer is not None
            if answer.status_code >= 400 and route.method != "HEAD":
                assert answer.headers["content-type"] == "application/problem+json", route.name
                assert len(answer.content) < 4000
                assert not any("script" in value or "onerror" in value for value in answer.headers.values())


INTERNALS = re.compile(r"(?i)select |insert |asyncpg|sqlalchemy|botocore|aiohttp|blobs/|127\.0\.0\.1|errno|\.py\b")


@pytest.mark.parametrize("server", ["database", "storage"])
async def test_a_server_that_is_away_is_a_503_that_names_no_internals(
    outside: Outside, client: httpx.AsyncClient, watch: Watch, server: str
) -> None:
    """T81: at every route that needs the server."""
    await arrange(client)
    await watch.arranged()
    proxy = outside.database if server == "database" else outside.storage
    statuses = {}

    async with httpx.AsyncClient(base_url=outside.url, timeout=30) as other:
        proxy.misbehave(Refuse())
        try:

            async def ask(route: Route) -> None:
                answer = await other.get(route.target())
                statuses[route.id] = answer.status_code
                if answer.status_code == 503:
                    assert answer.headers["content-type"] == "application/problem+json"
                    assert answer.json()["request_id"] == answer.headers["x-request-id"]
                    assert int(answer.headers["retry-after"]) > 0
                    assert not INTERNALS.search(answer.text), answer.text

            await asyncio.gather(*(ask(route) for route in DESCRIBED if route.method == "GET"))
        finally:
            proxy.behave()
        await until_ready(outside.url)

    own = {"healthz", "metrics", "version"}
    needed = set(statuses) - own if server == "database" else {"readyz", *(route.id for route in WITH_BYTES)}
    # The service knows without the store that an upload does not exist.
    assert {name for name, status in statuses.items() if status == 503} == needed
    assert {status for name, status in statuses.items() if name not in needed} <= {200, 404}


async def test_a_store_that_refuses_us_is_not_a_client_that_may_not(
    service_with: ServiceWith, client: httpx.AsyncClient, watch: Watch
) -> None:
    """T81: the client does not see the store's 403."""
    service = await service_with(s3_secret_access_key="not the secret")
    watch.expected_failures = frozenset({503})
    await arrange(client)
    await watch.arranged()

    async with httpx.AsyncClient(base_url=service.url, event_hooks={"response": [watch.on_response]}) as other:
        answers = [await other.get(route.target()) for route in WITH_BYTES]
        answers.append(await register(other, {"model_name": "fraud", "version": "2.0"}))

    for answer in answers:
        assert_problem(answer, 503, slug="unavailable")
        assert_no_internals(answer)
        assert "secret" not in answer.text
        assert "Access" not in answer.text


async def test_no_redirect_leaves_us_but_to_the_store(client: httpx.AsyncClient, watch: Watch) -> None:
    """T82: for any path, query or Host."""
    await arrange(client)
    await watch.arranged()
    prefixes = [
        "/",
        "//evil.example/",
        "/\\evil.example/",
        "/%5cevil.example/",
        "/.evil.example/",
        "/%2f%2fevil.example/",
    ]
    suffixes = ["", "/", "//", "/..//evil.example", "?next=//evil.example", "?url=https://evil.example", "%0d%0aX:y"]

    locations = set()
    for path in ("", *dict.fromkeys(route.target() for route in ROUTES if route.method == "GET")):
        for target in {prefix + path.lstrip("/") for prefix in prefixes} | {path + suffix for suffix in suffixes}:
            if target.split("?")[0] in {"/healthz", "/readyz", "/metrics"} or not target.startswith("/"):
                continue
            answer = await watch.raw(message("GET", target, ["Host: evil.example"]))
            if answer is not None and "location" in answer.headers:
                locations.add(answer.headers["location"])

    assert locations == {"/docs"}


# Pages and metrics


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_a_page_has_a_policy_of_its_own(client: httpx.AsyncClient, watch: Watch, path: str) -> None:
    """T77: nothing of another host is loaded or framed, and nothing is sent to one."""
    policy = dict(
        part.split(" ", 1) for part in (await client.get(path)).headers["content-security-policy"].split("; ")
    )

    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert not [value for value in policy.values() if "http" in value or "*" in value or "unsafe-eval" in value]


def _series(metrics: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in metrics.splitlines() if not line.startswith("#")}


async def test_metrics_grow_with_the_routes_and_not_with_what_is_asked(
    service: RunningService, client: httpx.AsyncClient, watch: Watch
) -> None:
    """T83: neither metrics nor probes contain names of users or models."""
    await register(client, {"model_name": "secret-project", "version": "1.0"})
    await client.put("/v1/models/secret-project/aliases/hidden", json={"version": "1.0"})
    await watch.arranged()
    dice = random.Random(83)

    def anything() -> str:
        return "".join(dice.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=12))

    async def ask(times: int) -> None:
        reader, writer = await asyncio.open_connection(*service.address)
        for number in range(times):
            targets = [f"/{anything()}", f"/get_model_info/{anything()}/1", f"/v1/models/{anything()}?x={anything()}"]
            lines = [HOST, f"User-Agent: {anything()}", f"X-Request-ID: {anything()}"]
            writer.write(message(METHODS[number % len(METHODS)], dice.choice(targets), lines))
        writer.write(message("GET", "/version", [HOST, "Connection: close"]))
        assert (await reader.read()).count(b"HTTP/1.1 ") == times + 1
        writer.close()

    async with httpx.AsyncClient(base_url=service.url) as operator:
        await ask(300)
        probes = [(await operator.get(path)).text for path in ("/healthz", "/readyz", "/metrics")]
        before = _series((await operator.get("/metrics")).text)
        await ask(1500)
        metrics = (await operator.get("/metrics")).text

    assert _series(metrics) == before
    for told in (metrics, *probes):
        for secret in ("secret-project", "hidden", "://", "@", "127.0.0.1"):
            assert secret not in told


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "MKCOL", "REPORT", "SEARCH"]


# Logs

TOKEN = "sekret-t0ken-of-a-client"


async def test_a_store_that_takes_no_connection_is_told_of_without_the_signed_url() -> None:
    """The log contains the reason of an outage."""
    with contextlib.ExitStack() as sockets, socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://127.0.0.1:{full.getsockname()[1]}/models/key?X-Amz-Signature=0123456789"
        async with SignedRequests(
            connections=1, connect_timeout_seconds=0.2, read_timeout_seconds=1, ca_bundle=None
        ) as requests:
            with pytest.raises(TimeoutError) as told:
                async with requests.send("GET", url, {}, pauses_seconds=()):
                    raise AssertionError("nobody answers")

    assert "Amz" not in repr(told.value) + repr(told.value.__cause__)


async def test_no_secret_is_ever_logged(outside: Outside, stack: StackAddresses, watch: Watch, tmp_path: Path) -> None:
    """T78: at the most detailed log level, in normal operation and while the servers are away."""
    headers = {"Authorization": f"Bearer {TOKEN}", "Cookie": f"session={TOKEN}", "X-Api-Key": TOKEN}
    signed: list[str] = []
    refused = Refuse()

    async with httpx.AsyncClient(base_url=outside.url, headers=headers, timeout=30) as client:
        for round_number, proxy in enumerate([None, outside.database, outside.storage]):
            if proxy is not None:
                proxy.misbehave(refused)
            try:
                signed += await _a_day_at_work(client, f"m{round_number}")
            finally:
                if proxy is not None:
                    proxy.behave()
                    await until_ready(outside.url)
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(next(url for url in signed if "response-content" in url))).status_code == 200
    _, _, at_the_end = await run(
        "gc", "--once", env=environment(stack, DATABASE_URL=_unreachable(stack), LOG_LEVEL="DEBUG"), cwd=tmp_path
    )
    await watch.arranged()

    log = outside.log.read_text() + at_the_end
    assert log.count('"event":"request"') + log.count('"event": "request"') > 50
    assert "request.unavailable" in log
    password = make_url(stack.database_url).password
    assert isinstance(password, str)
    secrets = {TOKEN, password, stack.s3_secret_access_key, stack.s3_access_key_id}
    for url in signed:
        query = parse_qs(urlsplit(url).query)
        secrets |= {query["X-Amz-Signature"][0], query["X-Amz-Credential"][0]}
    told = {
        word for word in ("X-Amz-Signature", "X-Amz-Credential", "Authorization", "Bearer", "AWS4-HMAC") if word in log
    }
    assert told == set()
    assert {secret for secret in secrets if secret in log} == set()


def _unreachable(stack: StackAddresses) -> str:
    return make_url(stack.database_url).set(port=free_port()).render_as_string(False)


async def _a_day_at_work(client: httpx.AsyncClient, model: str) -> list[str]:
    """Do most of what a client can do, right and wrong; returns the signed URLs that came of it."""
    versions = f"/v1/models/{model}/versions"
    push = {"version": "2.0", "files": [entry("a", b"a"), entry("b", b"b" * 2000)]}
    large = {"version": "3.0", "files": [entry("large", b"x") | {"size_bytes": 100 * 1024**2}]}
    answers = [
        await register(client, {"model_name": model, "version": "1.0"}),
        await client.post("/register_model", json={"model_name": "../x", "version": "1.0"}),
        await client.post(versions, json=push),
        await client.post(versions, json=large),
        await client.put(f"{versions}/2.0/files/a", content=b"a"),
        await client.put(f"{versions}/2.0/files/b", content=b"wrong"),
        await client.post(f"{versions}/2.0/commit", json={}),
        await client.put(f"/v1/models/{model}/aliases/champion", json={"version": "1.0"}),
        await client.get(f"/get_model/{model}/1.0"),
        await client.get(f"/get_model/{model}/1.0?redirect=true"),
        await client.get(f"{versions}/1.0/files?presign=true"),
        await client.get(f"{versions}/1.0/archive.tar"),
        await client.post(f"{versions}/1.0/download_url", json={}),
        await client.get(f"/v1/versions?filter=tags.x = '{TOKEN[:1]}'"),
        await client.get("/readyz"),
        await client.get("/v1/events"),
        await client.get("/metrics"),
        await client.delete(f"{versions}/1.0?force=true&purge=true"),
    ]
    found: list[str] = []
    for answer in answers:
        found += re.findall(r'https?://[^"\\]*X-Amz-Signature[^"\\]*', answer.text + answer.headers.get("location", ""))
    for upload in answers[3].json().get("uploads") or []:
        parts = await client.post(f"/v1/uploads/{upload['upload_id']}/parts", json={"part_numbers": [1, 2]})
        found += re.findall(r'https?://[^"\\]*X-Amz-Signature[^"\\]*', parts.text)
    return found


# Dependencies


FLOORS = {"starlette": "1.0.1", "fastapi": "0.165", "uvicorn": "0.54", "httptools": "0.6.3", "multipart": "2.0.1",
          "aiohttp": "3.13.3", "urllib3": "2.6.3", "h11": "0.16"}  # fmt: skip
BANNED = {"python-multipart", "python-jose", "pycrypto", "ecdsa"}


@pytest.mark.parametrize("name", FLOORS)
def test_what_we_build_on_is_not_known_to_be_broken(name: str) -> None:
    """T89: the installed packages, and those of the server's image."""
    locked = _locked()[name]

    assert Version(metadata.version(name)) >= Version(FLOORS[name])
    assert Version(locked) >= Version(FLOORS[name])


def test_what_is_known_to_be_broken_is_not_built_upon() -> None:
    """T89."""
    installed = {distribution.name.lower() for distribution in metadata.distributions()}

    assert not BANNED & (installed | set(_locked()))


def _locked() -> dict[str, str]:
    lock = (ROOT / "requirements-server.lock").read_text()
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock, re.MULTILINE))
