"""The collector: what crashes and removals leave is reclaimed, what anybody refers to is not."""

import asyncio
from uuid import uuid4

import httpx
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import BlobDB, EventDB, GarbageDB, ModelInfoDB, RegisteredModelDB, UploadDB
from tests.support.bucket import Bucket
from tests.support.registering import WEIGHTS, register
from tests.support.service import Collect, RunningService, ServiceWith


async def count(session: AsyncSession, table: type) -> int:
    await session.rollback()
    number = await session.scalar(select(func.count()).select_from(table))
    assert number is not None
    return number


async def crashed_upload(session: AsyncSession, *, lease: str, multipart_id: str | None = None) -> str:
    """Insert the rows of a registration whose process died, and return the storage key."""
    key = f"blobs/{uuid4()}"
    await session.execute(
        text("INSERT INTO registered_models (name, is_provisional) VALUES ('crashed', true) ON CONFLICT DO NOTHING")
    )
    version_id = await session.scalar(
        text(
            "INSERT INTO model_info (model_name, version, number, lease_expires_at) "
            f"VALUES ('crashed', '1', 1, now() + interval '{lease}') RETURNING id"
        )
    )
    await session.execute(
        text(
            "INSERT INTO uploads (id, version_id, path, storage_key, multipart_id, lease_expires_at) "
            f"VALUES (gen_random_uuid(), :version, 'f', :key, :multipart, now() + interval '{lease}')"
        ),
        {"version": version_id, "key": key, "multipart": multipart_id},
    )
    await session.commit()
    return key


async def test_the_remains_of_a_crash_are_reclaimed_after_the_lease(
    database_session: AsyncSession, fresh: None, collect: Collect, bucket: Bucket
) -> None:
    key = await crashed_upload(database_session, lease="-1 second")
    await bucket.write(key, b"complete, but never published")

    collected = await collect()

    assert (collected.expired_versions, collected.deleted_objects) == (1, 1)
    assert await bucket.keys() == set()
    for table in (UploadDB, ModelInfoDB, RegisteredModelDB):
        assert await count(database_session, table) == 0


async def test_a_multipart_upload_is_aborted_even_when_its_id_was_never_stored(
    database_session: AsyncSession, fresh: None, collect: Collect, bucket: Bucket
) -> None:
    key = await crashed_upload(database_session, lease="-1 second", multipart_id=None)
    upload = await bucket.client.create_multipart_upload(Bucket=bucket.name, Key=key)
    await bucket.client.upload_part(
        Bucket=bucket.name, Key=key, UploadId=upload["UploadId"], PartNumber=1, Body=b"part"
    )

    await collect()

    assert await bucket.unfinished() == []


async def test_what_a_writer_that_stood_still_writes_after_its_lease_is_reclaimed(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect, bucket: Bucket
) -> None:
    key = await crashed_upload(database_session, lease="-1 second")
    await collect()
    # It wakes up, its last bytes arrive, and it is killed.
    await bucket.write(key, b"late")
    await collect()
    known = await database_session.scalar(select(GarbageDB.storage_key))
    await database_session.execute(text("UPDATE garbage SET not_before = now(), writable_until = now()"))
    await database_session.commit()

    await collect()

    assert known == key
    assert await bucket.keys() == set()
    assert await count(database_session, GarbageDB) == 0


async def test_uploads_with_a_lease_are_not_collected(
    database_session: AsyncSession, fresh: None, collect: Collect, bucket: Bucket
) -> None:
    key = await crashed_upload(database_session, lease="1 hour")
    await bucket.write(key, b"on its way")

    collected = await collect()

    assert collected.is_nothing
    assert await bucket.keys() == {key}


async def test_a_purge_frees_the_storage_and_keeps_the_label(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    forgetful = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=forgetful.url) as client:
        await register(client, {"model_name": "m", "version": "1"})
        await client.delete("/remove_model/m/1")
        collected = await forgetful.services.collector.collect()
        again = await register(client, {"model_name": "m", "version": "1"})

    assert (collected.purged_versions, collected.deleted_objects) == (1, 1)
    assert await bucket.keys() == set()
    assert await count(database_session, BlobDB) == 0
    assert again.status_code == 409
    actions = (await database_session.scalars(select(EventDB.action).order_by(EventDB.id))).all()
    assert actions == ["version.registered", "version.removed", "version.purged"]


