"""Equal reads at the same time are made once, and nobody can tell but by what they cost."""

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest

from model_registry.errors import ModelNotFound, RegistryError, Unavailable
from model_registry.runtime.single_flight import SingleFlight
from tests.support.registering import register, register_version


class Slow:
    """A read that returns its number, when the test ends it."""

    def __init__(self) -> None:
        self.ends: list[asyncio.Future[None]] = []

    async def __call__(self) -> int:
        number = len(self.ends)
        self.ends.append(asyncio.get_running_loop().create_future())
        await self.ends[number]
        return number

    async def begun(self, count: int) -> None:
        for _ in range(1000):
            if len(self.ends) >= count:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"{len(self.ends)} reads, not {count}")


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def ask(slow: Slow) -> Callable[[], asyncio.Task[int]]:
    shared = SingleFlight[int]()
    return lambda: asyncio.create_task(shared.read("key", slow))


Ask = Callable[[], asyncio.Task[int]]


async def test_calls_during_a_read_share_the_next_read(slow: Slow, ask: Ask) -> None:
    first = ask()
    await slow.begun(1)
    during = [ask() for _ in range(100)]
    await asyncio.sleep(0.01)
    slow.ends[0].set_result(None)
    await slow.begun(2)
    later = ask()
    slow.ends[1].set_result(None)
    await slow.begun(3)
    slow.ends[2].set_result(None)

    assert await first == 0
    assert await asyncio.gather(*during) == [1] * 100
    assert await later == 2


@pytest.mark.parametrize(
    ("error", "reads"),
    [
        # It is away for all of them: to ask again would be to wait as long once more.
        (Unavailable("PostgreSQL"), 1),
        # It may have been registered in between.
        (ModelNotFound("m", None), 2),
    ],
)
async def test_only_an_outage_is_shared_with_waiting_calls(
    slow: Slow, ask: Ask, error: RegistryError, reads: int
) -> None:
    first = ask()
    await slow.begun(1)
    during = [ask(), ask()]
    await asyncio.sleep(0.01)
    slow.ends[0].set_exception(error)
    if reads == 2:
        await slow.begun(2)
        slow.ends[1].set_result(None)

    found = await asyncio.gather(first, *during, return_exceptions=True)

    assert found == ([error] * 3 if reads == 1 else [error, 1, 1])
    assert len(slow.ends) == reads


async def test_a_cancelled_call_cancels_no_other_call(slow: Slow, ask: Ask) -> None:
    first = ask()
    await slow.begun(1)
    second, third = ask(), ask()
    await asyncio.sleep(0.01)

    first.cancel()
    await slow.begun(2)
    second.cancel()
    await asyncio.sleep(0.01)
    slow.ends[1].set_result(None)

    assert await third == 1
    assert [first.cancelled(), second.cancelled()] == [True, True]


async def test_every_read_sees_what_was_acknowledged_before_it(client: httpx.AsyncClient) -> None:
    for version in range(21):
        await register_version(client, "m", str(version))
    alias = "/v1/models/m/aliases/prod"
    await client.put(alias, json={"version": "0"})
    acknowledged = 0
    seen: list[tuple[int, int]] = []
    is_over = False

    async def read() -> None:
        while not is_over:
            before = acknowledged
            found = await client.get("/v1/models/m/versions/@prod")
            seen.append((before, int(found.json()["version"])))

    async with asyncio.TaskGroup() as readers:
        for _ in range(16):
            readers.create_task(read())
        for version in range(1, 21):
            assert (await client.put(alias, json={"version": str(version)})).status_code == 200
            acknowledged = version
            await asyncio.sleep(0.01)
        is_over = True

    assert all(found >= before for before, found in seen)
    assert len({found for _, found in seen}) > 5


async def test_filters_that_are_equal_only_in_python_are_read_separately(client: httpx.AsyncClient) -> None:
    values = {"true": True, "1": 1, "2": 2}
    for label, value in values.items():
        await register(client, {"model_name": "m", "version": label, "model_params": json.dumps({"flag": value})})

    async def found(text: str) -> tuple[str, list[str]]:
        answer = await client.get("/v1/versions", params={"filter": f"model_params.flag = {text}"})
        return text, [item["version"] for item in answer.json()["items"]]

    results = await asyncio.gather(*(found(text) for text in list(values) * 20))

    assert all(versions == [text] for text, versions in results)


async def test_every_page_sees_what_was_acknowledged_before_it(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "0")
    acknowledged = 1
    seen: list[tuple[int, int]] = []
    is_over = False

    async def read(path: str) -> None:
        while not is_over:
            before = acknowledged
            page = (await client.get(path)).json()
            seen.append((before, len(page["items"] if isinstance(page, dict) else page)))

    async with asyncio.TaskGroup() as readers:
        for path in ["/v1/models/m/versions", "/v1/versions", "/list_models"] * 4:
            readers.create_task(read(path))
        for version in range(1, 21):
            await register_version(client, "m", str(version))
            acknowledged = version + 1
            await asyncio.sleep(0.01)
        is_over = True

    assert all(found >= before for before, found in seen)
    assert len({found for _, found in seen}) > 5
