"""A push publishes exactly the bytes on disk. It resumes, and takes any way to storage that works."""

import asyncio
import hashlib
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

import httpx
import pytest

from model_registry.settings import Settings
from model_registry_client import push as pushing
from model_registry_client.digests import sha256
from model_registry_client.errors import Conflict, Invalid, RegistryError, Unreachable, UsageError
from model_registry_client.local_files import FileChanged
from model_registry_client.progress import Silent
from model_registry_client.push import push
from model_registry_client.retries import RetryPolicy
from model_registry_client.transport import Transport
from model_registry_client.types import Pushed, Ref
from model_registry_devstack import StackAddresses
from tests.resilience.faults.fake_s3 import Exchange, FakeS3, Fault, HangsUp, Says
from tests.support.proxy import Proxy, RandomReset, Rate, Refuse
from tests.support.service import RunningService, ServiceWith, make_settings, running

MIB = 1024**2
PART = 5 * MIB
LARGE = b"".join(bytes([letter]) * MIB for letter in range(8))
FILES = {
    "model.bin": LARGE,
    "conf/labels.txt": b"ok\nfraud\n",
    "conf/deep/er/\u00fcber \u6a21\u578b.json": b"{}",
    "empty": b"",
    ".hidden": b"seen",
}
SIZE = sum(map(len, FILES.values()))
REF = Ref("fraud", "1.0")


@dataclass
class Recorded(Silent):
    """Records what a push reports. `at_sent` is called with the total of the sent bytes."""

    at_sent: Callable[[int], None] = lambda _: None
    hashed_bytes: int = 0
    sent_bytes: int = 0
    saved_bytes: int = 0
    done: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    ended: int = 0
    publishings: int = 0

    def publishing(self) -> None:
        self.publishings += 1

    def hashed(self, size_bytes: int) -> None:
        self.hashed_bytes += size_bytes

    def sent(self, size_bytes: int) -> None:
        self.sent_bytes += size_bytes
        self.at_sent(self.sent_bytes)

    def saved(self, size_bytes: int) -> None:
        self.saved_bytes += size_bytes

    def file_done(self, path: str) -> None:
        self.done.append(path)

    def say(self, text: str) -> None:
        self.said.append(text)

    def end(self) -> None:
        self.ended += 1


class Damages:
    """One byte of the body of a request arrives with another value."""

    async def __call__(self, exchange: Exchange) -> None:
        if not exchange.request.endswith(b"\r\n\r\n"):
            exchange.request = exchange.request[:-1] + bytes([exchange.request[-1] ^ 1])
        await exchange.send(await exchange.asked())


class Late:
    """The response comes after URLs that are valid for two seconds have expired."""

    async def __call__(self, exchange: Exchange) -> None:
        answer = await exchange.asked()
        await asyncio.sleep(3.1)
        await exchange.send(answer)


@pytest.fixture(scope="module")
async def service(stack: StackAddresses, settings: Settings) -> AsyncIterator[RunningService]:
    """A service that splits smaller files into parts than usual."""
    async with running(make_settings(stack, multipart_threshold_bytes=MIB, multipart_part_bytes=PART)) as service:
        yield service


@asynccontextmanager
async def reaching(url: str, **policy: Any) -> AsyncIterator[Transport]:
    short = {"first_contact_seconds": 0.5, "retry_seconds": 15, "base_delay_seconds": 0.05, "max_delay_seconds": 0.5}
    async with Transport(url, RetryPolicy(**short | policy)) as transport:
        yield transport


@pytest.fixture
async def transport(service: RunningService, client: httpx.AsyncClient) -> AsyncIterator[Transport]:
    async with reaching(service.url) as transport:
        yield transport


@pytest.fixture(scope="module")
async def service_past_faults(
    stack: StackAddresses, settings: Settings
) -> AsyncIterator[tuple[RunningService, FakeS3]]:
    """A service whose clients, but not itself, reach storage through a proxy that can misbehave."""
    async with FakeS3.before(stack.s3_endpoint_url) as store:
        changes: dict[str, Any] = {"multipart_threshold_bytes": MIB, "multipart_part_bytes": PART}
        async with running(make_settings(stack, s3_public_endpoint_url=store.url, **changes)) as service:
            yield service, store


