"""F19 to F27: a store whose responses are wrong, late, partial or missing; nothing half-done is ever visible."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import pytest

from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.resilience.faults.fake_s3 import (
    FakeS3,
    Fault,
    Flipped,
    HangsUp,
    Operation,
    Says,
    Shorter,
    Silent,
    Stalled,
    Tagged,
)
from tests.resilience.faults.measures import LATE_SECONDS, MIB, Backend, Client, Users, lost, standing
from tests.support.service import RunningService, make_settings, running

pytestmark = pytest.mark.slow

SHORT_SECONDS = 1
LONG_SECONDS = 1.5
SMALL = bytes(range(256)) * 8
LARGE = SMALL * (9 * MIB // len(SMALL))  # two parts

ERROR = Says(500, "InternalError")
SLOW_DOWN = Says(503, "SlowDown")
BAD_GATEWAY = Says(502, body=b"<html><h1>Bad Gateway</h1></html>", content_type="text/html")
ERROR_IN_200 = Says(200, "InternalError")


@pytest.fixture(scope="module")
async def weak_and_fake(stack: StackAddresses, settings: Settings) -> AsyncIterator[tuple[RunningService, FakeS3]]:
    async with FakeS3.before(stack.s3_endpoint_url) as fake:
        weak = make_settings(
            stack,
            s3_endpoint_url=fake.url,
            s3_connect_timeout_seconds=SHORT_SECONDS / 2,
            s3_read_timeout_seconds=LONG_SECONDS,
            s3_operation_timeout_seconds=LONG_SECONDS,
            multipart_threshold_bytes=5 * MIB,
            multipart_part_bytes=5 * MIB,
            commit_wait_seconds=20,
        )
        async with running(weak) as service:
            yield service, fake


@pytest.fixture
def weak(weak_and_fake: tuple[RunningService, FakeS3]) -> RunningService:
    """A service whose store is the fake, with deadlines short enough for a test."""
    return weak_and_fake[0]


@pytest.fixture
def fake(weak_and_fake: tuple[RunningService, FakeS3], backend: Backend) -> Iterator[FakeS3]:
    fake = weak_and_fake[1]
    fake.seen.clear()
    yield fake
    fake.behave()


@dataclass
class Case:
    """A store that does `fault` at each `operation` while `content` is registered."""

    operation: Operation
    fault: Fault
    content: bytes = LARGE


def case(operation: Operation, fault: Fault, content: bytes = LARGE, *, name: str) -> object:
    return pytest.param(Case(operation, fault, content), id=f"{name}, {operation}")


async def registered(client: Client, version: str, content: bytes) -> tuple[httpx.Response, float]:
    begun = time.monotonic()
    answer = await client.register("m", version, {"f": content})
    return answer, time.monotonic() - begun


@pytest.mark.parametrize(
    "case",
    [
        case("put", SLOW_DOWN, SMALL, name="F19 503"),
        case("put", BAD_GATEWAY, SMALL, name="F19 502 in HTML"),
        case("put_part", ERROR, name="F19 500"),
        case("complete", BAD_GATEWAY, name="F19 502 in HTML"),
        case("put", Silent(), SMALL, name="F20 silence"),
        case("create", Silent(), name="F20 silence"),
        case("put_part", Silent(), name="F20 silence"),
        case("complete", Silent(), name="F20 silence"),
        case("complete", ERROR_IN_200, name="F22 an error in a 200"),
        case("put_part", Tagged(None), name="F26 no ETag"),
        case("put_part", Tagged('"0123456789abcdef0123456789abcdef"'), name="F26 a wrong ETag"),
        case("put", Says(507, "XMinioStorageFull"), SMALL, name="F29 507"),
    ],
)
async def test_an_upload_that_the_store_fails_is_a_503_in_time_and_nothing_is_registered(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, case: Case
) -> None:
    async with users.client(weak.url) as client:
        fake.misbehave(case.operation, case.fault)

        answer, seconds = await registered(client, "1", case.content)

        assert answer.status_code == 503, answer.text
        assert answer.json()["unavailable"] == "The object store"
        assert seconds < LATE_SECONDS
        assert fake.seen[case.operation] <= (8 if case.operation == "put_part" else 4)
        assert (await client.ask("GET", "/get_model_info/m/1")).status_code == 404
        fake.behave()
        assert (await registered(client, "1", case.content))[0].status_code == 201
    await standing(users, backend, weak.url)


@pytest.mark.parametrize(
    "case",
    [
        case("put", SLOW_DOWN, SMALL, name="F19 503"),
        case("create", ERROR, name="F19 500"),
        case("put_part", BAD_GATEWAY, name="F19 502 in HTML"),
        case("put_part", HangsUp(arrives=True), name="F21 the answer is lost"),
        case("complete", HangsUp(arrives=True), name="F21 the answer is lost"),
        case("complete", HangsUp(arrives=False), name="F21 the request is lost"),
        case("complete", ERROR_IN_200, name="F22 an error in a 200"),
        case("put", Tagged('"wrong"'), SMALL, name="F26 a wrong ETag"),
    ],
)
async def test_what_the_store_fails_once_is_tried_again_and_nobody_notices(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, case: Case
) -> None:
    async with users.client(weak.url) as client:
        fake.misbehave(case.operation, case.fault, times=1)

        answer, _ = await registered(client, "1", case.content)

        assert answer.status_code == 201, answer.text
        assert (await client.ask("GET", "/get_model/m/1")).content == case.content
    await standing(users, backend, weak.url)


async def test_an_object_that_was_made_whole_is_adopted_when_every_answer_to_that_is_lost(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users
) -> None:
    """F21"""
    async with users.client(weak.url) as client:
        fake.misbehave("complete", HangsUp(arrives=True))

        answer, _ = await registered(client, "1", LARGE)

        assert answer.status_code == 201, answer.text
        assert fake.seen["head"] == 1
    await standing(users, backend, weak.url)


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Shorter(3 * MIB, "close"), id="F23 short of Content-Length"),
        pytest.param(Shorter(3 * MIB, "reset"), id="F23 reset"),
        pytest.param(Shorter(3 * MIB, "chunk"), id="F23 cut chunk"),
        pytest.param(Shorter(0, "close"), id="F23 no byte"),
        pytest.param(Stalled(3 * MIB), id="F23 silence after some bytes"),
        pytest.param(Shorter(3 * MIB, "consistent"), id="F24 consistent Content-Length"),
        pytest.param(Shorter(3 * MIB, "unframed"), id="F24 no Content-Length"),
        pytest.param(Shorter(len(LARGE) - 20, "unframed"), id="F24 the last bytes are missing"),
        pytest.param(SLOW_DOWN, id="F19 503"),
        pytest.param(Silent(), id="F20 silence"),
        pytest.param(Says(404, "NoSuchKey"), id="F27 404"),
    ],
)
async def test_a_download_that_the_store_breaks_never_looks_whole(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, fault: Fault
) -> None:
    async with users.client(weak.url) as client:
        await registered(client, "1", LARGE)
        fake.misbehave("get", fault)
        begun = time.monotonic()

        async def download(headers: dict[str, str]) -> None:
            with lost():
                answer = await client.http.get("/get_model/m/1", headers=headers)
                assert answer.status_code in {500, 503}, answer.status_code
                assert answer.headers["content-type"] == "application/problem+json"

        await asyncio.gather(download({}), download({"Range": f"bytes=10-{len(LARGE) - 10}"}))

        assert time.monotonic() - begun < LATE_SECONDS
        fake.behave()
        assert (await client.ask("GET", "/get_model/m/1")).content == LARGE
    await standing(users, backend, weak.url)


@pytest.mark.parametrize("size", [1, 1000, 3 * MIB])
async def test_a_flipped_bit_breaks_a_download_off_before_its_last_byte(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, size: int
) -> None:
    """F25"""
    async with users.client(weak.url) as client:
        await registered(client, "1", LARGE[:size])
        fake.misbehave("get", Flipped(size - 1))
        received = b""

        with lost():
            async with client.http.stream("GET", "/get_model/m/1") as answer:
                if answer.status_code == 200:
                    async for chunk in answer.aiter_raw():
                        received += chunk
                    raise AssertionError("the download looks whole")
                assert answer.status_code == 500

        assert received == LARGE[: len(received)]
        assert len(received) < size
        fake.behave()
        assert (await client.ask("GET", "/get_model/m/1")).content == LARGE[:size]
    await standing(users, backend, weak.url)


async def test_a_store_that_says_no_length_is_read_all_the_same(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users
) -> None:
    """F24: some proxies change a response like this. It is no error if the bytes are there."""
    async with users.client(weak.url) as client:
        await registered(client, "1", LARGE)
        fake.misbehave("get", Shorter(len(LARGE), "unframed"))

        assert (await client.ask("GET", "/get_model/m/1")).content == LARGE
        assert (await client.ask("GET", "/get_model/m/1", headers={"Range": "bytes=5-9"})).content == LARGE[5:10]
    await standing(users, backend, weak.url)


@pytest.mark.parametrize("end", ["close", "reset", "unframed"])
async def test_a_commit_reads_on_where_a_transfer_broke(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, end: str
) -> None:
    """F23, F24: the bytes that are read back to be verified."""
    async with users.client(weak.url) as client:
        fake.misbehave("get", Shorter(2 * MIB, end), times=3)  # type: ignore[arg-type]

        answer = await client.push("m", "1", {"f": LARGE})

        assert answer.status_code == 200, answer.text
        assert fake.seen["get"] == 4
    await standing(users, backend, weak.url)


@pytest.mark.parametrize(
    ("operation", "content"),
    [("head", SMALL), ("list_parts", LARGE), ("complete", LARGE)],
)
async def test_a_commit_that_the_store_fails_is_a_503_and_goes_on_later(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users, operation: Operation, content: bytes
) -> None:
    """F19: the version stays pending, and the client need not send anything again."""
    async with users.client(weak.url) as client:
        fake.misbehave(operation, SLOW_DOWN)

        answer = await client.push("m", "1", {"f": content})

        assert answer.status_code == 503, answer.text
        assert (await client.ask("GET", "/get_model_info/m/1")).status_code == 404
        fake.behave()
        assert (await client.push("m", "1", {"f": content})).status_code == 200
    await standing(users, backend, weak.url)


async def test_a_file_that_the_store_does_not_show_yet_is_asked_for_and_the_commit_repeated(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users
) -> None:
    """F27"""
    fake.hides_objects_for_seconds = 600
    async with users.client(weak.url) as client:
        early = await client.push("m", "1", {"f": SMALL})
        fake.hides_objects_for_seconds = 0
        late = await client.commit("m", "1")

    assert (early.status_code, early.json()["type"]) == (409, "urn:model-registry:problem:upload-incomplete")
    assert late.status_code == 200, late.text
    await standing(users, backend, weak.url)


async def test_an_object_that_is_not_shown_yet_is_not_adopted(
    weak: RunningService, fake: FakeS3, backend: Backend, users: Users
) -> None:
    """F27: Complete was done, its responses are lost, and then the store does not show the object."""
    async with users.client(weak.url) as client:
        fake.hides_objects_for_seconds = 30
        fake.misbehave("complete", HangsUp(arrives=True))
        fake.misbehave("head", Says(404, "NoSuchKey"))

        answer, _ = await registered(client, "1", LARGE)

        assert answer.status_code == 503, answer.text
        fake.behave()
        assert (await registered(client, "1", LARGE))[0].status_code == 201
    await standing(users, backend, weak.url)
