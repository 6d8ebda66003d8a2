"""A file in the registry as an open file: it reads the right bytes, with few requests."""

import asyncio
import io
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_registry_client import remote_file
from model_registry_client.errors import Busy, Damaged, NotFound, PreconditionFailed, Unreachable, UsageError
from model_registry_client.remote_file import RemoteFile
from model_registry_client.retries import RetryPolicy
from model_registry_client.transport import Transport
from model_registry_client.types import Ref, Version
from tests.resilience.faults.fake_s3 import FakeS3, Fault, HangsUp, Says, Shorter
from tests.support.pulling import publish
from tests.support.service import RunningService

QUICK = RetryPolicy(retry_seconds=1, first_contact_seconds=0.3, base_delay_seconds=0.02, timeout_seconds=2)
BYTES = bytes(range(251)) * 9000  # two and a quarter MB
ZIP_MEMBERS = {f"layer{number}": bytes([number]) * 300_000 for number in range(8)}
T = TypeVar("T")


@pytest.fixture(scope="module")
async def front(service: RunningService) -> AsyncIterator[FakeS3]:
    """A proxy before the service. It counts requests and can misbehave."""
    async with FakeS3.before(service.url) as front:
        yield front


@pytest.fixture
def way(front: FakeS3) -> Iterator[FakeS3]:
    front.seen.clear()
    yield front
    front.behave()


@pytest.fixture(scope="module")
async def http(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as http:
        yield http


@pytest.fixture
async def transport(way: FakeS3) -> AsyncIterator[Transport]:
    async with Transport(way.url, QUICK) as transport:
        yield transport


@pytest.fixture(scope="module")
async def several(http: httpx.AsyncClient) -> Ref:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, content in ZIP_MEMBERS.items():
            file.writestr(name, content)
    return await publish(http, {"dir/bytes 100%": BYTES, "dir/a.zip": archive.getvalue(), "empty": b"", "few": b"few"})


async def version_of(transport: Transport, ref: Ref) -> Version:
    return Version.model_validate(await transport.get_json(f"/v1/models/{ref.model}/versions/{ref.selector}"))


async def with_file(
    transport: Transport, ref: Ref, path: str | None, use: Callable[[RemoteFile], T], *, way: FakeS3 | None = None
) -> T:
    """Call `use` with the open file in a thread. The proxy counts from the opening on."""
    version = await version_of(transport, ref)
    if way:
        way.seen.clear()

    def work() -> T:
        with RemoteFile(transport, version, path) as file:
            return use(file)

    return await asyncio.to_thread(work)


async def test_a_file_is_read_like_a_local_one(transport: Transport, several: Ref) -> None:
    def use(file: RemoteFile) -> None:
        assert (file.readable(), file.seekable(), file.writable()) == (True, True, False)
        assert (file.name, file.mode, file.size_bytes, file.tell()) == ("dir/bytes 100%", "rb", len(BYTES), 0)
        assert file.read(5) == BYTES[:5]
        assert file.seek(-3, io.SEEK_END) == len(BYTES) - 3
        assert (file.read(), file.read(), file.read(1)) == (BYTES[-3:], b"", b"")
        assert file.seek(10**12) == 10**12
        assert file.read(1) == b""
        file.seek(0)
        assert file.read() == BYTES

    await with_file(transport, several, "dir/bytes 100%", use)


@pytest.mark.parametrize(("path", "content"), [("empty", b""), ("few", b"few")])
async def test_a_small_file_takes_one_request_at_most(
    transport: Transport, several: Ref, way: FakeS3, path: str, content: bytes
) -> None:
    assert await with_file(transport, several, path, lambda file: file.read(), way=way) == content
    assert sum(way.seen.values()) == (1 if content else 0)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(-1, 400)),
        st.tuples(st.just("readinto"), st.integers(0, 100)),
        st.tuples(st.just("readline"), st.integers(-1, 50)),
        st.tuples(st.just("seek"), st.integers(-300, 400), st.integers(0, 2)),
        st.tuples(st.just("tell")),
        st.tuples(st.just("readall")),
    ),
    max_size=12,
)


