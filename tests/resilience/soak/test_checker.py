"""The checker complains: each measure, about damage made by hand."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.support.bucket import Bucket
from tests.support.checker import Verdict, check
from tests.support.ledger import Attempt, Ledger, read_ledgers
from tests.support.registering import register
from tests.support.service import Collect

pytestmark = pytest.mark.slow

WEIGHTS = b"weights" * 100
LABELS = b"labels" * 10


@dataclass
class Story:
    """The ledgers of the clients, what is stored since, and what a follower of the events has seen."""

    attempts: list[Attempt]
    followed: list[int]
    engine: AsyncEngine
    bucket: Bucket

    async def verdict(self) -> Verdict:
        return await check(self.attempts, self.engine, self.bucket, followed=[self.followed], is_settled=True)

    async def sql(self, *statements: str) -> None:
        async with self.engine.begin() as connection:
            for statement in statements:
                await connection.execute(text(statement))

    async def key(self) -> str:
        """Return the key of the object that m 1 and m 3 share."""
        async with self.engine.connect() as connection:
            found = await connection.scalar(
                text("SELECT storage_key FROM blobs WHERE sha256 = :sha256"),
                {"sha256": hashlib.sha256(WEIGHTS).digest()},
            )
        assert isinstance(found, str)
        return found


@pytest.fixture
async def story(
    client: httpx.AsyncClient, engine: AsyncEngine, bucket: Bucket, collect: Collect, tmp_path: Path
) -> Story:
    """m 1 and m 3 are ready, m 2 was removed and restored, m 4 purged; champion was moved, canary dropped."""
    with Ledger(tmp_path / "ledger") as ledger:

        async def registered(version: str, files: dict[str, bytes]) -> None:
            digests = {path: hashlib.sha256(data).hexdigest() for path, data in files.items()}
            attempt = ledger.attempt("register", "m", version, files=digests)
            answer = await register(client, {"model_name": "m", "version": version}, files)
            info = answer.json()
            ledger.ack(attempt, answer.status_code, digest=info["digest"], id=info["id"])

        async def changed(operation: str, version: str, method: str, path: str, **body: Any) -> None:
            attempt = ledger.attempt(operation, "m", version, **body)
            answer = await client.request(method, f"/v1/models/m/versions/{version}{path}", json=body or None)
            assert answer.status_code == 200, answer.text
            ledger.ack(attempt, answer.status_code)

        async def moved(alias: str, version: str) -> None:
            attempt = ledger.attempt("alias", "m", moves=[[alias, version]])
            answer = await client.put(f"/v1/models/m/aliases/{alias}", json={"version": version})
            ledger.ack(attempt, answer.status_code, moved=[[alias, version, answer.json()["generation"]]])

        await registered("1", {"model.bin": WEIGHTS})
        await registered("2", {"labels": LABELS})
        await registered("3", {"model.bin": WEIGHTS, "labels": LABELS})
        await registered("4", {"own": b"only here"})
        await changed("remove", "2", "DELETE", "")
        await changed("restore", "2", "POST", "/restore")
        await changed("yank", "2", "POST", "/yank", reason="too old")
        await changed("patch", "1", "PATCH", "", description="the first")
        await changed("purge", "4", "DELETE", "?purge=true")
        await moved("champion", "1")
        await moved("champion", "3")
        await moved("canary", "2")
        attempt = ledger.attempt("unalias", "m", alias="canary")
        ledger.ack(attempt, (await client.delete("/v1/models/m/aliases/canary")).status_code)
    await collect()
    events = (await client.get("/v1/events", params={"limit": 1000})).json()["items"]
    return Story(read_ledgers([tmp_path / "ledger"]), [event["id"] for event in events], engine, bucket)


Damage = Callable[[Story], Awaitable[None]]


def sql(*statements: str) -> Damage:
    async def damage(story: Story) -> None:
        await story.sql(*statements)

    return damage


async def _loses_an_object(story: Story) -> None:
    await story.bucket.client.delete_object(Bucket=story.bucket.name, Key=await story.key())


async def _flips_a_byte(story: Story) -> None:
    await story.bucket.write(await story.key(), WEIGHTS[:-1] + b"?")


async def _has_an_unknown_object(story: Story) -> None:
    await story.bucket.write("blobs/stranger", b"?")


async def _has_unknown_parts(story: Story) -> None:
    await story.bucket.client.create_multipart_upload(Bucket=story.bucket.name, Key="blobs/stranger")


async def _queues_a_living_key(story: Story) -> None:
    await story.sql(f"INSERT INTO garbage (storage_key, is_upload) VALUES ('{await story.key()}', false)")


async def _acknowledged_another_id(story: Story) -> None:
    story.attempts[0].answer = {**story.attempts[0].answer, "id": -1}


async def _acknowledged_other_files(story: Story) -> None:
    story.attempts.append(replace(story.attempts[0], facts={"files": {"model.bin": "0" * 64}}))


async def _forgot_who_asked(story: Story) -> None:
    story.attempts = [attempt for attempt in story.attempts if attempt.operation != "purge"]


async def _forgot_who_restored(story: Story) -> None:
    story.attempts = [attempt for attempt in story.attempts if attempt.operation != "restore"]


async def _forgot_who_moved(story: Story) -> None:
    story.attempts = [a for a in story.attempts if a.facts.get("moves") != [["champion", "3"]]]


async def _promised_a_move(story: Story) -> None:
    story.attempts.append(
        Attempt("alias", "m", "", {"moves": [["champion", "2"]]}, 200, {"moved": [["champion", "2", 10**9]]})
    )


async def _followed_one_twice(story: Story) -> None:
    story.followed.append(story.followed[0])


async def _followed_with_a_gap(story: Story) -> None:
    del story.followed[2]


_EVENT = "DELETE FROM events WHERE action = '{}' AND version = '{}'"

DAMAGES: dict[str, tuple[str, Damage]] = {
    "M4 an object is lost": ("has no object", _loses_an_object),
    "M1 a byte is flipped": ("has other bytes", _flips_a_byte),
    "M4 an unknown object": ("stranger is in the bucket", _has_an_unknown_object),
    "M4 unknown parts": ("unfinished multipart upload of blobs/stranger", _has_unknown_parts),
    "M4 a living key is garbage": ("is a blob and garbage", _queues_a_living_key),
    "M4 a blob that nobody shows": (
        "nothing refers to it",
        sql("INSERT INTO blobs (sha256, size_bytes, storage_key) VALUES (decode(repeat('00', 32), 'hex'), 1, 'k')"),
    ),
    "M1 a version is gone": (
        "m 1 was acknowledged and is not there",
        sql(
            "DELETE FROM version_files WHERE version_id = (SELECT id FROM model_info WHERE version = '1')",
            "DELETE FROM alias_history",
            "DELETE FROM model_info WHERE version = '1'",
        ),
    ),
    "M1 files were swapped": (
        "m 1 was acknowledged with other files",
        sql(
            "UPDATE version_files SET sha256 = (SELECT sha256 FROM version_files WHERE path = 'labels' LIMIT 1) "
            "WHERE version_id = (SELECT id FROM model_info WHERE version = '1')"
        ),
    ),
    "M1 purged by nobody": ("m 4 was acknowledged, and purged though", _forgot_who_asked),
    "M1 a removal was forgotten": ("the removal of m 2 was acknowledged, and it is ready", _forgot_who_restored),
    "M2 another digest": (
        "m 1 has digest",
        sql("UPDATE model_info SET digest = decode(repeat('00', 32), 'hex') WHERE version = '1'"),
    ),
    "M2 another id": ("m 1 has id", _acknowledged_another_id),
    "M2 several contents": ("several contents", _acknowledged_other_files),
    "M2 a wrong count": ("m counts 7 versions", sql("UPDATE registered_models SET version_count = 7")),
    "M3 files of a purged version": (
        "m 4 is not published, or purged, and still has",
        sql(
            "INSERT INTO version_files SELECT (SELECT id FROM model_info WHERE version = '4'), path, sha256, "
            "size_bytes, media_type FROM version_files LIMIT 1"
        ),
    ),
    "M3 files of a pending version": (
        "m 1 is not published",
        sql("UPDATE model_info SET state = 'pending', lease_expires_at = now() + interval '1 h' WHERE version = '1'"),
    ),
    "M5 a version past its lease": (
        "m 1 is unfinished past its lease",
        sql("UPDATE model_info SET state = 'pending', lease_expires_at = now() - interval '1 h' WHERE version = '1'"),
    ),
    "M5 an upload past its lease": (
        "an upload of f is open past its lease",
        sql(
            "INSERT INTO uploads (id, path, storage_key, lease_expires_at) "
            "VALUES (gen_random_uuid(), 'f', 'k', now() - interval '1 h')"
        ),
    ),
    "M9 no event of a registration": ("0 events of registering", sql(_EVENT.format("version.registered", "1"))),
    "M9 two events of a registration": (
        "2 events of registering",
        sql("INSERT INTO events (actor, action, model_name, version) VALUES ('a', 'version.registered', 'm', '1')"),
    ),
    "M9 no event of a removal": ("m 2 was ready, and then event", sql(_EVENT.format("version.removed", "2"))),
    "M9 no event of a restoration": ("m 2 was removed, and then event", sql(_EVENT.format("version.restored", "2"))),
    "M9 no event of a purge": ("m 4 is purged, and its events say removed", sql(_EVENT.format("version.purged", "4"))),
    "M9 no event of a yank": ("yank too old of m 2", sql(_EVENT.format("version.yanked", "2"))),
    "M9 no event of a patch": ("patch the first of m 1", sql(_EVENT.format("version.updated", "1"))),
    "M9 no event of a move": ("do not match", sql(_EVENT.format("alias.moved", "3"))),
    "M9 no entry of a drop": (
        "canary of m was dropped 1 times, not 0",
        sql("DELETE FROM alias_history WHERE version_id IS NULL"),
    ),
    "M9 no entry of a move": (
        "has no entry for 3",
        sql("DELETE FROM alias_history WHERE version_id = (SELECT id FROM model_info WHERE version = '3')"),
    ),
    "M9 a move that nobody asked for": ("moves that nobody asked for", _forgot_who_moved),
    "M1 a move was forgotten": ("was moved to 2, and has no entry", _promised_a_move),
    "M1 an alias is elsewhere": (
        "champion of m points at 2, and was last moved to 3",
        sql("UPDATE aliases SET version_id = (SELECT id FROM model_info WHERE version = '2')"),
    ),
    "M1 an alias of a removed version": (
        "points at 4, which is removed",
        sql("UPDATE aliases SET version_id = (SELECT id FROM model_info WHERE version = '4')"),
    ),
    "M9 a follower saw one twice": ("twice", _followed_one_twice),
    "M9 a follower missed one": ("a follower saw", _followed_with_a_gap),
}


async def test_where_every_promise_was_kept_there_is_no_complaint(story: Story) -> None:
    verdict = await story.verdict()

    assert verdict.complaints == []
    assert (verdict.acknowledged, verdict.readable, verdict.versions, verdict.objects) == (4, 4, 4, 2)


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_is_complained_of(story: Story, damage: str) -> None:
    wording, do = DAMAGES[damage]
    await do(story)

    complaints = (await story.verdict()).complaints

    assert any(each.startswith(damage[:2]) and wording in each for each in complaints), complaints
