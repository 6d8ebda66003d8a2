"""Conversion and validation of metadata; pure functions.

Metadata keeps its exact value from the request to the database and back: a number never becomes a double. Inside the
service a JSON document is `JsonText`, the text that PostgreSQL stores as `jsonb`.
"""

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import orjson

from model_registry.errors import InvalidField

MAX_DEPTH = 64
_INT64 = range(-(2**63), 2**63)
_SURROGATE = re.compile("[\ud800-\udfff]")
Loc = tuple[str | int, ...]


class JsonText(str):
    """A JSON document as text; `parsed` returns it as Python values."""

    __slots__ = ()

    @property
    def parsed(self) -> Any:
        return json.loads(self)


EMPTY_OBJECT = JsonText("{}")


NOT_AN_OBJECT = "a JSON object is required, such as {}"


def parse_json_object(text: str | bytes, loc: Loc, *, max_bytes: int, depth: int = 1) -> dict[str, Any]:
    """Return the JSON object in `text` with exact numbers: integers as `int`, other numbers as `Decimal`.

    Raises `InvalidField` with the location for: anything but an object, NaN and Infinity, duplicate keys, NUL and lone
    surrogates, nesting deeper than `MAX_DEPTH` (the object itself is at `depth`), numbers that take more than
    `max_bytes` when written out, and more than `max_bytes` in total.
    """
    if len(text) > max_bytes or (isinstance(text, str) and len(text.encode("utf-8", "surrogatepass")) > max_bytes):
        raise InvalidField(loc, f"metadata has at most {max_bytes} bytes", f"{len(text)} bytes or more")
    try:
        tree = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_Pairs,
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_Number,
        )
    except UnicodeDecodeError:
        raise InvalidField(loc, "JSON must be UTF-8", None) from None
    except json.JSONDecodeError as error:
        raise InvalidField(
            loc,
            f"invalid JSON: {error.msg.removesuffix(' at')} at line {error.lineno} column {error.colno}",
            _near(error.doc, error.pos),
        ) from None
    except RecursionError:
        raise InvalidField(loc, f"nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(tree, _Pairs):
        raise InvalidField(loc, NOT_AN_OBJECT, text[:120].decode(errors="replace") if isinstance(text, bytes) else text)
    result = _Reader(max_bytes).visit(tree, (None, loc), depth)
    assert isinstance(result, dict)  # noqa: S101 - for the type checker; a _Pairs becomes a dict
    return result


def _near(text: str, position: int) -> str:
    return text[max(0, position - 20) : position + 20]


class _Pairs(list[tuple[str, Any]]):
    """An object as parsed, with duplicate keys."""


class _Number(str):
    """A number as it is written."""

    __slots__ = ()


_Place = tuple["_Place | None", Any]
"""The current place in the tree: the outer place, and the step from there. Only an error needs the `Loc`."""


def _loc(place: _Place | None) -> Loc:
    steps: list[str | int] = []
    while place is not None:
        outer, step = place
        if outer is None:
            return (*step, *reversed(steps))
        steps.append(step)
        place = outer
    return tuple(steps)


class _Reader:
    """Turns the parsed tree into plain values, and validates them on the way."""

    def __init__(self, max_bytes: int) -> None:
        self._digits_left = max_bytes

    def visit(self, node: Any, place: _Place, depth: int) -> Any:
        kind = type(node)
        if kind is _Number:
            return self._number(node, place)
        if kind is str:
            _validate_text(node, place)
            return node
        if kind is not _Pairs and kind is not list:
            return node
        if depth > MAX_DEPTH:
            raise InvalidField(_loc(place), f"nested deeper than {MAX_DEPTH} levels")
        if kind is list:
            return [self.visit(value, (place, index), depth + 1) for index, value in enumerate(node)]
        result: dict[str, Any] = {}
        for key, value in node:
            if key in result:
                raise InvalidField(_loc((place, key)), "this key appears twice in the object", key)
            _validate_text(key, place)
            result[key] = self.visit(value, (place, key), depth + 1)
        return result

    def _number(self, written: _Number, place: _Place) -> int | Decimal:
        if len(written) < 19 and written.isdigit():
            return int(written)
        try:
            number = Decimal(written)
        except ArithmeticError:
            raise InvalidField(_loc(place), "the exponent of this number is too large", written) from None
        if not number.is_finite():
            raise InvalidField(_loc(place), "JSON has no NaN and no Infinity; use null", written)
        # jsonb stores a number as numeric, which has every digit: 1e9999 has ten thousand.
        exponent = number.as_tuple().exponent
        assert isinstance(exponent, int)  # noqa: S101 - for the type checker; finite numbers have one
        self._digits_left -= max(number.adjusted(), 0) + max(-exponent, 0)
        if number.adjusted() > 1000 or exponent < -1000 or self._digits_left < 0:
            rule = "a number has at most 1000 digits before and after the point, written out"
            raise InvalidField(_loc(place), rule, written)
        return _exact_integer(int(number)) if written.lstrip("-").isdigit() else number


def _validate_text(text: str, place: _Place) -> None:
    if "\x00" in text:
        raise InvalidField(_loc(place), "text has no NUL character", text)
    if not text.isascii() and _SURROGATE.search(text):
        raise InvalidField(_loc(place), "text has no lone surrogate", text)


def _exact_integer(number: int) -> int | Decimal:
    # orjson writes integers of up to 64 bits; a Decimal is written unchanged.
    return number if number in _INT64 else Decimal(number)


def clean_json_object(value: Mapping[Any, Any], loc: Loc) -> dict[str, Any]:
    """Return a Python mapping as plain JSON values.

    NumPy scalars and arrays (objects with `item` or `tolist`) become numbers and lists. NaN and the infinities become
    `None`, dates become RFC 3339 text, and keys become text. Raises `InvalidField` for values without a JSON form.
    """
    cleaned = _clean(value, loc, 1)
    if not isinstance(cleaned, dict):
        raise InvalidField(loc, "a mapping is required", value)
    return cleaned


def _clean(value: Any, loc: Loc, depth: int) -> Any:
    if depth > MAX_DEPTH + 1:
        raise InvalidField(loc, f"nested deeper than {MAX_DEPTH} levels")
    match value:
        case Enum():
            return _clean(value.value, loc, depth)
        case None | bool():
            return value
        case str():
            _validate_text(value, (None, loc))
            return str(value)
        case int():
            return _exact_integer(int(value))
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            return value if value.is_finite() else None
        case datetime():
            return rfc3339(value)
        case date() | UUID() | PurePath():
            return str(value)
        case Mapping():
            return {_clean_key(key, loc): _clean(item, (*loc, str(key)), depth + 1) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            items = sorted(value, key=repr) if isinstance(value, set | frozenset) else value
            return [_clean(item, (*loc, index), depth + 1) for index, item in enumerate(items)]
    for convert in ("tolist", "item"):
        if callable(method := getattr(value, convert, None)):
            return _clean(method(), loc, depth)
    raise InvalidField(loc, f"a {type(value).__name__} cannot be written as JSON", value)


def _clean_key(key: Any, loc: Loc) -> str:
    text = key if isinstance(key, str) else str(_clean(key, loc, 1))
    _validate_text(text, (None, loc))
    return str(text)


def merge_patch(target: Any, patch: Any) -> Any:
    """Return `target` with `patch` applied (RFC 7396): members are replaced one by one, and null removes one."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def exact_json(text: JsonText) -> Any:
    """Return the document as Python values with exact numbers."""
    return json.loads(
        text, parse_float=Decimal, parse_int=lambda digits: int(digits) if len(digits) < 19 else Decimal(digits)
    )


def to_json_text(value: Mapping[str, Any]) -> JsonText:
    """Return plain JSON values as text with exact numbers."""
    return JsonText(orjson.dumps(value, default=_exact).decode())


def _exact(value: Any) -> Any:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(type(value).__name__)


def canonical_json(value: Mapping[str, Any]) -> bytes:
    """Return the same text for documents that mean the same: sorted keys, one form of numbers, `JsonText` expanded."""
    return orjson.dumps(_canonical(value), default=_exact, option=orjson.OPT_SORT_KEYS)


def _canonical(value: Any) -> Any:
    match value:
        case JsonText():
            return _canonical(json.loads(value, parse_float=Decimal, parse_int=Decimal))
        case Decimal():
            return _Plain(value)
        case bool() | None | str():
            return value
        case int() | float():
            return _Plain(str(value))
        case Mapping():
            return {str(key): _canonical(item) for key, item in value.items()}
        case _:
            return [_canonical(item) for item in value]


class _Plain(Decimal):
    """A number that is written without exponent, without trailing zeros, and without the sign of a zero."""

    def __str__(self) -> str:
        text = format(self, "f") if self else "0"
        return text.rstrip("0").rstrip(".") if "." in text else text


def rfc3339(moment: datetime) -> str:
    """Return a time such as `2026-01-31T12:00:00.000000Z`. A time without a time zone is UTC."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="microseconds").replace("+00:00", "Z")
