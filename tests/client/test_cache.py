"""The cache of pulled files saves transfers, and never returns bytes with a wrong digest."""

import asyncio
import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest

from model_registry_client.cache import Cache, lock
from model_registry_client.pull import pull
from model_registry_client.transport import Transport
from tests.support.processes import environment, started
from tests.support.pulling import RecordedProgress, content
from tests.support.registering import register
from tests.support.service import RunningService

FILES = {"a": b"a" * 1_500_000, "b/c": b"c" * 1000, "b/same": b"c" * 1000}
DISTINCT_BYTES = 1_501_000
TOTAL_BYTES = 1_502_000
LIMIT_BYTES = 10_000_000


@pytest.fixture
async def transport(service: RunningService, client: httpx.AsyncClient) -> AsyncIterator[Transport]:
    """A client of a registry that has `m:1` with `FILES`."""
    assert (await register(client, {"model_name": "m", "version": "1"}, FILES)).status_code == 201
    async with Transport(service.url) as transport:
        yield transport


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", LIMIT_BYTES)


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def entry(cache: Cache, content: bytes) -> Path:
    """The path of the entry for these bytes."""
    name = digest(content).removeprefix("sha256:")
    return cache.root / "blobs" / "sha256" / name[:2] / name[2:]


def add(cache: Cache, content: bytes) -> Path:
    with open_file(content) as file:
        cache.add(digest(content), len(content), file)
    return entry(cache, content)


def copied(cache: Cache, content: bytes) -> bytes | None:
    """What the cache returns for these bytes."""
    with open_file(b"longer than what there was before" * 100) as file:
        if not cache.copy(digest(content), len(content), file):
            return None
        return os.pread(file, len(content), 0)


@contextlib.contextmanager
def open_file(content: bytes) -> Iterator[int]:
    file = os.memfd_create("file")
    try:
        os.write(file, content)
        yield file
    finally:
        os.close(file)


async def test_what_was_pulled_before_comes_from_the_cache(transport: Transport, cache: Cache, tmp_path: Path) -> None:
    first = await pull(transport, "m:1", tmp_path / "1", cache=cache, parallel=1)
    told = RecordedProgress()

    second = await pull(transport, "m:1", tmp_path / "2", cache=cache, progress=told)

    assert (first.downloaded_bytes, first.cached_bytes) == (DISTINCT_BYTES, TOTAL_BYTES - DISTINCT_BYTES)
    assert (second.downloaded_bytes, second.cached_bytes, second.was_complete) == (0, TOTAL_BYTES, False)
    assert (told.amounts["received"], told.amounts["saved"]) == (0, TOTAL_BYTES)
    assert content(tmp_path / "2") == FILES


async def test_a_pulled_file_can_be_changed_without_changing_the_cache(
    transport: Transport, cache: Cache, tmp_path: Path
) -> None:
    for folder in ("1", "2"):
        await pull(transport, "m:1", tmp_path / folder, cache=cache)
        with (tmp_path / folder / "a").open("r+b") as file:
            file.write(b"mine")

    pulled = await pull(transport, "m:1", tmp_path / "3", cache=cache)

    assert (pulled.downloaded_bytes, content(tmp_path / "3")) == (0, FILES)