@pytest.fixture
async def past_faults(
    service_past_faults: tuple[RunningService, FakeS3], fresh: None
) -> AsyncIterator[tuple[Transport, FakeS3]]:
    """A client, and its way to storage."""
    service, store = service_past_faults
    store.seen.clear()
    async with reaching(service.url) as transport:
        yield transport, store
    store.behave()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "folder", FILES)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


def digest_of(files: dict[str, bytes]) -> str:
    """The digest of a version, computed here."""
    lines = sorted((path.encode(), content) for path, content in files.items())
    manifest = b"".join(b"%s  %d  %s\n" % (hashlib.sha256(c).hexdigest().encode(), len(c), path) for path, c in lines)
    return f"sha256:{hashlib.sha256(manifest).hexdigest()}"


async def visible(transport: Transport) -> list[str]:
    return [item["version"] for item in await transport.get_json("/list_models")]


async def assert_holds(transport: Transport, pushed: Pushed, files: dict[str, bytes]) -> None:
    """Check that the version has exactly these files."""
    version = pushed.version
    assert (version.state, version.digest, version.file_count) == ("ready", digest_of(files), len(files))
    for path, content in files.items():
        answer = await transport.request(
            "GET", f"/get_model/{version.model_name}/{version.version}", params={"path": path}
        )
        assert answer.content == content


@pytest.mark.parametrize("transfer", ["auto", "direct", "proxied"])
async def test_a_folder_becomes_a_version(transport: Transport, folder: Path, transfer: str) -> None:
    progress = Recorded()

    pushed = await push(
        transport,
        folder,
        REF,
        params={"C": 1.0, "gap": float("nan")},
        standardization_params={"mean": [0.5]},
        metadata={"auc": 0.97},
        description="first",
        tags={"team": "risk"},
        alias="champion",
        transfer=transfer,
        progress=progress,
    )

    await assert_holds(transport, pushed, FILES)
    version = pushed.version
    assert (version.model_params, version.standardization_params) == ({"C": 1, "gap": None}, {"mean": [0.5]})
    assert (version.description, version.tags, version.aliases) == ("first", {"team": "risk"}, ("champion",))
    assert (pushed.sent_bytes, pushed.saved_bytes, pushed.sent_files, pushed.was_ready) == (SIZE, 0, len(FILES), False)
    assert (progress.hashed_bytes, progress.sent_bytes, progress.saved_bytes) == (SIZE, SIZE, 0)
    assert (sorted(progress.done), progress.said, progress.publishings, progress.ended) == (sorted(FILES), [], 1, 1)


async def test_a_file_by_itself_is_pushed_under_its_name(transport: Transport, folder: Path) -> None:
    pushed = await push(transport, folder / "conf" / "labels.txt", REF)

    await assert_holds(transport, pushed, {"labels.txt": FILES["conf/labels.txt"]})


async def test_files_that_storage_has_are_not_sent_again(transport: Transport, folder: Path) -> None:
    await push(transport, folder, REF)
    (folder / "new").write_bytes(b"new")
    (folder / "new too").write_bytes(b"new")
    progress = Recorded()

    pushed = await push(transport, folder, Ref("other", "1"), progress=progress)

    assert (pushed.sent_bytes, pushed.saved_bytes, pushed.sent_files) == (3, SIZE + 3, 1)
    assert (progress.sent_bytes, progress.saved_bytes, len(progress.done)) == (3, SIZE + 3, len(FILES) + 2)


async def test_a_push_that_succeeded_changes_nothing_when_it_is_run_again(transport: Transport, folder: Path) -> None:
    first = await push(transport, folder, REF, alias="champion")
    alias = await transport.get_json("/v1/models/fraud/aliases/champion")

    again = await push(transport, folder, REF, alias="champion")

    assert (again.was_ready, again.sent_bytes, again.saved_bytes, again.sent_files) == (True, 0, SIZE, 0)
    assert again.version.model_dump(exclude={"generation"}) == first.version.model_dump(exclude={"generation"})
    assert await transport.get_json("/v1/models/fraud/aliases/champion") == alias


