"""For any sequence of one client's requests, the registry and a plain model of it give the same results."""

import asyncio
import io
import json
import tarfile
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.db_models import Base
from tests.properties.budget import examples
from tests.properties.model import Json, Model, Refused, Registry, Version, sha256
from tests.support.bucket import Bucket
from tests.support.checker import check
from tests.support.ledger import Attempt
from tests.support.service import RunningService

T = TypeVar("T")

NAMES = ["m", "m", "m", "M", "m-2"]
LABELS = ["1.0", "1.0.0", "v1.0", "1.10", "2.0rc1", "2.0.dev1", "1.0.post1", "1.0+cpu", "nightly", "1", "2", "3", "x"]
ALIASES = ["champion", "b", "a-1"]
PATHS = ["a", "A", "d", "d/x", "d/é", "z z"]
CONTENTS = [b"", b"a", b"b", b"weights" * 300]
PARAMS: list[Json] = [{}, {"C": 1}, {"C": 1.0}, {"C": 2, "p": {"x": [1, None]}}]
DETAILS: list[Json] = [{}, {"k": {"a": 1}}, {"k": {"a": "1"}, "z": [True]}]
TAGS: list[Json] = [{}, {"team": "risk"}, {"team": "x", "n": 1}]

names = st.sampled_from(NAMES)
aliases = st.sampled_from(ALIASES)
maybe_texts = st.sampled_from([None, "", "one", "two"])
contents = st.sampled_from(CONTENTS)
files = st.lists(st.tuples(st.sampled_from(PATHS), contents), max_size=3, unique_by=lambda file: file[0])
patches: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {},
    optional={
        "description": maybe_texts,
        "tags": st.sampled_from([*TAGS, None, {"team": None}]),
        "additional_metadata": st.sampled_from([*DETAILS, None, {"k": {"a": None, "b": []}}, {"k": None}]),
    },
)
model_patches: st.SearchStrategy[Json] = st.fixed_dictionaries(
    {}, optional={"description": maybe_texts, "tags": st.sampled_from([*TAGS, None, {"team": None}])}
)
# The condition of a change: none, the current state, another state, or that nothing exists.
conditions = st.sampled_from(["", "", "right", "wrong", "absent"])

FILTERS: dict[str, Callable[[Version], bool]] = {
    "": lambda v: v.state == "ready",
    "model_name = 'm'": lambda v: v.state == "ready" and v.model_name == "m",
    "model_name ILIKE 'M%' AND NOT version = '1.0'": lambda v: (
        v.state == "ready" and v.model_name in {"m", "M", "m-2"} and v.label != "1.0"
    ),
    "version LIKE '1%' OR number >= 3": lambda v: v.state == "ready" and (v.label.startswith("1") or v.number >= 3),
    "state = 'removed'": lambda v: v.state == "removed",
    "state != 'ready' AND size_bytes < 2": lambda v: v.state != "ready" and v.size_bytes < 2,
    "state IN ('pending', 'ready') AND number > 1": lambda v: v.state in {"pending", "ready"} and v.number > 1,
    "size_bytes > 1": lambda v: v.state == "ready" and v.size_bytes > 1,
    "tags.team = 'risk' OR tags.n = 1": lambda v: (
        v.state == "ready" and (v.tags.get("team") == "risk" or v.tags.get("n") == 1)
    ),
    "additional_metadata.k.a = 1": lambda v: v.state == "ready" and (v.metadata.get("k") or {}).get("a") == 1,
    "model_params.C = 1.0": lambda v: v.state == "ready" and v.params.get("C") == 1,
}
ORDERS: dict[str, Callable[[Version], Any]] = {
    "created_at": lambda v: v.born,
    "model_name": lambda v: (v.model_name, v.number),
    "number": lambda v: (v.number, v.born),
    "size_bytes": lambda v: (v.size_bytes, v.born),
}


