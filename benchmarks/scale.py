"""A million versions against a thousand: every query of the API, through HTTP.

`generator` creates both registries. They have fifty versions to a model, and are in one PostgreSQL, each with a service
of its own. Ours is the large one, so a ratio of 1 says that size costs nothing. A figure is the median time of one
client that sends requests without a pause, each about another version; both sides find the same number of items.
PostgreSQL has its default of 64 MiB for pages; the rest is in the system's cache.
"""

import asyncio
import dataclasses
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from urllib.parse import urlencode

import asyncpg

from benchmarks.generator import HOT, TABLES, fill, make_due
from benchmarks.harness import OURS, Report
from benchmarks.load import Load, Request, load
from benchmarks.processes import Server, environment, registry
from model_registry.domain.entities import ListPosition
from model_registry.migrations import migrate
from model_registry.utils import rfc3339
from model_registry.web.requests.paging import list_token, page_token
from model_registry_devstack import StackAddresses

VERSIONS = int(os.environ.get("SCALE_VERSIONS", "1000000"))
MODELS = VERSIONS // 50
SMALLER = 1000
"""The other registry is smaller by this factor."""
_AT_ONCE = 16
_DUE = 1000
_FLAT, _DEEP = 1 / 1.5, 1 / 1.2
_SMALL = "a thousand"


def _search(condition: str, order_by: str = "created_at DESC", *, limit: int = 20) -> str:
    query = {"filter": condition, "order_by": order_by, "limit": limit}
    return "/v1/versions?" + urlencode({name: value for name, value in query.items() if value}, safe="{}")


# The words in braces come from a version that differs from request to request, or from the whole registry; see
# `_Known`.
QUESTIONS: Mapping[str, tuple[str, float | None]] = {
    "one version by label": ("/get_model_info/{model}/{version}", _FLAT),
    "the latest version": ("/get_latest_model_info/{model}", _FLAT),
    "the latest version of the large model": (f"/get_latest_model_info/{HOT}", _FLAT),
    "a version by alias": ("/v1/models/{model}/versions/@champion", _FLAT),
    "a model": ("/v1/models/{model}", None),
    "models, first page": ("/v1/models?limit=20", None),
    "models by part of the name": ("/v1/models?search={model}", None),
    "models by tag": ("/v1/models?tag.team=team-7&limit=1", None),
    "list_models, first page": ("/list_models", None),
    "list_models of a model": ("/list_models?model_name={model}&limit=20", None),
    "versions of a model": ("/v1/models/{model}/versions?limit=20", None),
    "versions of a model as registered": ("/v1/models/{model}/versions?order=created&limit=20", None),
    "versions of the large model": (f"/v1/models/{HOT}/versions?limit=20", None),
    "removed versions of the large model": (f"/v1/models/{HOT}/versions?state=removed&limit=1", None),
    "files of a version": ("/v1/models/{model}/versions/{version}/files", None),
    "aliases of a model": ("/v1/models/{model}/aliases", None),
    "history of an alias": ("/v1/models/{model}/aliases/champion/history?limit=3", None),
    "history of an alias of the large model": (f"/v1/models/{HOT}/aliases/champion/history?limit=5", None),
    "events from the beginning": ("/v1/events", None),
    "events near the end": ("/v1/events?after={late_event}", None),
    "events of a model": ("/v1/events?model={model}&limit=20", None),
    "search without a filter": (_search(""), None),
    "search without a filter, by size": (_search("", "size_bytes DESC"), None),
    "search: rare tag": (_search("tags.ticket = 'T-{id}'"), _FLAT),
    "search: common tag": (_search("tags.stage = 'prod'"), _FLAT),
    "search: tag that nothing has": (_search("tags.stage = 'nowhere'"), _FLAT),
    "search: tag and parameter": (_search("tags.team = 'team-7' AND model_params.max_depth = 7", limit=1), _FLAT),
    "search: tag and parameter, never together": (
        _search("tags.team = 'team-7' AND model_params.max_depth = 8", limit=1),
        _FLAT,
    ),
    "search: name": (_search("model_name = '{model}'"), _FLAT),
    "search: name LIKE prefix": (_search("model_name LIKE 'bert-0000%'"), _FLAT),
    "search: label": (_search("version = '0.3.1'", limit=10), _FLAT),
    "search: label LIKE prefix": (_search("version LIKE '0.3.%'"), _FLAT),
    "search: creator": (_search("created_by = 'user-7'", limit=4), _FLAT),
    "search: creator, by size": (_search("created_by = 'user-7'", "size_bytes DESC", limit=4), _FLAT),
    "search: creator of nothing, by size": (_search("created_by = 'nobody'", "size_bytes DESC"), _FLAT),
    "search: hours of a day": (
        _search("created_at >= '2024-01-01T06:00:00Z' AND created_at < '2024-01-01T12:00:00Z'"),
        _FLAT,
    ),
    "search: removed": (_search("state = 'removed'"), _FLAT),
    "search: ready or removed": (_search("state IN ('ready', 'removed')"), _FLAT),
    "search: not a tag": (_search("NOT tags.stage = 'prod'"), _FLAT),
    "search: one of three fields": (
        _search("tags.ticket = 'T-{id}' OR version = '9.9.9' OR model_name = '{model}'"),
        _FLAT,
    ),
    "search: metric, one in ten": (_search("additional_metadata.metrics.auc >= 0.9"), _FLAT),
    "search: metric that none reaches": (_search("additional_metadata.metrics.auc >= 2"), _FLAT),
    "search: metric in a model": (
        _search("additional_metadata.metrics.auc >= 0.5 AND model_name = '{model}'", limit=10),
        _FLAT,
    ),
}
DEEP: Mapping[str, tuple[str, str]] = {
    "list_models": ("/list_models?limit=20", "deep_list"),
    "list_models, within the large model": ("/list_models?limit=20", "deep_list_in_hot"),
    "list_models of the large model": (f"/list_models?model_name={HOT}&limit=20", "deep_list_of_hot"),
    "versions of the large model": (f"/v1/models/{HOT}/versions?limit=20", "deep_hot"),
    "search without a filter": (_search(""), "deep_search"),
}
"""The first page, and the token of a page after 19 of 20: after 900,000 of all, or 18,000 of the large model."""