async def test_an_alias_that_was_not_set_is_set_by_the_next_run(transport: Transport, folder: Path) -> None:
    await push(transport, folder, REF)

    pushed = await push(transport, folder, REF, alias="champion")

    assert (pushed.was_ready, pushed.version.aliases) == (True, ("champion",))


async def test_an_invalid_alias_is_refused_before_anything_is_sent(transport: Transport, folder: Path) -> None:
    with pytest.raises(Invalid, match="alias"):
        await push(transport, folder, REF, alias="latest")

    assert (await transport.get_json("/v1/models"))["items"] == []


async def test_different_content_under_the_same_label_is_a_conflict_that_shows_the_digest(
    transport: Transport, folder: Path
) -> None:
    await push(transport, folder, REF)

    with pytest.raises(Conflict, match="The files are the same, but the parameters differ"):
        await push(transport, folder, REF, params={"C": 1})
    (folder / "empty").write_bytes(b"not any more")
    with pytest.raises(Conflict, match="The files differ") as caught:
        await push(transport, folder, REF)

    assert getattr(caught.value.problem, "digest", None) == digest_of(FILES)
    assert caught.value.exit_code == 4


async def test_without_a_version_each_push_takes_the_next_number(transport: Transport, folder: Path) -> None:
    numbers = [(await push(transport, folder, ref)).version.version for ref in (("fraud", None), Ref("fraud"))]

    assert numbers == ["1", "2"]


async def test_a_push_needs_a_label_instead_of_an_alias(transport: Transport, folder: Path) -> None:
    with pytest.raises(UsageError, match="fraud:VERSION"):
        await push(transport, folder, Ref("fraud", "@champion"))


async def test_many_files_are_pushed_at_once(transport: Transport, tmp_path: Path) -> None:
    files = {f"{number % 10}/{number}": b"%d" % number for number in range(300)}

    pushed = await push(transport, write(tmp_path / "many", files), REF, parallel=16)

    assert (pushed.version.digest, pushed.sent_files) == (digest_of(files), 300)


async def test_two_pushes_of_the_same_folder_both_succeed(transport: Transport, folder: Path) -> None:
    both = await asyncio.gather(*(push(transport, folder, REF) for _ in range(2)))

    assert both[0].version.id == both[1].version.id
    await assert_holds(transport, both[0], FILES)


async def test_a_commit_that_takes_long_is_waited_for(service_with: ServiceWith, folder: Path, fresh: None) -> None:
    service = await service_with(commit_wait_seconds=0.001, multipart_threshold_bytes=MIB)
    async with reaching(service.url) as transport:
        await assert_holds(transport, await push(transport, folder, REF), FILES)


async def test_a_push_that_outlives_its_lease_keeps_it(
    stack: StackAddresses, service_with: ServiceWith, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pushing, "_RENEW_SECONDS", 0.3)
    storage = httpx.URL(stack.s3_endpoint_url)
    async with Proxy.to(storage.host, storage.port or 80) as proxy:
        service = await service_with(s3_public_endpoint_url=f"http://127.0.0.1:{proxy.port}", upload_lease_seconds=1)
        proxy.misbehave(Rate(8 * MIB))
        async with reaching(service.url) as transport:
            pushed = await push(transport, folder, REF)

            await assert_holds(transport, pushed, FILES)
            assert pushed.sent_bytes == SIZE


# Interrupted


async def cancelled_at(transport: Transport, source: Path, size_bytes: int, ref: Any = REF) -> Recorded:
    """Cancel a push when it has sent `size_bytes`."""
    is_time = asyncio.Event()
    progress = Recorded(lambda sent_bytes: is_time.set() if sent_bytes >= size_bytes else None)
    running = asyncio.create_task(push(transport, source, ref, parallel=1, progress=progress))
    await is_time.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    return progress