class World:
    """The service, for a thread without an event loop."""

    def __init__(self, service: RunningService, engine: AsyncEngine, bucket: Bucket) -> None:
        self._service = service
        self._engine = engine
        self._bucket = bucket
        self._loop = asyncio.get_running_loop()
        self.http = httpx.Client(base_url=service.url, timeout=30)

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def sql(self, *statements: str) -> None:
        async def run() -> None:
            async with self._engine.begin() as connection:
                for statement in statements:
                    await connection.execute(text(statement))

        self._wait(run())

    def empty(self) -> None:
        self.sql(f"TRUNCATE {', '.join(table.name for table in Base.metadata.sorted_tables)}")
        self._wait(self._bucket.empty())

    def collect(self) -> None:
        self._wait(self._service.services.collector.collect())

    def complaints(self, attempts: Iterable[Attempt], seen: Sequence[int]) -> list[str]:
        """Return what is wrong with rows and objects, when nothing is unfinished and a collector has run."""

        async def look() -> list[str]:
            verdict = await check(attempts, self._engine, self._bucket, followed=[seen])
            async with self._engine.connect() as connection:
                for what, query in _NEVER.items():
                    verdict.complaints += [f"{what}: {row}" for row in await connection.execute(text(query))]
                kept = await connection.scalars(
                    text("SELECT storage_key FROM blobs UNION SELECT storage_key FROM garbage")
                )
                if left := await self._bucket.keys() - set(kept):
                    verdict.complaints.append(f"objects that nothing needs: {left}")
            return verdict.complaints

        return self._wait(look())


