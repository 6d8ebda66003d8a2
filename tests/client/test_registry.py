"""Every method of the two clients, against a real service."""

import asyncio
import gc
import inspect
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

import model_registry_client
from model_registry_client import (
    AsyncRegistry,
    Conflict,
    Invalid,
    NotFound,
    PreconditionFailed,
    Ref,
    Registry,
    RegistryError,
    UsageError,
)
from tests.support.proxy import Proxy, SwallowReply
from tests.support.registering import register_version
from tests.support.scripted import QUICK, says, scripted
from tests.support.service import RunningService
from tools import sync_client

LABELS = ("1.0", "2.0", "10.0")


@pytest.fixture
async def registry(service: RunningService, client: httpx.AsyncClient) -> AsyncIterator[AsyncRegistry]:
    """A client of a registry with three versions of the model `m`. The last one has files."""
    for label in LABELS[:-1]:
        await register_version(client, "m", label)
    form = {"model_name": "m", "version": LABELS[-1]}
    files = [("model_file", (name, b"x" * size)) for size, name in enumerate(("a", "b/c d+ü", "b/e"))]
    assert (await client.post("/register_model", data=form, files=files)).status_code == 201
    async with AsyncRegistry(service.url, policy=QUICK) as registry:
        yield registry


@pytest.fixture
async def proxied(service: RunningService, registry: AsyncRegistry) -> AsyncIterator[tuple[Proxy, AsyncRegistry]]:
    async with (
        Proxy.to(*service.address) as proxy,
        AsyncRegistry(f"http://127.0.0.1:{proxy.port}", policy=QUICK) as registry,
    ):
        yield proxy, registry


# References


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("m", Ref("m", "latest")),
        ("m:latest", Ref("m", "latest")),
        ("m:1.0", Ref("m", "1.0")),
        ("m.n-o_p:1.0+cu.1", Ref("m.n-o_p", "1.0+cu.1")),
        ("m@champion", Ref("m", "@champion")),
        ("M:v1", Ref("M", "v1")),
    ],
)
def test_a_reference_is_read_and_written(text: str, ref: Ref) -> None:
    assert Ref.parse(text) == ref
    assert Ref.parse(str(ref)) == ref
    assert Ref.of(ref) is ref


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        "@",
        "m:",
        "m@",
        ":1.0",
        "@champion",
        "m:@champion",
        "m:1@a",
        "m@a:1",
        "m@A",
        "a b",
        "..",
        "a..b",
        "a/b",
        "-a",
    ],
)
def test_text_that_is_not_a_reference_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:VERSION"):
        Ref.parse(text)


@pytest.mark.parametrize("text", ["m", "m:latest", "m@champion"])
async def test_a_change_needs_the_label_of_the_version(registry: AsyncRegistry, text: str) -> None:
    with pytest.raises(UsageError, match="m:VERSION"):
        await registry.remove(text)

    assert Ref.parse("m:1.0").label == "1.0"
    assert len([version async for version in registry.versions("m")]) == 3


# Reading


async def test_a_version_is_found_by_label_alias_and_as_the_latest(registry: AsyncRegistry) -> None:
    await registry.alias_set("m", "champion", "2.0")

    found = [await registry.version(ref) for ref in ("m:1.0", "m@champion", "m", Ref("m"))]

    assert [version.version for version in found] == ["1.0", "2.0", "10.0", "10.0"]
    assert [str(version.ref) for version in found[:2]] == ["m:1.0", "m:2.0"]
    assert found[1].aliases == ("champion",)
    assert found[0].created_at.tzinfo is not None
    assert abs((datetime.now(UTC) - found[0].created_at).total_seconds()) < 600


