"""Our service against MLflow, the most common registry: the same requests to both, in turns.

Both run one worker on the same PostgreSQL (each in a database of its own) and the same bucket, and neither writes an
access log. `mlflow` describes its tuning; ours has its defaults otherwise. One client sends plain HTTP to both over
kept connections, so neither side's own Python client is measured. The responses are compared: labels and counts, and
every byte of a download.

* Metadata: requests per second, and the service's CPU for each, with 16 connections; with 4 where a model has
  `VERSIONS` versions. Those are copied in SQL from one that was registered (`filling`).
* A large file, proxied by both: ours by `POST /register_model` and `GET /get_model/…`, which also hash, verify and
  register it; MLflow's by its artifact routes, which only store it. A comparison of the same work would add a
  `model-versions/create` to each.
* Many small files: ours by presigned URLs from and to storage, as our client does, and in addition in one form and in
  one tar; MLflow's one by one through its server, as its client does. Both sides use sixteen threads.
* Memory of the service with all of its processes, and the time from the start of the process to the first response
  that needs PostgreSQL. MLflow's schema is created before.

Not compared: runs, experiments, MLflow's Python library, several workers.

`PEERS_LARGE_MIB`, `PEERS_FILES` and `PEERS_VERSIONS` in the environment make it smaller. A full run needs 10 GiB of
disk.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection
from typing import Protocol

from benchmarks.harness import OURS, Report
from benchmarks.load import Request, load
from benchmarks.peers import filling, mlflow
from benchmarks.peers.mlflow import MLflow
from benchmarks.peers.ours import Ours
from benchmarks.peers.wire import LEAST_CPU_SECONDS, Content, Family, Spent, ask, opened, spent
from benchmarks.processes import Server, registry
from model_registry_devstack import StackAddresses

GROUP, MLFLOW = "peers", "MLflow"
LARGE_MIB = int(os.environ.get("PEERS_LARGE_MIB", "1024"))
FILES = int(os.environ.get("PEERS_FILES", "1000"))
VERSIONS = int(os.environ.get("PEERS_VERSIONS", "10000"))
SMALL_BYTES = 64 * 1024
TARGET = 5.0
"""How many times as fast as MLflow we want to be, or how many times less CPU we want to use."""

_MANY, _FEW = "many-versions", "few-versions"
_FRESH = "fresh-"
_ALIAS = "champion"
_METADATA = {"stage": "prod", "team": "risk"}
_SPREAD = 16
_HEAVY_TURNS = 3
_LONG_TURNS = 2
_PAGE = 1000
_FIRST_BYTE_MS = 50


class Peer(Protocol):
    server: Server

    def make_model(self, name: str) -> Request: ...
    def register(self, name: str, _label: str, metadata: Mapping[str, str]) -> Request: ...
    def point(self, name: str, alias: str, label: str) -> Request: ...
    def version(self, name: str, label: str) -> Request: ...
    def aliased(self, name: str, alias: str) -> Request: ...
    def model(self, name: str) -> Request: ...
    def page(self, name: str, limit: int, token: str | None = None) -> Request: ...
    def label_of(self, answer: bytes) -> str: ...
    def name_of(self, answer: bytes) -> str: ...
    def labels_of(self, answer: bytes) -> tuple[list[str], str | None]: ...


@dataclass(frozen=True)
class Seen:
    """A contender's figures of one turn. The CPU is the service's own, for each request or for the whole task."""

    figure: float
    cpu_seconds: float
    first_byte_seconds: float = 0


@dataclass
class Contests:
    """Adds the CPU to what a contest measures, and records where we miss the target in either."""

    report: Report
    behind: list[str] = field(default_factory=list)

    def hold(
        self,
        what: str,
        contenders: Mapping[str, Callable[[], Seen]],
        *,
        unit: str = "s",
        more_is_better: bool = False,
        rounds: int | None = None,
    ) -> dict[str, list[Seen]]:
        seen: dict[str, list[Seen]] = {name: [] for name in contenders}

        def measured(name: str) -> Callable[[], float]:
            def measure() -> float:
                seen[name].append(contenders[name]())
                return seen[name][-1].figure

            return measure

        self.report.contest(
            GROUP,
            what,
            {name: measured(name) for name in contenders},
            unit=unit,
            more_is_better=more_is_better,
            targets={MLFLOW: TARGET},
            rounds=rounds,
        )
        if unit == "s":
            self.again(f"{what}: CPU", seen, lambda turn: turn.cpu_seconds, unit="s")
        else:
            self.again(f"{what}: CPU", seen, lambda turn: 1000 * turn.cpu_seconds, unit="ms")
        self.judge(what)
        return seen

    def again(
        self,
        what: str,
        seen: Mapping[str, list[Seen]],
        figure: Callable[[Seen], float],
        *,
        unit: str,
    ) -> None:
        """Add a row about another figure of turns that were measured."""
        figures = {name: map(figure, turns) for name, turns in seen.items()}
        self.report.contest(
            GROUP,
            what,
            {name: each.__next__ for name, each in figures.items()},
            unit=unit,
            targets={MLFLOW: TARGET},
            rounds=len(seen[OURS]),
        )

    def judge(self, what: str) -> None:
        rows = (row for row in self.report.rows if row.what in (what, f"{what}: CPU"))
        ratios = [row.ratio for row in rows if row.against == MLFLOW]
        if max(ratios) < TARGET:
            self.behind.append(f"{what} ({' and '.join(f'{ratio:.1f}' for ratio in ratios)})")


def run(report: Report, stack: StackAddresses) -> None:
    version = mlflow.install()
    asyncio.run(filling.make_database(_plain(stack), mlflow.DATABASE))
    contests = Contests(report)
    with ExitStack() as cleanup:
        our_server = cleanup.enter_context(registry(stack, report, LOG_LEVEL="WARNING"))
        ours = Ours(Family(our_server.url, our_server.pid))
        theirs = MLflow(cleanup.enter_context(mlflow.served(stack)))
        _prepare(ours, theirs)
        _memory(report, "memory when idle", ours, theirs, "VmRSS")
        _fill(stack, ours, theirs)
        _metadata(contests, ours, theirs, stack)
        _walk(contests, ours, theirs)
        _large(contests, ours, theirs)
        _small(contests, ours, theirs)
        _memory(report, "memory at its highest", ours, theirs, "VmHWM")
    _start(contests, stack)
    report.fact("MLflow", f"{version}, one worker, PostgreSQL, proxied artifacts in S3")
    report.fact(f"neither {TARGET:g} times MLflow's speed nor its CPU", "; ".join(contests.behind) or "nothing")


def _prepare(*peers: Peer) -> None:
    for peer in peers:
        for name in (_MANY, _FEW, *_spread()):
            _answer(peer, peer.make_model(name))
        for name in (_MANY, _FEW):
            _answer(peer, peer.register(name, "1", _METADATA))


def _fill(stack: StackAddresses, ours: Ours, theirs: MLflow) -> None:
    asyncio.run(filling.fill_ours(_plain(stack), _MANY, VERSIONS))
    asyncio.run(filling.fill_mlflow(mlflow.database_url(stack), _MANY, VERSIONS))
    for peer in (ours, theirs):
        for name in (_MANY, _FEW):
            _answer(peer, peer.point(name, _ALIAS, "1"))
        last = peer.label_of(_answer(peer, peer.version(_MANY, str(VERSIONS))))
        page, _ = peer.labels_of(_answer(peer, peer.page(_MANY, 100)))
        aliased = peer.label_of(_answer(peer, peer.aliased(_FEW, _ALIAS)))
        name = peer.name_of(_answer(peer, peer.model(_MANY)))
        if (last, aliased, name) != (str(VERSIONS), "1", _MANY) or page[0] != last or len(page) != min(100, VERSIONS):
            raise RuntimeError(f"{peer.server.url} does not have what it was filled with.")


def _metadata(contests: Contests, ours: Ours, theirs: MLflow, stack: StackAddresses) -> None:
    labels = itertools.cycle(range(1, VERSIONS + 1))
    fresh = itertools.count(1)
    names = itertools.cycle(_spread())
    asked: dict[str, tuple[int, Callable[[Peer], Request]]] = {
        "one version by name and label": (16, lambda peer: peer.version(_FEW, "1")),
        "a version by alias": (16, lambda peer: peer.aliased(_FEW, _ALIAS)),
        "register a version": (16, lambda peer: peer.register(next(names), str(next(fresh)), _METADATA)),
        f"a model of {VERSIONS} versions": (4, lambda peer: peer.model(_MANY)),
        f"a version of {VERSIONS} by alias": (4, lambda peer: peer.aliased(_MANY, _ALIAS)),
        f"set an alias on {VERSIONS} versions": (4, lambda peer: peer.point(_MANY, _ALIAS, str(next(labels)))),
        f"a page of 100 of {VERSIONS} versions": (4, lambda peer: peer.page(_MANY, 100)),
    }
    for what, (connections, request) in asked.items():
        sent = {OURS: 0, MLFLOW: 0}
        contests.hold(
            what,
            {
                OURS: partial(_ask_for_a_while, OURS, ours, request, connections, sent),
                MLFLOW: partial(_ask_for_a_while, MLFLOW, theirs, request, connections, sent),
            },
            unit="/s",
            more_is_better=True,
        )
        if what == "register a version":
            _check_registered(stack, sent)


def _ask_for_a_while(
    name: str, peer: Peer, request: Callable[[Peer], Request], connections: int, sent: dict[str, int]
) -> Seen:
    measured = load(peer.server, lambda _number: [request(peer)], seconds=1, connections=connections)
    sent[name] += measured.done
    return Seen(measured.per_second, max(measured.cpu_seconds, LEAST_CPU_SECONDS) / measured.done)


def _check_registered(stack: StackAddresses, sent: Mapping[str, int]) -> None:
    fresh = f"LIKE '{_FRESH}%'"
    counts = {
        OURS: (
            (_plain(stack), f"SELECT sum(version_count) FROM registered_models WHERE name {fresh}"),  # noqa: S608
            (_plain(stack), f"SELECT count(*) FROM model_info WHERE state = 'ready' AND model_name {fresh}"),  # noqa: S608
        ),
        MLFLOW: ((mlflow.database_url(stack), f"SELECT count(*) FROM model_versions WHERE name {fresh}"),),  # noqa: S608
    }
    for name, each in counts.items():
        stored = [asyncio.run(filling.count(url, statement)) for url, statement in each]
        if set(stored) != {sent[name]}:
            raise RuntimeError(f"Of {sent[name]} registrations by {name}, {stored} are stored.")


def _walk(contests: Contests, ours: Ours, theirs: MLflow) -> None:
    def walk(peer: Peer, page: int) -> Callable[[], Seen]:
        def pages() -> None:
            labels: set[str] = set()
            token: str | None = None
            with opened(peer.server.url) as connection:
                while True:
                    found, token = peer.labels_of(_asked(connection, peer.page(_MANY, page, token)))
                    labels.update(found)
                    if not token:
                        break
            if len(labels) != VERSIONS:
                raise RuntimeError(f"{peer.server.url} shows {len(labels)} versions of {VERSIONS}.")

        return lambda: _seen(spent(peer.server, pages))

    contests.hold(
        f"all {VERSIONS} versions",
        {OURS: walk(ours, _PAGE), MLFLOW: walk(theirs, _PAGE), "MLflow, all in one page": walk(theirs, VERSIONS)},
        rounds=min(_HEAVY_TURNS, contests.report.rounds),
    )


def _large(contests: Contests, ours: Ours, theirs: MLflow) -> None:
    size = f"{LARGE_MIB} MiB"
    contents = [Content(number, LARGE_MIB * 2**20) for number in range(min(_HEAVY_TURNS, contests.report.rounds))]

    def each(work: Callable[[Content], Spent]) -> Callable[[], Seen]:
        turns = iter(contents)
        return lambda: _seen(work(next(turns)))

    contests.hold(f"upload {size}", {OURS: each(ours.upload), MLFLOW: each(theirs.upload)}, rounds=len(contents))
    seen = contests.hold(
        f"download {size}", {OURS: each(ours.download), MLFLOW: each(theirs.download)}, rounds=len(contents)
    )
    what = f"first byte of {size}"
    contests.again(what, seen, lambda turn: 1000 * turn.first_byte_seconds, unit="ms")
    slowest = 1000 * max(turn.first_byte_seconds for turn in seen[OURS])
    contests.report.bound(GROUP, f"{what}, at its slowest", slowest, _FIRST_BYTE_MS, unit="ms")


def _small(contests: Contests, ours: Ours, theirs: MLflow) -> None:
    rounds = min(_LONG_TURNS, contests.report.rounds)
    first = 10**6
    files = [[Content(first + turn * FILES + at, SMALL_BYTES) for at in range(FILES)] for turn in range(rounds)]
    in_form = [[Content(2 * first + each.number, SMALL_BYTES) for each in turn] for turn in files]

    def each(work: Callable[[str, list[Content]], Spent], name: str, turns: list[list[Content]]) -> Callable[[], Seen]:
        numbered = iter(enumerate(turns))

        def measure() -> Seen:
            number, contents = next(numbered)
            return _seen(work(f"{name}-{number}", contents))

        return measure

    form, archive = "our own form", "our own tar"
    seen = contests.hold(
        f"{FILES} files up",
        {
            OURS: each(ours.upload_files, "pushed", files),
            MLFLOW: each(theirs.upload_files, "put", files),
            form: each(ours.upload_files_as_form, "formed", in_form),
        },
        rounds=rounds,
    )
    _proxied(contests, f"{FILES} files up, in one form", seen, form)
    seen = contests.hold(
        f"{FILES} files down",
        {
            OURS: each(ours.download_files, "pushed", files),
            MLFLOW: each(theirs.download_files, "put", files),
            archive: each(ours.download_files_as_archive, "pushed", files),
        },
        rounds=rounds,
    )
    _proxied(contests, f"{FILES} files down, in one tar", seen, archive)


def _proxied(contests: Contests, what: str, seen: Mapping[str, list[Seen]], ours: str) -> None:
    pair = {OURS: seen[ours], MLFLOW: seen[MLFLOW]}
    contests.again(what, pair, lambda turn: turn.figure, unit="s")
    contests.again(f"{what}: CPU", pair, lambda turn: turn.cpu_seconds, unit="s")
    contests.judge(what)


def _memory(report: Report, what: str, ours: Ours, theirs: MLflow, which: str) -> None:
    both = {
        OURS: lambda: ours.server.resident_mib(which),
        MLFLOW: lambda: theirs.server.resident_mib(which),
    }
    report.contest(GROUP, what, both, unit="MiB", rounds=1)


def _start(contests: Contests, stack: StackAddresses) -> None:
    def ours() -> float:
        began = time.perf_counter()
        with registry(stack, contests.report, LOG_LEVEL="WARNING") as server:
            _answer(peer := Ours(server), peer.version(_FEW, "1"))
            return time.perf_counter() - began

    def theirs() -> float:
        began = time.perf_counter()
        with mlflow.served(stack) as server:
            _answer(peer := MLflow(server), peer.version(_FEW, "1"))
            return time.perf_counter() - began

    what = "start to first answer"
    contests.report.contest(
        GROUP,
        what,
        {OURS: ours, MLFLOW: theirs},
        unit="s",
        targets={MLFLOW: TARGET},
        rounds=min(_LONG_TURNS, contests.report.rounds),
    )
    contests.judge(what)


def _seen(work: Spent) -> Seen:
    return Seen(work.seconds, work.cpu_seconds, work.first_byte_seconds)


def _answer(peer: Peer, request: Request) -> bytes:
    with opened(peer.server.url) as connection:
        return _asked(connection, request)


def _asked(connection: HTTPConnection, request: Request) -> bytes:
    method, target, body = request
    return ask(connection, method, target, body or None, {"Content-Type": "application/json"} if body else {}).read()


def _spread() -> list[str]:
    """Return models for registrations: several, because those of one model wait for each other in both registries."""
    return [f"{_FRESH}{number}" for number in range(_SPREAD)]


def _plain(stack: StackAddresses) -> str:
    """Return the URL of our database for libpq."""
    return stack.database_url.replace("+asyncpg", "")