_NEVER = {
    "garbage that is due": "SELECT storage_key FROM garbage WHERE not_before <= now() AND writable_until IS NULL",
    "an upload that is still open": "SELECT storage_key FROM uploads",
    "an unfinished version": "SELECT model_name, version FROM model_info WHERE state NOT IN ('ready', 'removed')",
    "a provisional model": "SELECT name FROM registered_models WHERE is_provisional",
    "other sizes than those of the files": """
        SELECT version FROM model_info WHERE purged_at IS NULL AND (file_count, size_bytes) <>
        (SELECT count(*), coalesce(sum(size_bytes), 0) FROM version_files WHERE version_id = model_info.id)""",
}


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.http = world.http
        world.empty()
        self.model = Registry()
        self.attempts: list[Attempt] = []
        self.urls: dict[tuple[int, bytes], Json] = {}  # for a version, by its birth: how to send bytes
        self.shown: dict[int, tuple[int, str, Json]] = {}  # for a version: revision, ETag, and what was shown then
        self.shown_models: dict[str, tuple[str, Json]] = {}
        self.last_generation = 0
        self.feed: list[Json] = []
        self.feed_token = ""
        self.touched = "m"

    # Requests and comparisons

    def agrees(self, answer: httpx.Response, expected: Callable[[], T]) -> T | None:
        """Check that the service and the model both refuse alike or both succeed; returns the model's result."""
        done, slug = None, ""
        try:
            done = expected()
        except Refused as refused:
            slug = refused.slug
        if slug:
            assert answer.headers["content-type"] == "application/problem+json", answer.text
            assert answer.json()["type"] == f"urn:model-registry:problem:{slug}", answer.text
        else:
            assert answer.is_success, answer.text
        return done

    def is_done(self, answer: httpx.Response, expected: Callable[[], None]) -> bool:
        """The same, for a request without a result."""

        def done() -> bool:
            expected()
            return True

        return self.agrees(answer, done) is True

    def attempt(self, operation: str, version: Version) -> None:
        facts = {"files": {path: sha256(data) for path, data in version.files.items()}}
        answer = {"digest": version.digest} if operation == "push" else {}
        self.attempts.append(Attempt(operation, version.model_name, version.label, facts, 200, answer))

    def is_as_expected(self, answer: httpx.Response, version: Version) -> None:
        """Check all that a version shows, and its ETag: it is another one exactly if something was changed."""
        info = answer.json()
        expected = expected_info(self.model, version)
        assert {name: info[name] for name in expected} == expected
        assert [{name: file[name] for name in ("path", "size_bytes", "sha256")} for file in info["files"]] == (
            [] if version.is_purged else expected_files(version)
        )
        assert info["created_at"].endswith("Z")
        etag = answer.headers.get("etag")
        if etag is None:
            return
        revision, before, shown = self.shown.get(version.born, (version.revision, etag, info))
        assert (etag == before) == (version.revision == revision)
        assert etag != before or info == shown
        self.shown[version.born] = version.revision, etag, info

    def all_items(self, path: str, limit: int, **query: str) -> list[Json]:
        items: list[Json] = []
        token: str | None = ""
        while token is not None:
            answer = self.http.get(path, params=query | {"limit": str(limit), "page_token": token})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            assert len(page["items"]) <= limit
            assert page["items"] or not items
            items += page["items"]
            token = page["next_page_token"]
        return items

    def some_version(self, data: st.DataObject, state: str = "") -> tuple[str, str]:
        """Return a version that exists, most of the time."""
        there = [(each.model_name, each.label) for each in self.model.versions if state in {"", each.state}]
        return data.draw(st.sampled_from([*sorted(there), ("m", "1.0"), ("M", "none")]))

    def some_alias(self, data: st.DataObject) -> tuple[str, str]:
        there = [(name, alias) for name, model in self.model.models.items() for alias in model.aliases]
        return data.draw(st.sampled_from([*sorted(there), ("m", "b"), ("M", "b")]))

    def condition_of(self, kind: str, name: str, alias: str) -> tuple[dict[str, str], str | None]:
        """Return headers that make a move depend on the alias, and the refusal that they cause."""
        is_there = alias in self.model.models.get(name, Model()).aliases
        match kind:
            case "right":
                etag = self.http.get(f"/v1/models/{name}/aliases/{alias}").headers.get("etag", '"1"')
                return {"If-Match": etag}, None if is_there else "precondition-failed"
            case "wrong":
                return {"If-Match": f'"{self.last_generation + 1}", "x"'}, "precondition-failed"
            case "absent":
                return {"If-None-Match": "*"}, "precondition-failed" if is_there else None
            case _:
                return {}, None

    def moved(self, *aliases: Json) -> None:
        """Check that generations only grow, and that none comes twice."""
        generations = sorted(each["generation"] for each in aliases)
        assert all(one < other for one, other in zip([self.last_generation, *generations], generations, strict=False))
        self.last_generation = generations[-1]

    # Registering and pushing

    @initialize(labels=st.lists(st.sampled_from(LABELS), max_size=4, unique=True), content=contents)
    def some_are_there(self, labels: list[str], content: bytes) -> None:
        for label in labels:
            self.register_by_form("m", label, [("a", content), ("d/x", label.encode())], {})

    @rule(name=names, label=st.sampled_from(LABELS), sent=files, params=st.sampled_from(PARAMS))
    def register_by_form(self, name: str, label: str, sent: list[tuple[str, bytes]], params: Json) -> None:
        parts: list[tuple[str, Any]] = [("model_name", (None, name)), ("version", (None, label))]
        parts += [("model_file", file) for file in sent]
        parts.append(("model_params", (None, json.dumps(params))))
        self._registered(self.http.post("/register_model", files=parts), name, label, sent, params)

    @rule(name=names, label=st.sampled_from(LABELS), params=st.sampled_from(PARAMS))
    def register_by_json(self, name: str, label: str, params: Json) -> None:
        body = {"model_name": name, "version": label, "model_params": params}
        self._registered(self.http.post("/register_model", json=body), name, label, [], params)

    def _registered(
        self, answer: httpx.Response, name: str, label: str, sent: list[tuple[str, bytes]], params: Json
    ) -> None:
        self.touched = name
        if version := self.agrees(answer, lambda: self.model.register(name, label, sent, params)):
            assert answer.status_code == 201
            self.is_as_expected(answer, version)
            self.attempt("push", version)

    @rule(
        name=names,
        label=st.none() | st.sampled_from(LABELS),
        meant=files,
        params=st.sampled_from(PARAMS),
        description=maybe_texts,
        transfer=st.sampled_from(["direct", "proxied"]),
    )
    def reserve(
        self,
        name: str,
        label: str | None,
        meant: list[tuple[str, bytes]],
        params: Json,
        description: str | None,
        transfer: str,
    ) -> None:
        self._reserve(name, label, dict(meant), params, description, transfer)

    @precondition(lambda self: any(each.state != "removed" for each in self.model.versions))
    @rule(data=st.data(), description=maybe_texts, transfer=st.sampled_from(["direct", "proxied"]))
    def reserve_again(self, data: st.DataObject, description: str | None, transfer: str) -> None:
        version = data.draw(st.sampled_from([each for each in self.model.versions if each.state != "removed"]))
        self._reserve(version.model_name, version.label, version.files, version.params, description, transfer)

    def _reserve(
        self, name: str, label: str | None, meant: Mapping[str, bytes], params: Json, description: str | None, via: str
    ) -> None:
        self.touched = name
        entries = [
            {"path": path, "size_bytes": len(content), "sha256": sha256(content)} for path, content in meant.items()
        ]
        body: Json = {"files": entries, "model_params": params, "description": description, "transfer": via}
        answer = self.http.post(f"/v1/models/{name}/versions", json=body | ({"version": label} if label else {}))
        reserved = self.agrees(answer, lambda: self.model.reserve(name, label, meant, params, description))
        if reserved is None:
            return
        version, is_new = reserved
        assert answer.status_code == (201 if is_new else 200)
        self.is_as_expected(answer, version)
        instructions = answer.json()["uploads"]
        assert [each["path"] for each in instructions] == list(meant)
        asked = [each for each in instructions if not each["already_stored"]]
        lacking = set() if version.state == "ready" else set(meant.values()) - version.pinned - version.sent
        assert sorted(each["sha256"] for each in asked) == sorted(f"sha256:{sha256(content)}" for content in lacking)
        for each in asked:
            assert each["method"] == ("put" if via == "direct" else "proxy")
            self.urls[version.born, meant[each["path"]]] = each

    @precondition(lambda self: any(each.state == "pending" for each in self.model.versions))
    @rule(data=st.data(), may_be_wrong=contents, is_right=st.sampled_from([True, True, True, False]))
    def send(self, data: st.DataObject, may_be_wrong: bytes, is_right: bool) -> None:
        """Follow the instructions of the last reservation, in any state of the version."""
        pending = [each for each in self.model.versions if each.state == "pending"]
        known = [(each, content) for each in pending for born, content in self.urls if born == each.born]
        if not known:
            return
        version, meant = data.draw(st.sampled_from(known))
        how = self.urls[version.born, meant]
        content = meant if is_right else may_be_wrong
        answer = self.http.put(how["url"], content=content, headers=how["headers"])
        if how["method"] == "proxy":
            name, label = version.model_name, version.label
            self.agrees(answer, lambda: self.model.send(name, label, content, meant))
        elif content == meant:
            assert answer.is_success or answer.status_code == 412, answer.text
            version.sent.add(content)
        else:
            assert answer.is_error

    @rule(data=st.data(), content=contents, meant=contents)
    def send_through_us(self, data: st.DataObject, content: bytes, meant: bytes) -> None:
        name, label = self.some_version(data)
        version = self.model.models.get(name, Model()).versions.get(label)
        path = next((path for path, each in version.files.items() if each == meant), None) if version else None
        if path is None:
            return
        answer = self.http.put(f"/v1/models/{name}/versions/{label}/files/{quote(path)}", content=content)
        self.agrees(answer, lambda: self.model.send(name, label, content, meant))

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        name, label = self.some_version(data, "pending")
        self._commit(name, label)

    @rule(data=st.data())
    def commit_anything(self, data: st.DataObject) -> None:
        self._commit(*self.some_version(data))

    @precondition(lambda self: any(each.state == "pending" for each in self.model.versions))
    @rule(data=st.data())
    def send_all_and_commit(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from([each for each in self.model.versions if each.state == "pending"]))
        name, label = version.model_name, version.label
        for path, content in version.files.items():
            answer = self.http.put(f"/v1/models/{name}/versions/{label}/files/{quote(path)}", content=content)
            self.agrees(answer, lambda data=content: self.model.send(name, label, data, data))  # type: ignore[misc]
        self._commit(name, label)

    def _commit(self, name: str, label: str) -> None:
        self.touched = name
        answer = self.http.post(f"/v1/models/{name}/versions/{label}/commit")
        if version := self.agrees(answer, lambda: self.model.commit(name, label)):
            self.is_as_expected(answer, version)
            self.attempt("push", version)

    # Changes of a version

    @rule(data=st.data(), patch=patches)
    def patch_version(self, data: st.DataObject, patch: Json) -> None:
        name, label = self.some_version(data)
        answer = self.http.patch(f"/v1/models/{name}/versions/{label}", json=patch)
        if version := self.agrees(answer, lambda: self.model.patch_version(name, label, patch)):
            self.is_as_expected(answer, version)

    @rule(data=st.data(), patch=patches)
    def patch_what_is_not_there_any_more(self, data: st.DataObject, patch: Json) -> None:
        name, label = self.some_version(data, "ready")
        headers = {"If-Match": '"0.0"'}
        answer = self.http.patch(f"/v1/models/{name}/versions/{label}", json=patch, headers=headers)

        def expected() -> None:
            self.model.held_ready(name, label)
            raise Refused("precondition-failed")

        self.agrees(answer, expected)

    @rule(data=st.data(), reason=maybe_texts, takes_back=st.booleans())
    def yank(self, data: st.DataObject, reason: str | None, takes_back: bool) -> None:
        name, label = self.touched, _ = self.some_version(data)
        if takes_back:
            answer = self.http.post(f"/v1/models/{name}/versions/{label}/unyank")
            version = self.agrees(answer, lambda: self.model.unyank(name, label))
            if version:
                self.attempt("unyank", version)
        else:
            answer = self.http.post(f"/v1/models/{name}/versions/{label}/yank", json={"reason": reason})
            version = self.agrees(answer, lambda: self.model.yank(name, label, reason))
        if version:
            self.is_as_expected(answer, version)

    @rule(data=st.data(), force=st.booleans(), purge=st.booleans())
    def remove(self, data: st.DataObject, force: bool, purge: bool) -> None:
        name, label = self.some_version(data)
        flags = {"force": str(force).lower(), "purge": str(purge).lower()}
        answer = self.http.delete(f"/v1/models/{name}/versions/{label}", params=flags)
        self._removed(answer, name, label, force=force, purge=purge, may_be_pending=True)

    @rule(data=st.data(), force=st.booleans())
    def remove_as_at_first(self, data: st.DataObject, force: bool) -> None:
        name, label = self.some_version(data)
        answer = self.http.delete(f"/remove_model/{name}/{label}", params={"force": str(force).lower()})
        self._removed(answer, name, label, force=force, purge=False, may_be_pending=False)

    def _removed(self, answer: httpx.Response, name: str, label: str, **how: bool) -> None:
        self.touched = name
        version = self.model.models.get(name, Model()).versions.get(label)
        is_removed = self.is_done(answer, lambda: self.model.remove(name, label, **how))
        if is_removed and version:
            assert answer.json()["state"] == "removed"
            if version.state == "removed":
                self.is_as_expected(answer, version)
                self.attempt("purge" if version.is_purged else "remove", version)

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        name, label = self.touched, _ = self.some_version(data, data.draw(st.sampled_from(["", "removed"])))
        answer = self.http.post(f"/v1/models/{name}/versions/{label}/restore")
        if version := self.agrees(answer, lambda: self.model.restore(name, label)):
            self.is_as_expected(answer, version)
            self.attempt("restore", version)

    # Aliases

    @rule(data=st.data(), alias=aliases, kind=conditions, state=st.sampled_from(["", "ready", "ready"]))
    def put_alias(self, data: st.DataObject, alias: str, kind: str, state: str) -> None:
        name, label = self.touched, _ = self.some_version(data, state)
        headers, or_else = self.condition_of(kind, name, alias)
        was_there = alias in self.model.models.get(name, Model()).aliases
        answer = self.http.put(f"/v1/models/{name}/aliases/{alias}", json={"version": label}, headers=headers)
        if self.is_done(answer, lambda: self.model.move(name, {alias: label}, or_else=or_else)):
            assert answer.status_code == (200 if was_there else 201)
            assert answer.headers["etag"] == f'"{answer.json()["generation"]}"'
            self.moved(answer.json())

    @rule(data=st.data(), kind=conditions)
    def delete_alias(self, data: st.DataObject, kind: str) -> None:
        name, alias = self.some_alias(data)
        headers, or_else = self.condition_of(kind, name, alias)
        answer = self.http.delete(f"/v1/models/{name}/aliases/{alias}", headers=headers)
        self.agrees(answer, lambda: self.model.drop(name, alias, or_else=or_else))

    @rule(data=st.data(), kind=conditions)
    def roll_back_alias(self, data: st.DataObject, kind: str) -> None:
        name, alias = self.some_alias(data)
        headers, or_else = self.condition_of(kind, name, alias)
        answer = self.http.post(f"/v1/models/{name}/aliases/{alias}/rollback", headers=headers)
        if self.is_done(answer, lambda: self.model.roll_back(name, alias, or_else=or_else)):
            self.moved(answer.json())

    @rule(
        data=st.data(),
        moves=st.lists(st.tuples(aliases, st.sampled_from(["", "right", "right", "wrong"])), min_size=1, max_size=3),
    )
    def swap_aliases(self, data: st.DataObject, moves: list[tuple[str, str]]) -> None:
        name, label = self.some_version(data, "ready")
        model = self.model.models.get(name, Model())
        labels = st.sampled_from([label, *sorted(model.versions)])
        body: list[Json] = [{"alias": alias, "version": data.draw(labels)} for alias, _ in moves]
        for move, (alias, kind) in zip(body, moves, strict=True):
            if kind:
                move["expected_version"] = model.aliases.get(alias) if kind == "right" else "never"
        answer = self.http.post(f"/v1/models/{name}/aliases:swap", json={"moves": body})

        def expected() -> None:
            planned = {move["alias"]: move["version"] for move in body}
            if len(planned) < len(body):
                raise Refused("invalid-field")
            is_elsewhere = any(kind == "wrong" for _, kind in moves)
            self.model.move(name, planned, or_else="precondition-failed" if is_elsewhere else None)

        if self.is_done(answer, expected):
            assert [item["alias"] for item in answer.json()["items"]] == [move["alias"] for move in body]
            self.moved(*answer.json()["items"])

    # Models

    @rule(name=names, description=maybe_texts, tags=st.sampled_from(TAGS))
    def create_model(self, name: str, description: str | None, tags: Json) -> None:
        self.touched = name
        answer = self.http.post("/v1/models", json={"name": name, "description": description, "tags": tags})
        self.agrees(answer, lambda: self.model.create(name, description, tags))

    @rule(name=names, patch=model_patches)
    def patch_model(self, name: str, patch: Json) -> None:
        self.touched = name
        answer = self.http.patch(f"/v1/models/{name}", json=patch)
        self.agrees(answer, lambda: self.model.patch_model(name, patch))

    @rule(name=names)
    def delete_model(self, name: str) -> None:
        self.touched = name
        self.agrees(self.http.delete(f"/v1/models/{name}"), lambda: self.model.delete(name))

    # Time and the collector

    @rule()
    def leases_expire(self) -> None:
        self._let_leases_expire()

    def _let_leases_expire(self) -> None:
        ago = "now() - interval '1 second' WHERE lease_expires_at IS NOT NULL"
        self.world.sql(*(f"UPDATE {table} SET lease_expires_at = {ago}" for table in ("model_info", "uploads")))
        self.model.let_leases_expire()

    @rule(purges=st.booleans())
    def collect(self, purges: bool) -> None:
        if purges:
            self.world.sql("UPDATE model_info SET purge_after = purge_after - interval '1 year'")
        was_purged = {version.born for version in self.model.versions if version.is_purged}
        self.world.collect()
        self.model.collect(purges=purges)
        for version in self.model.versions:
            if version.is_purged and version.born not in was_purged:
                self.attempt("purge", version)

    # Reads

    @rule(data=st.data(), is_original=st.booleans())
    def get_version(self, data: st.DataObject, is_original: bool) -> None:
        name, label = self.some_version(data)
        selector = data.draw(st.sampled_from([label, "latest", *(f"@{alias}" for alias in ALIASES)]))
        path = f"/get_model_info/{name}/{selector}" if is_original else f"/v1/models/{name}/versions/{selector}"
        answer = self.http.get(path)

        def expected() -> Version:
            there = self.model.models.get(name, Model()).versions.get(selector)
            if not is_original and there and there.state == "pending" and not there.is_expired:
                return there
            return self.model.find(name, selector)

        if version := self.agrees(answer, expected):
            assert answer.headers["x-model-version"] == version.label
            self.is_as_expected(answer, version)
            again = self.http.get(path, headers={"If-None-Match": answer.headers["etag"]})
            assert again.status_code == 304

    @rule(data=st.data(), start=st.integers(0, 4000), length=st.integers(1, 2000))
    def download(self, data: st.DataObject, start: int, length: int) -> None:
        name, label = self.some_version(data, "ready")
        base = f"/v1/models/{name}/versions/{label}"
        answer = self.http.get(f"{base}/archive.tar")
        version = self.agrees(answer, lambda: self.model.find(name, label))
        if version is None:
            return
        archive = tar_of(version)
        assert answer.content == archive
        part = self.http.get(f"{base}/archive.tar", headers={"Range": f"bytes={start}-{start + length - 1}"})
        assert part.content == archive[start : start + length] if start < len(archive) else part.status_code == 416
        assert self.all_files(version, 2) == expected_files(version)
        for path, content in version.files.items():
            for url in (f"{base}/files/{quote(path)}", f"/get_model/{name}/{label}?path={quote(path)}"):
                answer = self.http.get(url)
                assert (answer.status_code, answer.content) == (200, content)
                assert answer.headers["etag"] == f'"{sha256(content)}"'

    def all_files(self, version: Version, limit: int) -> list[Json]:
        items = self.all_items(f"/v1/models/{version.model_name}/versions/{version.label}/files", limit)
        return [{name: item[name] for name in ("path", "size_bytes", "sha256")} for item in items]

    @rule(limit=st.integers(1, 4), search=st.sampled_from(["", "M", "-", "x"]), tag=st.sampled_from(["", "risk", "x"]))
    def find_models(self, limit: int, search: str, tag: str) -> None:
        found = self.all_items("/v1/models", limit, search=search, **({"tag.team": tag} if tag else {}))
        expected = [
            name
            for name, model in sorted(self.model.models.items())
            if not model.is_provisional
            and search.lower() in name.lower()
            and (not tag or model.tags.get("team") == tag)
        ]
        assert [item["name"] for item in found] == expected

    @rule(limit=st.integers(1, 4), only=st.none() | names)
    def list_models(self, limit: int, only: str | None) -> None:
        url = f"/list_models?limit={limit}" + (f"&model_name={only}" if only else "")
        listed: list[Json] = []
        while url:
            answer = self.http.get(url)
            assert answer.status_code == 200, answer.text
            listed += answer.json()
            url = answer.links.get("next", {}).get("url", "")
        expected = [
            (name, version.label, version is model.latest, version.size_bytes, version.digest)
            for name, model in sorted(self.model.models.items())
            if only in {None, name}
            for version in model.in_state()
        ]
        members = ("model_name", "version", "is_latest", "size_bytes", "digest")
        assert [tuple(item[member] for member in members) for item in listed] == expected

    @rule(
        name=names,
        limit=st.integers(1, 4),
        state=st.sampled_from(["ready", "removed", "pending"]),
        order=st.sampled_from(["precedence", "created"]),
    )
    def list_versions(self, name: str, limit: int, state: str, order: str) -> None:
        path = f"/v1/models/{name}/versions"
        if name not in self.model.models:
            answer = self.http.get(path)
            self.agrees(answer, lambda: self.model.known(name))
            return
        versions = self.model.models[name].in_state(state)
        if order == "created":
            versions.sort(key=lambda each: each.number, reverse=True)
        listed = self.all_items(path, limit, state=state, order=order)
        assert [item["version"] for item in listed] == [each.label for each in versions]
        assert [item["state"] for item in listed] == [state] * len(versions)

    @rule(
        condition=st.sampled_from(sorted(FILTERS)),
        order=st.sampled_from(sorted(ORDERS)),
        is_descending=st.booleans(),
        limit=st.integers(1, 4),
    )
    def search(self, condition: str, order: str, is_descending: bool, limit: int) -> None:
        order_by = f"{order} {'DESC' if is_descending else 'ASC'}"
        found = self.all_items("/v1/versions", limit, filter=condition, order_by=order_by)
        expected = [each for each in self.model.versions if not each.is_expired and FILTERS[condition](each)]
        expected.sort(key=ORDERS[order], reverse=is_descending)
        assert [(item["model_name"], item["version"]) for item in found] == [
            (each.model_name, each.label) for each in expected
        ]

    @rule(name=names, limit=st.integers(1, 4))
    def read_aliases(self, name: str, limit: int) -> None:
        path = f"/v1/models/{name}/aliases"
        model = self.model.models.get(name, Model())
        if model.is_provisional:
            self.agrees(self.http.get(path), lambda: self.model.known(name))
            return
        listed = self.all_items(path, limit)
        assert {item["alias"]: item["version"] for item in listed} == model.aliases
        assert [item["alias"] for item in listed] == sorted(model.aliases)
        generations = {item["alias"]: item["generation"] for item in listed}
        for alias, history in model.history.items():
            moves = self.all_items(f"{path}/{alias}/history", limit)
            assert [move["version"] for move in moves] == history[::-1]
            taken = [move["generation"] for move in moves]
            assert taken == sorted(set(taken), reverse=True)
            assert taken[0] == generations.get(alias, taken[0])
            assert [move["at"] for move in moves] == sorted((move["at"] for move in moves), reverse=True)

    @rule(limit=st.integers(1, 7))
    def read_events(self, limit: int) -> None:
        """Check that each event comes once, in the order of the changes."""
        while True:
            answer = self.http.get("/v1/events", params={"limit": limit, "after": self.feed_token})
            page = answer.json()
            self.feed_token = page["next_page_token"]
            if not page["items"]:
                break
            assert len(page["items"]) <= limit
            self.feed += page["items"]
        for item in self.feed:
            item["details"].pop("generation", None)
        told = [(item["action"], item["model"], item["version"], item["details"]) for item in self.feed]
        assert told == self.model.events

    # Invariants

    @invariant()
    def what_was_touched_is_as_expected(self) -> None:
        self._is_model_as_expected(self.touched)

    def _is_model_as_expected(self, name: str) -> None:
        answer = self.http.get(f"/v1/models/{name}")
        model = self.agrees(answer, lambda: self.model.known(name))
        if model is None:
            return
        shown = answer.json()
        assert shown["version_count"] == len(model.in_state())
        assert shown["latest_version"] == (model.latest and model.latest.label)
        assert {item["alias"]: item["version"] for item in shown["aliases"]} == model.aliases
        assert (shown["description"], shown["tags"]) == (model.description, model.tags)
        etag = answer.headers["etag"]
        before = self.shown_models.get(name, (etag, shown))
        assert (etag == before[0]) == (shown == before[1])
        self.shown_models[name] = etag, shown

    def teardown(self) -> None:
        for name in sorted(set(NAMES)):
            self._is_model_as_expected(name)
            self.read_aliases(name, 3)
            for state in ("ready", "removed", "pending"):
                self.list_versions(name, 3, state, "precedence")
        for version in self.model.versions:
            if version.state == "ready":
                for path, content in version.files.items():
                    url = f"/get_model/{version.model_name}/{version.label}"
                    assert self.http.get(url, params={"path": path}).content == content
        self.find_models(3, "", "")
        self.list_models(3, None)
        self.read_events(100)
        self._let_leases_expire()
        self.collect(purges=False)
        assert self.world.complaints(self.attempts, [item["id"] for item in self.feed]) == []


