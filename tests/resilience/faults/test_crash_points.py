"""A process dies at each critical point. What it leaves behind heals, and the same request succeeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import get_args

import httpx
import pytest

from model_registry.runtime.failpoints import EXIT_CODE, VARIABLE, Point
from tests.resilience.faults.measures import Backend, Users, service_environment, standing
from tests.resilience.faults.nursery import Nursery
from tests.resilience.faults.operations import IN_PARTS, OPERATIONS, SMALL
from tests.support.processes import run
from tests.support.service import RunningService

pytestmark = pytest.mark.slow

# Responses to the same request after the crash. Between two of them the dead process's leases expire.
HELD = (409, 201)  # a label that the dead process still holds
DONE = (201,)
Row = tuple[str, str, Point, int, tuple[int, ...]]

REGISTERING: list[Row] = [
    ("F01", "register", "u-intent", 0, HELD),
    ("F02", "register in parts", "u-mpu-created", 0, HELD),
    ("F03", "register in parts", "u-part", 0, HELD),
    ("F04", "register", "u-put", 1, HELD),
    ("F04", "register one put", "u-put", 0, HELD),
    ("F04", "register in parts", "u-mpu-complete", 0, HELD),
    ("F05", "register", "v-blobs", 0, HELD),
    ("F07", "register", "v-locked", 0, HELD),
    ("F07", "register", "v-files", 0, HELD),
    ("F07", "register", "v-before-commit", 0, HELD),
    ("F06", "register", "v-after-commit", 0, DONE),
    # Reserve, open an upload for each of two files, publish.
    ("F07", "register", "tx-before-commit", 0, DONE),
    ("F07", "register", "tx-after-commit", 0, HELD),
    ("F01", "register", "tx-after-commit", 2, HELD),
    ("F07", "register", "tx-before-commit", 3, HELD),
    ("F06", "register", "tx-after-commit", 3, DONE),
]
# A push resumes where it was, in the same or another process, and waits for no lease.
PUSHING: list[Row] = [
    ("F07", "push", "v-locked", 0, (200,)),
    ("F07", "push", "v-before-commit", 0, (200,)),
    ("F06", "push", "v-after-commit", 0, (200,)),
    ("F03", "push", "c-began", 0, (200,)),
    ("F03", "push", "c-found", 0, (200,)),
    ("F03", "push in parts", "c-completed", 0, (200,)),
    ("F04", "push through us", "u-put", 0, (200,)),
    *(("F07", "push", "tx-before-commit", passed, (200,)) for passed in (0, 2, 4, 6)),
    *(("F07", "push", "tx-after-commit", passed, (200,)) for passed in (2, 6)),
    # Reserving passes three times (twice to try the store), committing four times: renew, begin, record, publish. With
    # parts there is one more: the id of a multipart upload is recorded after the store has created it.
    *(("F02", "push in parts", "tx-before-commit", passed, (200,)) for passed in (3, 4)),
    ("F02", "push in parts", "tx-after-commit", 4, (200,)),
    ("F04", "push through us", "tx-before-commit", 2, (200,)),
]
CHANGING: list[Row] = [
    ("F07", "move", "tx-before-commit", 0, (200,)),
    ("F07", "move", "tx-after-commit", 0, (200,)),
    ("F07", "remove", "tx-before-commit", 0, (200,)),
    ("F07", "remove", "tx-after-commit", 0, (404,)),
    ("F07", "purge", "tx-before-commit", 0, (200,)),
    ("F07", "purge", "tx-after-commit", 0, (200,)),
]
COLLECTING: list[tuple[str, Point]] = [("F08", "g-lease"), ("F08", "g-in-tx"), ("F08", "g-s3-deleted")]


def test_every_point_has_its_row() -> None:
    rows = {row[2] for row in REGISTERING + PUSHING + CHANGING} | {row[1] for row in COLLECTING}
    assert rows == set(get_args(Point))


@pytest.mark.parametrize(
    ("name", "point", "passed", "answers"),
    [pytest.param(*row[1:], id=f"{row[0]} {row[1]} at {row[2]} {row[3]}") for row in REGISTERING + PUSHING + CHANGING],
)
async def test_what_a_dead_process_began_is_completed_by_the_same_request_again(
    nursery: Nursery,
    backend: Backend,
    users: Users,
    service: RunningService,
    name: str,
    point: Point,
    passed: int,
    answers: tuple[int, ...],
) -> None:
    """F01 to F07: another process, which ran all the time, takes over."""
    operation = OPERATIONS[name]
    settings: Mapping[str, str] = IN_PARTS if name.endswith("in parts") else {}
    async with users.client(service.url) as survivor:
        await operation.prepare(survivor)
        async with (
            nursery.serving(backend.stack, point, passed=passed, **settings) as victim,
            users.client(victim.url) as client,
        ):
            with pytest.raises(httpx.TransportError):
                await operation.ask(client)
            assert await victim.exit_code() == EXIT_CODE

        for index, expected in enumerate(answers):
            if index:
                await backend.expire()
            again = await operation.ask(survivor)
            assert again.status_code == expected, again.text
        await operation.see(survivor)

    await standing(users, backend, service.url)


async def leave_something_to_collect(users: Users, backend: Backend, service: RunningService) -> None:
    """Leave work for every step of the collector: an uncommitted push, and a removed version whose time is over."""
    async with users.client(service.url) as client:
        reserved = await client.reserve("pushed", "1.0", SMALL)
        assert await client.send(reserved.json()["uploads"], SMALL) is None
        await client.register("removed", "1.0")
        await client.register("kept", "1.0")
        assert (await client.remove("removed", "1.0")).status_code == 200
    await backend.execute("UPDATE model_info SET purge_after = now() WHERE state = 'removed'")
    await backend.expire()


@pytest.mark.parametrize("point", [pytest.param(row[1], id=f"{row[0]} {row[1]}") for row in COLLECTING])
async def test_what_a_dead_collector_began_is_completed_by_the_next(
    nursery: Nursery, backend: Backend, users: Users, service: RunningService, point: Point
) -> None:
    """F08: it repeats its last delete, which is harmless because keys are never reused."""
    await leave_something_to_collect(users, backend, service)

    async with nursery.serving(backend.stack, point) as victim:
        assert await victim.exit_code() == EXIT_CODE

    await standing(users, backend, service.url)
    assert await backend.execute("SELECT storage_key FROM garbage") == []


async def test_a_variable_arms_a_process(
    backend: Backend, users: Users, service: RunningService, tmp_path: Path
) -> None:
    """F08, by the command line alone."""
    await leave_something_to_collect(users, backend, service)
    env = service_environment(backend.stack) | {VARIABLE: "g-s3-deleted:1"}

    code, _, _ = await run("gc", "--once", env=env, cwd=tmp_path)

    assert code == EXIT_CODE
    await standing(users, backend, service.url)
