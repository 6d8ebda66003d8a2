"""Reads a `Problem` from an HTTP response, whether a registry or another server sent it."""

import re

import httpx
from pydantic import ValidationError

from model_registry_client.errors import Problem
from model_registry_client.urls import origin

_MAX_DETAIL_CHARS = 500
_PAGE = re.compile(r"\s*<(?:!doctype )?html", re.IGNORECASE)
_TITLE = re.compile(r"<title>(.*?)</title>", re.IGNORECASE | re.DOTALL)


def problem_of(response: httpx.Response) -> Problem:
    """Return the problem in a response. For a response of another server, create one from its status and text."""
    try:
        return Problem.model_validate_json(response.content)
    except ValidationError:
        text = response.text
        if _PAGE.match(text):
            text = title[1] if (title := _TITLE.search(text)) else ""
        said = " ".join(text.split())[:_MAX_DETAIL_CHARS]
        where = origin(str(response.request.url))
        return Problem(
            status=response.status_code,
            title=response.reason_phrase,
            detail=f"{where} responded with {response.status_code} {response.reason_phrase}: {said}".rstrip(": "),
        )
