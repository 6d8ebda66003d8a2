"""Aliases move from version to version atomically, and every move is recorded."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from model_registry.auth.permissions import Actor, Permission
from model_registry.database.engine import Database
from model_registry.database.pool import DatabaseLimits
from model_registry.domain.entities import AliasRef
from model_registry.errors import Forbidden
from model_registry.services.aliases import PlannedMove
from model_registry_devstack import StackAddresses
from tests.support.commit_eater import CommitEater
from tests.support.problems import problem
from tests.support.registering import register_version
from tests.support.service import RunningService

ALIASES = "/v1/models/m/aliases"
CHAMPION = f"{ALIASES}/champion"
SWAP = "/v1/models/m/aliases:swap"

VERSIONS = ("1.0", "2.0", "3.0")


@pytest.fixture
async def model(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a registry with three versions of the model `m`."""
    for version in VERSIONS:
        await register_version(client, "m", version)
    return client


async def put(client: httpx.AsyncClient, version: str, *, alias: str = "champion", **headers: str) -> httpx.Response:
    """Headers by their names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.put(f"{ALIASES}/{alias}", json={"version": version}, headers=named)


async def swap(client: httpx.AsyncClient, *moves: dict[str, Any]) -> httpx.Response:
    return await client.post(SWAP, json={"moves": moves})


async def pointing(client: httpx.AsyncClient) -> dict[str, str]:
    items = (await client.get(ALIASES)).json()["items"]
    return {item["alias"]: item["version"] for item in items}


async def history(client: httpx.AsyncClient, alias: str = "champion") -> list[str | None]:
    """The versions, newest first."""
    return [move["version"] for move in (await client.get(f"{ALIASES}/{alias}/history")).json()["items"]]


async def alias_events(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    items = (await client.get("/v1/events", params={"limit": 1000})).json()["items"]
    return [item for item in items if item["action"].startswith("alias.")]


async def set_state(session: AsyncSession, version: str, state: str) -> None:
    lease = "now() + interval '1 hour'" if state in {"pending", "verifying"} else "NULL"
    await session.execute(
        text(f"UPDATE model_info SET state = :state, lease_expires_at = {lease} WHERE version = :version"),
        {"state": state, "version": version},
    )
    await session.commit()


async def test_an_alias_is_made_moved_and_read(model: httpx.AsyncClient) -> None:
    made = await put(model, "1.0")
    moved = await put(model, "2.0")
    read = await model.get(CHAMPION)
    head = await model.head(CHAMPION)
    held = await model.get(CHAMPION, headers={"If-None-Match": read.headers["etag"]})
    outdated = await model.get(CHAMPION, headers={"If-None-Match": made.headers["etag"]})

    assert (made.status_code, moved.status_code) == (201, 200)
    assert made.json()["version"] == "1.0"
    assert read.json() == moved.json()
    assert set(moved.json()) == {"alias", "version", "generation", "updated_at", "updated_by"}
    assert (moved.json()["alias"], moved.json()["version"]) == ("champion", "2.0")
    assert moved.json()["updated_by"] == "anonymous"
    assert moved.headers["etag"] == read.headers["etag"] == f'"{moved.json()["generation"]}"'
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", read.headers["etag"])
    assert (held.status_code, held.content, held.headers["etag"]) == (304, b"", read.headers["etag"])
    assert outdated.status_code == 200


async def test_reads_by_alias_follow_at_once_and_are_never_a_304_after_a_promotion(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    by_alias = await model.get("/get_model_info/m/@champion")
    first, second = [await model.get(f"/get_model_info/m/{version}") for version in ("1.0", "2.0")]

    await put(model, "2.0")
    promoted = await model.get("/get_model_info/m/@champion", headers={"If-None-Match": by_alias.headers["etag"]})
    left = await model.get("/get_model_info/m/1.0", headers={"If-None-Match": first.headers["etag"]})
    reached = await model.get("/get_model_info/m/2.0", headers={"If-None-Match": second.headers["etag"]})
    await model.delete(CHAMPION)
    dropped = await model.get("/get_model_info/m/2.0", headers={"If-None-Match": reached.headers["etag"]})
    gone = await model.get("/get_model_info/m/@champion")

    assert by_alias.json()["aliases"] == ["champion"]
    assert (promoted.status_code, promoted.headers["x-model-version"]) == (200, "2.0")
    assert (left.status_code, left.json()["aliases"]) == (200, [])
    assert (reached.status_code, reached.json()["aliases"]) == (200, ["champion"])
    assert (dropped.status_code, dropped.json()["aliases"]) == (200, [])
    problem(gone, 404, "alias-not-found")


async def test_every_put_makes_a_new_generation(model: httpx.AsyncClient) -> None:
    generations = [(await put(model, version)).json()["generation"] for version in ("1.0", "1.0", "2.0", "2.0")]

    assert generations == sorted(set(generations))
    assert await history(model) == ["2.0", "2.0", "1.0", "1.0"]


async def test_of_forty_moves_from_one_generation_one_is_made(model: httpx.AsyncClient) -> None:
    etag = (await put(model, "1.0")).headers["etag"]

    answers = await asyncio.gather(*(put(model, VERSIONS[i % 3], if_match=etag) for i in range(40)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 39}
    (winner,) = (answer.json() for answer in answers if answer.status_code == 200)
    assert (await model.get(CHAMPION)).json() == winner
    for answer in answers:
        if answer.status_code == 412:
            lost = problem(answer, 412, "precondition-failed")
            assert (lost["generation"], lost["version"]) == (winner["generation"], winner["version"])
    assert len(await history(model)) == 2
    assert len(await alias_events(model)) == 2


async def test_of_forty_that_make_an_alias_one_does(model: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(put(model, VERSIONS[i % 3], if_none_match="*") for i in range(40)))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 412: 39}
    (winner,) = (answer.json() for answer in answers if answer.status_code == 201)
    assert (await model.get(CHAMPION)).json() == winner
    assert await history(model) == [winner["version"]]


async def test_moves_without_a_condition_are_all_made_and_all_remembered(model: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(put(model, VERSIONS[i % 3]) for i in range(20)))

    assert Counter(answer.status_code for answer in answers) == {201: 1, 200: 19}
    moves = (await model.get(f"{CHAMPION}/history")).json()["items"]
    by_generation = sorted((answer.json() for answer in answers), key=lambda alias: -int(alias["generation"]))
    assert [(move["generation"], move["version"], move["at"]) for move in moves] == [
        (alias["generation"], alias["version"], alias["updated_at"]) for alias in by_generation
    ]
    assert [move["at"] for move in moves] == sorted((move["at"] for move in moves), reverse=True)


async def test_a_precondition_that_fails_says_where_the_alias_points_now(model: httpx.AsyncClient) -> None:
    absent = problem(await put(model, "1.0", if_match="*"), 412, "precondition-failed")
    also_absent = problem(await put(model, "1.0", if_match='"1"'), 412, "precondition-failed")
    made = await put(model, "1.0", if_none_match="*")
    etag, generation = made.headers["etag"], made.json()["generation"]
    elsewhere = problem(await put(model, "2.0", if_match='"0"'), 412, "precondition-failed")

    assert (absent["generation"], absent["version"], absent["alias"]) == (None, None, "champion")
    assert "does not exist now" in absent["detail"]
    assert absent["detail"] == also_absent["detail"]
    assert (elsewhere["generation"], elsewhere["version"]) == (generation, "1.0")
    assert f"is at generation {generation} and points at '1.0' now" in elsewhere["detail"]
    for headers in (
        {"if_none_match": "*"},
        {"if_none_match": etag},
        {"if_none_match": f"W/{etag}"},
        {"if_match": f"W/{etag}"},
        {"if_match": etag, "if_none_match": "*"},
        {"if_match": f'"0{generation}"'},
        {"if_match": '"*"'},
        {"if_match": '"abc"'},
    ):
        assert (await put(model, "2.0", **headers)).status_code == 412, headers
        assert (await pointing(model)) == {"champion": "1.0"}


async def test_a_precondition_that_holds_lets_the_move_through(model: httpx.AsyncClient) -> None:
    etag = (await put(model, "1.0", if_none_match="*")).headers["etag"]

    for headers in (
        {"if_match": "{}"},
        {"if_match": "*"},
        {"if_match": '"0", {}'},
        {"if_match": '{}, W/"x"'},
        {"if_none_match": '"0"'},
        {"if_match": "{}", "if_none_match": '"0"'},
    ):
        moved = await put(model, "2.0", **{name: value.format(etag) for name, value in headers.items()})
        assert moved.status_code == 200, headers
        etag = moved.headers["etag"]
    several = await model.put(CHAMPION, json={"version": "1.0"}, headers=[("If-Match", '"0"'), ("If-Match", etag)])
    assert several.status_code == 200


async def test_the_precondition_is_asked_last(model: httpx.AsyncClient, database_session: AsyncSession) -> None:
    await put(model, "1.0")
    await set_state(database_session, "3.0", "pending")

    problem(await put(model, "9.9", if_match='"0"'), 404, "version-not-found")
    problem(await put(model, "3.0", if_match='"0"'), 409, "version-not-available")
    problem(await model.delete(f"{ALIASES}/other", headers={"If-Match": '"0"'}), 404, "alias-not-found")
    problem(await model.post(f"{CHAMPION}/rollback", headers={"If-Match": '"0"'}), 409, "no-previous-target")


async def test_only_a_version_that_is_ready_can_be_the_target(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await register_version(model, "other", "4.0")
    await put(model, "1.0")

    for version in ("9.9", "4.0"):
        unknown = problem(await put(model, version), 404, "version-not-found")
        assert unknown["version"] == version
    for state in ("pending", "verifying"):
        await set_state(database_session, "2.0", state)
        unfinished = problem(await put(model, "2.0"), 409, "version-not-available")
        assert (unfinished["state"], unfinished["version"]) == (state, "2.0")
        assert "wait until it is ready" in unfinished["detail"]
    await model.delete("/remove_model/m/3.0")
    removed = problem(await put(model, "3.0"), 409, "version-not-available")
    assert removed["state"] == "removed"
    assert "restore it, or choose another version" in removed["detail"]
    assert await history(model) == ["1.0"]


async def test_a_yanked_version_can_be_the_target(model: httpx.AsyncClient, database_session: AsyncSession) -> None:
    await database_session.execute(text("UPDATE model_info SET yanked_at = now() WHERE version = '2.0'"))
    await database_session.commit()

    assert (await put(model, "2.0")).status_code == 201
    assert (await model.get("/get_model_info/m/@champion")).json()["yanked"] is True


async def test_no_generation_comes_again_after_a_delete(model: httpx.AsyncClient) -> None:
    first = await put(model, "1.0")
    await model.delete(CHAMPION)
    again = await put(model, "1.0")

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json()["generation"] > first.json()["generation"]
    assert (await put(model, "2.0", if_match=first.headers["etag"])).status_code == 412
    assert (await model.delete(CHAMPION, headers={"If-Match": first.headers["etag"]})).status_code == 412
    assert (await model.get(CHAMPION, headers={"If-None-Match": first.headers["etag"]})).status_code == 200


async def test_an_alias_is_deleted(model: httpx.AsyncClient) -> None:
    etag = (await put(model, "1.0")).headers["etag"]

    refused = await model.delete(CHAMPION, headers={"If-Match": '"0"'})
    deleted = await model.delete(CHAMPION, headers={"If-Match": etag})
    again = await model.delete(CHAMPION)

    assert problem(refused, 412, "precondition-failed")["version"] == "1.0"
    assert (deleted.status_code, deleted.content) == (204, b"")
    problem(again, 404, "alias-not-found")
    problem(await model.get(CHAMPION), 404, "alias-not-found")
    assert await pointing(model) == {}
    assert await history(model) == [None, "1.0"]


async def test_of_many_deletes_one_drops_the_alias(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")

    answers = await asyncio.gather(*(model.delete(CHAMPION) for _ in range(10)))

    assert Counter(answer.status_code for answer in answers) == {204: 1, 404: 9}
    assert await history(model) == [None, "1.0"]


async def test_history_and_a_time_agree_at_each_moment(model: httpx.AsyncClient) -> None:
    for version in ("1.0", "2.0", None, "3.0", "3.0", "1.0", None):
        await (model.delete(CHAMPION) if version is None else put(model, version))
    await put(model, "2.0", alias="other")
    moves = (await model.get(f"{CHAMPION}/history")).json()["items"]

    assert [move["version"] for move in moves] == [None, "1.0", "3.0", "3.0", None, "2.0", "1.0"]
    assert [set(move) for move in moves] == [{"version", "generation", "at", "by"}] * len(moves)
    times = [datetime.fromisoformat(move["at"]) for move in moves]
    assert times == sorted(set(times), reverse=True)
    microsecond = timedelta(microseconds=1)
    for move, moment, following in zip(moves, times, [datetime.now(UTC) + timedelta(days=1), *times], strict=False):
        for at in (moment, moment + (following - moment) / 2, following - microsecond):
            then = await model.get(CHAMPION, params={"at": at.isoformat()})
            if move["version"] is None:
                assert problem(then, 404, "alias-pointed-nowhere")["alias"] == "champion"
            else:
                assert then.json() == {
                    "alias": "champion",
                    "version": move["version"],
                    "generation": move["generation"],
                    "updated_at": move["at"],
                    "updated_by": move["by"],
                }
                assert then.headers["etag"] == f'"{move["generation"]}"'
    before = await model.get(CHAMPION, params={"at": (times[-1] - microsecond).isoformat()})
    problem(before, 404, "alias-pointed-nowhere")


async def test_the_past_still_answers_when_the_version_is_gone(model: httpx.AsyncClient) -> None:
    at = (await put(model, "1.0")).json()["updated_at"]
    await put(model, "2.0")
    await model.delete("/remove_model/m/1.0")

    then = await model.get(CHAMPION, params={"at": at})

    assert then.json()["version"] == "1.0"
    assert (
        await model.get(CHAMPION, params={"at": at}, headers={"If-None-Match": then.headers["etag"]})
    ).status_code == 304
    assert await history(model) == ["2.0", "1.0"]
    problem(await model.post(f"{CHAMPION}/rollback"), 409, "version-not-available")


async def test_a_time_is_understood_as_people_write_it(model: httpx.AsyncClient) -> None:
    made = (await put(model, "1.0")).json()
    moment = datetime.fromisoformat(made["updated_at"])
    abroad = (moment + timedelta(hours=5, minutes=30)).strftime("%Y-%m-%dT%H:%M:%S.%f")

    for written in (
        moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        moment.strftime("%Y-%m-%dt%H:%M:%S.%fz"),
        moment.strftime("%Y-%m-%dT%H:%M:%S.%f"),
        moment.strftime("%Y-%m-%d%%20%H:%M:%S.%f999Z"),
        moment.strftime("%Y-%m-%dT%H:%M:%S.%f-00:00"),
        f"{abroad}%2B05:30",
        f"{abroad}+05:30",
        f"{abroad}%2005:30",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59.999999999%2B14:00",
    ):
        response = await model.get(f"{CHAMPION}?at={written}")
        assert (response.status_code, response.json()) == (200, made), written
    for written in ("0001-01-01T00:00:00Z", "1970-01-01T00:00:00Z", moment.strftime("%Y-%m-%dT00:00:00Z")):
        problem(await model.get(f"{CHAMPION}?at={written}"), 404, "alias-pointed-nowhere")


NO_TIMES = [
    "",
    "now",
    "yesterday",
    "1767225600",
    "2026-01-31",
    "2026-01-31T12:00",
    "2026-01-31T12:00:00.",
    "2026-02-30T12:00:00Z",
    "2026-01-31T24:00:00Z",
    "2026-01-31T12:00:60Z",
    "2026-01-31T12:00:00ZZ",
    "2026-01-31T12:00:00+0100",
    "2026-01-31T12:00:00+24:00",
    "2026-01-31T12:00:00+01:60",
    "2026-W05-6T12:00:00Z",
    "20260131T120000Z",
    "٢٠٢٦-01-31T12:00:00Z",
    "0000-01-01T00:00:00Z",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "10000-01-01T00:00:00Z",
    "infinity",
    "2026-01-31T12:00:00Z\x00",
]


async def test_a_time_that_is_none_is_refused(client: httpx.AsyncClient) -> None:
    for at in NO_TIMES:
        refused = problem(await client.get(CHAMPION, params={"at": at}), 422, "invalid-field")

        assert refused["errors"][0]["loc"] == ["query", "at"], at
        assert "RFC 3339" in refused["detail"]


async def test_a_rollback_goes_back_to_the_version_before(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    nowhere = problem(await model.post(f"{CHAMPION}/rollback"), 409, "no-previous-target")
    await put(model, "1.0")
    problem(await model.post(f"{CHAMPION}/rollback"), 409, "no-previous-target")
    await put(model, "2.0")
    etag = (await put(model, "2.0")).headers["etag"]

    refused = await model.post(f"{CHAMPION}/rollback", headers={"If-Match": '"0"'})
    rolled_back = await model.post(f"{CHAMPION}/rollback", headers={"If-Match": etag})
    again = await model.post(f"{CHAMPION}/rollback")

    assert nowhere["version"] == "1.0"
    assert problem(refused, 412, "precondition-failed")["version"] == "2.0"
    assert (rolled_back.status_code, rolled_back.json()["version"]) == (200, "1.0")
    assert rolled_back.headers["etag"] == f'"{rolled_back.json()["generation"]}"'
    assert again.json()["version"] == "2.0"
    assert await history(model) == ["2.0", "1.0", "2.0", "2.0", "1.0", "1.0"]
    assert (await model.get("/get_model_info/m/@champion")).json()["version"] == "2.0"


async def test_a_rollback_looks_past_the_time_when_the_alias_was_dropped(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    await model.delete(CHAMPION)
    problem(await model.post(f"{CHAMPION}/rollback"), 404, "alias-not-found")
    await put(model, "2.0")

    rolled_back = await model.post(f"{CHAMPION}/rollback")

    assert rolled_back.json()["version"] == "1.0"


async def test_of_many_rollbacks_from_one_generation_one_is_made(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    etag = (await put(model, "2.0")).headers["etag"]

    answers = await asyncio.gather(*(model.post(f"{CHAMPION}/rollback", headers={"If-Match": etag}) for _ in range(10)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 9}
    assert await pointing(model) == {"champion": "1.0"}


async def test_a_swap_moves_all(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    await put(model, "2.0", alias="challenger")

    response = await swap(
        model,
        {"alias": "champion", "version": "2.0", "expected_version": "1.0"},
        {"alias": "challenger", "version": "1.0"},
        {"alias": "brand-new", "version": "3.0", "expected_version": None},
    )

    assert response.status_code == 200
    page = response.json()
    assert page["next_page_token"] is None
    assert [(item["alias"], item["version"]) for item in page["items"]] == [
        ("champion", "2.0"),
        ("challenger", "1.0"),
        ("brand-new", "3.0"),
    ]
    assert len({item["generation"] for item in page["items"]}) == 3
    assert len({item["updated_at"] for item in page["items"]}) == 1
    assert sorted(page["items"], key=lambda item: str(item["alias"])) == (await model.get(ALIASES)).json()["items"]
    assert await history(model) == ["2.0", "1.0"]
    assert await history(model, "brand-new") == ["3.0"]


@pytest.mark.parametrize(
    ("move", "status", "slug", "members"),
    [
        ({"version": "2.0", "expected_version": "3.0"}, 412, "precondition-failed", ("3.0", "1.0")),
        ({"version": "2.0", "expected_version": None}, 412, "precondition-failed", (None, "1.0")),
        ({"version": "9.9"}, 404, "version-not-found", ()),
        ({"version": "3.0"}, 409, "version-not-available", ()),
    ],
)
async def test_a_swap_moves_all_or_none(
    model: httpx.AsyncClient, move: dict[str, Any], status: int, slug: str, members: tuple[str | None, ...]
) -> None:
    await put(model, "1.0")
    await put(model, "1.0", alias="a-first")
    await model.delete("/remove_model/m/3.0")
    before = await pointing(model)

    response = await swap(
        model,
        {"alias": "a-first", "version": "2.0"},
        {"alias": "champion", **move},
        {"alias": "z-last", "version": "2.0"},
    )

    refused = problem(response, status, slug)
    if members:
        assert (refused["alias"], refused["expected"], refused["actual"]) == ("champion", *members)
        assert "no alias was moved" in refused["detail"]
    assert await pointing(model) == before
    assert await history(model, "a-first") == ["1.0"]
    assert len(await alias_events(model)) == 2


async def test_a_swap_that_expects_an_alias_to_be_absent_says_so(model: httpx.AsyncClient) -> None:
    refused = await swap(model, {"alias": "champion", "version": "2.0", "expected_version": "1.0"})

    said = problem(refused, 412, "precondition-failed")
    assert (said["expected"], said["actual"]) == ("1.0", None)
    assert "points at no version, not at '1.0'" in said["detail"]


async def test_a_hundred_moves_are_one_swap(model: httpx.AsyncClient) -> None:
    moves = [{"alias": f"a{i:03}", "version": VERSIONS[i % 3]} for i in range(101)]

    too_many = await swap(model, *moves)
    swapped = await swap(model, *moves[:100])

    assert problem(too_many, 422, "invalid-field")["errors"][0]["loc"] == ["body", "moves"]
    assert [item["alias"] for item in swapped.json()["items"]] == [move["alias"] for move in moves[:100]]
    events = await alias_events(model)
    assert [(event["details"]["alias"], event["version"]) for event in events] == [
        (move["alias"], move["version"]) for move in moves[:100]
    ]


async def test_swaps_at_the_same_time_are_seen_whole_or_not_at_all(model: httpx.AsyncClient) -> None:
    await swap(model, {"alias": "a", "version": "1.0"}, {"alias": "z", "version": "2.0"})
    pairs = [("1.0", "2.0"), ("2.0", "1.0"), ("3.0", "1.0"), ("2.0", "3.0")]
    seen = []

    async def watch() -> None:
        while True:
            found = await pointing(model)
            seen.append((found["a"], found["z"]))

    def moves(index: int) -> list[dict[str, Any]]:
        first, last = pairs[index % len(pairs)]
        both = [{"alias": "a", "version": first}, {"alias": "z", "version": last}]
        return both if index % 2 else both[::-1]

    watching = asyncio.create_task(watch())
    answers = await asyncio.gather(*(swap(model, *moves(i)) for i in range(24)))
    watching.cancel()

    assert [answer.status_code for answer in answers] == [200] * 24
    assert seen
    assert set(seen) <= set(pairs)
    assert len(await history(model, "a")) == len(await history(model, "z")) == 25


async def test_of_swaps_that_expect_the_same_one_is_made(model: httpx.AsyncClient) -> None:
    await swap(model, {"alias": "a", "version": "1.0"}, {"alias": "z", "version": "2.0"})
    exchange = (
        {"alias": "a", "version": "2.0", "expected_version": "1.0"},
        {"alias": "z", "version": "1.0", "expected_version": "2.0"},
    )

    answers = await asyncio.gather(*(swap(model, *exchange) for _ in range(20)))

    assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 19}
    assert await pointing(model) == {"a": "2.0", "z": "1.0"}


async def test_an_alias_never_ends_at_a_version_that_was_removed_meanwhile(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    async def one_round(index: int) -> None:
        version, alias = f"1.{index}.0", f"alias-{index % 4}"
        await register_version(model, "m", version)
        force = {"force": "true"} if index % 2 else {}
        removal = model.delete(f"/remove_model/m/{version}", params=force)
        move = put(model, version, alias=alias)
        if index % 3:
            moved, removed = await asyncio.gather(move, removal)
        else:
            removed, moved = await asyncio.gather(removal, move)
        outcome = moved.is_success, removed.is_success
        assert outcome in {(True, False), (False, True), *([(True, True)] if force else [])}

    for first in range(0, 48, 4):
        await asyncio.gather(*(one_round(index) for index in range(first, first + 4)))

    dangling = await database_session.scalar(
        text("SELECT count(*) FROM aliases JOIN model_info ON model_info.id = version_id WHERE state <> 'ready'")
    )
    assert dangling == 0
    for alias in await pointing(model):
        assert (await model.get(f"/get_model_info/m/@{alias}")).status_code == 200


async def test_a_move_waits_for_a_removal_and_sees_it(
    model: httpx.AsyncClient, engine: AsyncEngine, database_session: AsyncSession
) -> None:
    version_id = await database_session.scalar(text("SELECT id FROM model_info WHERE version = '2.0' FOR UPDATE"))
    moving = asyncio.create_task(put(model, "2.0"))
    await until_somebody_waits(engine)
    await database_session.execute(
        text("UPDATE model_info SET state = 'removed', purge_after = now() WHERE id = :id"), {"id": version_id}
    )
    await database_session.commit()

    problem(await moving, 409, "version-not-available")


async def until_somebody_waits(engine: AsyncEngine) -> None:
    """Wait until a transaction waits for a lock that another one holds."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    async with engine.connect() as connection:
        for _ in range(3000):
            if await connection.scalar(waiting):
                return
            await asyncio.sleep(0.01)
    raise AssertionError("nobody waits")


