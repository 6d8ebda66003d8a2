"""Scrubbing and collecting, as an operator does them: damage is found and healed, what is freed is reported."""

import hashlib
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.object_store.blob_store import StoredObject
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.processes import environment
from tests.support.processes import run as run_command
from tests.support.pushing import entry, expire, push, reserve
from tests.support.registering import WEIGHTS, register
from tests.support.service import Collect, RunningService, ServiceWith

FRAUD = {"model_name": "fraud", "version": "1.0"}


async def key_of(client: httpx.AsyncClient, name: str = "fraud", version: str = "1.0") -> str:
    """Where the only file of a version is stored."""
    location: str = (await client.get(f"/get_model_info/{name}/{version}")).json()["file_path"]
    return location.split("/", 3)[3]


async def verify(service: RunningService, model_name: str | None = None) -> list[str]:
    """The digests that are damaged."""
    verified = await service.services.scrubber.verify(model_name, progress=lambda _: None)
    return [str(damage.sha256) for damage in verified.damages]


async def actions(client: httpx.AsyncClient) -> list[str]:
    return [event["action"] for event in (await client.get("/v1/events")).json()["items"]]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@pytest.mark.parametrize(
    "damaged",
    [b"x" + WEIGHTS[1:], WEIGHTS[:-1], WEIGHTS + b"!", b"", None],
    ids=["other", "short", "long", "empty", "gone"],
)
async def test_damaged_bytes_are_found_and_marked(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket, damaged: bytes | None
) -> None:
    await register(client, FRAUD, {"model.bin": WEIGHTS})
    await register(client, {**FRAUD, "version": "2.0"}, {"labels.txt": b"sound"})
    sound = await verify(service)
    if damaged is None:
        await bucket.client.delete_object(Bucket=bucket.name, Key=await key_of(client))
    else:
        await bucket.write(await key_of(client), damaged)

    found = await verify(service)
    again = await verify(service)

    assert sound == []
    assert found == again == [digest(WEIGHTS)]
    refused = await client.get("/get_model/fraud/1.0")
    assert (refused.status_code, refused.json()["type"].rpartition(":")[2]) == (409, "file-damaged")
    assert (await client.get("/get_model/fraud/2.0")).content == b"sound"
    # Said once, however often it is found.
    assert (await actions(client)).count("version.damaged") == 1


@pytest.mark.parametrize("way", ["registration", "push"])
async def test_the_next_upload_of_the_same_bytes_heals_a_damaged_blob(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket, collect: Collect, way: str
) -> None:
    await register(client, FRAUD, {"model.bin": WEIGHTS})
    before = await client.get("/get_model_info/fraud/1.0")
    old_key = await key_of(client)
    await bucket.write(old_key, b"x" + WEIGHTS[1:])
    await verify(service)

    if way == "registration":
        healed = await register(client, {**FRAUD, "version": "2.0"}, {"again.bin": WEIGHTS})
        assert healed.status_code == 201
    else:
        reserved = await reserve(client, {"again.bin": WEIGHTS}, "2.0")
        assert [upload["already_stored"] for upload in reserved.json()["uploads"]] == [False]
        assert (await push(client, {"again.bin": WEIGHTS}, "2.0")).status_code == 200
    await collect()

    after = await client.get("/get_model_info/fraud/1.0")
    assert (await client.get("/get_model/fraud/1.0")).content == WEIGHTS
    assert (await client.get("/get_model/fraud/2.0")).content == WEIGHTS
    assert await key_of(client) == await key_of(client, version="2.0") != old_key
    assert after.headers["etag"] != before.headers["etag"]
    assert after.json()["digest"] == before.json()["digest"]
    assert await bucket.keys() == {await key_of(client)}
    assert await verify(service) == []
    assert "version.healed" in await actions(client)


