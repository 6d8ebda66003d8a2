"""Pushes that meet: of each label one wins, equal bytes are kept once, and what the network loses is found again."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx
import pytest
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import BlobDB, DeclaredFileDB, ModelInfoDB, UploadDB
from model_registry.maintenance.collector import Collector
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.commit_eater import CommitEater
from tests.support.problems import slug
from tests.support.pushing import (
    GOOD,
    MIB,
    OTHER,
    VERSIONS,
    actions,
    commit,
    count,
    expire,
    missing_from,
    push,
    read,
    reserve,
    send,
    uploads_of,
)
from tests.support.registering import register
from tests.support.service import Collect, ServiceWith

CLIENTS = 20


async def assert_nothing_is_unknown(session: AsyncSession, bucket: Bucket, collect: Collect) -> None:
    """Every object in the bucket belongs to a version."""
    await collect()
    await session.rollback()
    assert await bucket.keys() == set(await session.scalars(select(BlobDB.storage_key)))
    assert await bucket.unfinished() == []
    for table in (UploadDB, DeclaredFileDB):
        assert await count(session, table) == 0


@pytest.fixture
async def clients(service_with: ServiceWith) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients with a connection each, of a service with a long lock timeout."""
    service = await service_with(database_lock_timeout_seconds=15, database_statement_timeout_seconds=15)
    clients = [httpx.AsyncClient(base_url=service.url, timeout=30) for _ in range(CLIENTS)]
    yield clients
    for client in clients:
        await client.aclose()


async def test_many_clients_push_the_same_version_and_all_succeed(
    clients: list[httpx.AsyncClient], database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    files = {"model.bin": GOOD, "labels.txt": b"ok\nfraud\n", "copy.bin": GOOD}

    answers = await asyncio.gather(*(push(client, files, model_params={"C": 1}) for client in clients))

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.text for answer in answers}) == 1
    assert answers[0].json()["number"] == 1
    assert await actions(database_session) == ["version.registered"]
    assert await count(database_session, ModelInfoDB) == 1
    await assert_nothing_is_unknown(database_session, bucket, collect)
    # The numbers of those that came second are not lost.
    assert (await reserve(clients[0], files, None)).json()["number"] == 2


