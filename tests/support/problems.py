"""Read problems (RFC 9457) from responses."""

from typing import Any

import httpx


def slug(answer: httpx.Response) -> str:
    """Return the last part of the type of the problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    kind: str = answer.json()["type"]
    return kind.rpartition(":")[2]


def problem(response: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Return the problem, which has this status and this slug."""
    body: dict[str, Any] = response.json()
    assert (response.status_code, body["type"]) == (status, f"urn:model-registry:problem:{slug}"), response.text
    return body


def wrong_field(response: httpx.Response, *loc: str | int) -> str:
    """Return the rule that the value at this place broke."""
    (error,) = problem(response, 422, "invalid-field")["errors"]
    assert error["loc"] == list(loc), response.text
    return str(error["msg"])