async def test_bytes_that_are_right_again_are_marked_intact(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket
) -> None:
    await register(client, FRAUD, {"model.bin": WEIGHTS})
    await bucket.write(await key_of(client), b"x" + WEIGHTS[1:])
    assert await verify(service) == [digest(WEIGHTS)]
    await bucket.write(await key_of(client), WEIGHTS)

    assert await verify(service) == []

    assert (await client.get("/get_model/fraud/1.0")).content == WEIGHTS


async def test_verify_reads_the_blobs_of_one_model_or_all(
    client: httpx.AsyncClient, service: RunningService, bucket: Bucket
) -> None:
    await register(client, FRAUD, {"a": b"shared", "b": b"only fraud"})
    await register(client, {"model_name": "churn", "version": "1"}, {"a": b"shared", "c": b"only churn"})
    scrubber = service.services.scrubber

    of_one = await scrubber.verify("churn", progress=lambda _: None)
    of_all = await scrubber.verify(progress=lambda _: None)

    assert (of_one.blobs, of_one.size_bytes) == (2, len(b"shared" + b"only churn"))
    assert of_all.blobs == 3


async def test_a_blob_that_is_purged_while_it_is_read_is_not_damaged(
    client: httpx.AsyncClient, service: RunningService, collect: Collect, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, FRAUD, {"model.bin": WEIGHTS})
    stored = service.services.blobs.stored

    async def purged_first(key: str) -> StoredObject | None:
        await client.delete("/v1/models/fraud/versions/1.0", params={"purge": True})
        await collect()
        return await stored(key)

    monkeypatch.setattr(service.services.blobs, "stored", purged_first)

    assert await verify(service) == []

    assert "version.damaged" not in await actions(client)


async def test_verify_on_the_command_line_exits_with_1_and_names_the_damaged_versions(
    client: httpx.AsyncClient, stack: StackAddresses, settings: Settings, bucket: Bucket, tmp_path: Path
) -> None:
    env = environment(stack)
    await register(client, FRAUD, {"weights/model.bin": WEIGHTS})

    sound = await run_command("verify", env=env, cwd=tmp_path)
    await bucket.write(await key_of(client), b"x" + WEIGHTS[1:])
    damaged = await run_command("verify", "--model", "fraud", env=env, cwd=tmp_path)
    unknown = await run_command("verify", "--model", "Fraud", env=env, cwd=tmp_path)

    assert (sound[0], sound[1].strip()) == (0, f"1 blobs, {len(WEIGHTS)} bytes, 0 damaged")
    assert damaged[0] == 1
    assert f"damaged: {digest(WEIGHTS)} (fraud 1.0 weights/model.bin)" in damaged[1]
    assert unknown[0] == 1
    assert "No model named 'Fraud'" in unknown[2]


async def test_a_dry_run_shows_what_a_run_frees(
    stack: StackAddresses, service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket, tmp_path: Path
) -> None:
    env = environment(stack, GC_GRACE_SECONDS="0", PURGE_AFTER_SECONDS="0")
    service = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=service.url) as client:
        await register(client, FRAUD, {"a": b"shared", "b": b"x" * 1000})
        await register(client, {**FRAUD, "version": "2.0"}, {"a": b"shared"})
        await client.delete("/remove_model/fraud/1.0")
        expired = await client.post(
            "/v1/models/fraud/versions", json={"version": "3", "files": [entry("c", b"y" * 77)]}
        )
        assert expired.status_code == 201
        await expire(database_session)
        keys = await bucket.keys()

        before = await run_command("gc", "--dry-run", env=env, cwd=tmp_path)
        untouched = await bucket.keys()
        after = await run_command("gc", "--once", env=env, cwd=tmp_path)

    assert before[0] == after[0] == 0, before
    # What was registered twice was stored once more than is needed; and the upload that expired was declared with 77
    # bytes, of which none were sent.
    said = "expired versions: 1, expired uploads: 0, purged versions: 1, deleted objects: 3, freed bytes: 1083"
    assert before[1].startswith(said)
    assert after[1].startswith(said)
    assert untouched == keys
    assert len(await bucket.keys()) == 1
