"""Processes that stand still, clients that leave, and several of each at once."""

import asyncio
import signal
import socket
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import text

from tests.resilience.faults.measures import Backend, Users, behind_proxies, in_two, standing, until
from tests.resilience.faults.nursery import Nursery
from tests.support.proxy import BlackHole
from tests.support.rawhttp import Ending, message, send
from tests.support.registering import FORM, multipart
from tests.support.service import RunningService, ServiceWith

pytestmark = pytest.mark.slow

OTHER = {"model.bin": b"of somebody else"}
OURS = {"model.bin": b"late " * 40_000}  # more than what is read before the intent is recorded


async def test_a_registration_that_stood_still_for_longer_than_its_lease_gives_up(
    nursery: Nursery, backend: Backend, users: Users, service: RunningService
) -> None:
    """F40: it freezes in the middle of a file, and wakes up when another process has its label."""
    body = multipart([("model_name", None, b"m"), ("version", None, b"1"), ("model_file", "f", OURS["model.bin"])])
    may_go_on = asyncio.Event()
    async with (
        nursery.serving(backend.stack) as zombie,
        users.client(zombie.url) as client,
        users.client(service.url) as winner,
    ):
        asked = asyncio.create_task(
            client.ask("POST", "/register_model", content=in_two(body, may_go_on), headers=FORM)
        )
        await until(lambda: backend.execute("SELECT 1 FROM uploads"))
        zombie.send_signal(signal.SIGSTOP)
        await backend.expire()
        assert (await winner.register("m", "1", OTHER)).status_code == 201
        await backend.settle()
        may_go_on.set()
        zombie.send_signal(signal.SIGCONT)

        answer = await asked
        assert (answer.status_code, answer.json()["type"]) == (409, "urn:model-registry:problem:lease-lost")
        assert (await winner.ask("GET", "/get_model/m/1")).content == OTHER["model.bin"]
        await standing(users, backend, zombie.url)


async def test_a_commit_that_stood_still_for_longer_than_its_lease_gives_up(
    nursery: Nursery, backend: Backend, users: Users, service: RunningService
) -> None:
    """F40: it freezes while the store is asked for the sent file; two collectors run meanwhile."""
    async with behind_proxies(backend.stack) as (moved, _, store):
        beside = replace(moved, database_url=backend.stack.database_url)
        async with (
            nursery.serving(beside) as zombie,
            users.client(zombie.url) as client,
            users.client(service.url) as winner,
        ):
            reserved = await winner.reserve("m", "1", OURS)
            assert await winner.send(reserved.json()["uploads"], OURS) is None
            assert (await client.ask("GET", "/readyz")).status_code == 200
            store.misbehave(BlackHole())
            asked = asyncio.create_task(client.commit("m", "1"))
            await until(lambda: backend.execute("SELECT 1 FROM model_info WHERE state = 'verifying'"))
            zombie.send_signal(signal.SIGSTOP)
            await backend.expire()
            await asyncio.gather(backend.collect(), service.services.collector.collect())
            assert (await winner.push("m", "1", OTHER)).status_code == 200
            store.behave()
            zombie.send_signal(signal.SIGCONT)

            assert (await asked).status_code == 409
            assert (await winner.ask("GET", "/get_model/m/1")).content == OTHER["model.bin"]
            await standing(users, backend, zombie.url)


async def test_of_many_pushes_through_two_services_one_content_wins(
    backend: Backend, users: Users, service: RunningService, service_with: ServiceWith
) -> None:
    """F41: twenty-four clients push one label, half of them with different bytes."""
    urls = [service.url, (await service_with()).url]

    async def push(number: int) -> tuple[bytes, httpx.Response]:
        content = b"even" if number % 2 == 0 else b"odd"
        async with users.client(urls[number // 2 % 2]) as client:
            while True:
                answer = await client.push("m", "1", {"model.bin": content})
                if answer.status_code != 503:  # all of them wait for one row, and some too long
                    return content, answer

    results = await asyncio.gather(*(push(number) for number in range(24)))

    won = {content for content, answer in results if answer.status_code == 200}
    assert len(won) == 1
    assert [answer.status_code for content, answer in results if {content} == won] == [200] * 12
    assert [answer.status_code for content, answer in results if {content} != won] == [409] * 12
    digests = {answer.json()["digest"] for content, answer in results if {content} == won}
    assert len(digests) == 1
    await standing(users, backend, service.url)


async def test_a_client_that_leaves_in_mid_transaction_leaves_nothing_open(
    backend: Backend, users: Users, service_with: ServiceWith
) -> None:
    """F18: with a pool of one connection, which waits for a row at that moment."""
    service = await service_with(database_pool_size=1)
    body = b'{"model_name": "m", "version": "2"}'
    request = message(
        "POST",
        "/register_model",
        ("Host: registry", "Content-Type: application/json", f"Content-Length: {len(body)}"),
        body,
    )
    async with users.client(service.url) as client, backend.engine.connect() as other:
        await client.register("m", "1")
        client.intend("register", "m", "2", {})
        await other.execute(text("SELECT 1 FROM registered_models FOR UPDATE"))
        with socket.create_connection(service.address) as leaving:
            leaving.sendall(request)
            await until(lambda: backend.execute("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"))
        await other.rollback()
        assert (await client.register("m", "3")).status_code == 201

    open_transactions = (
        "SELECT 1 FROM pg_stat_activity WHERE application_name = 'model-registry' AND state LIKE 'idle in%'"
    )
    assert await backend.execute(open_transactions) == []
    await standing(users, backend, service.url)


@pytest.mark.parametrize("ending", ["half-close", "close"])
async def test_a_client_that_closes_behind_its_request_finds_all_or_nothing(
    backend: Backend, users: Users, service: RunningService, ending: Ending
) -> None:
    """F36: a response is not promised."""
    body = multipart(
        [("model_name", None, b"m"), ("version", None, b"1"), ("model_file", "model.bin", OURS["model.bin"])]
    )
    headers = ("Host: registry", f"Content-Type: {FORM['content-type']}", f"Content-Length: {len(body)}")
    request = message("POST", "/register_model", headers, body)
    answer = await send(service.address, request, ending=ending)
    assert answer is None or answer.status_code == 201
    async with users.client(service.url) as client:
        assert (await client.register("m", "1", OURS)).status_code in {201, 409}
    await standing(users, backend, service.url)