async def test_the_aliases_of_a_removed_version_are_dropped_with_their_history(
    model: httpx.AsyncClient, service: RunningService, database_session: AsyncSession
) -> None:
    for alias in ("z", "champion", "a"):
        await put(model, "1.0", alias=alias)
    kept = await put(model, "2.0", alias="kept")
    version_id = await database_session.scalar(text("SELECT id FROM model_info WHERE version = '1.0'"))
    assert version_id is not None

    async with service.services.database.transaction() as tx:
        await tx.models.lock("m")
        await tx.versions.lock(version_id)
        found = await tx.aliases.of_version(version_id)
        dropped = await tx.aliases.drop_of_version(version_id, actor="somebody")

    assert found == dropped == ["a", "champion", "z"]
    assert await pointing(model) == {"kept": "2.0"}
    newest, oldest = (await model.get(f"{CHAMPION}/history")).json()["items"]
    assert (newest["version"], newest["by"], oldest["version"]) == (None, "somebody", "1.0")
    assert newest["generation"] > kept.json()["generation"] > oldest["generation"]
    problem(await model.get(CHAMPION, params={"at": newest["at"]}), 404, "alias-pointed-nowhere")
    async with service.services.database.transaction() as tx:
        assert await tx.aliases.drop_of_version(version_id, actor="somebody") == []


