"""Opaque page tokens: where a page ended, and which query it belongs to."""

import base64
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import orjson

from model_registry.domain.entities import ListPosition
from model_registry.domain.naming_rules import validate_model_name
from model_registry.errors import InvalidPageToken, RegistryError

P = TypeVar("P")

_MAX_BIGINT = 2**63 - 1


def page_token(query: Sequence[object], *position: str | int | None) -> str:
    """Where a list goes on. `query` is whatever else decides what the list holds."""
    return base64.urlsafe_b64encode(orjson.dumps([query, *position])).decode().rstrip("=")


def page_position(token: str | None, query: Sequence[object], decode: Callable[..., P]) -> P | None:
    """What `decode` makes of the position in a token; raises `InvalidPageToken` unless it is one of this query."""
    if token is None:
        return None
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        token_query, *position = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        decoded = decode(*position)
    except (ValueError, TypeError, AttributeError, RegistryError):
        raise InvalidPageToken from None
    if token_query != orjson.loads(orjson.dumps(query)):
        raise InvalidPageToken
    return decoded


def text(value: Any) -> str:
    """A text that PostgreSQL takes, or `ValueError`: a token can hold anything."""
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("no text")
    return value


def bigint(value: Any, *, at_least: int = 1) -> int:
    """A number of PostgreSQL's bigint, or `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or not at_least <= value <= _MAX_BIGINT:
        raise ValueError("no bigint")
    return value


def list_token(query: Sequence[object], position: ListPosition) -> str:
    return page_token(query, position.model_name, position.precedence.hex(), position.number)


def list_position(token: str | None, query: Sequence[object]) -> ListPosition | None:
    return page_position(
        token,
        query,
        lambda name, precedence, number: ListPosition(
            validate_model_name(name), bytes.fromhex(precedence), bigint(number)
        ),
    )
