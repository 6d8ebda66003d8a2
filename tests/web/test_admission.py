"""Limits of a process: it refuses requests beyond them and keeps working."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.requests import Request
from starlette.types import Message

from model_registry.settings import Settings
from model_registry.web.requests.body import body_chunks
from tests.support.pushing import entry
from tests.support.rawhttp import message, send
from tests.support.service import ServiceWith


async def trickle(first: bytes, rest: bytes, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    yield first
    await go_on.wait()
    yield rest


def problem_of(answer: httpx.Response) -> str:
    slug: str = answer.json()["type"].rpartition(":")[2]
    return slug


async def in_flight(client: httpx.AsyncClient) -> float:
    lines = (await client.get("/metrics")).text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith("model_registry_requests_in_flight "))


async def begun(client: httpx.AsyncClient, count: int) -> None:
    """Wait until this many requests are in flight, including the request that asks."""
    async with asyncio.timeout(10):
        while await in_flight(client) < count + 1:  # noqa: ASYNC110 - only asking tells
            await asyncio.sleep(0.01)


async def test_requests_beyond_the_limit_are_refused_and_probes_are_not(service_with: ServiceWith) -> None:
    service = await service_with(max_requests_in_flight=3)
    go_on = asyncio.Event()
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        slow = [
            asyncio.create_task(client.post("/v1/models", content=trickle(b'{"name":', b'"m"}', go_on), headers=JSON))
            for _ in range(3)
        ]
        await begun(client, 3)

        refused = [
            await client.get("/list_models"),
            await client.get("/v1/models"),
            await client.delete("/remove_model/m/1"),
        ]
        probes = [await client.get(path) for path in ("/healthz", "/readyz", "/metrics")]
        go_on.set()
        answers = await asyncio.gather(*slow)

        assert [answer.status_code for answer in refused] == [503] * 3
        assert {problem_of(answer) for answer in refused} == {"overloaded"}
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert [probe.status_code for probe in probes] == [200] * 3
        assert sorted(answer.status_code for answer in answers) == [201, 409, 409]
        assert (await client.get("/list_models")).status_code == 200


JSON = {"content-type": "application/json"}


async def test_bodies_that_are_held_whole_share_a_bound(service_with: ServiceWith) -> None:
    service = await service_with(max_buffered_bytes=100_000)
    go_on = asyncio.Event()
    body = json.dumps({"name": "m", "description": "x" * 60_000}).encode()
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        first = asyncio.create_task(
            client.post("/v1/models", content=trickle(body[:-1], body[-1:], go_on), headers=JSON)
        )
        await begun(client, 1)
        await asyncio.sleep(0.3)  # and now its bytes are there
        second = await client.post("/v1/models", content=body, headers=JSON)
        small = await client.post("/v1/models", json={"name": "small"})
        go_on.set()

        assert (second.status_code, problem_of(second)) == (503, "overloaded")
        assert small.status_code == 201
        assert (await first).status_code == 201
        # What they held is free again, whatever became of them.
        assert [(await client.post("/v1/models", content=body, headers=JSON)).status_code for _ in range(3)] == [
            409
        ] * 3


async def test_one_body_alone_may_have_more_than_the_bound(service_with: ServiceWith) -> None:
    service = await service_with(max_buffered_bytes=100)

    async with httpx.AsyncClient(base_url=service.url) as client:
        answer = await client.post("/v1/models", json={"name": "m", "description": "x" * 1000})

    assert answer.status_code == 201


async def test_fields_of_forms_count_as_well(service_with: ServiceWith) -> None:
    service = await service_with(max_buffered_bytes=100_000)
    go_on = asyncio.Event()
    form = b"".join(
        b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % field
        for field in [(b"model_params", b'{"a":"%s"}' % (b"x" * 90_000)), (b"model_name", b"m"), (b"version", b"1")]
    )
    async with httpx.AsyncClient(base_url=service.url, timeout=20) as client:
        held = asyncio.create_task(
            client.post(
                "/register_model",
                content=trickle(form + b"--b", b"--\r\n", go_on),
                headers={"content-type": "multipart/form-data; boundary=b"},
            )
        )
        await begun(client, 1)
        # Otherwise one of these could be in the way of the form, which would be refused then.
        await asyncio.sleep(0.5)
        other = {"name": "n", "description": "x" * 60_000}
        async with asyncio.timeout(10):
            while (refused := await client.post("/v1/models", json=other)).status_code == 201:
                await client.delete("/v1/models/n")
        go_on.set()

        assert problem_of(refused) == "overloaded"
        assert (await held).status_code == 201


async def test_somebody_has_only_so_many_versions_pending(service_with: ServiceWith) -> None:
    service = await service_with(max_pending_versions=2)
    async with httpx.AsyncClient(base_url=f"{service.url}/v1", timeout=20) as client:

        async def push(version: str) -> httpx.Response:
            body = {"version": version, "files": [entry("f", version.encode())], "transfer": "proxied"}
            return await client.post("/models/m/versions", json=body)

        assert [(await push(version)).status_code for version in ("1", "2")] == [201, 201]
        refused = await push("3")
        again = await push("2")
        await client.put("/models/m/versions/1/files/f", content=b"1")
        assert (await client.post("/models/m/versions/1/commit")).status_code == 200

        assert (refused.status_code, problem_of(refused)) == (429, "too-many-pending")
        assert refused.headers["retry-after"] == "5"
        assert again.status_code == 200
        assert (await push("3")).status_code == 201


@pytest.mark.parametrize("bytes_per_second", [1000, 0], ids=["a minimum", "none"])
async def test_a_body_that_trickles_is_given_up_though_it_never_stalls(
    service_with: ServiceWith, bytes_per_second: int
) -> None:
    service = await service_with(body_idle_timeout_seconds=0.5, min_upload_bytes_per_second=bytes_per_second)
    body = json.dumps({"name": "m", "description": "x" * 30}).encode()
    head = message("POST", "/v1/models", ["Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"])

    # A byte every 50 ms for three times the window.
    answer = await send(service.address, head, *(body[at : at + 1] for at in range(len(body))), timeout_seconds=20)

    assert answer is not None
    assert answer.status_code == (408 if bytes_per_second else 201)
    if bytes_per_second:
        assert "less than 1000 bytes per second" in answer.json()["detail"]


async def test_a_slow_store_is_not_held_against_the_client(settings: Settings) -> None:
    impatient = settings.model_copy(update={"body_idle_timeout_seconds": 0.1, "min_upload_bytes_per_second": 1e6})
    messages = [{"type": "http.request", "body": b"x", "more_body": more} for more in (True, True, True, False)]

    async def receive() -> Message:
        return messages.pop(0)

    async for _chunk in body_chunks(Request({"type": "http", "headers": []}, receive), impatient):
        await asyncio.sleep(0.15)  # as long as storing it takes

    assert messages == []