async def test_a_forced_removal_drops_the_aliases_and_the_history_says_so(model: httpx.AsyncClient) -> None:
    await put(model, "2.0")
    etag = (await put(model, "1.0")).headers["etag"]

    refused = await model.delete("/remove_model/m/1.0")
    forced = await model.delete("/remove_model/m/1.0", params={"force": "true"})

    assert problem(refused, 409, "version-aliased")["aliases"] == ["champion"]
    assert (forced.status_code, forced.json()["aliases"]) == (200, [])
    problem(await model.get(CHAMPION), 404, "alias-not-found")
    assert await history(model) == [None, "1.0", "2.0"]
    problem(await put(model, "2.0", if_match=etag), 412, "precondition-failed")


async def test_lists_come_page_by_page(model: httpx.AsyncClient) -> None:
    names = [f"a{i}" for i in range(5)] + ["a-b", "a.b", "b_c"]
    await swap(model, *({"alias": name, "version": "1.0"} for name in names))
    for version in ("2.0", "3.0", "1.0"):
        await put(model, version, alias="a0")

    async def walk(path: str, key: str) -> list[Any]:
        found: list[Any] = []
        token: str | None = ""
        while token is not None:
            page = (await model.get(path, params={"limit": 2, "page_token": token})).json()
            assert 1 <= len(page["items"]) <= 2
            found += [item[key] for item in page["items"]]
            token = page["next_page_token"]
        return found

    assert await walk(ALIASES, "alias") == sorted(names)
    assert await walk(f"{ALIASES}/a0/history", "version") == ["1.0", "3.0", "2.0", "1.0"]


