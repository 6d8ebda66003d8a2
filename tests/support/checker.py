"""Compares ledgers, database and every byte in the bucket, with SQL and S3 calls of its own.

It checks these measures:

M1  acknowledged data is readable, and hashes to what was sent; an alias points to the target of its last move
M2  a (model, version) has one manifest forever, and one id; a model counts its ready versions
M3  data that was not acknowledged is absent or complete
M4  every object is known to the database, every row has its object, and every blob has a file
M5  no upload or version is unfinished after its lease expires
M9  every change has exactly one event, and every move of an alias one entry; a follower of the events sees each once

M6 (the service responds soon after a fault), M7 (503 is the only 5xx) and M8 (memory and files are released) need a
running service. A test that has one measures them.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.support.bucket import Bucket
from tests.support.ledger import Attempt

REGISTERING = frozenset({"register", "push"})
REMOVING = frozenset({"remove", "purge"})


@dataclass
class Verdict:
    """The result. `complaints` is empty if every promise was kept."""

    acknowledged: int = 0
    readable: int = 0
    attempts: int = 0
    versions: int = 0
    objects: int = 0
    unknown_objects: int = 0
    rows_without_objects: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, measure: str, what: str) -> None:
        self.complaints.append(f"{measure}: {what}")

    def __str__(self) -> str:
        said = "\n  ".join(["", *self.complaints[:50]]) if self.complaints else " no complaint"
        return (
            f"{self.attempts} attempts, {self.acknowledged} versions acknowledged, {self.readable} of them readable "
            f"and re-hashed, {self.versions} rows, {self.objects} objects, {self.unknown_objects} of them unknown, "
            f"{self.rows_without_objects} rows without their object:{said}"
        )


@dataclass(frozen=True)
class _Version:
    id: int
    state: str
    digest: str | None
    is_purged: bool
    is_yanked: bool
    purge_was_due: bool
    files: Mapping[str, str]  # path: sha256


async def check(
    attempts: Iterable[Attempt],
    engine: AsyncEngine,
    bucket: Bucket,
    *,
    followed: Iterable[Sequence[int]] = (),
    is_settled: bool = False,
) -> Verdict:
    """Compare everything. Call it when the faults are over, the clients are silent and a collector has run.

    Parameters
    ----------
    followed
        The ids that each follower of the events has seen, from the first to the last.
    is_settled
        All leases are over and collectors have nothing left to do, so every object must belong to a blob.
    """
    attempts = list(attempts)
    verdict = Verdict(attempts=len(attempts))
    async with engine.connect() as connection:
        await _objects(connection, bucket, verdict, is_settled=is_settled)
        await _references(connection, verdict)
        await _unfinished(connection, verdict)
        versions = await _versions(connection)
        verdict.versions = len(versions)
        hashes = await _hashes(connection, bucket, verdict)
        _labels(attempts, versions, hashes, verdict)
        events = await _all_events(connection)
        _registered(events, versions, verdict)
        _lives(attempts, events, versions, verdict)
        await _aliases(attempts, connection, events, verdict)
        for seen in followed:
            _followed(seen, events, verdict)
    return verdict


async def _rows(connection: AsyncConnection, statement: str) -> list[Any]:
    return list((await connection.execute(text(statement))).all())


async def _objects(connection: AsyncConnection, bucket: Bucket, verdict: Verdict, *, is_settled: bool) -> None:
    tables = ("blobs",) if is_settled else ("blobs", "uploads", "garbage")
    known = {
        key
        for (key,) in await _rows(connection, " UNION ".join(f"SELECT storage_key FROM {table}" for table in tables))
    }
    present = await bucket.keys()
    verdict.objects = len(present)
    for key in sorted(present - known):
        verdict.unknown_objects += 1
        verdict.complain("M4", f"{key} is in the bucket and not in {', '.join(tables)}")
    for upload in await bucket.unfinished():
        if upload["Key"] not in known:
            verdict.unknown_objects += 1
            verdict.complain("M4", f"an unfinished multipart upload of {upload['Key']} is not in {', '.join(tables)}")
    for (key,) in await _rows(connection, "SELECT storage_key FROM blobs WHERE damaged_at IS NULL"):
        if key not in present:
            verdict.rows_without_objects += 1
            verdict.complain("M4", f"blob {key} has no object")


async def _references(connection: AsyncConnection, verdict: Verdict) -> None:
    """Check the references among the rows."""
    for (key,) in await _rows(connection, "SELECT storage_key FROM garbage JOIN blobs USING (storage_key)"):
        verdict.complain("M4", f"{key} is a blob and garbage")
    for (key,) in await _rows(
        connection,
        "SELECT storage_key FROM blobs WHERE sha256 NOT IN (SELECT sha256 FROM version_files) "
        "AND sha256 NOT IN (SELECT stored_sha256 FROM declared_files WHERE stored_sha256 IS NOT NULL)",
    ):
        verdict.complain("M4", f"blob {key} is kept, and nothing refers to it")
    for name, version, path in await _rows(
        connection,
        "SELECT model_name, version, path FROM version_files JOIN model_info ON id = version_id "
        "WHERE state NOT IN ('ready', 'removed') OR purged_at IS NOT NULL",
    ):
        verdict.complain("M3", f"{name} {version} is not published, or purged, and still has {path}")
    for name, count, ready in await _rows(
        connection,
        "SELECT name, version_count, (SELECT count(*) FROM model_info WHERE model_name = name AND state = 'ready') "
        "FROM registered_models",
    ):
        if count != ready:
            verdict.complain("M2", f"{name} counts {count} versions and has {ready}")


async def _unfinished(connection: AsyncConnection, verdict: Verdict) -> None:
    for (path,) in await _rows(connection, "SELECT path FROM uploads WHERE lease_expires_at < now()"):
        verdict.complain("M5", f"an upload of {path} is open past its lease")
    for name, version in await _rows(
        connection, "SELECT model_name, version FROM model_info WHERE lease_expires_at < now()"
    ):
        verdict.complain("M5", f"{name} {version} is unfinished past its lease")


async def _versions(connection: AsyncConnection) -> dict[tuple[str, str], _Version]:
    files: dict[int, dict[str, str]] = defaultdict(dict)
    for version_id, path, sha256 in await _rows(
        connection, "SELECT version_id, path, encode(sha256, 'hex') FROM version_files"
    ):
        files[version_id][path] = sha256
    versions = {}
    for row in await _rows(
        connection,
        "SELECT id, model_name, version, state, encode(digest, 'hex') AS digest, purged_at, yanked_at, "
        "coalesce(purge_after <= purged_at, false) AS purge_was_due FROM model_info",
    ):
        version = _Version(
            id=row.id,
            state=row.state,
            digest=row.digest,
            is_purged=row.purged_at is not None,
            is_yanked=row.yanked_at is not None,
            purge_was_due=row.purge_was_due,
            files=files[row.id],
        )
        versions[row.model_name, row.version] = version
    return versions


async def _hashes(connection: AsyncConnection, bucket: Bucket, verdict: Verdict) -> set[str]:
    """Return the digests whose bytes are present and right. Reads every object that a blob names."""
    right = set()
    for sha256, size, key in await _rows(
        connection, "SELECT encode(sha256, 'hex'), size_bytes, storage_key FROM blobs WHERE damaged_at IS NULL"
    ):
        try:
            content = await bucket.read(key)
        except bucket.client.exceptions.NoSuchKey:
            continue  # reported above
        if hashlib.sha256(content).hexdigest() != sha256 or len(content) != size:
            verdict.complain("M1", f"blob {key} has other bytes than {sha256}")
        else:
            right.add(sha256)
    return right


def manifest_digest(files: Mapping[str, tuple[str, int]]) -> str:
    """Return the digest of a version, recomputed from {path: (sha256, size)} as any client can."""
    lines = [
        f"{sha256}  {size}  {path}\n".encode()
        for path, (sha256, size) in sorted(files.items(), key=lambda item: item[0].encode())
    ]
    return hashlib.sha256(b"".join(lines)).hexdigest()


def _labels(
    attempts: list[Attempt], versions: Mapping[tuple[str, str], _Version], hashes: set[str], verdict: Verdict
) -> None:
    by_label: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        # If the server chose the label, its response contains it.
        version = attempt.version or attempt.answer.get("version", "")
        if version:
            by_label[attempt.model, version].append(attempt)
    unnamed = [
        attempt
        for attempt in attempts
        if attempt.operation in REGISTERING and not (attempt.version or attempt.answer.get("version"))
    ]
    for label, tried in by_label.items():
        _label(label, tried, versions.get(label), hashes, verdict)
    for label, version in versions.items():
        if version.state not in {"ready", "removed"} or version.is_purged:
            continue
        tried = [a for a in by_label.get(label, []) if a.operation in REGISTERING]
        tried += [attempt for attempt in unnamed if attempt.model == label[0]]
        if not any(dict(attempt.facts["files"]) == dict(version.files) for attempt in tried):
            verdict.complain("M3", f"{_name(label)} has files that nobody sent together: {dict(version.files)}")
        for path, sha256 in version.files.items():
            if sha256 not in hashes:
                verdict.complain("M3", f"{_name(label)} shows {path}, whose bytes are not there or wrong")


def _label(
    label: tuple[str, str], tried: list[Attempt], version: _Version | None, hashes: set[str], verdict: Verdict
) -> None:
    promised = [attempt for attempt in tried if attempt.operation in REGISTERING and attempt.is_acknowledged]
    if not promised:
        return
    manifests = {tuple(sorted(attempt.facts["files"].items())) for attempt in promised}
    digests = {attempt.answer["digest"] for attempt in promised if "digest" in attempt.answer}
    if len(manifests) > 1 or len(digests) > 1:
        verdict.complain("M2", f"{_name(label)} was acknowledged with several contents: {sorted(digests)}")
    verdict.acknowledged += 1
    if version is None:
        verdict.complain("M1", f"{_name(label)} was acknowledged and is not there")
        return
    if digests and f"sha256:{version.digest}" not in digests:
        verdict.complain("M2", f"{_name(label)} has digest {version.digest}, and was acknowledged as {digests}")
    if others := {a.answer["id"] for a in promised if "id" in a.answer} - {version.id}:
        verdict.complain("M2", f"{_name(label)} has id {version.id}, and was acknowledged with {sorted(others)}")
    removals = [a for a in tried if a.operation in REMOVING and not a.is_refused and not a.answer.get("cancelled")]
    may_be_removed = bool(removals)
    may_be_purged = any(a.operation == "purge" for a in removals) or (may_be_removed and version.purge_was_due)
    if version.state not in ({"ready", "removed"} if may_be_removed else {"ready"}):
        verdict.complain("M1", f"{_name(label)} was acknowledged and is {version.state}")
    if version.is_purged and not may_be_purged:
        verdict.complain("M1", f"{_name(label)} was acknowledged, and purged though nobody asked for that")
    if not version.is_purged:
        if dict(version.files) != dict(promised[0].facts["files"]):
            verdict.complain("M1", f"{_name(label)} was acknowledged with other files than it has")
        if not hashes.issuperset(version.files.values()):
            return  # reported as M3
    must_be_removed = any(a.is_acknowledged for a in removals) and not any(
        a.operation == "restore" and not a.is_refused for a in tried
    )
    if must_be_removed and version.state != "removed":
        verdict.complain("M1", f"the removal of {_name(label)} was acknowledged, and it is {version.state}")
    verdict.readable += 1


@dataclass(frozen=True)
class _Event:
    id: int
    action: str
    label: tuple[str, str | None]
    details: Mapping[str, Any]


async def _all_events(connection: AsyncConnection) -> list[_Event]:
    """Return all events in the order in which followers see them."""
    rows = await _rows(connection, "SELECT id, action, model_name, version, details FROM events ORDER BY xid, id")
    return [_Event(row.id, row.action, (row.model_name, row.version), row.details) for row in rows]


def _registered(events: Iterable[_Event], versions: Mapping[tuple[str, str], _Version], verdict: Verdict) -> None:
    registered = Counter(event.label for event in events if event.action == "version.registered")
    for label, version in versions.items():
        expected = 1 if version.state in {"ready", "removed"} else 0
        if registered[label] != expected:
            verdict.complain(
                "M9", f"{_name(label)} is {version.state} and has {registered[label]} events of registering"
            )
    for gone in registered.keys() - versions.keys():
        verdict.complain("M9", f"{_name(gone)} has an event and is not there")


_STEPS = {
    ("absent", "version.registered"): "ready",
    ("absent", "version.discarded"): "absent",
    ("ready", "version.removed"): "removed",
    ("removed", "version.restored"): "ready",
    ("removed", "version.purged"): "purged",
    ("ready", "version.updated"): "ready",
    ("ready", "version.yanked"): "ready",
    ("ready", "version.unyanked"): "ready",
    ("ready", "version.healed"): "ready",
    ("removed", "version.healed"): "removed",
}


def _lives(
    attempts: Sequence[Attempt],
    events: Iterable[_Event],
    versions: Mapping[tuple[str, str], _Version],
    verdict: Verdict,
) -> None:
    """Check that the events of each version lead to its current state, and that there are as many as clients caused."""
    happened: dict[tuple[str, str], list[_Event]] = defaultdict(list)
    # Changes of one model wait for each other, so the ids are in the order of the changes.
    for event in sorted(events, key=lambda event: event.id):
        if event.label[1] is not None and event.action.startswith("version."):
            happened[event.label[0], event.label[1]].append(event)
    for label, version in versions.items():
        state, is_yanked = "absent", False
        for event in happened[label]:
            step = _STEPS.get((state, event.action))
            if step is None or (event.action == "version.unyanked" and not is_yanked):
                verdict.complain("M9", f"{_name(label)} was {state}, and then event {event.id} is {event.action}")
                break
            state = step
            if event.action in {"version.yanked", "version.unyanked"}:
                is_yanked = event.action == "version.yanked"
        else:
            actual = "purged" if version.is_purged else version.state
            if (state, is_yanked) != (
                "absent" if actual in {"pending", "verifying"} else actual,
                version.is_yanked,
            ):
                verdict.complain("M9", f"{_name(label)} is {actual}, and its events say {state}")
    by_label: dict[tuple[str, str], list[Attempt]] = defaultdict(list)
    for attempt in attempts:
        by_label[attempt.model, attempt.version].append(attempt)
    for label, tried in by_label.items():
        if label in versions:
            _caused(label, tried, happened[label], verdict)


def _caused(label: tuple[str, str], tried: Sequence[Attempt], happened: Sequence[_Event], verdict: Verdict) -> None:
    def asked(*operations: str, is_open: bool = True) -> int:
        return sum(
            attempt.operation in operations
            and (attempt.is_acknowledged or (is_open and attempt.is_open))
            and not attempt.answer.get("cancelled")
            for attempt in tried
        )

    count = Counter(event.action for event in happened)
    for action, least, most in (
        ("version.removed", asked("remove", is_open=False), asked("remove", "purge")),
        ("version.restored", 0, asked("restore")),
        ("version.unyanked", 0, asked("unyank")),
    ):
        if any(attempt.operation in {"remove", "purge", "restore", "unyank"} for attempt in tried) and not (
            least <= count[action] <= most
        ):
            verdict.complain("M9", f"{_name(label)} has {count[action]} events {action}; {least} to {most} were asked")
    # Each yank and each description has a text of its own, which identifies its event.
    said = Counter(event.details.get("reason") for event in happened if event.action == "version.yanked")
    said += Counter(
        event.details.get("patch", {}).get("description") for event in happened if event.action == "version.updated"
    )
    for attempt in tried:
        words = {"yank": attempt.facts.get("reason"), "patch": attempt.facts.get("description")}.get(attempt.operation)
        if words is None:
            continue
        least, most = (1, 1) if attempt.is_acknowledged else (0, 1 if attempt.is_open else 0)
        if not least <= said[words] <= most:
            verdict.complain(
                "M9", f"{attempt.operation} {words} of {_name(label)} got {attempt.status} and has {said[words]} events"
            )


_History = dict[tuple[str, str], dict[int, str | None]]


async def _aliases(
    attempts: Sequence[Attempt], connection: AsyncConnection, events: Iterable[_Event], verdict: Verdict
) -> None:
    history: _History = defaultdict(dict)
    for name, alias, generation, version in await _rows(
        connection,
        "SELECT h.model_name, alias, h.generation, version FROM alias_history h "
        "LEFT JOIN model_info ON id = version_id ORDER BY h.generation",
    ):
        history[name, alias][generation] = version
    present = {}
    for name, alias, generation, version, state in await _rows(
        connection,
        "SELECT a.model_name, alias, a.generation, version, state FROM aliases a JOIN model_info ON id = version_id",
    ):
        present[name, alias] = version
        if state != "ready":
            verdict.complain("M1", f"alias {alias} of {name} points at {version}, which is {state}")
        if history[name, alias].get(generation) != version:
            verdict.complain("M9", f"alias {alias} of {name} has no entry for {version} and generation {generation}")
    for (name, alias), moves in history.items():
        last = moves[max(moves)] if moves else None
        if present.get((name, alias)) != last:
            verdict.complain(
                "M1", f"alias {alias} of {name} points at {present.get((name, alias))}, and was last moved to {last}"
            )
    _alias_events(events, history, verdict)
    _alias_promises(attempts, events, history, verdict)


def _alias_events(events: Iterable[_Event], history: _History, verdict: Verdict) -> None:
    """Check that there is one entry for each event, and one event for each entry."""
    entries = Counter(
        (name, alias, None if version is None else generation)
        for (name, alias), moves in history.items()
        for generation, version in moves.items()
    )
    told: Counter[tuple[str, str, int | None]] = Counter()
    for event in events:
        name = event.label[0]
        if event.action == "alias.moved":
            told[name, event.details["alias"], event.details["generation"]] += 1
        elif event.action == "alias.dropped":
            told[name, event.details["alias"], None] += 1
        elif event.action == "version.removed":
            told.update((name, alias, None) for alias in event.details.get("dropped_aliases", ()))
    for (name, alias, generation), count in ((entries - told) + (told - entries)).items():
        verdict.complain(
            "M9", f"alias {alias} of {name}: {count} entries and events at generation {generation} do not match"
        )


def _alias_promises(attempts: Sequence[Attempt], events: Iterable[_Event], history: _History, verdict: Verdict) -> None:
    """Check that every acknowledged move is in the history, and that clients asked for every other move there.

    So the last entry, which is what the alias shows, is the last acknowledged move, or one whose response was lost.
    """
    unexplained = {key: dict(moves) for key, moves in history.items()}
    open_moves: Counter[tuple[str, str, str | None]] = Counter()
    drops: Counter[tuple[str, str]] = Counter()
    open_drops: Counter[tuple[str, str]] = Counter()
    mentioned = set()
    for attempt in attempts:
        if attempt.operation == "unalias":
            key = attempt.model, attempt.facts["alias"]
            mentioned.add(key)
            drops[key] += attempt.is_acknowledged
            open_drops[key] += attempt.is_open
        elif attempt.operation == "alias":
            mentioned |= {(attempt.model, alias) for alias, _ in attempt.facts["moves"]}
            if attempt.is_open:
                open_moves.update((attempt.model, alias, version) for alias, version in attempt.facts["moves"])
            for alias, version, generation in attempt.answer.get("moved", ()):
                if unexplained.get((attempt.model, alias), {}).pop(generation, "nothing") != version:
                    verdict.complain(
                        "M1", f"alias {alias} of {attempt.model} was moved to {version}, and has no entry {generation}"
                    )
    for event in events:
        if event.action == "version.removed":
            drops.update((event.label[0], alias) for alias in event.details.get("dropped_aliases", ()))
    for name, alias in sorted(mentioned):
        left = Counter(unexplained.get((name, alias), {}).values())
        dropped = left.pop(None, 0)
        if not drops[name, alias] <= dropped <= drops[name, alias] + open_drops[name, alias]:
            verdict.complain("M9", f"alias {alias} of {name} was dropped {drops[name, alias]} times, not {dropped}")
        anywhere = open_moves[name, alias, None]  # a rollback does not name its target
        surplus = sum(max(0, count - open_moves[name, alias, version]) for version, count in left.items())
        if surplus > anywhere:
            verdict.complain("M9", f"alias {alias} of {name} has moves that nobody asked for: {dict(left)}")


def _followed(seen: Sequence[int], events: Sequence[_Event], verdict: Verdict) -> None:
    expected = [event.id for event in events]
    if list(seen) == expected:
        return
    twice = [event_id for event_id, count in Counter(seen).items() if count > 1]
    missed, unknown = sorted(set(expected) - set(seen)), sorted(set(seen) - set(expected))
    verdict.complain(
        "M9",
        f"a follower saw {len(seen)} of {len(expected)} events: {twice[:5]} twice, {missed[:5]} not, "
        f"{unknown[:5]} that are not there, or in another order",
    )


def _name(label: tuple[str, str | None]) -> str:
    return f"{label[0]} {label[1]}"
