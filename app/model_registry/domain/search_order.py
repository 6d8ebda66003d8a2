"""The orders of a search, and positions in them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from model_registry.domain.search_filter import Comparison, Field, Operator, parse_time
from model_registry.errors import InvalidField

# Ties are broken by the id; among versions of one model by their number, which grows with it and has an index.
_TIES = {"created_at": "id", "model_name": "number", "number": "id", "size_bytes": "id"}
_ORDER_RULE = f"an order is one of {', '.join(_TIES)}, optionally followed by ASC or DESC"


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """The position of a version in an order: the value that it is sorted by, and the value that breaks ties."""

    value: str | int | datetime
    tie: int


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a search. Each field that can be sorted by has an index.

    `created_by` is not among them: use a filter to find the versions of a creator.
    """

    field: str
    is_descending: bool

    @property
    def tie(self) -> str:
        return _TIES[self.field]

    def position_of(self, version: object) -> SearchPosition:
        """Return the position of a version that a search found."""
        return SearchPosition(getattr(version, self.field), getattr(version, self.tie))

    def position(self, value: Any, tie: Any) -> SearchPosition:
        """Return the position with these values (a time as text), or raise `InvalidFilter` if they do not fit."""
        if self.field == "created_at" and isinstance(value, str):
            value = parse_time(value)
        for name, part in ((self.field, value), (self.tie, tie)):
            Comparison(Field("number" if name == "id" else name), Operator.EQ, part)
        return SearchPosition(value, tie)


NEWEST_FIRST = Order("created_at", is_descending=True)


def parse_order(text: str) -> Order:
    """Parse an order such as `created_at DESC`; ascending by default. Raises `InvalidField`."""
    field, _, direction = text.strip().partition(" ")
    direction = direction.strip().upper() or "ASC"
    if field not in _TIES or direction not in {"ASC", "DESC"}:
        raise InvalidField("order_by", _ORDER_RULE, text)
    return Order(field, is_descending=direction == "DESC")