async def test_lists_fetch_all_pages(registry: AsyncRegistry, client: httpx.AsyncClient) -> None:
    for name in ("n", "o", "p"):
        await client.post("/v1/models", json={"name": name, "tags": {"team": "risk", "live": True}})
    for alias in ("a", "b", "c"):
        await registry.alias_set("m", alias, "1.0")
        await registry.alias_set("m", "c", "2.0")

    lists: dict[str, list[Any]] = {
        "models": [each.name async for each in registry.models(page_size=3)],
        "named": [each.name async for each in registry.models("M", page_size=1)],
        "tagged": [each.name async for each in registry.models(tags={"team": "risk", "live": True}, page_size=2)],
        "versions": [each.version async for each in registry.versions("m", page_size=2)],
        "created": [each.version async for each in registry.versions("m", order="created", page_size=1)],
        "removed": [each.version async for each in registry.versions("m", state="removed")],
        "search": [each.version async for each in registry.search("number < 3", "number ASC", page_size=1)],
        "aliases": [each.alias async for each in registry.aliases("m", page_size=2)],
        "history": [each.version async for each in registry.alias_history("m", "c", page_size=1)],
        "files": [each.path async for each in registry.files("m", page_size=2)],
    }

    assert lists == {
        "models": ["m", "n", "o", "p"],
        "named": ["m"],
        "tagged": ["n", "o", "p"],
        "versions": ["10.0", "2.0", "1.0"],
        "created": ["10.0", "2.0", "1.0"],
        "removed": [],
        "search": ["1.0", "2.0"],
        "aliases": ["a", "b", "c"],
        "history": ["2.0", "1.0", "2.0", "2.0"],
        "files": ["a", "b/c d+ü", "b/e"],
    }


async def test_the_files_of_an_alias_are_of_one_version_even_if_it_moves(registry: AsyncRegistry) -> None:
    await registry.alias_set("m", "champion", "10.0")
    files = registry.files("m@champion", page_size=1)

    first = await anext(files)
    await registry.alias_set("m", "champion", "1.0")

    assert [first.path, *[file.path async for file in files]] == ["a", "b/c d+ü", "b/e"]


async def test_a_url_of_a_file_needs_no_credentials(registry: AsyncRegistry) -> None:
    signed = await registry.download_url("m", "b/e", expires_in_seconds=60)
    (*_, last) = [file async for file in registry.files("m:10.0", presign=True)]

    assert (signed.version, signed.size_bytes, signed.sha256) == ("10.0", 2, last.sha256)
    assert 0 < (signed.expires_at - datetime.now(UTC)).total_seconds() <= 60
    for url in (signed.url, last.url, registry.url("m", "b/e")):
        assert url is not None
        async with httpx.AsyncClient() as anybody:
            assert (await anybody.get(url)).content == b"xx"


async def test_addresses_are_encoded(registry: AsyncRegistry) -> None:
    async with httpx.AsyncClient() as anybody:
        assert (await anybody.get(registry.url("m", "b/c d+ü"))).content == b"x"
        assert (await anybody.get(registry.url("m:1.0"))).json()["version"] == "1.0"


async def test_events_end_with_the_log_and_continue_from_there(registry: AsyncRegistry) -> None:
    events = [event async for event in registry.events(page_size=2)]
    here = events[-1].resume_after
    await registry.alias_set("m", "champion", "1.0")

    assert [event.action for event in events].count("version.registered") == 3
    assert here is not None
    assert [event.action async for event in registry.events(here)] == ["alias.moved"]
    assert [event async for event in registry.events(model="n")] == []


async def test_models_versions_and_aliases_that_do_not_exist_are_not_found(registry: AsyncRegistry) -> None:
    for asked in (registry.model("n"), registry.version("m:3.0"), registry.version("m@none"), registry.alias("m", "n")):
        with pytest.raises(NotFound):
            await asked
    with pytest.raises(NotFound):
        await anext(registry.versions("n"))


async def test_an_invalid_filter_is_refused_with_its_column(registry: AsyncRegistry) -> None:
    with pytest.raises(Invalid, match="column"):
        await anext(registry.search("number <"))


# Changing


async def test_a_model_is_created_edited_and_deleted(registry: AsyncRegistry) -> None:
    made = await registry.create_model("n", description="Cards.", tags={"team": "risk", "size": 3})
    changed = await registry.update_model("n", tags={"size": None, "owner": "ada"}, if_match=made.etag)
    bare = await registry.update_model("n", description=None)

    assert (made.description, made.tags) == ("Cards.", {"team": "risk", "size": 3})
    assert (changed.description, changed.tags) == ("Cards.", {"team": "risk", "owner": "ada"})
    assert (bare.description, bare.tags) == (None, {"team": "risk", "owner": "ada"})
    with pytest.raises(Conflict):
        await registry.create_model("n")
    with pytest.raises(PreconditionFailed):
        await registry.update_model("n", description="Late.", if_match=made.etag)
    await registry.delete_model("n")
    with pytest.raises(NotFound):
        await registry.delete_model("n")