async def test_a_token_of_another_list_is_refused(model: httpx.AsyncClient) -> None:
    await register_version(model, "other", "1.0")
    for alias in ("a", "b"):
        for version in ("1.0", "2.0"):
            await put(model, version, alias=alias)
    lists = [ALIASES, f"{ALIASES}/a/history", f"{ALIASES}/b/history"]
    tokens = [(await model.get(path, params={"limit": 1})).json()["next_page_token"] for path in lists]

    for path in [*lists, "/v1/models/other/aliases"]:
        for token in [
            *tokens,
            "x",
            "W10",
            "%00",
            "W1siYWxpYXNlcyIsIm0iXSxudWxsXQ",
            "W1siYWxpYXNlcyIsIm0iXSwiXHUwMDAwIl0",
        ]:
            response = await model.get(path, params={"page_token": token})
            if path in lists and tokens[lists.index(path)] == token:
                assert response.status_code == 200
            else:
                problem(response, 422, "invalid-page-token")
    for path in lists:
        for limit in ("0", "1001", "-1", "x", ""):
            problem(await model.get(path, params={"limit": limit}), 422, "invalid-request")


Request = Callable[[httpx.AsyncClient, str, str], Awaitable[httpx.Response]]
ROUTES: dict[str, Request] = {
    "list": lambda client, name, _: client.get(f"/v1/models/{name}/aliases"),
    "get": lambda client, name, alias: client.get(f"/v1/models/{name}/aliases/{alias}"),
    "get at": lambda client, name, alias: client.get(
        f"/v1/models/{name}/aliases/{alias}", params={"at": "2020-01-01T00:00:00Z"}
    ),
    "history": lambda client, name, alias: client.get(f"/v1/models/{name}/aliases/{alias}/history"),
    "put": lambda client, name, alias: client.put(f"/v1/models/{name}/aliases/{alias}", json={"version": "1.0"}),
    "delete": lambda client, name, alias: client.delete(f"/v1/models/{name}/aliases/{alias}"),
    "rollback": lambda client, name, alias: client.post(f"/v1/models/{name}/aliases/{alias}/rollback"),
    "swap": lambda client, name, alias: client.post(
        f"/v1/models/{name}/aliases:swap", json={"moves": [{"alias": alias, "version": "1.0"}]}
    ),
}


