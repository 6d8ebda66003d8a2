"""The cost of a request in round trips. Unlike time, it is repeatable: a change that adds one must change a test."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.resilience.faults.fake_s3 import FakeS3
from tests.resilience.faults.measures import behind_proxies
from tests.support.proxy import Proxy
from tests.support.registering import register
from tests.support.service import make_settings, running

MIB = 2**20


@dataclass
class Costly:
    """A service with one connection to PostgreSQL, and counters for the calls to PostgreSQL and to storage."""

    client: httpx.AsyncClient
    postgres: Proxy
    storage: FakeS3

    async def of(self, method: str, path: str, **more: Any) -> tuple[int, Mapping[str, int]]:
        """Return the number of round trips to PostgreSQL, and of calls to storage by kind."""
        self.postgres.requests = 0
        self.storage.seen.clear()
        answer = await self.client.request(method, path, **more)
        assert answer.status_code < 400, answer.text
        return self.postgres.requests, {str(kind): calls for kind, calls in self.storage.seen.items()}


@pytest.fixture(scope="module")
async def costly(stack: StackAddresses, settings: Settings) -> AsyncIterator[Costly]:
    async with behind_proxies(stack) as (moved, postgres, _), FakeS3.before(stack.s3_endpoint_url) as storage:
        settings = make_settings(
            stack,
            database_url=moved.database_url,
            database_pool_size=1,
            s3_endpoint_url=storage.url,
            multipart_threshold_bytes=8 * MIB,
        )
        async with running(settings) as service, httpx.AsyncClient(base_url=service.url) as client:
            await register(client, {"model_name": "costly", "version": "1"}, {"f": b"weights"})
            await client.put("/v1/models/costly/aliases/champion", json={"version": "1"})
            yield Costly(client, postgres, storage)


READS = {
    "/get_model_info/costly/1": 1,
    "/get_latest_model_info/costly": 1,
    "/list_models": 1,
    "/get_model/costly/1?redirect=true": 2,  # the version, then its file
    "/v1/models": 1,
    "/v1/models/costly": 2,  # and its aliases
    "/v1/models/costly/versions": 1,
    "/v1/models/costly/versions/@champion": 1,
    "/v1/models/costly/versions/1/files?presign=true": 2,
    "/v1/models/costly/aliases": 1,
    "/v1/models/costly/aliases/champion": 1,
    "/v1/models/costly/aliases/champion/history": 1,
    "/v1/versions?filter=version%20%3D%20'1'": 1,
    "/v1/events": 1,
}


@pytest.mark.parametrize("path", READS)
async def test_a_read_is_one_round_trip_or_two_to_postgresql_and_none_to_storage(costly: Costly, path: str) -> None:
    for _ in range(2):  # statements are prepared once on each connection
        await costly.client.get(path)

    assert await costly.of("GET", path) == (READS[path], {})


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/costly/versions/@champion",
        "/get_model/costly/1?redirect=true",
        "/v1/models/costly/versions",
        "/list_models",
        "/v1/versions?filter=version%20%3D%20'1'",
    ],
)
async def test_reads_of_the_same_at_the_same_time_are_made_together(costly: Costly, path: str) -> None:
    before = costly.postgres.requests

    await asyncio.gather(*(costly.client.get(path) for _ in range(50)))

    # How many requests arrive during one read depends on the machine.
    assert costly.postgres.requests - before <= 50 * READS[path] / 2


async def test_a_connection_that_was_idle_is_asked_whether_it_is_alive_and_used_again(costly: Costly) -> None:
    path = "/v1/models/costly/versions/1"
    await costly.client.get(path)
    await asyncio.sleep(0.3)

    assert await costly.of("GET", path) == (1 + READS["/get_model_info/costly/1"], {})


def form(version: str, size_bytes: int) -> dict[str, Any]:
    return {
        "data": {"model_name": "costly", "version": version},
        "files": {"model_file": ("f", version.encode() * size_bytes)},
    }


async def test_a_registration_without_files_is_one_transaction(costly: Costly) -> None:
    for version in ("10", "11"):
        cost = await costly.of("POST", "/register_model", json={"model_name": "costly", "version": version})

    # BEGIN, its turn and a number, the row, its event and its model's count, COMMIT.
    assert cost == (5, {})


async def test_a_small_file_is_stored_by_one_call(costly: Costly) -> None:
    for version in ("20", "21"):
        cost = await costly.of("POST", "/register_model", **form(version, 100))

    # One transaction takes the label, one statement records the upload, one transaction publishes the version.
    assert cost == (14, {"put": 1})


async def test_further_small_files_of_a_form_are_noted_together_and_one_call_each(costly: Costly) -> None:
    for version in ("22", "23"):
        files = [("model_file", (f"{number}", f"{version} {number}".encode())) for number in range(11)]
        data = {"model_name": "costly", "version": version}
        requests, calls = await costly.of("POST", "/register_model", data=data, files=files)

    assert calls == {"put": 11}
    # How many files arrive during one statement depends on the machine. A connection that was idle for 100 ms is tested
    # before it is used.
    assert 14 < requests < 14 + 8


async def test_a_large_file_is_stored_in_as_few_parts_as_it_takes(costly: Costly) -> None:
    _, calls = await costly.of("POST", "/register_model", **form("30", 10 * MIB))

    assert calls == {"create": 1, "put_part": 3, "complete": 1}


async def test_an_alias_moves_in_one_transaction(costly: Costly) -> None:
    for _ in range(2):
        cost = await costly.of("PUT", "/v1/models/costly/aliases/champion", json={"version": "1"})

    assert cost == (8, {})


async def pushed(costly: Costly, version: str, files: Mapping[str, bytes]) -> tuple[tuple[int, Any], tuple[int, Any]]:
    """Return what it costs to reserve these files, and to commit them."""
    entries = [
        {"path": path, "size_bytes": len(content), "sha256": f"sha256:{hashlib.sha256(content).hexdigest()}"}
        for path, content in files.items()
    ]
    body = {"version": version, "files": entries}
    reserved = await costly.of("POST", "/v1/models/costly/versions", json=body)
    uploads = (await costly.client.post("/v1/models/costly/versions", json=body)).json()["uploads"]
    for upload in uploads:
        stored = await costly.client.put(upload["url"], content=files[upload["path"]], headers=upload["headers"])
        assert stored.status_code == 200
    committed = await costly.of("POST", f"/v1/models/costly/versions/{version}/commit", json={})
    return reserved, committed


async def test_a_commit_asks_storage_once_for_each_file_and_a_reservation_never(costly: Costly) -> None:
    await pushed(costly, "4", {"f": b"storage is probed once"})

    reserved, committed = await pushed(costly, "5", {f"f{number}": os.urandom(10) for number in range(20)})

    assert (reserved[1], committed[1]) == ({}, {"head": 20})


async def test_a_push_of_bytes_that_are_stored_is_some_thirty_round_trips(costly: Costly) -> None:
    file = {"path": "f", "size_bytes": 7, "sha256": f"sha256:{hashlib.sha256(b'weights').hexdigest()}"}
    versions = "/v1/models/costly/versions"
    for version in ("6", "7"):
        reserved = await costly.of("POST", versions, json={"version": version, "files": [file]})
        committed = await costly.of("POST", f"{versions}/{version}/commit", json={})

    assert (reserved, committed) == ((11, {}), (22, {}))