async def test_an_edit_changes_only_the_given_members_of_a_version(registry: AsyncRegistry) -> None:
    seen = await registry.version("m:1.0")
    await registry.update("m:1.0", additional_metadata={"metrics": {"auc": 0.9, "f1": 0.8}}, if_match=seen.etag)
    changed = await registry.update(
        "m:1.0", description="One.", tags={"a": 1}, additional_metadata={"metrics": {"f1": None}}
    )

    assert (changed.description, changed.tags) == ("One.", {"a": 1})
    assert changed.additional_metadata == {"metrics": {"auc": 0.9}}
    with pytest.raises(PreconditionFailed):
        await registry.update("m:1.0", description="Late.", if_match=seen.etag)


async def test_a_version_is_yanked_removed_and_restored(registry: AsyncRegistry) -> None:
    assert (await registry.yank("m:10.0", "Wrong labels.")).yank_reason == "Wrong labels."
    assert (await registry.version("m")).version == "2.0"
    assert not (await registry.unyank("m:10.0")).yanked

    await registry.alias_set("m", "champion", "10.0")
    with pytest.raises(Conflict, match="champion"):
        await registry.remove("m:10.0")
    assert (await registry.remove("m:10.0", force=True)).state == "removed"
    assert (await registry.restore("m:10.0")).state == "ready"
    assert (await registry.remove("m:10.0", purge=True)).purged_at is not None
    with pytest.raises(Conflict):
        await registry.restore("m:10.0")


async def test_an_alias_moves_only_from_the_expected_generation(registry: AsyncRegistry) -> None:
    made = await registry.alias_set("m", "champion", "1.0", create_only=True)
    moved = await registry.alias_set("m", "champion", "2.0", expected_generation=made.generation)

    assert moved.version == "2.0"
    for late in (
        registry.alias_set("m", "champion", "10.0", expected_generation=made.generation),
        registry.alias_set("m", "champion", "10.0", create_only=True),
        registry.alias_rollback("m", "champion", expected_generation=made.generation),
        registry.alias_remove("m", "champion", expected_generation=made.generation),
    ):
        with pytest.raises(PreconditionFailed) as raised:
            await late
        assert raised.value.exit_code == 4
        assert raised.value.problem.model_extra is not None
        assert raised.value.problem.model_extra["generation"] == moved.generation
    assert await registry.alias("m", "champion") == moved
    assert (await registry.alias("m", "champion", at=made.updated_at.isoformat())).version == "1.0"
    assert (await registry.alias_rollback("m", "champion")).version == "1.0"
    await registry.alias_remove("m", "champion")
    with pytest.raises(NotFound):
        await registry.alias_remove("m", "champion")


async def test_aliases_are_swapped_together_or_not_at_all(registry: AsyncRegistry) -> None:
    await registry.alias_set("m", "champion", "1.0")
    swapped = await registry.swap(
        "m",
        [
            {"alias": "champion", "version": "2.0", "expected_version": "1.0"},
            {"alias": "previous", "version": "1.0", "expected_version": None},
        ],
    )

    assert [(alias.alias, alias.version) for alias in swapped] == [("champion", "2.0"), ("previous", "1.0")]
    with pytest.raises(PreconditionFailed):
        await registry.swap("m", [{"alias": "champion", "version": "10.0", "expected_version": "1.0"}])


async def test_a_lost_response_does_not_turn_a_success_into_a_failure(proxied: tuple[Proxy, AsyncRegistry]) -> None:
    proxy, registry = proxied
    made = await registry.alias_set("m", "champion", "1.0")

    proxy.misbehave(SwallowReply(b"PUT"))
    moved = await registry.alias_set("m", "champion", "2.0", expected_generation=made.generation)
    proxy.misbehave(SwallowReply(b"DELETE"))
    await registry.alias_remove("m", "champion")
    proxy.misbehave(SwallowReply(b"POST"))
    model = await registry.create_model("n", tags={"a": 1})

    assert (moved.version, model.tags, proxy.struck) == ("2.0", {"a": 1}, 3)
    history = [move.version async for move in registry.alias_history("m", "champion")]
    assert history == [None, "2.0", "1.0"]