async def test_a_model_that_is_not_there_has_no_aliases(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await database_session.execute(
        text("INSERT INTO registered_models (name, is_provisional) VALUES ('reserved', true)")
    )
    await database_session.execute(
        text(
            "INSERT INTO model_info (model_name, version, number, lease_expires_at) "
            "VALUES ('reserved', '1.0', 1, now() + interval '1 hour')"
        )
    )
    await database_session.commit()

    for route, send in ROUTES.items():
        for name in ("absent", "reserved"):
            problem(await send(model, name, "champion"), 404, "model-not-found")
        other_case = problem(await send(model, "M", "champion"), 404, "model-not-found")
        assert "There is 'm'" in other_case["detail"], route


async def test_a_model_without_versions_to_show_still_has_its_aliases(model: httpx.AsyncClient) -> None:
    await put(model, "1.0")
    await model.delete(CHAMPION)
    for version in VERSIONS:
        await model.delete(f"/remove_model/m/{version}")

    assert (await model.get(ALIASES)).json() == {"items": [], "next_page_token": None}
    assert await history(model) == [None, "1.0"]
    problem(await model.get(CHAMPION), 404, "alias-not-found")


async def test_an_alias_that_never_was_is_a_404(model: httpx.AsyncClient) -> None:
    for route in ("get", "history", "delete", "rollback"):
        missing = problem(await ROUTES[route](model, "m", "champion"), 404, "alias-not-found")
        assert (missing["model_name"], missing["alias"]) == ("m", "champion"), route


BAD_ALIASES = ("Champion", "latest", "1.0", "12", "v2", "-x", "x-", "a%20b", "%C3%A9", "a" * 65, "@champion", "a%00")


async def test_a_bad_name_is_refused_everywhere(client: httpx.AsyncClient) -> None:
    for route, send in ROUTES.items():
        for alias in BAD_ALIASES if route != "list" else ():
            refused = problem(await send(client, "m", alias), 422, "invalid-field")
            assert "an alias has 1 to 64 characters" in refused["detail"], f"{route} {alias}"


async def test_a_bad_model_name_is_refused_everywhere(client: httpx.AsyncClient) -> None:
    for send in ROUTES.values():
        for name in ("a--b", "a b", "-x", "x" * 129):
            problem(await send(client, name, "champion"), 422, "invalid-field")


BAD_PUTS: list[tuple[bytes, list[str]]] = [
    (b"", ["body", "version"]),
    (b"{}", ["body", "version"]),
    (b'{"version": null}', ["body", "version"]),
    (b'{"version": 1}', ["body", "version"]),
    (b'{"version": ["1.0"]}', ["body", "version"]),
    (b'{"version": "1.0", "colour": "red"}', ["body", "colour"]),
    (b'{"version": "1.0", "version": "2.0"}', ["body", "version"]),
    (b'{"version": "latest"}', ["version"]),
    (b'{"version": "@champion"}', ["version"]),
    (b'{"version": ""}', ["version"]),
    (b'{"version": "1.0\\u0000"}', ["body", "version"]),
    (b"[]", ["body"]),
    (b'"1.0"', ["body"]),
    (b"null", ["body"]),
    (b"{", ["body"]),
    (b"\xff", ["body"]),
]


async def test_a_bad_body_of_a_put_is_refused(model: httpx.AsyncClient) -> None:
    for body, loc in BAD_PUTS:
        response = await model.put(CHAMPION, content=body, headers={"content-type": "application/json"})
        assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, loc), body
    assert await pointing(model) == {}