async def test_a_cancelled_push_is_invisible_and_continues_with_the_missing_parts(
    past_faults: tuple[Transport, FakeS3], folder: Path
) -> None:
    transport, store = past_faults
    interrupted = await cancelled_at(transport, folder, PART + MIB)
    seen_first = store.seen["put_part"]
    invisible = await visible(transport)
    progress = Recorded()
    pushed = await push(transport, folder, REF, progress=progress)

    assert (invisible, interrupted.ended) == ([], 1)
    assert (seen_first, store.seen["put_part"] - seen_first) == (1, 1)
    assert pushed.saved_bytes >= PART
    assert progress.sent_bytes == pushed.sent_bytes == SIZE - pushed.saved_bytes
    await assert_holds(transport, pushed, FILES)


async def test_a_cancelled_push_continues_with_the_missing_files(
    past_faults: tuple[Transport, FakeS3], tmp_path: Path
) -> None:
    files = {str(number): bytes([number]) * 1000 for number in range(40)}
    folder = write(tmp_path / "folder", files)
    transport, store = past_faults
    interrupted = await cancelled_at(transport, folder, 20_000, ("fraud", None))
    seen_first = store.seen["put"]
    pushed = await push(transport, folder, ("fraud", "1"))

    assert interrupted.said == ["To continue this push, push to fraud:1."]
    assert store.seen["put"] - seen_first <= 21
    assert pushed.saved_bytes >= 19_000
    await assert_holds(transport, pushed, files)


async def test_different_content_than_that_of_an_unfinished_push_is_a_conflict(
    transport: Transport, folder: Path
) -> None:
    await cancelled_at(transport, folder, MIB)
    (folder / "empty").write_bytes(b"not any more")
    progress = Recorded()

    with pytest.raises(Conflict, match=r"An unfinished push of fraud:1\.0 .*`model-registry rm fraud:1\.0`"):
        await push(transport, folder, REF, progress=progress)

    assert progress.said == []


async def test_a_service_that_restarts_in_the_middle_is_waited_for(
    service: RunningService, folder: Path, client: Any
) -> None:
    async with Proxy.to(*service.address) as proxy, reaching(f"http://127.0.0.1:{proxy.port}") as transport:

        class Restarting(Recorded):
            """The service goes away after the first MiB, and returns when the client reports that."""

            def say(self, text: str) -> None:
                super().say(text)
                proxy.behave()

        def stop(sent_bytes: int) -> None:
            if sent_bytes == MIB:
                proxy.misbehave(Refuse())

        for transfer in ("direct", "proxied"):
            files = FILES | {"model.bin": transfer.encode() + LARGE}
            write(folder, files)
            progress = Restarting(stop)
            pushed = await push(transport, folder, ("fraud", transfer), transfer=transfer, progress=progress)
            await assert_holds(transport, pushed, files)


# Storage that is unreachable, or refuses


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def test_a_client_that_cannot_reach_storage_sends_through_the_service(
    service_with: ServiceWith, folder: Path, closed_port: int
) -> None:
    service = await service_with(s3_public_endpoint_url=f"http://127.0.0.1:{closed_port}")
    progress = Recorded()
    async with reaching(service.url) as transport:
        with pytest.raises(Unreachable, match=f"127.0.0.1:{closed_port}"):
            await push(transport, folder, REF, transfer="direct")
        pushed = await push(transport, folder, REF, progress=progress)

        waiting, said = progress.said
        assert waiting.startswith(f"No response from http://127.0.0.1:{closed_port}. Retrying for up to ")
        assert said.startswith(f"Storage at http://127.0.0.1:{closed_port} cannot be reached from here: ")
        assert said.endswith(". Sending through the registry instead.")
        assert (pushed.sent_bytes, progress.sent_bytes) == (SIZE, SIZE)
        await assert_holds(transport, pushed, FILES)