async def test_a_rollback_whose_response_is_lost_does_not_undo_itself(proxied: tuple[Proxy, AsyncRegistry]) -> None:
    proxy, registry = proxied
    for version in ("1.0", "2.0"):
        await registry.alias_set("m", "champion", version)

    proxy.misbehave(SwallowReply(b"/rollback"))
    with pytest.raises(PreconditionFailed, match="may have done it"):
        await registry.alias_rollback("m", "champion")

    assert (await registry.alias("m", "champion")).version == "1.0"


async def test_another_service_is_reported_as_not_a_registry() -> None:
    page = says(200, '{"items": [{}], "next_page_token": null}')
    async with scripted(page) as script, AsyncRegistry(script.url, policy=QUICK) as registry:
        for asked in (registry.model("m"), anext(registry.models()), registry.swap("m", [])):
            with pytest.raises(RegistryError, match="not a model registry"):
                await asked


# Without an event loop


async def test_the_blocking_client_does_the_same(registry: AsyncRegistry) -> None:
    def work() -> dict[str, Any]:
        with Registry(registry.base_url, policy=QUICK) as blocking:
            alias = blocking.alias_set("m", "champion", "1.0")
            with pytest.raises(PreconditionFailed):
                blocking.alias_set("m", "champion", "2.0", create_only=True)
            blocking.create_model("n", description="New.")
            found = {
                "versions": [each.version for each in blocking.versions("m", page_size=2)],
                "models": [each.name for each in blocking.models(page_size=1)],
                "found": [each.version for each in blocking.search("number = 1")],
                "files": [each.path for each in blocking.files("m", page_size=1)],
                "aliases": list(blocking.aliases("m")) == [alias] == [blocking.alias("m", "champion")],
                "history": [each.version for each in blocking.alias_history("m", "champion")],
                "swapped": blocking.swap("m", [{"alias": "champion", "version": "2.0"}])[0].version,
                "back": blocking.alias_rollback("m", "champion").version,
                "events": len(list(blocking.events(model="n"))),
                "model": blocking.update_model("n", description=None).description,
                "tags": blocking.update("m:1.0", tags={"a": 1}).tags,
                "yanked": blocking.yank("m:1.0").yanked,
                "unyanked": blocking.unyank("m:1.0").yanked,
                "removed": blocking.remove("m:2.0").state,
                "restored": blocking.restore("m:2.0").state,
                "latest": blocking.version("m").version,
                "url": blocking.url("m:1.0") == registry.url("m:1.0"),
                "signed": blocking.download_url("m", "a").path,
            }
            blocking.alias_remove("m", "champion")
            blocking.delete_model("n")
            return found | {"left": [*blocking.aliases("m"), *blocking.models("n")]}

    assert await asyncio.to_thread(work) == {
        "versions": ["10.0", "2.0", "1.0"],
        "models": ["m", "n"],
        "found": ["1.0"],
        "files": ["a", "b/c d+ü", "b/e"],
        "aliases": True,
        "history": ["1.0"],
        "swapped": "2.0",
        "back": "1.0",
        "events": 1,
        "model": None,
        "tags": {"a": 1},
        "yanked": True,
        "unyanked": False,
        "removed": "removed",
        "restored": "ready",
        "latest": "10.0",
        "url": True,
        "signed": "a",
        "left": [],
    }


def test_every_public_name_can_be_imported() -> None:
    assert [name for name in model_registry_client.__all__ if getattr(model_registry_client, name) is None] == []
    assert sorted(model_registry_client.__all__) == list(model_registry_client.__all__)
    with pytest.raises(AttributeError, match="Nothing"):
        _ = model_registry_client.Nothing


def test_the_blocking_client_is_generated_from_the_asynchronous_one() -> None:
    assert sync_client.TARGET.read_text() == sync_client.generated(), "Run `make format`."


def test_both_clients_have_the_same_signatures() -> None:
    def taken(kind: type) -> dict[str, list[tuple[str, object, object]]]:
        methods = inspect.getmembers(kind, lambda member: inspect.isfunction(member) and member.__name__[0] != "_")
        return {
            name: [(each.name, each.default, each.kind) for each in inspect.signature(method).parameters.values()]
            for name, method in methods
        }

    blocking, coroutines = taken(Registry), taken(AsyncRegistry)

    assert blocking.pop("close") == coroutines.pop("aclose")
    assert blocking == coroutines
    assert Registry.push.__doc__ == AsyncRegistry.push.__doc__ is not None