async def test_any_sequence_of_reads_and_seeks_works_as_in_memory(
    transport: Transport, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocks are so small that every boundary occurs, and so few that most are evicted."""
    monkeypatch.setattr(remote_file, "BLOCK_BYTES", 16)
    monkeypatch.setattr(remote_file, "_MOST_AHEAD_BLOCKS", 4)
    monkeypatch.setattr(remote_file, "_KEPT_BLOCKS", 5)
    content = bytes(range(256)) + b"\nline\n"
    ref = await publish(http, {"f": content})

    def use(file: RemoteFile) -> None:
        @settings(max_examples=40, deadline=None, database=None)
        @given(STEPS)
        def check(steps: list[tuple[Any, ...]]) -> None:
            file.seek(0)
            model = io.BytesIO(content)
            for name, *arguments in steps:
                assert outcome(file, name, arguments) == outcome(model, name, arguments)

        check()

    await with_file(transport, ref, None, use)


def outcome(file: Any, name: str, arguments: list[int]) -> object:
    """The result of an operation, and the position after it."""
    if name == "readinto":
        buffer = bytearray(arguments[0])
        return file.readinto(buffer), buffer, file.tell()
    if name == "readall":
        return file.read(), file.tell()
    if name == "seek":
        offset, whence = arguments
        position = {0: 0, 1: file.tell(), 2: len(file.getvalue()) if isinstance(file, io.BytesIO) else file.size_bytes}
        if position[whence] + offset < 0:  # io.BytesIO goes to zero, a file raises
            if not isinstance(file, io.BytesIO):
                with pytest.raises(ValueError, match="negative"):
                    file.seek(offset, whence)
            return "refused", file.tell()
    return getattr(file, name)(*arguments), file.tell()


async def test_a_zip_is_read_without_its_other_members(transport: Transport, several: Ref, way: FakeS3) -> None:
    def use(file: RemoteFile) -> bytes:
        with zipfile.ZipFile(file) as archive:
            assert archive.namelist() == list(ZIP_MEMBERS)
            return archive.read("layer3")

    assert await with_file(transport, several, "dir/a.zip", use, way=way) == ZIP_MEMBERS["layer3"]
    assert way.seen["get"] <= 4


async def test_numpy_reads_an_archive_of_arrays(transport: Transport, http: httpx.AsyncClient) -> None:
    numpy = pytest.importorskip("numpy")
    saved = io.BytesIO()
    arrays = {"a": numpy.arange(100_000), "b": numpy.eye(3)}
    numpy.savez(saved, **arrays)
    ref = await publish(http, {"f.npz": saved.getvalue()})

    def use(file: RemoteFile) -> None:
        with numpy.load(file) as loaded:
            assert all(numpy.array_equal(loaded[name], array) for name, array in arrays.items())

    await with_file(transport, ref, None, use)


@pytest.mark.parametrize("size_bytes", [1, 8192, 100_000], ids=["lines", "buffers", "pieces"])
async def test_sequential_reads_download_more_and_more_at_a_time(
    transport: Transport, several: Ref, way: FakeS3, size_bytes: int
) -> None:
    def use(file: RemoteFile) -> int:
        if size_bytes == 1:
            return sum(len(line) for line in io.BufferedReader(file))
        return sum(len(piece) for piece in iter(lambda: file.read(size_bytes), b""))

    assert await with_file(transport, several, "dir/bytes 100%", use, way=way) == len(BYTES)
    assert way.seen["get"] <= 5  # 1, 2, 4 and 8 blocks of 256 KiB


async def test_bytes_that_were_read_are_not_downloaded_again(transport: Transport, several: Ref, way: FakeS3) -> None:
    def use(file: RemoteFile) -> None:
        for _ in range(20):
            file.seek(1_000_000)
            assert file.read(10) == BYTES[1_000_000:1_000_010]
            file.seek(0)
            assert file.read(10) == BYTES[:10]

    await with_file(transport, several, "dir/bytes 100%", use, way=way)

    assert way.seen["get"] == 2


@pytest.mark.parametrize(
    "fault",
    [
        Says(500),
        Says(503),
        Says(429),
        HangsUp(arrives=True),
        HangsUp(arrives=False),
        Shorter(100, "close"),
        Shorter(100, "reset"),
    ],
    ids=["error", "busy", "too many", "hung up after", "hung up before", "cut", "reset"],
)
async def test_a_failed_response_is_requested_again(several: Ref, way: FakeS3, fault: Fault) -> None:
    def use(file: RemoteFile) -> bytes:
        way.misbehave("get", fault, times=2)
        file.seek(1_000_000)
        return file.read(1000)

    async with Transport(way.url, replace(QUICK, retry_seconds=20)) as patient:
        assert await with_file(patient, several, "dir/bytes 100%", use) == BYTES[1_000_000:][:1000]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Says(503), Busy),
        (HangsUp(arrives=True), Unreachable),
        (Shorter(100, "consistent"), Damaged),
        (Shorter(100, "unframed"), Damaged),
        (Says(404), NotFound),
        (Says(412), PreconditionFailed),
    ],
    ids=["busy", "hung up", "shorter", "shorter without a length", "not found", "another file"],
)
async def test_bytes_that_cannot_be_read_are_an_error(
    transport: Transport, several: Ref, way: FakeS3, fault: Fault, error: type[Exception]
) -> None:
    def use(file: RemoteFile) -> None:
        way.misbehave("get", fault)
        with pytest.raises(error):
            file.read(1000)
        assert file.tell() == 0
        way.behave()
        assert file.read(1000) == BYTES[:1000]

    await with_file(transport, several, "dir/bytes 100%", use)


async def test_a_version_that_is_removed_while_it_is_open_is_not_found(
    transport: Transport, http: httpx.AsyncClient
) -> None:
    ref = await publish(http, {"f": BYTES})

    def use(file: RemoteFile) -> None:
        file.read(10)
        assert httpx.delete(f"{transport.url}/v1/models/{ref.model}/versions/1").is_success
        file.seek(1_000_000)
        with pytest.raises(NotFound):
            file.read(10)

    await with_file(transport, ref, "f", use)


async def test_a_file_that_the_version_does_not_have_is_not_found(transport: Transport, several: Ref) -> None:
    with pytest.raises(NotFound, match="has no file 'absent'"):
        await with_file(transport, several, "absent", lambda file: None)


async def test_a_version_with_several_files_needs_a_path(transport: Transport, several: Ref) -> None:
    with pytest.raises(UsageError, match="has 4 files"):
        await with_file(transport, several, None, lambda file: None)


async def test_a_file_that_the_version_does_not_list_is_opened_by_its_headers(
    transport: Transport, http: httpx.AsyncClient
) -> None:
    ref = await publish(http, {f"{number:03}": str(number).encode() for number in range(101)})

    def use(file: RemoteFile) -> tuple[int, bytes]:
        assert file.sha256 == "sha256:ad57366865126e55649ecb23ae1d48887544976efea46a48eb5d85a6eeb4d306"
        return file.size_bytes, file.read()

    assert await with_file(transport, ref, "100", use) == (3, b"100")


async def test_a_closed_file_is_closed(transport: Transport, several: Ref) -> None:
    def use(file: RemoteFile) -> None:
        file.close()
        for work in (file.read, file.tell, lambda: file.seek(0), lambda: file.readinto(bytearray(1))):
            with pytest.raises(ValueError, match="closed"):
                work()

    await with_file(transport, several, "few", use)


async def test_a_wrong_whence_is_refused(transport: Transport, several: Ref) -> None:
    def use(file: RemoteFile) -> None:
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 3)

    await with_file(transport, several, "few", use)
