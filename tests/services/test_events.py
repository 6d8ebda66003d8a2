"""The audit log: one event for each change, none skipped, none seen twice."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

from model_registry.auth.permissions import Actor, Permission
from model_registry.database.engine import Database
from model_registry.database.pool import DatabaseLimits
from model_registry.domain.entities import Digest, Event
from model_registry.errors import Forbidden
from model_registry.settings import Settings
from model_registry.web.requests.paging import page_token
from tests.support.problems import problem
from tests.support.registering import WEIGHTS, register, register_version
from tests.support.service import RunningService

EVENTS = "/v1/events"


class Reader:
    """Follows the log with its page tokens."""

    def __init__(self, client: httpx.AsyncClient, **query: str | int) -> None:
        self._client = client
        self._query = query
        self._token: str | None = None
        self.seen: list[dict[str, Any]] = []

    async def poll(self) -> list[dict[str, Any]]:
        """Read one page."""
        response = await self._client.get(EVENTS, params=self._query | ({"after": self._token} if self._token else {}))
        assert response.status_code == 200, response.text
        page = response.json()
        assert set(page) == {"items", "next_page_token"}
        self._token = page["next_page_token"]
        assert self._token
        items: list[dict[str, Any]] = page["items"]
        self.seen += items
        return items

    async def catch_up(self) -> list[dict[str, Any]]:
        while await self.poll():
            continue
        return self.seen

    @property
    def ids(self) -> list[int]:
        return [item["id"] for item in self.seen]


async def insert_event(connection: AsyncConnection, action: str, model_name: str = "m") -> None:
    """Record an event like the service, but leave the transaction open."""
    await connection.execute(
        text("INSERT INTO events (actor, action, model_name) VALUES ('somebody', :action, :model_name)"),
        {"action": action, "model_name": model_name},
    )


async def test_the_log_says_what_happened(client: httpx.AsyncClient) -> None:
    registered = await register_version(client, "m", "1.0")
    await client.delete("/remove_model/m/1.0")

    first, second = await Reader(client).catch_up()

    assert first == {
        "id": first["id"],
        "time": registered["ready_at"],
        "actor": "anonymous",
        "action": "version.registered",
        "model": "m",
        "version": "1.0",
        "details": {"digest": registered["digest"], "file_count": 0},
    }
    assert (second["action"], second["model"], second["version"]) == ("version.removed", "m", "1.0")
    assert second["id"] > first["id"]


async def test_what_was_refused_is_no_event(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "1.0")
    for _ in range(2):
        assert (await client.post("/register_model", json={"model_name": "m", "version": "1.0"})).status_code == 409
    assert (await client.delete("/remove_model/m/2.0")).status_code == 404

    assert len(await Reader(client).catch_up()) == 1


async def test_the_log_is_read_page_by_page(client: httpx.AsyncClient) -> None:
    for number in range(7):
        await register_version(client, f"m{number % 2}", f"1.{number}")
    whole = await Reader(client).catch_up()

    for limit in (1, 2, 3, 7, 1000):
        reader = Reader(client, limit=limit)
        while items := await reader.poll():
            assert len(items) <= limit
        assert reader.seen == whole
        of_model = await Reader(client, limit=limit, model="m1").catch_up()
        assert of_model == [event for event in whole if event["model"] == "m1"]
    assert [event["version"] for event in whole] == [f"1.{number}" for number in range(7)]


async def test_a_reader_who_has_caught_up_goes_on_from_there(client: httpx.AsyncClient) -> None:
    readers = [Reader(client), Reader(client, model="m"), Reader(client, limit=1)]
    for reader in readers:
        for _ in range(2):
            assert await reader.poll() == []

    for version in ("1.0", "2.0"):
        await register_version(client, "m", version)
        for reader in readers:
            (event,) = await reader.poll()
            assert event["version"] == version
            assert await reader.poll() == []


async def test_a_model_that_is_not_there_has_no_events(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "1.0")

    assert await Reader(client, model="absent").poll() == []
    assert await Reader(client, model="M").poll() == []
    problem(await client.get(EVENTS, params={"model": "no model"}), 422, "invalid-field")


async def test_events_outlive_their_model(client: httpx.AsyncClient, database_session: AsyncSession) -> None:
    await register_version(client, "m", "1.0")
    for table in ("model_info", "registered_models"):
        await database_session.execute(text(f"DELETE FROM {table}"))
    await database_session.commit()

    assert [event["version"] for event in await Reader(client, model="m").catch_up()] == ["1.0"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_an_event_that_commits_late_is_not_skipped(
    client: httpx.AsyncClient, engine: AsyncEngine, ending: str
) -> None:
    await register_version(client, "m", "1.0")
    readers = [Reader(client), Reader(client, model="m"), Reader(client, limit=1)]
    async with engine.connect() as late:
        await insert_event(late, "late.happened")
        await register_version(client, "m", "2.0")
        for reader in readers:
            # Held back as well: if it were shown now, the other event would be skipped for ever.
            assert [event["version"] for event in await reader.catch_up()] == ["1.0"]
        await getattr(late, ending)()

    wanted = ["version.registered", *(["late.happened"] if ending == "commit" else []), "version.registered"]
    for reader in readers:
        assert [event["action"] for event in await reader.catch_up()] == wanted


async def test_a_reader_of_overlapping_transactions_sees_each_event_once(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    dice = random.Random(7)
    readers = [Reader(client, limit=limit) for limit in (1, 3, 1000)]
    of_model = Reader(client, model="m0", limit=2)
    for _ in range(4):
        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(engine.connect()) for _ in range(8)]
            for step in range(16):
                await insert_event(connections[dice.randrange(8)], "step.made", f"m{step % 3}")
            dice.shuffle(connections)
            for connection in connections:
                await connection.commit()
                for reader in (*readers, of_model):
                    await reader.poll()

    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT id, model_name FROM events ORDER BY xid, id"))).all()
    assert len(rows) == 64
    for reader in readers:
        await reader.catch_up()
        assert reader.ids == [row.id for row in rows]
    await of_model.catch_up()
    assert of_model.ids == [row.id for row in rows if row.model_name == "m0"]


async def test_a_reader_among_many_writers_sees_each_event_once(client: httpx.AsyncClient) -> None:
    reader = Reader(client, limit=3)
    for model in range(4):
        await register_version(client, f"m{model}", "1.0")

    async def write(model: int) -> None:
        for number in range(6):
            url = f"/v1/models/m{model}/aliases/a{number % 2}"
            assert (await client.put(url, json={"version": "1.0"})).is_success
            await register_version(client, f"m{model}", f"2.{number}")

    writing = asyncio.gather(*(write(model) for model in range(4)))
    while not writing.done():
        await reader.poll()
    await writing
    await reader.catch_up()

    assert len(reader.ids) == len(set(reader.ids)) == 4 * (1 + 2 * 6)
    for model in range(4):
        mine = [event for event in reader.seen if event["model"] == f"m{model}"]
        assert [event["action"] for event in mine] == [
            "version.registered",
            *(["alias.moved", "version.registered"] * 6),
        ]


async def test_a_token_of_another_query_is_refused(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "1.0")
    queries: list[dict[str, str]] = [{}, {"model": "m"}, {"model": "other"}]
    tokens = [(await client.get(EVENTS, params=query)).json()["next_page_token"] for query in queries]
    aliases = page_token(["aliases", "m"], "champion")
    made_up = [
        page_token(["events", None]),
        page_token(["events", None], 1),
        page_token(["events", None], 1, 2, 3),
        page_token(["events", None], -1, 1),
        page_token(["events", None], 1, -1),
        page_token(["events", None], "1", "1"),
        page_token(["events", None], None, None),
        page_token(["events", None], 1, 2**63),
        page_token(["events", None], 2**63, 1),
    ]

    for index, query in enumerate(queries):
        for token in [*tokens, *made_up, aliases, "x", "null", "W10", "\x00", "é", "a" * 5000]:
            response = await client.get(EVENTS, params=query | {"after": token})
            if token == tokens[index]:
                assert response.json()["items"] == []
            else:
                refused = problem(response, 422, "invalid-page-token")
                assert refused["errors"][0]["loc"] == ["query", "after"]
                assert refused["detail"].startswith("after: ")


async def test_the_limit_has_bounds(client: httpx.AsyncClient) -> None:
    for limit in ("1", "1000"):
        assert (await client.get(EVENTS, params={"limit": limit})).status_code == 200
    for limit in ("0", "1001", "-1", "x", "", "1.5"):
        problem(await client.get(EVENTS, params={"limit": limit}), 422, "invalid-request")


async def test_to_read_the_log_is_to_read(service: RunningService) -> None:
    writer = Actor("writer", frozenset(Permission) - {Permission.READ})

    with pytest.raises(Forbidden):
        await service.services.events.after(actor=writer)


async def test_bytes_that_several_versions_show_are_an_event_of_each(
    client: httpx.AsyncClient, service: RunningService
) -> None:
    for version in ("1.0", "2.0"):
        await register(client, {"model_name": "m", "version": version})
    await register(client, {"model_name": "m", "version": "3.0"}, {"model.bin": b"others"})
    reader = Reader(client)
    await reader.catch_up()
    digest = Digest(sha256(WEIGHTS).digest())

    async with service.services.database.transaction() as tx:
        await tx.events.record_for_versions_with(digest, "version.healed", actor="somebody")

    assert [(event["action"], event["version"], event["actor"]) for event in await reader.poll()] == [
        ("version.healed", "1.0", "somebody"),
        ("version.healed", "2.0", "somebody"),
    ]
    assert reader.seen[-1]["details"] == {"sha256": str(digest)}


async def test_a_transaction_is_known_again_by_its_event_and_not_by_its_number_alone(
    settings: Settings, fresh: None
) -> None:
    """A server that was killed assigns the numbers of lost transactions again."""
    database = Database(settings.database_url.get_secret_value(), DatabaseLimits())
    try:
        async with database.transaction() as tx:
            await tx.events.record(Event("somebody", "model.created", "m"))
            mark = tx.events.mark
        assert mark is not None
        others = [replace(mark, event_id=mark.event_id + 1), replace(mark, at=mark.at + timedelta(seconds=1))]

        async with database.reading() as tx:
            assert await tx.was_committed(mark)
            assert [await tx.was_committed(other) for other in others] == [False, False]
    finally:
        await database.close()