async def test_a_file_is_opened_without_a_download(registry: AsyncRegistry) -> None:
    def work() -> tuple[bytes, bytes]:
        with Registry(registry.base_url, policy=QUICK) as blocking, blocking.open("m", "b/e") as file:
            first = file.read()
            file.seek(1)
            return first, file.read(10)

    assert await asyncio.to_thread(work) == (b"xx", b"x")


async def test_a_folder_is_pushed_and_pulled_in_two_lines(registry: AsyncRegistry, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    (source / "weights.bin").write_bytes(b"weights")

    def work() -> tuple[str, bool]:
        with Registry(registry.base_url, policy=QUICK) as blocking:
            pushed = blocking.push(source, "new:1.0", params={"C": 1.0}, tags={"a": 1}, alias="champion")
            pulled = blocking.pull("new@champion", target, use_cache=False)
            return pushed.version.version, pulled.was_complete

    assert await asyncio.to_thread(work) == ("1.0", False)
    assert (target / "weights.bin").read_bytes() == b"weights"


async def test_many_threads_share_a_client(registry: AsyncRegistry) -> None:
    def work(blocking: Registry) -> list[str]:
        return [blocking.version(f"m:{label}").version for label in LABELS]

    with Registry(registry.base_url, policy=QUICK) as blocking:
        found = await asyncio.gather(*(asyncio.to_thread(work, blocking) for _ in range(8)))

    assert found == [list(LABELS)] * 8


async def test_a_closed_client_ends_its_thread_and_refuses_calls(registry: AsyncRegistry) -> None:
    before = set(threading.enumerate())
    blocking = Registry(registry.base_url, policy=QUICK)
    await asyncio.to_thread(blocking.version, "m")
    blocking.close()
    blocking.close()

    assert "model-registry-client" not in {thread.name for thread in set(threading.enumerate()) - before}
    with pytest.raises(UsageError, match="closed"):
        blocking.version("m")


async def test_closing_cancels_a_running_call() -> None:
    async with scripted() as script:
        blocking = Registry(script.url, policy=QUICK)
        waiting = asyncio.create_task(asyncio.to_thread(blocking.model, "m"))
        await script.until_requested()
        await asyncio.to_thread(blocking.close)

        with pytest.raises(UsageError, match="closed"):
            await waiting


async def test_a_client_without_references_closes_itself(registry: AsyncRegistry) -> None:
    before = set(threading.enumerate())
    blocking = Registry(registry.base_url, policy=QUICK)
    await asyncio.to_thread(blocking.version, "m")
    forgotten = weakref.ref(blocking)

    del blocking
    gc.collect()

    assert forgotten() is None
    assert "model-registry-client" not in {thread.name for thread in set(threading.enumerate()) - before}


SCRIPTS = {
    "left open": """
registry = Registry(url)
print(registry.version("m").version)
""",
    "in one line": """
print(Registry(url).version("m").version)
""",
    "left open in the middle of a list": """
versions = Registry(url).versions("m", page_size=1)
print(next(versions).version)
""",
    "after a fork": """
import os
registry = Registry(url)
registry.version("m")
child = os.fork()
if child == 0:
    print(registry.version("m").version, flush=True)
else:
    assert os.waitpid(child, 0)[1] == 0
    registry.version("m")
""",
    "within an event loop": """
import asyncio
async def main():
    with Registry(url) as registry:
        print(registry.version("m").version)
asyncio.run(main())
""",
    "interrupted": """
import os, signal, threading
from model_registry_client import RetryPolicy
registry = Registry("http://127.0.0.1:9", policy=RetryPolicy(first_contact_seconds=60))
try:
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    registry.version("m")
except KeyboardInterrupt:
    print(Registry(url).version("m").version)
""",
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_a_program_ends_cleanly(registry: AsyncRegistry, script: str) -> None:
    head = f"from model_registry_client import Registry\nurl = {registry.base_url!r}\n"
    command = [sys.executable, "-W", "error", "-c", head + script]
    run = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, env={"PYTHONPATH": "app", "HOME": "/"}
    )

    assert (run.stdout, run.stderr, run.returncode) == ("10.0\n", "", 0)
