"""A pull is byte for byte right, or fails, whatever storage, the network, the registry or the disk do."""

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from model_registry.settings import Settings
from model_registry_client import pull as module
from model_registry_client.cache import Cache
from model_registry_client.errors import (
    Damaged,
    NotFound,
    RegistryError,
    ServerError,
    Unreachable,
    UnsafePath,
    UsageError,
)
from model_registry_client.pull import pull
from model_registry_client.retries import RetryPolicy
from model_registry_client.transport import Transport
from model_registry_client.types import Pulled, Ref
from model_registry_devstack import StackAddresses
from tests.resilience.faults.fake_s3 import Exchange, FakeS3, Fault, Flipped, HangsUp, Says, Shorter, Stalled
from tests.support.processes import environment, free_port, started
from tests.support.proxy import Proxy, RandomReset
from tests.support.pulling import RecordedProgress, content, everything, publish
from tests.support.service import RunningService, make_settings, running

LARGE = bytes(range(256)) * 12_000  # three MiB
SMALL = b"settings: 1\n"
FILES = {
    "config.yaml": SMALL,
    "empty": b"",
    "fraud/1/model.onnx": LARGE,
    "fraud/2/modèle 100%.onnx": LARGE[:70_000],
    ".hidden/x": b"\0" * 300_000,
}
TOTAL_BYTES = sum(map(len, FILES.values()))
QUICK = RetryPolicy(retry_seconds=1, first_contact_seconds=0.3, base_delay_seconds=0.02, timeout_seconds=2)
PATIENT = replace(QUICK, retry_seconds=20)


@pytest.fixture(scope="module")
async def service_and_fake(stack: StackAddresses, settings: Settings) -> AsyncIterator[tuple[RunningService, FakeS3]]:
    async with (
        FakeS3.before(stack.s3_endpoint_url) as fake,
        running(make_settings(stack, s3_public_endpoint_url=fake.url)) as service,
    ):
        yield service, fake


@pytest.fixture
def fake(service_and_fake: tuple[RunningService, FakeS3]) -> Iterator[FakeS3]:
    """Storage as the client sees it. The service uses the real storage."""
    fake = service_and_fake[1]
    fake.seen.clear()
    yield fake
    fake.behave()


@pytest.fixture
async def transport(service_and_fake: tuple[RunningService, FakeS3], fake: FakeS3) -> AsyncIterator[Transport]:
    async with Transport(service_and_fake[0].url, QUICK) as transport:
        yield transport


@pytest.fixture(scope="module")
async def http(service_and_fake: tuple[RunningService, FakeS3]) -> AsyncIterator[httpx.AsyncClient]:
    """The registry is not empty: each test uses its own models, or those that this module shares."""
    async with httpx.AsyncClient(base_url=service_and_fake[0].url, timeout=30) as http:
        yield http


@pytest.fixture(scope="module")
async def several(http: httpx.AsyncClient) -> Ref:
    """A version with `FILES`."""
    return await publish(http, FILES)


@pytest.fixture(scope="module")
async def large(http: httpx.AsyncClient) -> Ref:
    """A version with `LARGE` as `f`."""
    return await publish(http, {"f": LARGE})


@pytest.fixture(scope="module")
async def small(http: httpx.AsyncClient) -> Ref:
    """A version with `SMALL` as `f`."""
    return await publish(http, {"f": SMALL})


@asynccontextmanager
async def cancelled_after(
    told: RecordedProgress, size_bytes: int, transport: Transport, ref: Ref, folder: Path
) -> AsyncIterator[None]:
    """Cancel a pull when it has received `size_bytes`, after the block has run."""
    pulling = asyncio.create_task(pull(transport, ref, folder, progress=told))
    await told.until_received(size_bytes)
    yield
    pulling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await pulling