async def test_a_purge_keeps_blobs_that_another_version_uses(service_with: ServiceWith, bucket: Bucket) -> None:
    forgetful = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=forgetful.url) as client:
        await register(client, {"model_name": "m", "version": "1"})
        await register(client, {"model_name": "m", "version": "2"})
        await client.delete("/remove_model/m/1")
        await forgetful.services.collector.collect()

        response = await client.get("/get_model/m/2")

    assert response.content == WEIGHTS
    assert len(await bucket.keys()) == 1


async def test_many_collectors_and_registrations_at_once_lose_nothing(
    service_with: ServiceWith, bucket: Bucket, database_session: AsyncSession
) -> None:
    forgetful = await service_with(purge_after_seconds=0)
    async with httpx.AsyncClient(base_url=forgetful.url, timeout=30) as client:
        is_over = asyncio.Event()

        async def keep_collecting() -> None:
            while not is_over.is_set():
                await forgetful.services.collector.collect()

        async def churn(number: int) -> None:
            for round_ in range(8):
                info = {"model_name": f"m{number}", "version": str(round_)}
                registered = await register(client, info, {"f": f"shared {round_ % 2}".encode()})
                assert registered.status_code == 201, registered.text
                got = await client.get(f"/get_model/m{number}/{round_}")
                assert got.content == f"shared {round_ % 2}".encode()
                removed = await client.delete(f"/remove_model/m{number}/{round_}")
                assert removed.status_code == 200

        collectors = [asyncio.create_task(keep_collecting()) for _ in range(3)]
        await asyncio.gather(*(churn(number) for number in range(6)))
        is_over.set()
        await asyncio.gather(*collectors)
        await forgetful.services.collector.collect()

    assert await bucket.keys() == set()
    assert await count(database_session, BlobDB) == 0
    assert await count(database_session, GarbageDB) == 0


async def test_a_download_that_began_survives_the_purge(service_with: ServiceWith, bucket: Bucket) -> None:
    careful = await service_with(purge_after_seconds=0, gc_grace_seconds=3600)
    async with httpx.AsyncClient(base_url=careful.url) as client:
        await register(client, {"model_name": "m", "version": "1"}, {"f": bytes(32 * 1024**2)})
        async with client.stream("GET", "/get_model/m/1") as response:
            chunks = response.aiter_raw(65536)
            received = len(await anext(chunks))
            await client.delete("/remove_model/m/1")
            collected = await careful.services.collector.collect()
            async for chunk in chunks:
                received += len(chunk)

    assert (collected.purged_versions, collected.deleted_objects) == (1, 0)
    assert received == 32 * 1024**2


async def test_old_idempotency_keys_are_forgotten(
    client: httpx.AsyncClient, database_session: AsyncSession, collect: Collect
) -> None:
    await register(client, {"model_name": "m", "version": "1"}, key="old")
    await database_session.execute(text("UPDATE idempotency SET created_at = now() - interval '8 days'"))
    await database_session.commit()

    collected = await collect()

    assert collected.forgotten_keys == 1


async def test_the_service_collects_by_itself(
    service_with: ServiceWith, database_session: AsyncSession, bucket: Bucket
) -> None:
    key = await crashed_upload(database_session, lease="-1 second")
    await bucket.write(key, b"left behind")

    await service_with(gc_interval_seconds=0.1)

    async with asyncio.timeout(30):
        while await bucket.keys():  # noqa: ASYNC110 - in another process, as it were
            await asyncio.sleep(0.05)


async def test_the_collector_outlives_a_store_that_is_away(service: RunningService, service_with: ServiceWith) -> None:
    lonely = await service_with(gc_interval_seconds=0.05, s3_endpoint_url="http://127.0.0.1:9")

    await asyncio.sleep(0.5)

    async with httpx.AsyncClient(base_url=lonely.url) as client:
        assert (await client.get("/healthz")).status_code == 200
        readiness = await client.get("/readyz")
    assert readiness.status_code == 503
    assert readiness.headers["retry-after"] == "2"
    assert (readiness.json()["checks"]["s3"]["ok"], readiness.json()["checks"]["postgresql"]["ok"]) == (False, True)