MOVE = {"alias": "champion", "version": "1.0"}


BAD_SWAPS: list[tuple[dict[str, Any], list[str | int]]] = [
    ({}, ["body", "moves"]),
    ({"moves": None}, ["body", "moves"]),
    ({"moves": {}}, ["body", "moves"]),
    ({"moves": []}, ["moves"]),
    ({"moves": ["champion"]}, ["body", "moves", 0]),
    ({"moves": [MOVE], "force": True}, ["body", "force"]),
    ({"moves": [{"alias": "champion"}]}, ["body", "moves", 0, "version"]),
    ({"moves": [MOVE, {"version": "1.0"}]}, ["body", "moves", 1, "alias"]),
    ({"moves": [MOVE | {"alias": 1}]}, ["body", "moves", 0, "alias"]),
    ({"moves": [MOVE | {"alias": "1"}]}, ["moves", 0, "alias"]),
    ({"moves": [MOVE | {"version": "latest"}]}, ["moves", 0, "version"]),
    ({"moves": [MOVE | {"version": "@champion"}]}, ["moves", 0, "version"]),
    ({"moves": [MOVE | {"expected_version": 1}]}, ["body", "moves", 0, "expected_version"]),
    ({"moves": [MOVE | {"expected_version": "latest"}]}, ["moves", 0, "expected_version"]),
    ({"moves": [MOVE | {"expected_version": "*"}]}, ["moves", 0, "expected_version"]),
    ({"moves": [MOVE | {"expected": "1.0"}]}, ["body", "moves", 0, "expected"]),
    ({"moves": [MOVE, MOVE | {"version": "2.0"}]}, ["moves", 1, "alias"]),
]


