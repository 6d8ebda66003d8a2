"""Opaque page tokens: where a page ended, and which query it belongs to."""

import base64

import orjson

from model_registry.domain import ListPosition
from model_registry.errors import InvalidField, InvalidPageToken
from model_registry.names import check_model_name

_MAX_BIGINT = 2**63 - 1


def list_token(query: list[str | None], position: ListPosition) -> str:
    """Where a list of versions goes on. `query` is whatever else decides what the list holds."""
    fields = [query, position.model_name, position.precedence.hex(), position.number]
    return base64.urlsafe_b64encode(orjson.dumps(fields)).decode().rstrip("=")


def list_position(token: str, query: list[str | None]) -> ListPosition:
    """What a token holds; raises `InvalidPageToken` unless it is one of this query."""
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        token_query, name, precedence, number = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        position = ListPosition(check_model_name(name), bytes.fromhex(precedence), int(number))
    except (ValueError, TypeError, AttributeError, InvalidField):
        raise InvalidPageToken from None
    if token_query != query or not 0 < position.number <= _MAX_BIGINT:
        raise InvalidPageToken
    return position