async def test_a_push_that_loses_its_storage_fails_and_can_be_continued(
    stack: StackAddresses, service_with: ServiceWith, folder: Path
) -> None:
    storage = httpx.URL(stack.s3_endpoint_url)
    async with Proxy.to(storage.host, storage.port or 80) as proxy:
        service = await service_with(s3_public_endpoint_url=f"http://127.0.0.1:{proxy.port}")
        progress = Recorded(lambda sent_bytes: proxy.misbehave(Refuse()) if sent_bytes >= 2 * MIB else None)
        async with reaching(service.url, retry_seconds=0.5) as transport:
            with pytest.raises(Unreachable, match=f"127.0.0.1:{proxy.port}"):
                await push(transport, folder, REF, parallel=1, progress=progress)
            proxy.behave()
            pushed = await push(transport, folder, REF)

            assert pushed.sent_files == 1
            await assert_holds(transport, pushed, FILES)


@pytest.mark.parametrize(
    ("operation", "fault", "times"),
    [
        pytest.param("put", Says(503, "SlowDown"), 3, id="busy"),
        pytest.param("put_part", Says(500, "InternalError"), 3, id="broken"),
        pytest.param("put_part", Says(503, "SlowDown", arrives=True), 2, id="busy after taking a part"),
        pytest.param("put", HangsUp(arrives=False), 3, id="hangs up"),
        pytest.param("put", HangsUp(arrives=True), 3, id="hangs up after taking a file"),
        pytest.param("put_part", HangsUp(arrives=True), 2, id="hangs up after taking a part"),
        pytest.param("put", Says(403, "AccessDenied"), 2, id="refuses URLs"),
        pytest.param("put_part", Says(403, "AccessDenied"), 2, id="refuses URLs of parts"),
        pytest.param("put", Damages(), 3, id="damages files"),
        pytest.param("put_part", Damages(), 1, id="damages a part"),
    ],
)
async def test_storage_that_fails_for_some_time_gets_all_files(
    past_faults: tuple[Transport, FakeS3], folder: Path, operation: Any, fault: Fault, times: int
) -> None:
    progress = Recorded()
    transport, store = past_faults
    store.misbehave(operation, fault, times=times)
    pushed = await push(transport, folder, REF, transfer="direct", progress=progress)

    await assert_holds(transport, pushed, FILES)
    assert progress.sent_bytes + progress.saved_bytes == SIZE


@pytest.mark.parametrize(
    ("operation", "fault"),
    [("put", Says(307, "TemporaryRedirect")), ("put_part", Says(403, "SignatureDoesNotMatch"))],
    ids=["redirects", "refuses parts"],
)
async def test_if_storage_never_takes_anything_the_push_goes_through_the_service(
    past_faults: tuple[Transport, FakeS3], folder: Path, operation: Any, fault: Says
) -> None:
    transport, store = past_faults
    store.misbehave(operation, fault)
    with pytest.raises(RegistryError, match=f"Storage did not take .*{fault.status}.*{fault.code}"):
        await push(transport, folder, REF, transfer="direct")

    await assert_holds(transport, await push(transport, folder, REF), FILES)


@pytest.mark.parametrize(("operation", "name"), [("put", "labels.txt"), ("put_part", "model.bin")])
async def test_bytes_that_are_damaged_in_every_attempt_are_an_error_that_names_the_file(
    past_faults: tuple[Transport, FakeS3], tmp_path: Path, operation: Any, name: str
) -> None:
    folder = write(tmp_path / "folder", {"labels.txt": FILES["conf/labels.txt"], "model.bin": LARGE})
    transport, store = past_faults
    store.misbehave(operation, Damages())
    with pytest.raises(RegistryError, match=name):
        await push(transport, folder, REF, transfer="direct")

    assert await visible(transport) == []


async def test_urls_that_expire_are_replaced(stack: StackAddresses, service_with: ServiceWith, tmp_path: Path) -> None:
    files = {str(number): bytes([number]) * MIB for number in range(3)}
    async with FakeS3.before(stack.s3_endpoint_url) as store:
        service = await service_with(s3_public_endpoint_url=store.url, presign_expiry_seconds=2)
        async with reaching(service.url) as transport:
            store.misbehave("put", Late(), times=1)
            pushed = await push(transport, write(tmp_path / "folder", files), REF, transfer="direct", parallel=1)

            assert store.seen["put"] >= 4
            await assert_holds(transport, pushed, files)