@dataclasses.dataclass(frozen=True)
class _Registry:
    """A generated database, with a service in front of it."""

    stack: StackAddresses
    server: Server
    known: Sequence[Mapping[str, Any]]

    def request(self, target: str) -> Callable[[int], list[Request]]:
        return lambda number: [("GET", target.format(**self.known[number % len(self.known)]), b"")]

    def p50_ms(self, target: str) -> float:
        return load(self.server, self.request(target), seconds=0.3, connections=1).p50_ms

    def found(self, target: str) -> int:
        """Return how many items a response has; a response that is not a list counts as one."""
        [(_, path, _)] = self.request(target)(0)
        with urllib.request.urlopen(self.server.url + path, timeout=60) as answer:  # noqa: S310
            content = json.load(answer)
        items = content.get("items", [content]) if isinstance(content, dict) else content
        return len(items)


def run(report: Report, stack: StackAddresses) -> None:
    large, small = (
        _made(report, stack, f"of_{versions}", versions, models)
        for versions, models in ((VERSIONS, MODELS), (VERSIONS // SMALLER, MODELS // SMALLER))
    )
    with _served(large, report) as ours, _served(small, report) as theirs:
        for what, (target, goal) in QUESTIONS.items():
            _ask(report, what, target, goal, ours, theirs)
        for what, (first, token) in DEEP.items():
            report.contest(
                "scale",
                f"{what}, page at depth",
                {
                    OURS: partial(ours.p50_ms, f"{first}&page_token={{{token}}}"),
                    "its first page": partial(ours.p50_ms, first),
                },
                unit="ms",
                targets={"its first page": _DEEP},
            )
        _register(report, ours, theirs)
        _costs(report, ours)
        _collect(report, ours, theirs)
        report.fact("bytes per version in PostgreSQL", asyncio.run(_bytes_per_version(large.database_url)))


def _made(report: Report, stack: StackAddresses, name: str, versions: int, models: int) -> StackAddresses:
    """Create a database and fill it."""
    asyncio.run(_execute(stack.database_url, f"CREATE DATABASE {name}"))
    url = f"{stack.database_url.rpartition('/')[0]}/{name}"
    migrate(url)
    seconds = asyncio.run(fill(url, versions=versions, models=models, bucket=stack.s3_bucket))
    steps = sorted(seconds.items(), key=lambda step: -step[1])[:6]
    longest = ", ".join(f"{what} {took:.1f} s" for what, took in steps)
    report.fact(f"{versions} versions made", f"{sum(seconds.values()):.0f} s: {longest} …")
    return dataclasses.replace(stack, database_url=url)


@contextmanager
def _served(stack: StackAddresses, report: Report) -> Iterator[_Registry]:
    """Run its service. The collector runs once, at the start, and slow queries do not time out."""
    known = asyncio.run(_known(stack.database_url))
    with registry(stack, report, GC_INTERVAL_SECONDS="86400", DATABASE_STATEMENT_TIMEOUT_SECONDS="60") as server:
        yield _Registry(stack, server, known)


def _ask(report: Report, what: str, target: str, goal: float | None, ours: _Registry, theirs: _Registry) -> None:
    counts = ours.found(target), theirs.found(target)
    if counts[0] != counts[1]:
        raise RuntimeError(f"{what}: {counts[0]} and {counts[1]} items, which is not the same work.")
    report.contest(
        "scale",
        what,
        {OURS: partial(ours.p50_ms, target), _SMALL: partial(theirs.p50_ms, target)},
        unit="ms",
        targets={} if goal is None else {_SMALL: goal},
    )


# Registration

_labels = itertools.count()


def _version(model: str) -> Request:
    body = {"model_name": model, "version": f"bench-{next(_labels)}", "model_params": {"C": 1.0}}
    return ("POST", "/register_model", json.dumps(body).encode())


def _register(report: Report, ours: _Registry, theirs: _Registry) -> None:
    """Register without files, so that only PostgreSQL matters."""

    def several(number: int) -> list[Request]:
        return [_version(f"register-{number % _AT_ONCE}")]

    def one(_number: int) -> list[Request]:
        return [_version("register-one")]

    measured: dict[str, list[Load]] = {}

    def registered(who: str, registry: _Registry, request: Callable[[int], list[Request]]) -> Callable[[], float]:
        def measure() -> float:
            measured.setdefault(who, []).append(load(registry.server, request, connections=_AT_ONCE))
            return measured[who][-1].per_second

        return measure

    different = f"into {_AT_ONCE} models"
    report.contest(
        "scale",
        f"register versions of {_AT_ONCE} models, {_AT_ONCE} at once",
        {
            OURS: registered("of a million", ours, several),
            _SMALL: registered("of a thousand", theirs, several),
        },
        unit="/s",
        more_is_better=True,
    )
    report.contest(
        "scale",
        f"register versions of one model, {_AT_ONCE} at once",
        {OURS: registered("into one model", ours, one), different: registered(different, ours, several)},
        unit="/s",
        more_is_better=True,
    )
    for who, loads in measured.items():
        p50, p99 = (statistics.median(getattr(each, name) for each in loads) for name in ("p50_ms", "p99_ms"))
        report.fact(f"{_AT_ONCE} registrations at once {who}", f"p50 {p50:.0f} ms, p99 {p99:.0f} ms")


# The collector


def _collect(report: Report, ours: _Registry, theirs: _Registry) -> None:
    """Run the collector as a command, so its time to start is included."""

    def nothing(registry: _Registry) -> float:
        return _gc(registry, "--once", purged=0)

    def preview(registry: _Registry) -> float:
        return _gc(registry, "--dry-run", purged=0)

    def due(registry: _Registry) -> float:
        asyncio.run(make_due(registry.stack.database_url, _DUE))
        return _gc(registry, "--once", purged=_DUE)

    for what, work in {
        "collector with nothing to do": nothing,
        "collector's preview of nothing": preview,
        f"collector with {_DUE} versions to purge": due,
    }.items():
        contenders = {OURS: partial(work, ours), _SMALL: partial(work, theirs)}
        report.contest("scale", what, contenders, unit="s", rounds=min(report.rounds, 3))


def _gc(registry: _Registry, how: str, *, purged: int) -> float:
    command = [sys.executable, "-m", "model_registry.cli", "gc", how]
    began = time.perf_counter()
    done = subprocess.run(command, env=environment(registry.stack), capture_output=True, text=True, check=True)  # noqa: S603
    took = time.perf_counter() - began
    if f"purged versions: {purged}," not in done.stdout:
        raise RuntimeError(f"The collector should have purged {purged} versions: {done.stdout}")
    return took


# The cost of one replica


def _costs(report: Report, registry: _Registry) -> None:
    """Measure CPU of each request, in the service and in its PostgreSQL backends, which live as long as its pool."""
    targets = [
        "one version by label",
        "the latest version",
        "list_models, first page",
        "versions of a model",
        "search: rare tag",
        "search: common tag",
    ]
    requests = {what: registry.request(QUESTIONS[what][0]) for what in targets}
    requests["register a version"] = lambda number: [_version(f"register-{number % _AT_ONCE}")]
    for what, request in requests.items():
        backends = asyncio.run(_backends(registry.stack.database_url))
        before = sum(each.cpu_seconds() for each in backends)
        measured = load(registry.server, request, connections=_AT_ONCE, seconds=2)
        in_postgresql = 1000 * (sum(each.cpu_seconds() for each in backends) - before) / measured.done
        report.fact(
            f"cost of {what}",
            f"{measured.per_second:.0f}/s with {_AT_ONCE} connections, {measured.cpu_ms:.2f} ms of CPU in the service "
            f"and {in_postgresql:.2f} ms in PostgreSQL each, p99 {measured.p99_ms:.0f} ms",
        )


async def _backends(url: str) -> Sequence[Server]:
    rows = await _execute(
        url,
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'model-registry'",
    )
    return [Server(url, row["pid"]) for row in rows]


async def _bytes_per_version(url: str) -> str:
    total = {
        table: (await _execute(url, f"SELECT pg_total_relation_size('{table}'), pg_indexes_size('{table}')"))[0]
        for table in TABLES
    }
    each = ", ".join(
        f"{table} {all_ / VERSIONS:.0f} ({of_it / VERSIONS:.0f})" for table, (all_, of_it) in total.items()
    )
    return f"{sum(all_ for all_, _ in total.values()) / VERSIONS:.0f}; with indexes, which are in brackets: {each}"


# The subjects of the queries


async def _known(url: str) -> Sequence[Mapping[str, Any]]:
    """Return a thousand versions (as many as the small registry has) in random order, with the tokens of deep pages."""
    ready = "FROM model_info WHERE state = 'ready'"
    versions = await _execute(
        url,
        f"SELECT id, model_name AS model, version {ready} AND file_count = 1 AND model_name <> '{HOT}' "
        "AND NOT is_prerelease ORDER BY md5(id::text) LIMIT 1000",
    )
    count, hot, events = (
        await _execute(
            url,
            f"SELECT (SELECT count(*) {ready}), (SELECT count(*) {ready} AND model_name = '{HOT}'), "  # noqa: S608
            "(SELECT count(*) FROM events)",
        )
    )[0]
    by_precedence = (
        f"SELECT model_name, precedence, number {ready} %s ORDER BY model_name, precedence DESC, number DESC"
    )
    [listed] = await _execute(url, f"{by_precedence % ''} OFFSET {count * 19 // 20} LIMIT 1")
    in_hot = by_precedence % f"AND model_name = '{HOT}'"
    [of_hot] = await _execute(url, f"{in_hot} OFFSET {hot * 19 // 20} LIMIT 1")
    [newest] = await _execute(
        url,
        f"SELECT created_at, id {ready} ORDER BY created_at DESC, id DESC OFFSET {count * 19 // 20} LIMIT 1",
    )
    [event] = await _execute(
        url,
        f"SELECT xid::text::bigint, id FROM events ORDER BY events.xid, id OFFSET {events - 150} LIMIT 1",  # noqa: S608
    )
    tokens = {
        "deep_list": list_token([None], ListPosition(*listed)),
        "deep_list_in_hot": list_token([None], ListPosition(*of_hot)),
        "deep_list_of_hot": list_token([HOT], ListPosition(*of_hot)),
        "deep_hot": list_token(["versions", HOT, "ready", "precedence"], ListPosition(*of_hot)),
        "deep_search": page_token(["search", None, "created_at", True], rfc3339(newest["created_at"]), newest["id"]),
        "late_event": page_token(["events", None], *event),
    }
    return [dict(version) | tokens for version in versions]


async def _execute(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()