@pytest.mark.parametrize("transfer", ["auto", "direct", "proxied"])
async def test_a_folder_arrives_byte_for_byte(
    transport: Transport,
    several: Ref,
    fake: FakeS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transfer: str,
) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    told = RecordedProgress()

    pulled = await pull(transport, several, tmp_path / "new" / "folder", transfer=transfer, progress=told)

    assert content(tmp_path / "new" / "folder") == FILES
    assert (pulled.version.version, pulled.downloaded_bytes, pulled.was_complete) == ("1", TOTAL_BYTES, False)
    assert told.amounts == {"total": TOTAL_BYTES, "files": 5, "received": TOTAL_BYTES, "saved": 0}
    assert sorted(told.done) == sorted(FILES)
    assert fake.seen["get"] == (0 if transfer == "proxied" else 4)
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "new" / "folder" / "config.yaml").stat().st_mode & 0o777 == 0o666 & ~umask


async def test_the_default_folder_has_the_name_of_the_model(
    transport: Transport, several: Ref, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    pulled = await pull(transport, several)

    assert pulled.path == Path(several.model)
    assert content(tmp_path / several.model) == FILES


@pytest.mark.parametrize(
    ("include", "expected"),
    [
        (["*.onnx"], {"fraud/1/model.onnx", "fraud/2/modèle 100%.onnx"}),
        (["fraud/1"], {"fraud/1/model.onnx"}),
        (["fraud/2/", "empty"], {"fraud/2/modèle 100%.onnx", "empty"}),
        (["fraud/?/model.*", "[c-d]onfig.yaml"], {"fraud/1/model.onnx", "config.yaml"}),
        ([".hidden/x"], {".hidden/x"}),
    ],
)
async def test_only_the_requested_files_arrive(
    transport: Transport, several: Ref, tmp_path: Path, include: list[str], expected: set[str]
) -> None:
    await pull(transport, several, tmp_path, include=include)

    assert set(content(tmp_path)) == expected


async def test_patterns_that_match_no_file_are_an_error(transport: Transport, several: Ref, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r":1 has no file that matches \*\.gguf or FRAUD"):
        await pull(transport, several, tmp_path, include=["*.gguf", "FRAUD"])


async def test_a_second_pull_transfers_nothing(
    transport: Transport, several: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    await pull(transport, several, tmp_path)
    inodes = {path: path.stat().st_ino for path in everything(tmp_path)}
    fake.seen.clear()
    told = RecordedProgress()

    again = await pull(transport, several, tmp_path, progress=told)

    assert (again.was_complete, again.downloaded_bytes) == (True, 0)
    assert told.amounts == {"total": TOTAL_BYTES, "files": 5, "saved": TOTAL_BYTES}
    assert not fake.seen
    assert {path: path.stat().st_ino for path in everything(tmp_path)} == inodes


async def test_only_files_that_differ_are_downloaded_and_other_files_stay(
    transport: Transport, several: Ref, tmp_path: Path
) -> None:
    await pull(transport, several, tmp_path)
    (tmp_path / "config.yaml").write_bytes(SMALL.replace(b"1", b"2"))
    (tmp_path / "notes").write_bytes(b"mine")

    pulled = await pull(transport, several, tmp_path)

    assert pulled.downloaded_bytes == len(SMALL)
    assert content(tmp_path) == FILES | {"notes": b"mine"}


async def test_a_version_without_files_is_an_empty_folder(
    transport: Transport, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    name = f"m-{uuid4().hex}"
    assert (await http.post("/register_model", json={"model_name": name, "version": "1"})).status_code == 201

    pulled = await pull(transport, f"{name}:1", tmp_path / "d")

    assert (everything(tmp_path / "d"), pulled.was_complete) == ([], True)


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
async def test_a_cancelled_pull_continues_where_it_stopped(
    transport: Transport,
    large: Ref,
    fake: FakeS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_pieces: bool,
) -> None:
    if in_pieces:
        smaller(monkeypatch)
    fake.misbehave("get", Stalled(100_000))
    told = RecordedProgress()
    arrives = 800_000 if in_pieces else 100_000
    async with cancelled_after(told, arrives, transport, large, tmp_path):
        assert "f" not in content(tmp_path)
    assert "f" not in content(tmp_path)
    fake.behave()
    rest = RecordedProgress()

    pulled = await pull(transport, large, tmp_path, progress=rest)

    assert content(tmp_path) == {"f": LARGE}
    assert rest.amounts["received"] == pulled.downloaded_bytes == len(LARGE) - arrives
    assert rest.amounts["saved"] == arrives


def smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files over 1 MB are large, and arrive in pieces of 200 kB."""
    monkeypatch.setattr(module, "LARGE_BYTES", 1_000_000)
    monkeypatch.setattr(module, "PIECE_BYTES", 200_000)


PULL = """
import asyncio, sys
from model_registry_client.pull import pull
from model_registry_client.transport import Transport

async def main(url, ref, folder):
    async with Transport(url) as transport:
        await pull(transport, ref, folder)

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_killed_pull_continues_where_it_stopped(
    transport: Transport, large: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    fake.misbehave("get", Stalled(2_500_000))
    command = [sys.executable, "-c", PULL, transport.url, str(large)]
    async with started(str(tmp_path), env=environment(), cwd=tmp_path, command=command), asyncio.timeout(30):
        while True:
            if sum(map(arrived_bytes, everything(tmp_path))) >= 2 * 1024**2:
                break
            await asyncio.sleep(0.02)
    fake.behave()
    told = RecordedProgress()

    await pull(transport, large, tmp_path, progress=told)

    assert content(tmp_path) == {"f": LARGE}
    assert told.amounts["received"] <= len(LARGE) - 2 * 1024**2


def arrived_bytes(part: Path) -> int:
    """The counts at the end of an unfinished file with one piece."""
    return int.from_bytes(part.read_bytes()[-8:], "little")


async def test_an_unfinished_file_of_another_version_is_not_used(
    transport: Transport, http: httpx.AsyncClient, large: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    other = bytes(reversed(LARGE))
    ref = await publish(http, {"f": other}, of=large)
    fake.misbehave("get", Stalled(100_000))
    async with cancelled_after(RecordedProgress(), 100_000, transport, large, tmp_path):
        pass
    fake.behave()

    pulled = await pull(transport, ref, tmp_path)

    assert (pulled.downloaded_bytes, (tmp_path / "f").read_bytes()) == (len(other), other)


@pytest.mark.parametrize(
    "spoil",
    [lambda part: part[:-3], lambda part: b"", lambda part: part + b"x", lambda part: b"\xff" * len(part)],
    ids=["shorter", "empty", "longer", "garbage"],
)
async def test_a_damaged_unfinished_file_is_not_used(
    transport: Transport,
    large: Ref,
    fake: FakeS3,
    tmp_path: Path,
    spoil: Callable[[bytes], bytes],
) -> None:
    fake.misbehave("get", Stalled(100_000))
    async with cancelled_after(RecordedProgress(), 100_000, transport, large, tmp_path):
        pass
    fake.behave()
    (part,) = everything(tmp_path)
    part.write_bytes(spoil(part.read_bytes()))

    await pull(transport, large, tmp_path)

    assert content(tmp_path) == {"f": LARGE}


async def test_bytes_that_were_lost_in_an_unfinished_file_are_noticed(
    transport: Transport, large: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    fake.misbehave("get", Stalled(100_000))
    async with cancelled_after(RecordedProgress(), 100_000, transport, large, tmp_path):
        pass
    fake.behave()
    (part,) = everything(tmp_path)
    with part.open("r+b") as file:
        file.seek(50_000)
        file.write(bytes(4096))

    await pull(transport, large, tmp_path)

    assert content(tmp_path) == {"f": LARGE}


FAULTS = {
    "closed in the middle": Shorter(1_000_000, "close"),
    "reset in the middle": Shorter(1_000_000, "reset"),
    "a chunk cut": Shorter(1_000_000, "chunk"),
    "shorter, and it agrees": Shorter(1_000_000, "consistent"),
    "shorter, without a length": Shorter(1_000_000, "unframed"),
    "nothing, and it agrees": Shorter(0, "consistent"),
    "a byte flipped": Flipped(1_500_000),
    "the last byte flipped": Flipped(-1),
    "no answer": HangsUp(arrives=False),
    "an error": Says(500, "InternalError"),
    "busy": Says(503, "SlowDown"),
    "a page of somebody else's": Says(200, body=b"<html>log in</html>", content_type="text/html"),
    "another range": Says(206, body=b"0123"),
    "not found": Says(404, "NoSuchKey"),
    "not satisfiable": Says(416, "InvalidRange"),
    "expired": Says(403, "AccessDenied"),
    "elsewhere": Says(307, "TemporaryRedirect"),
}


SERVICE_FAULTS = [
    "closed in the middle",
    "reset in the middle",
    "shorter, and it agrees",
    "a byte flipped",
    "no answer",
    "an error",
    "busy",
]


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_a_failed_transfer_is_repeated(
    transport: Transport, large: Ref, fake: FakeS3, tmp_path: Path, fault: Fault
) -> None:
    fake.misbehave("get", fault, times=2)

    await pull(transport, large, tmp_path)

    assert content(tmp_path) == {"f": LARGE}


@pytest.mark.parametrize(
    "fault",
    [
        Flipped(5),
        Shorter(7, "consistent"),
        Shorter(0, "close"),
        HangsUp(arrives=False),
        Says(403, "AccessDenied"),
        Says(500, "InternalError"),
    ],
    ids=["flipped", "shorter", "cut", "hung up", "refused", "broken"],
)
async def test_if_storage_keeps_failing_files_come_through_the_service(
    transport: Transport, small: Ref, fake: FakeS3, tmp_path: Path, fault: Fault
) -> None:
    fake.misbehave("get", fault)

    await pull(transport, small, tmp_path)

    assert content(tmp_path) == {"f": SMALL}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Flipped(5), Damaged),
        (Says(403, "AccessDenied"), Unreachable),
        (Says(500, "InternalError"), ServerError),
        (HangsUp(arrives=True), Unreachable),
        (Shorter(0, "close"), Unreachable),
    ],
    ids=["damaged", "refused", "broken", "hung up", "cut"],
)
async def test_a_file_that_never_arrives_complete_never_gets_its_name(
    transport: Transport,
    small: Ref,
    fake: FakeS3,
    tmp_path: Path,
    fault: Fault,
    error: type[RegistryError],
) -> None:
    (tmp_path / "f").write_bytes(b"older")
    fake.misbehave("get", fault)

    with pytest.raises(error):
        await pull(transport, small, tmp_path, transfer="direct")

    assert (tmp_path / "f").read_bytes() == b"older"
    assert error is not Damaged or content(tmp_path) == {"f": b"older"}


async def test_urls_that_have_expired_are_renewed(
    stack: StackAddresses, several: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    settings = make_settings(stack, s3_public_endpoint_url=fake.url, presign_expiry_seconds=2)

    async def late(exchange: Exchange) -> None:
        await asyncio.sleep(3.1)
        answer = await exchange.asked()
        assert answer.status == 403
        await exchange.send(answer)

    fake.misbehave("get", late, times=1)
    async with running(settings) as service, Transport(service.url) as transport:
        await pull(transport, several, tmp_path, transfer="direct", parallel=1)

    assert content(tmp_path) == FILES


async def test_a_transfer_that_stalls_is_closed_and_continued(
    service_and_fake: tuple[RunningService, FakeS3], large: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    fake.misbehave("get", Stalled(1_000_000), times=1)
    told = RecordedProgress()

    async with Transport(service_and_fake[0].url, replace(QUICK, timeout_seconds=0.5)) as transport:
        await pull(transport, large, tmp_path, progress=told)

    assert content(tmp_path) == {"f": LARGE}
    assert told.amounts["received"] == len(LARGE)


@pytest.mark.parametrize("fault", [FAULTS[name] for name in SERVICE_FAULTS], ids=SERVICE_FAULTS)
async def test_a_failed_transfer_through_the_service_is_repeated(
    service_and_fake: tuple[RunningService, FakeS3], large: Ref, tmp_path: Path, fault: Fault
) -> None:
    times = 2

    async def meets_fault(exchange: Exchange) -> None:
        nonlocal times
        if "/files/" in exchange.key and times:
            times -= 1
            await fault(exchange)
        else:
            await exchange.send(await exchange.asked())

    async with FakeS3.before(service_and_fake[0].url) as way, Transport(way.url, PATIENT) as transport:
        way.misbehave("get", meets_fault)
        await pull(transport, large, tmp_path, transfer="proxied")

    assert (content(tmp_path), times) == ({"f": LARGE}, 0)


async def test_a_pull_survives_random_resets(
    stack: StackAddresses, several: Ref, large: Ref, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller(monkeypatch)
    storage = httpx.URL(stack.s3_endpoint_url)
    async with (
        Proxy.to(storage.host, storage.port or 80) as proxy,
        running(make_settings(stack, s3_public_endpoint_url=f"http://127.0.0.1:{proxy.port}")) as service,
        Transport(service.url, PATIENT) as transport,
    ):
        proxy.misbehave(RandomReset(0.03))
        for ref in (several, large):
            await pull(transport, ref, tmp_path / ref.model, transfer="direct")

        assert proxy.struck > 0
    assert content(tmp_path / several.model) == FILES
    assert content(tmp_path / large.model) == {"f": LARGE}


async def test_without_access_to_storage_files_come_through_the_service(
    stack: StackAddresses, several: Ref, tmp_path: Path
) -> None:
    settings = make_settings(stack, s3_public_endpoint_url=f"http://127.0.0.1:{free_port()}")
    told = RecordedProgress()

    async with running(settings) as service, Transport(service.url, QUICK) as transport:
        await pull(transport, several, tmp_path / "auto", progress=told)
        with pytest.raises(Unreachable):
            await pull(transport, several, tmp_path / "direct", transfer="direct")

    assert content(tmp_path / "auto") == FILES
    assert set(content(tmp_path / "direct")) <= {"empty"}
    assert told.amounts["received"] == TOTAL_BYTES
    assert [text.startswith("No response") for text in told.said] == [True, False]
    assert ["through the service" in text for text in told.said] == [False, True]


@pytest.mark.parametrize("transfer", ["direct", "proxied"])
async def test_a_large_file_arrives_in_pieces(
    transport: Transport,
    large: Ref,
    fake: FakeS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    transfer: str,
) -> None:
    smaller(monkeypatch)
    told = RecordedProgress()

    await pull(transport, large, tmp_path, transfer=transfer, progress=told)

    assert content(tmp_path) == {"f": LARGE}
    assert fake.seen["get"] == (-(-len(LARGE) // 200_000) if transfer == "direct" else 0)
    assert told.amounts["received"] == len(LARGE)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
async def test_failed_pieces_are_repeated(
    transport: Transport,
    large: Ref,
    fake: FakeS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    smaller(monkeypatch)
    if isinstance(fault, Shorter | Flipped):
        fault = Shorter(min(fault.size_bytes, 1000), fault.end) if isinstance(fault, Shorter) else Flipped(100)
    fake.misbehave("get", fault, times=3)

    await pull(transport, large, tmp_path)

    assert content(tmp_path) == {"f": LARGE}


async def test_a_store_without_ranges_sends_the_whole_file(
    transport: Transport, large: Ref, fake: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller(monkeypatch)
    fake.misbehave("get", Says(200, body=LARGE))

    await pull(transport, large, tmp_path, transfer="direct")

    assert content(tmp_path) == {"f": LARGE}


@pytest.mark.parametrize("selector", ["@live", "latest"])
async def test_all_files_are_of_one_version_if_the_alias_moves_during_the_pull(
    transport: Transport,
    http: httpx.AsyncClient,
    fake: FakeS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    selector: str,
) -> None:
    first = await publish(http, {"a": b"1a", "b": b"1b"})
    alias = f"/v1/models/{first.model}/aliases/live"
    await http.put(alias, json={"version": "1"})
    moving = Ref(first.model, selector)
    monkeypatch.setattr(module, "_PAGE", 1)

    async def promote(exchange: Exchange) -> None:
        await publish(http, {"a": b"2a", "b": b"2b"}, of=first)
        assert (await http.put(alias, json={"version": "2"})).is_success
        await Says(403, "AccessDenied")(exchange)  # so that the client requests a new URL

    fake.misbehave("get", promote, times=1)
    pulled = await pull(transport, moving, tmp_path, parallel=1)

    assert pulled.version.version == "1"
    assert content(tmp_path) == {"a": b"1a", "b": b"1b"}
    assert (await pull(transport, moving, tmp_path)).version.version == "2"
    assert content(tmp_path) == {"a": b"2a", "b": b"2b"}


async def test_a_version_that_is_removed_during_the_pull_is_not_found(
    transport: Transport, http: httpx.AsyncClient, fake: FakeS3, tmp_path: Path
) -> None:
    ref = await publish(http, {"f": SMALL})

    async def remove(exchange: Exchange) -> None:
        assert (await http.delete(f"/v1/models/{ref.model}/versions/1", params={"purge": "true"})).is_success
        await Says(404, "NoSuchKey")(exchange)

    fake.misbehave("get", remove)
    with pytest.raises(NotFound):
        await pull(transport, ref, tmp_path)

    assert "f" not in content(tmp_path)
    with pytest.raises(NotFound):
        await pull(transport, ref, tmp_path / "again")
    assert not (tmp_path / "again").exists()


async def test_two_pulls_into_one_folder_share_the_work(
    transport: Transport, several: Ref, fake: FakeS3, tmp_path: Path
) -> None:
    told = RecordedProgress(), RecordedProgress()

    await asyncio.gather(*(pull(transport, several, tmp_path, progress=each) for each in told))

    assert content(tmp_path) == FILES
    assert told[0].amounts["received"] + told[1].amounts["received"] == TOTAL_BYTES


class Registry(Transport):
    """A registry with any manifest. All its files have the content `evil`."""

    def __init__(self, items: list[dict[str, Any]], digest: str | None = None) -> None:
        super().__init__("http://registry.example", QUICK)
        self._items = items
        self._version_digest = digest

    @asynccontextmanager
    async def stream(self, method: str, path: str, **_: Any) -> AsyncIterator[httpx.Response]:
        if path.endswith("/files"):
            # Escaped, so that it can have surrogates.
            yield httpx.Response(200, content=json.dumps({"items": self._items, "next_page_token": None}))
        elif "/files/" in path:

            async def body() -> AsyncIterator[bytes]:
                yield b"evil"

            yield httpx.Response(200, content=body())
        else:
            yield httpx.Response(200, json=VERSION | {"digest": self._version_digest})


VERSION: dict[str, Any] = {
    **dict.fromkeys(["file_path", "description", "digest", "download_url", "ready_at", "removed_at"]),
    **{name: {} for name in ["standardization_params", "model_params", "additional_metadata", "tags"]},
    **dict.fromkeys(["yanked", "is_prerelease"], False),
    **dict.fromkeys(["files", "aliases"], ()),
    **dict.fromkeys(["id", "number", "file_count", "size_bytes"], 1),
    **dict.fromkeys(["model_name", "version", "created_by"], "m"),
    "state": "ready",
    "created_at": "2026-01-01T00:00:00Z",
}


def entry(path: str, **changes: Any) -> dict[str, Any]:
    return {"path": path, "size_bytes": 4, "sha256": f"sha256:{hashlib.sha256(b'evil').hexdigest()}"} | changes


async def pull_from(registry: Registry, folder: Path) -> Pulled:
    async with registry:
        return await pull(registry, "m:1", folder, transfer="proxied", parallel=1)


async def test_a_valid_manifest_is_pulled(tmp_path: Path) -> None:
    await pull_from(Registry([entry("a/b"), entry("..c"), entry("d..")]), tmp_path / "d")

    assert content(tmp_path / "d") == {"a/b": b"evil", "..c": b"evil", "d..": b"evil"}


@pytest.mark.parametrize(
    "path",
    [
        "../x", "a/../../x", "a/..", "..", ".", "", "/", "a//b", "a/", "./x", "a\\..\\b", "..\\x", "C:x", "C:\\x",
        "a/C:x", "a\0b", "a\nb", "a\x7f", "\udcff",
    ],
)  # fmt: skip
async def test_a_path_that_leads_out_of_the_folder_is_refused_before_anything_is_written(
    tmp_path: Path, path: str
) -> None:
    (tmp_path / "d").mkdir()

    with pytest.raises(UnsafePath if path.isascii() else RegistryError):
        await pull_from(Registry([entry("fine"), entry(path)]), tmp_path / "d")

    assert content(tmp_path) == {}


async def test_an_absolute_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafePath):
        await pull_from(Registry([entry(f"{tmp_path}/x")]), tmp_path / "d")

    assert everything(tmp_path) == []


@pytest.mark.parametrize("paths", [("a", "A"), ("a", "a/b"), ("a/b", "A"), ("x", "x")])
async def test_paths_that_cannot_exist_together_are_refused(tmp_path: Path, paths: tuple[str, str]) -> None:
    with pytest.raises(UnsafePath):
        await pull_from(Registry([entry(path) for path in paths]), tmp_path)

    assert content(tmp_path) == {}


@pytest.mark.parametrize(
    "registry",
    [
        Registry([entry("a", sha256="sha256:../../../x")]),
        Registry([entry("a", size_bytes=-1)]),
        Registry([entry("a")], digest=f"sha256:{'0' * 64}"),
        Registry([entry("a", size_bytes=3)]),
        Registry([entry("a", sha256=f"sha256:{'0' * 64}")]),
    ],
    ids=["no digest", "no size", "another digest of the version", "another size", "another digest"],
)
async def test_a_manifest_that_contradicts_the_version_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(Damaged):
        await pull_from(registry, tmp_path)

    assert content(tmp_path) == {}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder beside the target of the pull."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "f").write_bytes(b"mine")
    return folder


@pytest.mark.parametrize(("link", "to"), [("a", ""), ("a/b", ""), ("a/b/f", "f"), ("a/b/f", "dangling")])
async def test_a_symbolic_link_is_not_followed(tmp_path: Path, outside: Path, link: str, to: str) -> None:
    folder = tmp_path / "d"
    (folder / link).parent.mkdir(parents=True)
    (folder / link).symlink_to(outside / to)

    with pytest.raises(UnsafePath, match=f"{folder / link} is a symbolic link"):
        await pull_from(Registry([entry("a/b/f"), entry("other")]), folder)

    assert content(tmp_path) == {"outside/f": b"mine"}


@pytest.mark.parametrize("swapped", ["a", "a/b"])
async def test_a_symbolic_link_that_appears_during_the_pull_is_not_followed(
    transport: Transport, http: httpx.AsyncClient, fake: FakeS3, tmp_path: Path, outside: Path, swapped: str
) -> None:
    ref = await publish(http, {"a/b/e": SMALL, "a/b/f": LARGE})
    folder = tmp_path / "d"

    async def swap(exchange: Exchange) -> None:
        (folder / swapped).rename(folder / "aside")
        (folder / swapped).symlink_to(outside)
        await exchange.send(await exchange.asked())

    fake.misbehave("get", swap, times=1)
    with pytest.raises(UnsafePath, match="symbolic link"):
        await pull(transport, ref, folder, parallel=1)

    assert content(outside) == {"f": b"mine"}


@pytest.mark.parametrize("make", [os.link, os.symlink])
async def test_an_unfinished_file_with_a_second_name_is_not_written(
    transport: Transport, large: Ref, fake: FakeS3, tmp_path: Path, outside: Path, make: Callable[[Path, Path], None]
) -> None:
    fake.misbehave("get", Stalled(1000))
    async with cancelled_after(RecordedProgress(), 1000, transport, large, tmp_path / "d"):
        pass
    fake.behave()
    (part,) = everything(tmp_path / "d")
    part.unlink()
    make(outside / "f", part)

    await pull(transport, large, tmp_path / "d")

    assert content(tmp_path) == {"outside/f": b"mine", "d/f": LARGE}


def a_pipe(folder: Path) -> None:
    (folder / "a").mkdir()
    os.mkfifo(folder / "a" / "f")


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda folder: (folder / "a" / "f").mkdir(parents=True), "a/f"),
        (lambda folder: (folder / "a").write_bytes(b"mine"), "a"),
        (a_pipe, "a/f"),
    ],
    ids=["a folder", "a file", "a pipe"],
)
async def test_what_is_in_the_way_is_named(tmp_path: Path, make: Callable[[Path], object], where: str) -> None:
    make(tmp_path)

    with pytest.raises(UsageError, match=f"{tmp_path / where} is "):
        await pull_from(Registry([entry("0"), entry("a/f")]), tmp_path)

    assert "0" not in content(tmp_path)


async def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").write_bytes(b"mine")

    with pytest.raises(UsageError, match=f"{tmp_path}/d is a file. Name a folder"):
        await pull_from(Registry([entry("a")]), tmp_path / "d")


@contextlib.contextmanager
def tiny_disk(folder: Path) -> Iterator[Callable[[str], object]]:
    """Mount a file system of 256 KiB at `folder`. Yields a function that remounts it with other options."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=256k", "tmpfs", folder], capture_output=True, check=False).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def test_a_full_disk_is_reported_and_leaves_no_file_that_looks_complete(
    transport: Transport, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    ref = await publish(http, {"a/f": LARGE})
    with tiny_disk(tmp_path / "d") as remount:
        with pytest.raises(RegistryError, match=f"{tmp_path}/d/a/f: No space left on device"):
            await pull(transport, ref, tmp_path / "d")
        assert "a/f" not in content(tmp_path / "d")

        remount("size=8m")
        await pull(transport, ref, tmp_path / "d")

        assert content(tmp_path / "d") == {"a/f": LARGE}


async def test_a_folder_without_write_permission_is_named(
    transport: Transport, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    ref = await publish(http, {"a/f": SMALL})
    with tiny_disk(tmp_path / "d") as remount:
        remount("ro")

        with pytest.raises(RegistryError, match=f"{tmp_path}/d/a/f: Read-only file system"):
            await pull(transport, ref, tmp_path / "d", cache=Cache(tmp_path / "cache", 10**6))


@pytest.mark.parametrize("wrong", [{"parallel": 0}, {"transfer": "pigeon"}])
async def test_arguments_that_cannot_work_are_refused(
    transport: Transport, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    with pytest.raises(UsageError):
        await pull(transport, "m:1", tmp_path, **wrong)