async def test_a_bad_body_of_a_swap_is_refused(model: httpx.AsyncClient) -> None:
    for body, loc in BAD_SWAPS:
        response = await model.post(SWAP, json=body)
        assert (response.status_code, response.json()["errors"][0]["loc"]) == (422, loc), body
    assert await pointing(model) == {}


async def test_a_body_of_another_kind_is_refused(model: httpx.AsyncClient) -> None:
    for method, path in (("PUT", CHAMPION), ("POST", SWAP)):
        refused = await model.request(method, path, content=b"version=1.0", headers={"content-type": "text/plain"})
        problem(refused, 415, "unsupported-media-type")


NO_TAGS = ("", "5", "'5'", '"5', '5"', '"5" "6"', '"5", 6', '*, "5"', "w/5", 'w/"5"', "**")


@pytest.mark.parametrize("name", ["If-Match", "If-None-Match"])
async def test_a_precondition_that_is_none_is_refused_and_not_ignored(model: httpx.AsyncClient, name: str) -> None:
    await put(model, "1.0")

    for value in NO_TAGS:
        headers = {name: value}
        for refused in (
            await model.put(CHAMPION, json={"version": "2.0"}, headers=headers),
            await model.delete(CHAMPION, headers=headers),
            await model.post(f"{CHAMPION}/rollback", headers=headers),
        ):
            assert problem(refused, 422, "invalid-field")["errors"][0]["loc"] == ["header", name], value
    assert await history(model) == ["1.0"]


