"""The standing measures: ledgers, database and every byte in the bucket compared, by SQL and S3 of the checker's own.

M1  what was acknowledged is readable, and hashes to what was sent
M2  a (model, version) has one manifest for ever
M3  what was not acknowledged is absent or whole
M4  no object is unknown to the database, and no row is without its object
M5  no upload or version is unfinished past its lease
M9  every change has its event, once

M6 (answers soon after a fault), M7 (no 5xx but 503) and M8 (memory and files come back) are of the running service; a
test measures them where it has one.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from tests.bucket import Bucket
from tests.ledger import Attempt

REGISTERING = frozenset({"register", "push"})
REMOVING = frozenset({"remove", "purge"})


@dataclass
class Verdict:
    """`complaints` is empty where every promise was kept."""

    acknowledged: int = 0
    readable: int = 0
    attempts: int = 0
    versions: int = 0
    objects: int = 0
    complaints: list[str] = field(default_factory=list)

    def complain(self, measure: str, what: str) -> None:
        self.complaints.append(f"{measure}: {what}")

    def __str__(self) -> str:
        said = "\n  ".join(["", *self.complaints[:50]]) if self.complaints else " no complaint"
        return (
            f"{self.attempts} attempts, {self.acknowledged} versions acknowledged, {self.readable} of them readable "
            f"and re-hashed, {self.versions} rows, {self.objects} objects:{said}"
        )


@dataclass(frozen=True)
class _Version:
    id: int
    state: str
    digest: str | None
    is_purged: bool
    files: Mapping[str, str]  # path: sha256


async def check(attempts: Iterable[Attempt], engine: AsyncEngine, bucket: Bucket) -> Verdict:
    """Compare everything. Call when the faults are over, the clients are silent and a collector has run."""
    attempts = list(attempts)
    verdict = Verdict(attempts=len(attempts))
    async with engine.connect() as connection:
        await _objects(connection, bucket, verdict)
        await _unfinished(connection, verdict)
        versions = await _versions(connection)
        verdict.versions = len(versions)
        hashes = await _hashes(connection, bucket, verdict)
        _labels(attempts, versions, hashes, verdict)
        await _events(connection, versions, verdict)
    return verdict


async def _rows(connection: AsyncConnection, statement: str) -> list[Any]:
    return list((await connection.execute(text(statement))).all())


async def _objects(connection: AsyncConnection, bucket: Bucket, verdict: Verdict) -> None:
    known = {
        key
        for (key,) in await _rows(
            connection,
            "SELECT storage_key FROM blobs UNION SELECT storage_key FROM uploads UNION SELECT storage_key FROM garbage",
        )
    }
    present = await bucket.keys()
    verdict.objects = len(present)
    for key in sorted(present - known):
        verdict.complain("M4", f"{key} is in the bucket and in no table")
    for upload in await bucket.unfinished():
        if upload["Key"] not in known:
            verdict.complain("M4", f"an unfinished multipart upload of {upload['Key']} is in no table")
    for (key,) in await _rows(connection, "SELECT storage_key FROM blobs WHERE damaged_at IS NULL"):
        if key not in present:
            verdict.complain("M4", f"blob {key} has no object")


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
        "SELECT id, model_name, version, state, encode(digest, 'hex') AS digest, purged_at FROM model_info",
    ):
        version = _Version(row.id, row.state, row.digest, row.purged_at is not None, files[row.id])
        versions[row.model_name, row.version] = version
    return versions


async def _hashes(connection: AsyncConnection, bucket: Bucket, verdict: Verdict) -> set[str]:
    """The digests whose bytes are there and right: every object that a blob names is read."""
    right = set()
    for sha256, size, key in await _rows(
        connection, "SELECT encode(sha256, 'hex'), size_bytes, storage_key FROM blobs WHERE damaged_at IS NULL"
    ):
        try:
            content = await bucket.read(key)
        except bucket.client.exceptions.NoSuchKey:
            continue  # complained of above
        if hashlib.sha256(content).hexdigest() != sha256 or len(content) != size:
            verdict.complain("M1", f"blob {key} has other bytes than {sha256}")
        else:
            right.add(sha256)
    return right


def manifest_digest(files: Mapping[str, tuple[str, int]]) -> str:
    """The digest of a version, recomputed from {path: (sha256, size)} as anyone can."""
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
        # Where the server chose the label, its answer says which.
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
    may_be_purged = any(a.operation == "purge" and not a.is_refused for a in tried)
    may_be_removed = may_be_purged or any(a.operation in REMOVING and not a.is_refused for a in tried)
    if version.state not in ({"ready", "removed"} if may_be_removed else {"ready"}):
        verdict.complain("M1", f"{_name(label)} was acknowledged and is {version.state}")
    if version.is_purged and not may_be_purged:
        verdict.complain("M1", f"{_name(label)} was acknowledged, and purged though nobody asked for that")
    if not version.is_purged:
        if dict(version.files) != dict(promised[0].facts["files"]):
            verdict.complain("M1", f"{_name(label)} was acknowledged with other files than it has")
        if not hashes.issuperset(version.files.values()):
            return  # complained of as M3
    must_be_removed = any(a.operation in REMOVING and a.is_acknowledged for a in tried) and not any(
        a.operation == "restore" and not a.is_refused for a in tried
    )
    if must_be_removed and version.state != "removed":
        verdict.complain("M1", f"the removal of {_name(label)} was acknowledged, and it is {version.state}")
    verdict.readable += 1


async def _events(connection: AsyncConnection, versions: Mapping[tuple[str, str], _Version], verdict: Verdict) -> None:
    registered = Counter(
        (name, version)
        for name, version in await _rows(
            connection, "SELECT model_name, version FROM events WHERE action = 'version.registered'"
        )
    )
    for label, version in versions.items():
        expected = 1 if version.state in {"ready", "removed"} else 0
        if registered[label] != expected:
            verdict.complain(
                "M9", f"{_name(label)} is {version.state} and has {registered[label]} events of registering"
            )
    for label in registered.keys() - versions.keys():
        verdict.complain("M9", f"{_name(label)} has an event and is not there")


def _name(label: tuple[str, str]) -> str:
    return f"{label[0]} {label[1]}"