async def test_a_push_survives_random_resets_of_all_connections(
    stack: StackAddresses, service_with: ServiceWith, folder: Path
) -> None:
    storage = httpx.URL(stack.s3_endpoint_url)
    async with Proxy.to(storage.host, storage.port or 80) as to_storage:
        service = await service_with(
            s3_public_endpoint_url=f"http://127.0.0.1:{to_storage.port}",
            multipart_threshold_bytes=MIB,
            multipart_part_bytes=PART,
        )
        async with (
            Proxy.to(*service.address) as to_service,
            reaching(f"http://127.0.0.1:{to_service.port}", first_contact_seconds=15) as transport,
        ):
            to_storage.misbehave(RandomReset(0.005))
            to_service.misbehave(RandomReset(0.2))
            pushed = await push(transport, folder, REF)
            to_service.behave()

            assert to_storage.struck + to_service.struck > 0
            await assert_holds(transport, pushed, FILES)


# Files that change


def _grows(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def _shrinks(path: Path) -> None:
    os.truncate(path, 2 * MIB)


def _is_rewritten(path: Path) -> None:
    path.write_bytes(LARGE[::-1])


def _is_replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(LARGE[::-1])
    other.rename(path)


def _is_rewritten_in_secret(path: Path) -> None:
    status = path.stat()
    _is_rewritten(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("change", "transfer"),
    [
        (_grows, "direct"),
        (_shrinks, "direct"),
        (_is_rewritten, "direct"),
        (_is_replaced, "direct"),
        (_is_rewritten_in_secret, "direct"),
        (Path.unlink, "direct"),
        (_is_rewritten, "proxied"),
        (_is_rewritten_in_secret, "proxied"),
    ],
)
async def test_a_file_that_changes_while_it_is_pushed_is_named_and_nothing_is_published(
    transport: Transport, tmp_path: Path, change: Callable[[Path], None], transfer: str
) -> None:
    folder = write(tmp_path / "folder", {"a": b"other", "model.bin": LARGE})
    file = folder / "model.bin"
    changes = iter([change])
    progress = Recorded(lambda sent_bytes: next(changes, lambda _: None)(file) if sent_bytes >= MIB else None)

    with pytest.raises(FileChanged, match=r"folder/model\.bin changed during the push"):
        await push(transport, folder, REF, transfer=transfer, progress=progress)

    assert (await visible(transport), progress.ended) == ([], 1)
    file.write_bytes(LARGE)
    # The label is free for the new content.
    (folder / "a").write_bytes(b"something else")
    await assert_holds(transport, await push(transport, folder, REF), {"a": b"something else", "model.bin": LARGE})


@pytest.mark.parametrize("transfer", ["direct", "proxied"])
async def test_a_file_that_changes_after_it_was_sent_is_noticed_before_the_commit(
    transport: Transport, folder: Path, transfer: str
) -> None:
    progress = Recorded(lambda sent_bytes: _grows(folder / ".hidden") if sent_bytes == SIZE else None)

    with pytest.raises(FileChanged, match="hidden"):
        await push(transport, folder, REF, transfer=transfer, progress=progress)

    assert await visible(transport) == []


# Files on disk


async def test_ignored_files_are_pushed_only_on_request(transport: Transport, tmp_path: Path) -> None:
    kept = {"model.bin": b"weights", ".hidden/file": b"x", "git": b"y"}
    litter = {".git/config": b"1", "a/__pycache__/b.pyc": b"2", ".DS_Store": b"3", "a/.DS_Store": b"4"}
    litter[".weights.bin.0123456789abcdef.part"] = b"of a pull that was interrupted"
    folder = write(tmp_path / "folder", kept | litter)

    await assert_holds(transport, await push(transport, folder, ("fraud", "kept")), kept)
    await assert_holds(transport, await push(transport, folder, ("fraud", "all"), include_all=True), kept | litter)


async def test_links_are_followed(transport: Transport, tmp_path: Path) -> None:
    elsewhere = write(tmp_path / "elsewhere", {"a": b"a", "b/c": b"c"})
    folder = write(tmp_path / "folder", {"d": b"d"})
    (folder / "file").symlink_to(elsewhere / "a")
    (folder / "b").symlink_to(elsewhere / "b")
    (tmp_path / "link").symlink_to(folder)

    pushed = await push(transport, tmp_path / "link", REF)

    await assert_holds(transport, pushed, {"d": b"d", "file": b"a", "b/c": b"c"})


async def test_names_are_sent_in_unicode_normal_form_c(transport: Transport, tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", {"u\u0308ber": b"x"})

    await assert_holds(transport, await push(transport, folder, REF), {"\u00fcber": b"x"})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(lambda folder: None, "has no files to push", id="empty"),
        pytest.param(lambda folder: (folder / ".git").mkdir(), "has no files to push", id="only litter"),
        pytest.param(lambda folder: folder.rmdir(), "No such file", id="not there"),
        pytest.param(
            lambda folder: (folder / "loop").symlink_to(folder), "link to a folder that contains it", id="loop"
        ),
        pytest.param(lambda folder: (folder / "self").symlink_to("self"), "self", id="link to itself"),
        pytest.param(
            lambda folder: (folder / "dangling").symlink_to("nowhere"), "dangling.*No such file", id="dangling"
        ),
        pytest.param(lambda folder: os.mkfifo(folder / "pipe"), "pipe is neither a file nor a folder", id="pipe"),
        pytest.param(lambda folder: write(folder, {"a/B": b"", "A/b": b""}), "differ only in case", id="case"),
        pytest.param(
            lambda folder: Path(os.fsdecode(bytes(folder) + b"/\xff")).write_bytes(b""), "not UTF-8", id="no text"
        ),
    ],
)
async def test_files_that_cannot_be_a_version_are_refused_before_anything_is_sent(
    transport: Transport, tmp_path: Path, make: Callable[[Path], object], said: str
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)

    with pytest.raises(UsageError, match=said):
        await push(transport, folder, REF)

    assert (await transport.get_json("/v1/models"))["items"] == []