async def test_to_move_aliases_is_a_permission_of_its_own(model: httpx.AsyncClient, service: RunningService) -> None:
    await put(model, "1.0")
    aliases = service.services.aliases
    writer = Actor("writer", frozenset(Permission) - {Permission.ALIAS})
    promoter = Actor("promoter", frozenset({Permission.ALIAS}))
    champion = AliasRef("m", "champion")

    for attempt in (
        aliases.put(champion, "2.0", actor=writer),
        aliases.put(AliasRef("m", "new"), "2.0", actor=writer),
        aliases.drop(champion, actor=writer),
        aliases.rollback(champion, actor=writer),
        aliases.swap("m", [PlannedMove("champion", "2.0")], actor=writer),
        aliases.get(champion, actor=promoter),
        aliases.page("m", actor=promoter),
        aliases.history(champion, actor=promoter),
    ):
        with pytest.raises(Forbidden):
            await attempt
    moved, is_new = await aliases.put(champion, "2.0", actor=promoter)

    assert (moved.version, moved.updated_by, is_new) == ("2.0", "promoter", False)
    assert await pointing(model) == {"champion": "2.0"}


@pytest.mark.parametrize("lets_it_arrive", [True, False], ids=["the answer is lost", "the commit is lost"])
async def test_a_change_whose_commit_is_lost_is_made_once(
    model: httpx.AsyncClient,
    service: RunningService,
    stack: StackAddresses,
    monkeypatch: pytest.MonkeyPatch,
    lets_it_arrive: bool,
) -> None:
    url = make_url(stack.database_url)
    commits = CommitEater(url.host or "127.0.0.1", url.port or 5432)
    commits.lets_it_arrive = lets_it_arrive
    behind = url.set(host="127.0.0.1", port=await commits.start())
    database = Database(behind.render_as_string(hide_password=False), DatabaseLimits())
    answers: list[httpx.Response] = []
    requests: tuple[Callable[[], Awaitable[httpx.Response]], ...] = (
        lambda: put(model, "1.0", if_none_match="*"),
        lambda: put(model, "2.0", if_match=answers[-1].headers["etag"]),
        lambda: model.post(f"{CHAMPION}/rollback", headers={"If-Match": answers[-1].headers["etag"]}),
        lambda: swap(
            model,
            {"alias": "champion", "version": "3.0", "expected_version": "1.0"},
            {"alias": "new", "version": "3.0", "expected_version": None},
        ),
        lambda: model.delete(CHAMPION),
    )

    with monkeypatch.context() as patch:
        patch.setattr(service.services.aliases, "_database", database)
        for request in requests:
            commits.commits_to_pass = 0
            answers.append(await request())
    commits.stop()
    await database.close()

    assert commits.eaten == 5
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 204]
    assert answers[2].json()["version"] == "1.0"
    moves = (await model.get(f"{CHAMPION}/history")).json()["items"]
    assert [move["version"] for move in moves] == [None, "3.0", "1.0", "2.0", "1.0"]
    told = [answer.json() for answer in answers[:3]] + [answers[3].json()["items"][0]]
    assert [alias["generation"] for alias in told] == [move["generation"] for move in reversed(moves[1:])]
    assert await history(model, "new") == ["3.0"]
    assert len(await alias_events(model)) == 6


async def test_every_change_is_one_event(model: httpx.AsyncClient) -> None:
    made = (await put(model, "1.0")).json()
    moved = (await put(model, "2.0")).json()
    swapped = (await swap(model, {"alias": "champion", "version": "1.0"}, {"alias": "b", "version": "2.0"})).json()[
        "items"
    ]
    rolled_back = (await model.post(f"{CHAMPION}/rollback")).json()
    await model.delete(CHAMPION)
    for refused in (
        await put(model, "9.9"),
        await put(model, "1.0", if_match='"0"'),
        await model.delete(CHAMPION),
        await swap(model, {"alias": "b", "version": "1.0", "expected_version": "3.0"}),
    ):
        assert refused.is_client_error
    dropped = (await model.get(f"{CHAMPION}/history")).json()["items"][0]

    events = await alias_events(model)

    assert {(event["model"], event["actor"]) for event in events} == {("m", "anonymous")}
    assert [(event["action"], event["version"], event["details"]) for event in events] == [
        ("alias.moved", "1.0", _details("champion", None, made)),
        ("alias.moved", "2.0", _details("champion", "1.0", moved)),
        ("alias.moved", "1.0", _details("champion", "2.0", swapped[0])),
        ("alias.moved", "2.0", _details("b", None, swapped[1])),
        ("alias.moved", "2.0", _details("champion", "1.0", rolled_back)),
        ("alias.dropped", "2.0", {"alias": "champion", "from": "2.0", "generation": dropped["generation"]}),
    ]


def _details(alias: str, before: str | None, after: dict[str, Any]) -> dict[str, Any]:
    return {"alias": alias, "from": before, "to": after["version"], "generation": after["generation"]}