def expected_info(registry: Registry, version: Version) -> Json:
    is_removed = version.state == "removed"
    return {
        "model_name": version.model_name,
        "version": version.label,
        "number": version.number,
        "state": version.state,
        "model_params": version.params,
        "standardization_params": {},
        "additional_metadata": version.metadata,
        "description": version.description,
        "tags": version.tags,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
        "file_count": len(version.files),
        "is_prerelease": version.is_prerelease,
        "yanked": version.is_yanked,
        "yank_reason": version.reason,
        "aliases": [] if is_removed else registry.aliases_of(version),
    }


def expected_files(version: Version) -> list[Json]:
    return [
        {"path": path, "size_bytes": len(content), "sha256": f"sha256:{sha256(content)}"}
        for path, content in sorted(version.files.items(), key=lambda file: file[0].encode())
    ]


def tar_of(version: Version) -> bytes:
    """Return the archive as Python's own library writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for path, content in sorted(version.files.items(), key=lambda file: file[0].encode()):
            member = tarfile.TarInfo(path)
            member.size, member.mode = len(content), 0o644
            archive.addfile(member, io.BytesIO(content))
        members = buffer.getvalue()
    return members + bytes(2 * tarfile.BLOCKSIZE)


async def test_whatever_one_client_does_the_registry_says_what_a_plain_model_says(
    service: RunningService, engine: AsyncEngine, bucket: Bucket, fresh: None
) -> None:
    """The client runs in a thread of its own, because the service runs in this one's event loop."""
    world = World(service, engine, bucket)

    class Client(RegistryMachine):
        def __init__(self) -> None:
            super().__init__(world)

    try:
        await asyncio.to_thread(run_state_machine_as_test, Client, settings=examples(20, steps=30))
    finally:
        world.http.close()
