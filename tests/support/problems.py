"""Read problems (RFC 9457) from responses."""

from typing import Any

import httpx

from tests.support.rawhttp import RawAnswer


def slug(answer: httpx.Response) -> str:
    """Return the last part of the type of the problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    kind: str = answer.json()["type"]
    return kind.rpartition(":")[2]


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Return the problem, after checking that it has this status and this slug."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["type"]) == (status, f"urn:model-registry:problem:{slug}"), response.text
    return body


def wrong_field(response: httpx.Response, *loc: str | int) -> str:
    """Return the rule that the value at this place broke."""
    (error,) = problem(response, 422, "invalid-field")["errors"]
    assert error["loc"] == list(loc), response.text
    return str(error["msg"])


def assert_problem(
    answer: httpx.Response | RawAnswer | None,
    status: int,
    *,
    names: str | None = None,
    slug: str | None = None,
    says: str = "",
) -> dict[str, Any]:
    """Check that this is an RFC 9457 problem with the registry's members; `names` ends the path to the wrong value."""
    assert answer is not None, "the connection was closed without an answer"
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "instance", "request_id"} <= problem.keys()
    assert problem["type"].startswith("urn:model-registry:problem:")
    if slug is not None:
        assert problem["type"] == f"urn:model-registry:problem:{slug}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["instance"]
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert_no_internals(answer)
    assert says in problem["detail"]
    if names is not None:
        ways = [".".join(str(step) for step in error["loc"]) for error in problem["errors"]]
        assert any(way == names or way.endswith(f".{names}") for way in ways), ways
        assert all(error["msg"] for error in problem["errors"])
        assert names.rpartition(".")[2] in problem["detail"]
    return problem


def assert_no_internals(answer: httpx.Response | RawAnswer) -> None:
    told = answer.text.lower()
    for word in ("traceback", "sqlalchemy", "asyncpg", "pydantic", "insert into", "select ", "site-packages", ".py"):
        assert word not in told