async def test_a_name_that_the_registry_refuses_is_named(transport: Transport, tmp_path: Path) -> None:
    folder = write(tmp_path / "folder", {"a": b"", "b\nc": b""})

    with pytest.raises(Invalid, match=r"^'b\\nc': a path has no control characters"):
        await push(transport, folder, REF)


@pytest.mark.parametrize("options", [{"transfer": "by post"}, {"parallel": 0}])
async def test_invalid_options_are_refused(transport: Transport, folder: Path, options: Any) -> None:
    with pytest.raises(UsageError):
        await push(transport, folder, REF, **options)


# Digests and memory


@pytest.mark.parametrize("size_bytes", [0, 1, MIB, 3 * MIB + 7])
async def test_the_digest_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path, size_bytes: int) -> None:
    content = os.urandom(size_bytes)
    (tmp_path / "file").write_bytes(content)
    counted: list[int] = []

    digest = await sha256(tmp_path / "file", counted.append)

    assert (digest, sum(counted)) == (f"sha256:{hashlib.sha256(content).hexdigest()}", size_bytes)


_PUSHING = """
    import asyncio, resource, sys
    from pathlib import Path
    from model_registry_client.push import push
    from model_registry_client.transport import Transport

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    async def main(url, small, large, transfer):
        async with Transport(url) as transport:
            await push(transport, Path(small), ("fraud", "small"), transfer=transfer)
            before = peak()
            await push(transport, Path(large), ("fraud", "large"), transfer=transfer)
            print(peak() - before)

    asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("transfer", ["direct", "proxied"])
async def test_memory_does_not_grow_with_the_files(
    service: RunningService, client: Any, tmp_path: Path, transfer: str
) -> None:
    (tmp_path / "small").write_bytes(LARGE)
    with (tmp_path / "large").open("wb") as file:
        file.truncate(96 * MIB)
    arguments = [service.url, tmp_path / "small", tmp_path / "large", transfer]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        dedent(_PUSHING),
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(pushing.__file__).parents[1])},
    )
    printed, _ = await process.communicate()

    assert process.returncode == 0
    assert int(printed) < 32 * 1024  # in KiB
