"""D: requests that try to exhaust the service (T60-T72)."""

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator
from importlib import metadata
from pathlib import Path

import httpx
import pytest

from model_registry.server import http11
from model_registry_devstack import StackAddresses
from tests.security.conftest import Outside, Watch
from tests.security.routes import DESCRIBED, FORM, HOST, WITH_BODY, WITH_BYTES, Route, arrange
from tests.support.forms import NAMED, field, file, form
from tests.support.problems import assert_problem
from tests.support.processes import environment, free_port, resident_bytes, started, until_ready
from tests.support.pushing import entry
from tests.support.rawhttp import message, send
from tests.support.registering import register
from tests.support.service import RunningService, ServiceWith

MIB = 1024**2

# Headers


@pytest.mark.parametrize(("size_bytes", "fits"), [(60_000, True), (65_600, False), (200_000, False), (20 * MIB, False)])
@pytest.mark.parametrize("shape", ["one value", "many headers", "the target"])
async def test_what_comes_before_a_body_has_at_most_64_kib(
    watch: Watch, shape: str, size_bytes: int, fits: bool
) -> None:
    """T60: in one piece or in many."""
    match shape:
        case "one value":
            request = message("GET", "/list_models", [HOST, "X: " + "a" * size_bytes])
        case "many headers":
            request = message("GET", "/list_models", [HOST, *["X: " + "a" * 990] * (size_bytes // 990)])
        case _:
            request = message("GET", "/list_models?x=" + "a" * size_bytes, [HOST])

    answer = await watch.raw(request)

    # A client that is still sending when the connection is closed may see the reset instead of the response.
    assert answer is not None or size_bytes > MIB
    if answer is not None:
        assert answer.status_code == (200 if fits else 431)
        assert fits or answer.headers["content-type"] == "application/problem+json"


async def test_two_hundred_thousand_headers_are_refused(watch: Watch) -> None:
    """T60."""
    answer = await watch.raw(message("GET", "/list_models", [HOST, *["a: b"] * 200_000]))

    assert answer is None or answer.status_code == 431


@pytest.mark.parametrize("is_first", [True, False], ids=["the first request", "after an answer"])
@pytest.mark.parametrize("beginning", [b"\r\n", b"GET /list_mod", b"GET / HTTP/1.1\r\nHost: x\r\nX"], ids=repr)
async def test_a_request_that_does_not_come_is_not_waited_for(
    service: RunningService, monkeypatch: pytest.MonkeyPatch, beginning: bytes, is_first: bool
) -> None:
    """T61: the first request of a connection, and a later one."""
    assert http11.HEADER_TIMEOUT_SECONDS == 10
    monkeypatch.setattr(http11, "HEADER_TIMEOUT_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*service.address)
    try:
        if not is_first:
            writer.write(message("GET", "/version", [HOST]))
            await reader.readuntil(b"}")
        writer.write(beginning)

        async with asyncio.timeout(4):
            assert await reader.read() == b""
    finally:
        writer.close()


async def test_a_request_that_comes_byte_by_byte_is_not_waited_for(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T61: the time limit covers all of the headers."""
    monkeypatch.setattr(http11, "HEADER_TIMEOUT_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*service.address)

    async def dribble() -> None:
        for byte in b"GET /list_models HTTP/1.1\r\n" + b"X: a\r\n" * 1000:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    try:
        async with asyncio.timeout(4):
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(1)
    finally:
        dribbling.cancel()
        await asyncio.wait({dribbling})
        writer.close()


@pytest.mark.slow
async def test_stalled_connections_do_not_keep_a_process_from_ending(
    stack: StackAddresses, client: httpx.AsyncClient, watch: Watch, tmp_path: Path
) -> None:
    """T63: stalled in their headers, in a body, in a response, or before the first byte."""
    large = {"large.bin": bytes(32 * MIB)}
    assert (await register(client, {"model_name": "fraud", "version": "1.0"}, large)).status_code == 201
    await watch.arranged()
    port = free_port()
    stalled = [
        b"",
        b"GET /list_models HTTP/1.1\r\nHost: x\r\nX",
        message("POST", "/v1/models", [HOST, "Content-Type: application/json", "Content-Length: 1000"], b"{"),
        message("POST", "/register_model", [HOST, f"Content-Type: {FORM}", "Content-Length: 1000"], form(*NAMED)[:-9]),
        message("GET", "/get_model/fraud/1.0", [HOST]),
        message("GET", "/version", [HOST]),
    ]

    async with started(
        "serve", "--port", str(port), env=environment(stack, SHUTDOWN_GRACE_SECONDS="1"), cwd=tmp_path
    ) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        sockets = [await asyncio.open_connection("127.0.0.1", port, limit=1024) for _ in stalled]
        for (_, writer), beginning in zip(sockets, stalled, strict=True):
            writer.write(beginning)
            await writer.drain()
        await asyncio.gather(*(reader.read(1) for reader, _ in sockets[-2:]))

        process.send_signal(signal.SIGTERM)
        _, errors = await asyncio.wait_for(process.communicate(), 60)
        for _, writer in sockets:
            writer.close()

    assert process.returncode == 0
    assert b"Traceback" not in errors


# Bodies


async def test_a_body_that_stalls_is_given_up_by_every_route(
    service_with: ServiceWith, client: httpx.AsyncClient, watch: Watch
) -> None:
    """T62: one byte of a thousand arrives."""
    service = await service_with(body_idle_timeout_seconds=0.3)
    await arrange(client)
    declared = {"version": "3.0", "files": [entry("a", b"x" * 1000)]}
    reserved = await client.post("/v1/models/fraud/versions", json=declared)
    assert reserved.status_code == 201
    await watch.arranged()

    async def status(route: Route) -> int:
        target = route.target(version="3.0", path="a") if route.id == "put_file" else route.target()
        headers = [HOST, f"Content-Type: {route.body[1]}", "Content-Length: 1000"]
        answer = await watch.raw(message(route.method, target, headers, route.body[0][:1]), at=service)
        return answer.status_code if answer is not None else 0

    statuses = await asyncio.gather(*map(status, WITH_BODY))

    assert dict(zip([route.id for route in WITH_BODY], statuses, strict=True)) == {route.id: 408 for route in WITH_BODY}


async def _spaces(sent: list[int]) -> AsyncIterator[bytes]:
    """Yield a JSON object of 200 MB."""
    for _ in range(200):
        sent.append(MIB)
        yield b" " * MIB
    yield b"{}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("route", "status", "at_most_bytes"),
    [("/v1/models/fraud/versions", 413, 110 * MIB), ("/register_model", 422, 60 * MIB), ("/v1/models", 422, 60 * MIB)],
)
@pytest.mark.parametrize("is_announced", [True, False], ids=["announced", "chunked"])
async def test_a_json_body_of_200_mb_is_not_read_to_its_end(
    outside: Outside, route: str, status: int, at_most_bytes: int, is_announced: bool
) -> None:
    """T64: the response comes long before the end, and the process needs no memory for the body."""
    before = resident_bytes(outside.process.pid)
    sent: list[int] = []
    headers = {"Content-Type": "application/json"} | ({"Content-Length": str(200 * MIB + 2)} if is_announced else {})

    try:
        async with httpx.AsyncClient(base_url=outside.url, timeout=30) as client:
            response = await client.post(route, content=_spaces(sent), headers=headers)
    except httpx.TransportError:
        pass  # cut while it was still sending
    else:
        assert response.status_code == status, response.text

    assert sum(sent) < at_most_bytes
    assert resident_bytes(outside.process.pid) - before < 150 * MIB


@pytest.mark.slow
async def test_many_json_bodies_at_once_take_no_more_than_their_limit(outside: Outside) -> None:
    """T64 and T65: a document within the limit takes little more memory than it has bytes."""
    before = resident_bytes(outside.process.pid)
    body = json.dumps({"name": "x", "tags": {str(number): [[]] * 50 for number in range(800)}}).encode()

    async with httpx.AsyncClient(base_url=outside.url, timeout=30) as client:
        answers = await asyncio.gather(
            *(client.post("/v1/models", content=body, headers={"Content-Type": "application/json"}) for _ in range(8))
        )

    assert {answer.status_code for answer in answers} == {422}
    assert resident_bytes(outside.process.pid) - before < 150 * MIB


MODEL = b'{"name": "x"}'
EMPTY_WORDS = {
    "a long trailer": b"d\r\n" + MODEL + b"\r\n0\r\nX: " + b"a" * MIB + b"\r\n\r\n",
    "many trailers": b"d\r\n" + MODEL + b"\r\n0\r\n" + b"X: abcdef\r\n" * 100_000 + b"\r\n",
    "a long extension of a chunk": b"d;a=" + b"a" * MIB + b"\r\n" + MODEL + b"\r\n0\r\n\r\n",
    "a long size of a chunk": b"0" * MIB + b"d\r\n" + MODEL + b"\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("body", EMPTY_WORDS.values(), ids=EMPTY_WORDS)
async def test_what_is_around_the_chunks_of_a_body_has_a_bound_too(watch: Watch, body: bytes) -> None:
    """T60: the service ignores this data, but a server that stores it until it ends has it in memory."""
    answer = await watch.raw(
        message("POST", "/v1/models", [HOST, "Content-Type: application/json", "Transfer-Encoding: chunked"], body)
    )

    assert answer is None


UPGRADES = [
    ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"],
    ["Connection: keep-alive", "Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"],
    ["Upgrade: anything", "Connection: Upgrade"],
]


@pytest.mark.parametrize("upgrade", UPGRADES, ids=lambda lines: lines[-1])
async def test_a_body_after_an_upgrade_is_a_body(
    service: RunningService, client: httpx.AsyncClient, watch: Watch, upgrade: list[str]
) -> None:
    """T72: the body is never read as the next request, however the pieces arrive.

    Java's client asks for an upgrade with every first request.
    """
    await arrange(client)
    await watch.arranged()
    inner = message("DELETE", "/remove_model/fraud/1.0?force=true", [HOST])
    head = [HOST, *upgrade, "Content-Type: application/json"]
    sized = message("POST", "/v1/models", [*head, f"Content-Length: {len(inner)}"])
    chunked = message("POST", "/v1/models", [*head, "Transfer-Encoding: chunked"])

    for pieces in ([sized, inner], [sized + inner], [chunked, b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)]):
        answer = await send(service.address, *pieces)
        assert_problem(answer, 422, says="invalid JSON")
    assert (await client.get("/get_model_info/fraud/@champion")).status_code == 200

    taken = await watch.raw(message("POST", "/v1/models", [*head, f"Content-Length: {len(MODEL)}"], MODEL))
    asked = await watch.raw(message("GET", "/list_models", [HOST, *upgrade]))
    await watch.arranged()
    assert taken is not None
    assert (taken.status_code, taken.json()["name"]) == (201, "x")
    assert asked is not None
    assert asked.status_code == 200
    assert asked.json()[0]["model_name"] == "fraud"


async def test_a_body_after_an_upgrade_is_refused_where_the_server_would_lose_it(
    service: RunningService, watch: Watch
) -> None:
    """T72: another server, which passes the request on with its Upgrade header."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(service.app), base_url="http://registry") as client:
        answer = await client.post("/v1/models", json={"name": "x"}, headers={"Upgrade": "h2c"})

    assert_problem(answer, 400, says="Upgrade")


async def test_requests_in_a_row_are_all_answered(service: RunningService, watch: Watch) -> None:
    """T72: with any additional headers, and in the order in which the requests came."""
    reader, writer = await asyncio.open_connection(*service.address)
    for number in range(300):
        writer.write(message("GET", f"/nothing{number}", [HOST, *UPGRADES[number % 3], f"X-Request-ID: r{number}"]))
    writer.write(message("GET", "/version", [HOST, "Connection: close"]))
    answers = (await reader.read()).decode()
    writer.close()

    assert re.findall(r"x-request-id: r(\d+)", answers.lower()) == [str(number) for number in range(300)]


# Queries


BAD_LIMITS = ["1000000000", "-1", "0", "1001", "1e3", "9" * 400, "abc", "%00", ""]


@pytest.mark.parametrize("route", [route for route in DESCRIBED if "limit" in route.parameters("query")], ids=str)
async def test_a_page_has_a_lawful_size(client: httpx.AsyncClient, watch: Watch, route: Route) -> None:
    """T67."""
    await arrange(client)
    await watch.arranged()

    for limit in BAD_LIMITS:
        assert_problem(await watch.raw(route.message(f"{route.target()}?limit={limit}")), 422, names="limit")
    for token in ("x", "W10", "bnVsbA", "%00", "W1tdLDEsMl0", "W" * 50_000):
        name = "after" if route.id == "list_events" else "page_token"
        assert_problem(await watch.raw(route.message(f"{route.target()}?{name}={token}")), 422, names=name)


RANGES = [
    "bytes=" + ",".join(f"{n}-{n}" for n in range(6000)),
    "bytes=" + ",".join(["0-"] * 15_000),
    "bytes=-0",
    "bytes=7-",
    "bytes=9999999999999999999999-",
    "bytes=" + "0-0," * 15_000,
]


@pytest.mark.parametrize("wanted", RANGES, ids=lambda wanted: wanted[:20])
async def test_many_ranges_are_no_more_work_than_one(client: httpx.AsyncClient, watch: Watch, wanted: str) -> None:
    """T68: every route whose response has bytes."""
    await arrange(client)
    await watch.arranged()

    for route in WITH_BYTES:
        started = time.perf_counter()
        answer = await watch.raw(route.message(None, f"Range: {wanted}"))
        seconds = time.perf_counter() - started

        assert answer is not None
        assert answer.status_code in {200, 206, 416}
        assert len(answer.content) < 64 * 1024
        assert "multipart" not in answer.headers["content-type"]
        assert seconds < 2


def test_no_other_parser_of_forms_is_there() -> None:
    """T69: without python-multipart, FastAPI cannot parse a form, so it writes no file."""
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("python-multipart")


async def test_a_form_never_becomes_a_file(outside: Outside, watch: Watch) -> None:
    """T69: neither its parts, nor its fields, nor a form that is refused in the middle."""
    bodies = [
        form(field("model_name", "disk"), field("version", "1"), file(content=b"x" * 9 * MIB)),
        form(
            field("model_name", "disk"), field("version", "2"), field("model_params", '{"a": "' + "x" * 900_000 + '"}')
        ),
        form(file(content=b"x" * 3 * MIB), *NAMED, field("unknown", "x" * MIB)),
    ]

    async with httpx.AsyncClient(base_url=outside.url, timeout=30) as client:
        for body in bodies:
            await client.post("/register_model", content=body, headers={"Content-Type": FORM})
            assert list(outside.temporary.iterdir()) == []

    regular = [target for target in outside.open_files() if target.startswith("/") and not target.startswith("/dev/")]
    assert set(regular) == {str(outside.log)}
    await watch.arranged()


SQL = ["1;drop table model_info", "' OR 1=1 --", "%27%3B", "%25%25%25", "a_b", "\\", "pg_sleep(9)", "x" * 10_000]


@pytest.mark.parametrize("sql", SQL, ids=lambda sql: sql[:20])
async def test_a_search_is_never_sql(client: httpx.AsyncClient, watch: Watch, sql: str) -> None:
    """T70: SQL in any part of a query finds nothing or is refused."""
    await arrange(client)
    await watch.arranged()

    for path, name in (
        ("/v1/models", "search"),
        ("/v1/models", f"tag.{sql[:100]}"),
        ("/v1/versions", "filter"),
        ("/v1/versions", "order_by"),
        ("/v1/events", "model"),
        ("/list_models", "model_name"),
    ):
        started = time.perf_counter()
        answer = await client.get(path, params={name: sql})

        assert time.perf_counter() - started < 2
        assert answer.status_code in {200, 422}
        if answer.status_code == 200:
            found = answer.json()
            assert (found if isinstance(found, list) else found["items"]) == [], (path, name)