def flip(path: Path) -> None:
    """Flip one bit and keep the mtime, as a failing disk does."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link(path: Path) -> None:
    path.rename(path.with_suffix(".aside"))
    path.symlink_to(path.with_suffix(".aside"))


def become_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


SPOILT: dict[str, Callable[[Path], object]] = {
    "a bit flipped": flip,
    "truncated": lambda path: os.truncate(path, 100),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: os.truncate(path, 2_000_000),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "gone": Path.unlink,
    "a link": link,
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
async def test_a_damaged_entry_is_dropped_and_downloaded_again(
    transport: Transport, cache: Cache, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    await pull(transport, "m:1", tmp_path / "1", cache=cache)
    spoil(entry(cache, FILES["a"]))
    told = RecordedProgress()

    second = await pull(transport, "m:1", tmp_path / "2", cache=cache, progress=told)
    third = await pull(transport, "m:1", tmp_path / "3", cache=cache)

    assert content(tmp_path / "2") == content(tmp_path / "3") == FILES
    assert (second.downloaded_bytes, third.downloaded_bytes) == (len(FILES["a"]), 0)
    is_damaged = spoil not in (Path.unlink, link)
    assert told.said == ["The cached copy of a was damaged. The file was downloaded again."] * is_damaged


@pytest.mark.parametrize("spoil", [*SPOILT.values(), become_folder], ids=[*SPOILT, "a folder"])
def test_a_damaged_entry_is_never_used(cache: Cache, spoil: Callable[[Path], object]) -> None:
    spoil(add(cache, FILES["a"]))

    assert copied(cache, FILES["a"]) is None


@pytest.mark.parametrize("spoil", [Path.touch, Path.mkdir], ids=["a file", "a folder that is full"])
async def test_a_pull_succeeds_if_the_cache_cannot_be_written(
    transport: Transport, cache: Cache, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    spoil(cache.root)
    if cache.root.is_dir():
        (cache.root / "tmp").touch()
    told = RecordedProgress()

    await pull(transport, "m:1", tmp_path / "1", cache=cache, progress=told)

    assert content(tmp_path / "1") == FILES
    assert [str(cache.root) in text for text in told.said] == [True]


def test_a_string_that_is_not_a_digest_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="is not a sha256"), open_file(b"x") as file:
        cache.add("sha256:../../x", 1, file)

    assert not cache.root.exists()


def test_bytes_that_change_during_the_copy_are_not_kept(cache: Cache) -> None:
    with open_file(b"y") as file:
        cache.add(digest(b"x"), 1, file)

    assert copied(cache, b"x") is None
    assert not entry(cache, b"x").exists()
    assert list((cache.root / "tmp").iterdir()) == []


def sized(cache: Cache) -> int:
    return sum(path.stat().st_size for path in (cache.root / "blobs").rglob("*") if path.is_file())


def some(size_bytes: int, count: int) -> list[bytes]:
    return [bytes([number]) * size_bytes for number in range(count)]


def age(path: Path, seconds: float) -> None:
    stamp = path.stat().st_mtime - seconds
    os.utime(path, (stamp, stamp))


def test_the_oldest_entries_are_deleted_first(cache: Cache) -> None:
    contents = some(3_000_000, 6)
    for number, each in enumerate(contents):
        age(add(cache, each), 100 - number)

    cache.trim()

    assert sized(cache) == 9_000_000
    assert [copied(cache, each) == each for each in contents] == [False] * 3 + [True] * 3


def test_a_used_entry_counts_as_new(cache: Cache) -> None:
    contents = some(3_000_000, 4)
    for number, each in enumerate(contents[:3]):
        age(add(cache, each), 100 - number)
    assert copied(cache, contents[0]) == contents[0]

    add(cache, contents[3])
    cache.trim()

    assert [entry(cache, each).exists() for each in contents] == [True, False, True, True]


def test_an_entry_that_is_being_read_stays(cache: Cache) -> None:
    contents = some(6_000_000, 2)
    old = add(cache, contents[0])
    age(old, 100)
    with old.open("rb") as reader:
        assert lock(reader.fileno(), shared=True)

        add(cache, contents[1])
        cache.trim()

        assert copied(cache, contents[0]) == contents[0]
    age(old, 100)
    cache.trim()
    assert not old.exists()
    assert copied(cache, contents[1]) == contents[1]


def test_a_file_larger_than_the_cache_is_not_added(cache: Cache) -> None:
    kept = add(cache, b"kept")

    add(cache, bytes(LIMIT_BYTES + 1))
    cache.trim()

    assert (kept.exists(), sized(cache)) == (True, 4)


def test_files_of_dead_writers_are_deleted_and_those_of_running_ones_stay(cache: Cache) -> None:
    add(cache, b"x")
    dead, alive, begun = (cache.root / "tmp" / name for name in ("dead", "alive", "begun"))
    for path in (dead, alive, begun):
        path.write_bytes(b"half")
    age(dead, 100)
    age(alive, 100)
    with alive.open("rb") as writer:
        assert lock(writer.fileno())

        cache.trim()

        assert (dead.exists(), alive.exists(), begun.exists()) == (False, True, True)


def test_parallel_readers_get_the_right_bytes_or_none(cache: Cache) -> None:
    contents = some(1_500_000, 12)
    wrong: list[str] = []

    def use(number: int) -> None:
        mine = Cache(cache.root, LIMIT_BYTES)
        for turn in range(12):
            each = contents[(turn * 5 + number) % len(contents)]
            if (given := copied(mine, each)) is None:
                add(mine, each)
            elif given != each:
                wrong.append(f"{number}, {turn}")

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    cache.trim()
    assert not wrong
    assert sized(cache) <= LIMIT_BYTES


PULL = """
import asyncio, sys
from pathlib import Path
from model_registry_client.cache import Cache
from model_registry_client.pull import pull
from model_registry_client.transport import Transport

async def main(url, root, folder):
    async with Transport(url) as transport:
        for turn in range(5):
            await pull(transport, "m:1", Path(folder, str(turn)), cache=Cache(Path(root), 2_000_000))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_processes_can_share_a_cache_that_is_too_small(
    transport: Transport, cache: Cache, tmp_path: Path
) -> None:
    """Both fill the cache at the same time, and evict the entries of the other."""
    command = [sys.executable, "-W", "error", "-c", PULL, transport.url, str(cache.root)]
    async with contextlib.AsyncExitStack() as stack:
        processes = [
            await stack.enter_async_context(
                started(str(tmp_path / name), env=environment(), cwd=tmp_path, command=command)
            )
            for name in ("x", "y")
        ]
        ends = await asyncio.gather(*(process.communicate() for process in processes))

    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, ends, strict=True)] == [
        (0, b"")
    ] * 2
    for name in ("x", "y"):
        for turn in range(5):
            assert content(tmp_path / name / str(turn)) == FILES
    assert sized(cache) <= 2_000_000
    assert list((cache.root / "tmp").iterdir()) == []