async def test_one_of_many_pushes_with_different_bytes_wins(
    clients: list[httpx.AsyncClient], database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    async def one(number: int, client: httpx.AsyncClient) -> httpx.Response:
        content = f"weights {number % 4}".encode()
        reserved = await reserve(client, {"model.bin": content})
        if reserved.status_code == 409:
            return reserved
        for upload in uploads_of(reserved).values():
            if not upload["already_stored"]:
                assert (await send(client, upload, content)).status_code in {200, 412}
        return await commit(client)

    answers = await asyncio.gather(*(one(number, client) for number, client in enumerate(clients)))

    won = {answer.json()["digest"] for answer in answers if answer.status_code == 200}
    lost = [answer for answer in answers if answer.status_code != 200]
    assert len(won) == 1
    assert {(answer.status_code, slug(answer), answer.json()["digest"]) for answer in lost} == {
        (409, "version-exists", won.pop())
    }
    assert len(lost) == CLIENTS * 3 / 4
    assert await actions(database_session) == ["version.registered"]
    await assert_nothing_is_unknown(database_session, bucket, collect)


async def test_pushes_without_a_version_never_share_a_label(clients: list[httpx.AsyncClient]) -> None:
    for label in ("3", "7"):
        await push(clients[0], {"model.bin": GOOD}, label)

    reserved = await asyncio.gather(*(reserve(client, {"model.bin": GOOD}, None) for client in clients))

    assert {answer.status_code for answer in reserved} == {201}
    labels = sorted(int(answer.json()["version"]) for answer in reserved)
    # 1 and 2 are the numbers of the first two, and 3 and 7 are taken.
    assert labels == [number for number in range(4, CLIENTS + 5) if number != 7]
    assert sorted(answer.json()["number"] for answer in reserved) == labels


async def test_a_push_and_a_registration_of_one_label_have_one_winner(
    clients: list[httpx.AsyncClient], database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    for round_ in range(5):
        info = {"model_name": "fraud", "version": f"{round_}"}
        answers = await asyncio.gather(
            *(register(client, info, {"model.bin": OTHER}) for client in clients[:3]),
            *(reserve(client, {"model.bin": GOOD}, f"{round_}") for client in clients[3:6]),
        )
        registered, reserved = answers[:3], answers[3:]
        winners = [answer for answer in registered if answer.status_code == 201]
        if not winners:
            winners = [answer for answer in reserved if answer.status_code == 201]
            assert {answer.status_code for answer in reserved} == {200, 201}
        assert len(winners) == 1
        assert {answer.status_code for answer in answers} <= {200, 201, 409}
    await expire(database_session)
    await assert_nothing_is_unknown(database_session, bucket, collect)


async def test_equal_new_bytes_of_two_versions_become_one_blob(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    for version in ("1.0", "2.0"):
        upload = uploads_of(await reserve(client, {"model.bin": GOOD}, version))["model.bin"]
        assert (await send(client, upload, GOOD)).status_code == 200
    assert len(await bucket.keys()) == 2

    committed = await asyncio.gather(commit(client, "1.0"), commit(client, "2.0"))

    assert {answer.status_code for answer in committed} == {200}
    assert committed[0].json()["file_path"] == committed[1].json()["file_path"]
    await assert_nothing_is_unknown(database_session, bucket, collect)
    assert len(await bucket.keys()) == 1
    for version in ("1.0", "2.0"):
        assert await read(client, "model.bin", version) == GOOD


async def test_sent_bytes_that_another_version_stored_first_are_collected(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    for version in ("1.0", "2.0"):
        await send(client, uploads_of(await reserve(client, {"f": GOOD}, version))["f"], GOOD)
    await commit(client, "1.0")

    again = await reserve(client, {"f": GOOD}, "2.0")
    committed = await commit(client, "2.0")

    assert missing_from(again) == set()
    assert committed.status_code == 200
    await assert_nothing_is_unknown(database_session, bucket, collect)
    assert len(await bucket.keys()) == 1


async def test_files_in_different_orders_do_not_deadlock(
    clients: list[httpx.AsyncClient], database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    contents = [f"shared {number}".encode() for number in range(30)]

    async def one(number: int, client: httpx.AsyncClient) -> httpx.Response:
        turned = contents[number:] + contents[:number]
        return await push(client, {str(index): content for index, content in enumerate(turned)}, f"1.{number}")

    committed = await asyncio.gather(*(one(number, client) for number, client in enumerate(clients[:8])))

    assert {answer.status_code for answer in committed} == {200}
    assert await count(database_session, BlobDB) == 30
    await assert_nothing_is_unknown(database_session, bucket, collect)


async def test_pushes_purges_and_collectors_at_once_lose_nothing(
    service_with: ServiceWith, bucket: Bucket, database_session: AsyncSession
) -> None:
    service = await service_with(purge_after_seconds=0)
    collector = service.services.collector
    is_over = asyncio.Event()

    async def keep_collecting() -> None:
        while not is_over.is_set():
            await collector.collect()

    async def churn(client: httpx.AsyncClient, number: int) -> None:
        for round_ in range(6):
            version, content = f"{number}.{round_}", f"shared {round_ % 2}".encode()
            committed = await push(client, {"f": content}, version)
            assert committed.status_code == 200, committed.text
            assert await read(client, "f", version) == content
            assert (await client.delete(f"/remove_model/fraud/{version}")).status_code == 200

    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        collecting = [asyncio.create_task(keep_collecting()) for _ in range(2)]
        await asyncio.gather(*(churn(client, number) for number in range(5)))
        is_over.set()
        await asyncio.gather(*collecting)
    await database_session.execute(text("UPDATE garbage SET writable_until = now(), not_before = now()"))
    await database_session.commit()
    await collector.collect()

    assert await bucket.keys() == set()
    assert await count(database_session, BlobDB) == 0


# What the network loses

Push = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


@pytest.fixture
async def commits(stack: StackAddresses) -> AsyncIterator[CommitEater]:
    url = make_url(stack.database_url)
    eater = CommitEater(url.host or "127.0.0.1", url.port or 5432)
    yield eater
    eater.stop()


@asynccontextmanager
async def behind(
    commits: CommitEater, stack: StackAddresses, service_with: ServiceWith, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a service whose commits can be lost."""

    async def never(_self: Collector, _interval_seconds: float) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Collector, "run_forever", never)  # it has commits of its own
    url = make_url(stack.database_url).set(host="127.0.0.1", port=await commits.start())
    service = await service_with(database_url=url.render_as_string(hide_password=False), multipart_threshold_bytes=MIB)
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        await reserve(client, {}, "warm")  # the probe of the store has commits of its own
        yield client


lost_in_both_ways = pytest.mark.parametrize(
    "lets_it_arrive", [True, False], ids=["the answer is lost", "the commit is lost"]
)


@lost_in_both_ways
async def test_lost_commits_of_a_push_are_resolved(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    monkeypatch: pytest.MonkeyPatch,
    database_session: AsyncSession,
    bucket: Bucket,
    collect: Collect,
    lets_it_arrive: bool,
) -> None:
    commits.lets_it_arrive = lets_it_arrive
    async with behind(commits, stack, service_with, monkeypatch) as client:
        commits.commits_to_pass = 0
        reserved = await reserve(client, {"model.bin": GOOD})
        await send(client, uploads_of(reserved)["model.bin"], GOOD)
        # A commit begins, writes down what it found, and publishes.
        versions = ["1.0"]
        for passed in range(3):
            if passed:
                versions.append(f"1.{passed}")
                content = f"weights {passed}".encode()
                upload = uploads_of(await reserve(client, {"model.bin": content}, versions[-1]))["model.bin"]
                await send(client, upload, content)
            commits.commits_to_pass = passed
            committed = await commit(client, versions[-1])
            assert committed.status_code == 200, committed.text
        assert commits.eaten == 4

    assert reserved.status_code == 201
    assert reserved.json()["number"] == 2
    rows = (await database_session.execute(text("SELECT version, number, state FROM model_info ORDER BY number"))).all()
    assert [tuple(row) for row in rows[1:]] == [
        (version, number, "ready") for number, version in enumerate(versions, 2)
    ]
    assert await actions(database_session) == ["version.registered"] * 3
    await expire(database_session)
    await assert_nothing_is_unknown(database_session, bucket, collect)


@lost_in_both_ways
async def test_a_lost_reservation_without_a_version_uses_no_number(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    monkeypatch: pytest.MonkeyPatch,
    database_session: AsyncSession,
    lets_it_arrive: bool,
) -> None:
    commits.lets_it_arrive = lets_it_arrive
    async with behind(commits, stack, service_with, monkeypatch) as client:
        commits.commits_to_pass = 0
        first = await reserve(client, {"model.bin": GOOD}, None)
        second = await reserve(client, {"model.bin": GOOD}, None)

    assert commits.eaten == 1
    assert (first.status_code, second.status_code) == (201, 201)
    assert (first.json()["version"], second.json()["version"]) == ("2", "3")
    assert await count(database_session, ModelInfoDB) == 3


@lost_in_both_ways
async def test_lost_commits_of_a_proxied_file_are_resolved(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    monkeypatch: pytest.MonkeyPatch,
    database_session: AsyncSession,
    bucket: Bucket,
    collect: Collect,
    lets_it_arrive: bool,
) -> None:
    commits.lets_it_arrive = lets_it_arrive
    async with behind(commits, stack, service_with, monkeypatch) as client:
        files = {"a": GOOD, "b": OTHER}
        await reserve(client, files, transfer="proxied")
        for passed, (path, content) in enumerate(files.items()):  # open the upload, keep it
            commits.commits_to_pass = passed
            sent = await client.put(f"{VERSIONS}/1.0/files/{path}", content=content)
            assert sent.status_code == 201, sent.text
        committed = await commit(client)

    assert commits.eaten == 2
    assert committed.status_code == 200
    await expire(database_session)
    await assert_nothing_is_unknown(database_session, bucket, collect)
    assert len(await bucket.keys()) == 2


@lost_in_both_ways
async def test_lost_commits_around_parts_are_resolved(
    service_with: ServiceWith,
    stack: StackAddresses,
    commits: CommitEater,
    monkeypatch: pytest.MonkeyPatch,
    bucket: Bucket,
    lets_it_arrive: bool,
) -> None:
    commits.lets_it_arrive = lets_it_arrive
    content = bytes(2 * MIB)
    async with behind(commits, stack, service_with, monkeypatch) as client:
        upload_id = uploads_of(await reserve(client, {"model.bin": content}))["model.bin"]["upload_id"]
        for passed in range(2):  # renew the lease, write down the store's id
            commits.commits_to_pass = passed
            signed = await client.post(f"/v1/uploads/{upload_id}/parts", json={"part_numbers": [1]})
            assert signed.status_code == 200, signed.text
            if passed == 0:
                upload_id = uploads_of(await reserve(client, {"other.bin": content[1:]}, "2.0"))["other.bin"][
                    "upload_id"
                ]
        await send(client, signed.json()["parts"][0], content[1:])
        committed = await commit(client, "2.0")

    assert commits.eaten == 2
    assert committed.status_code == 200, committed.text
    assert len(await bucket.unfinished()) == 1  # that of the first, which goes with its lease


async def test_a_file_in_flight_is_given_up_when_its_version_expires(
    client: httpx.AsyncClient, database_session: AsyncSession, bucket: Bucket, collect: Collect
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")

    async def frozen() -> AsyncIterator[bytes]:
        yield GOOD[:10]
        async with asyncio.timeout(30):
            while await count(database_session, UploadDB) == 0:  # noqa: ASYNC110 - in another process, as it were
                await asyncio.sleep(0.01)
        await expire(database_session)
        winner = await push(client, {"model.bin": OTHER})
        assert winner.status_code == 200
        await collect()
        yield GOOD[10:]

    zombie = await client.put(f"{VERSIONS}/1.0/files/model.bin", content=frozen())

    assert (zombie.status_code, slug(zombie)) == (409, "lease-lost")
    assert await read(client, "model.bin") == OTHER
    await assert_nothing_is_unknown(database_session, bucket, collect)


async def test_a_commit_during_a_proxied_transfer_asks_for_the_file_and_succeeds_afterwards(
    client: httpx.AsyncClient,
) -> None:
    await reserve(client, {"model.bin": GOOD}, transfer="proxied")
    is_begun, may_end = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield GOOD[:10]
        is_begun.set()
        await may_end.wait()
        yield GOOD[10:]

    sending = asyncio.create_task(client.put(f"{VERSIONS}/1.0/files/model.bin", content=slow()))
    await is_begun.wait()

    early = await commit(client)
    while_on_its_way = await reserve(client, {"model.bin": GOOD}, transfer="proxied")
    may_end.set()
    sent = await sending
    committed = await commit(client)

    assert (early.status_code, slug(early)) == (409, "upload-incomplete")
    assert missing_from(while_on_its_way) == {"model.bin"}
    assert (sent.status_code, committed.status_code) == (201, 200)
