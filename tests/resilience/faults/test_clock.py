"""Clocks that are wrong: the service's, and PostgreSQL's."""

import importlib.util
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from model_registry_devstack import StackAddresses, processes
from tests.resilience.faults.measures import Backend, Users, serving, standing
from tests.resilience.faults.servers import OwnPostgres, own_postgres
from tests.support.bucket import Bucket
from tests.support.service import RunningService, make_settings, running

pytestmark = pytest.mark.slow


def shifted(by: str) -> dict[str, str]:
    """Return the environment of a process whose clock is wrong by this much."""
    package = importlib.util.find_spec("libfaketime")
    assert package is not None
    assert package.origin is not None
    library = Path(package.origin).parent / "vendor/libfaketime/src/libfaketime.so.1"
    if not library.exists():
        pytest.skip("libfaketime has no library for this system")
    return {"LD_PRELOAD": str(library), "FAKETIME": by, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.mark.parametrize("by", ["+20m", "-20m", "+2h", "-2h"])
async def test_a_service_whose_clock_is_wrong_is_not_ready_and_registers_nothing(
    backend: Backend, users: Users, service: RunningService, tmp_path: Path, by: str
) -> None:
    """F32: the store refuses requests that were signed at another time."""
    async with serving(backend.stack, tmp_path, variables=shifted(by)) as wrong, users.client(wrong.url) as client:
        readiness = await client.ask("GET", "/readyz")
        register = await client.register("m", "1")
        push = await client.push("m", "2")

        assert (readiness.status_code, push.status_code) == (503, 503)
        # A store may accept a URL that is signed in its future; AWS does not. The times of a version come from
        # PostgreSQL.
        assert register.status_code == 503 or (register.status_code == 201 and by.startswith("+"))
        checks = readiness.json()["checks"]
        assert {name for name, check in checks.items() if not check["ok"]} == {"s3"}
        # Requests that do not need the store succeed, and their times come from PostgreSQL.
        described = await client.ask("POST", "/v1/models", json={"name": "described"})
        assert described.status_code == 201
    ((is_now,),) = await backend.execute(
        "SELECT bool_and(now() - created_at < interval '5 minutes') FROM registered_models"
    )
    assert is_now

    await standing(users, backend, service.url)


@pytest.fixture
def late_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OwnPostgres]:
    """A PostgreSQL whose clock is an hour behind."""
    variables = shifted("-1h")
    with monkeypatch.context() as patched:
        patched.setattr(processes, "_INHERITED", (*processes._INHERITED, *variables))
        for name, value in variables.items():
            patched.setenv(name, value)
        with own_postgres(tmp_path) as postgres:
            yield postgres


@pytest.fixture
async def late_backend(late_postgres: OwnPostgres, stack: StackAddresses, bucket: Bucket) -> AsyncIterator[Backend]:
    await bucket.empty()
    async with Backend.of(late_postgres.beside(stack)) as backend:
        yield backend


async def test_leases_and_grace_go_by_the_clock_of_the_database(late_backend: Backend, users: Users) -> None:
    """F33: it is an hour behind, and nothing expires an hour late or early."""
    backend = late_backend
    ((lag,),) = await backend.execute("SELECT extract(epoch FROM to_timestamp(:now) - now())", now=time.time())
    assert 3500 < lag < 3700
    files = {"model.bin": b"pushed"}
    settings = make_settings(backend.stack, upload_lease_seconds=60)
    async with running(settings) as service, users.client(service.url) as client:
        assert (await client.register("m", "1")).status_code == 201
        reserved = await client.reserve("m", "2", files)
        await service.services.collector.collect()
        assert await client.send(reserved.json()["uploads"], files) is None
        await service.services.collector.collect()
        assert (await client.commit("m", "2")).status_code == 200
        abandoned = await client.reserve("m", "3", {"model.bin": b"abandoned"})
        assert abandoned.status_code == 201
        await backend.execute("UPDATE model_info SET lease_expires_at = now() WHERE version = '3'")
        collected = await service.services.collector.collect()
        assert collected.expired_versions == 1
        client.intend("push", "m", "2", files)

        await standing(users, backend, service.url)
