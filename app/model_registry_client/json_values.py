"""Converts Python values to JSON and back, with exact numbers."""

import json
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

from model_registry_client.errors import UsageError

_MAX_DEPTH = 100


def to_json(value: Any, place: str = "") -> Any:
    """Convert `value` to plain JSON values: `dict`, `list`, `str`, `int`, `float`, `Decimal`, `bool` and `None`.

    NumPy scalars and arrays, and other values with `tolist`, become numbers and lists. NaN, infinities and missing
    times become `None`. Times are RFC 3339; a time without a zone is UTC. Raises `UsageError` with the place of a value
    that JSON cannot represent.
    """
    return _plain(value, place, 0)


def _plain(value: Any, place: str, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise UsageError(f"{place.lstrip('.')[:80]}… is nested more than {_MAX_DEPTH} levels deep, or contains itself.")
    match value:
        case Enum():
            return _plain(value.value, place, depth)
        case None | bool():
            return value
        case str():
            return str(value)
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else None
        case Decimal():
            return value if value.is_finite() else None
        case datetime():
            # pandas' NaT is a datetime that, like NaN, is not equal to itself.
            return _rfc3339(value) if value == value else None
        case date() | time():
            return value.isoformat()
        case UUID() | PurePath():
            return str(value)
        case Mapping():
            return {key: _plain(item, f"{place}.{key}", depth + 1) for key, item in _members(value, place)}
        case list() | tuple():
            return [_plain(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        case set() | frozenset():
            return [_plain(item, place, depth + 1) for item in sorted(value, key=repr)]
    return _plain(_without_numpy(value, place), place, depth + 1)


def _members(value: Mapping[Any, Any], place: str) -> Iterator[tuple[str, Any]]:
    seen: dict[str, Any] = {}
    for key, item in value.items():
        text = key if isinstance(key, str) else _key(_plain(key, place, 0))
        if text in seen:
            raise UsageError(
                f"{place}.{text}".lstrip(".") + f": the keys {seen[text]!r} and {key!r} are the same in JSON."
            )
        seen[text] = key
        yield text, item


def _key(plain: Any) -> str:
    return plain if isinstance(plain, str) else dumps(plain)


def _without_numpy(value: Any, place: str) -> Any:
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind == "M":
        # Python's times have microseconds. NumPy converts more precise ones to integers.
        value = value.astype("datetime64[us]")
    elif kind == "f" and value.dtype.itemsize > 8:
        # NumPy does not convert a long double to a Python number. Its text has all digits.
        return list(value) if getattr(value, "ndim", 0) else Decimal(str(value))
    convert = getattr(value, "tolist", None)
    if callable(convert) and kind not in {"c", "m"}:
        return convert()
    if type(value).__name__ == "NAType":
        return None
    where = place.lstrip(".") or "The value"
    raise UsageError(f"{where}: JSON cannot represent {type(value).__name__!r}.")


def _rfc3339(moment: datetime) -> str:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.isoformat(timespec="microseconds").replace("+00:00", "Z")


def dumps(value: Any) -> str:
    """Return `to_json(value)` as JSON text."""
    try:
        # The fast path for plain values, such as a manifest of 100,000 files.
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        return "".join(_written(to_json(value)))


def _written(plain: Any) -> Iterator[str]:
    match plain:
        case dict():
            yield "{"
            for index, (key, item) in enumerate(plain.items()):
                yield f"{',' if index else ''}{json.dumps(key)}:"
                yield from _written(item)
            yield "}"
        case list():
            yield "["
            for index, item in enumerate(plain):
                yield "," if index else ""
                yield from _written(item)
            yield "]"
        case Decimal():
            yield str(plain)
        case _:
            yield json.dumps(plain)


def loads(text: str) -> Any:
    """Parse JSON text. A number that is not exact as a float becomes a `Decimal`."""
    return json.loads(text, parse_float=_number)


def _number(written: str) -> float | Decimal:
    number = float(written)
    # A double holds any 15 digits exactly.
    if len(written) < 17 and "e" not in written.lower():
        return number
    return number if Decimal(repr(number)) == (exact := Decimal(written)) else exact
