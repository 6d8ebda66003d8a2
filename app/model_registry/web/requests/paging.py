"""Opaque page tokens. A token holds the position where a page ended and the query that it belongs to."""

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
    """Return the token of the next page. `query` is everything else that determines the list."""
    return base64.urlsafe_b64encode(orjson.dumps([query, *position])).decode().rstrip("=")


def page_position(token: str | None, query: Sequence[object], decode: Callable[..., P]) -> P | None:
    """Decode the position in a token with `decode`. Raises `InvalidPageToken` if it is not a token of this query."""
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
    """Return a text that PostgreSQL accepts. Raises `ValueError`, because a token can hold anything."""
    if not isinstance(value, str) or "\x00" in value:
        raise ValueError("no text")
    return value


def bigint(value: Any, *, at_least: int = 1) -> int:
    """Return a number that fits into PostgreSQL's bigint. Raises `ValueError`."""
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
