"""Python values become JSON with the same meaning, and come back."""

import enum
import json
import math
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_registry_client import AsyncRegistry, UsageError
from model_registry_client.json_values import dumps, loads, to_json
from tests.support.service import RunningService


class Color(enum.Enum):
    RED = "red"


class NaT(datetime):
    """A missing time, like NaT of pandas."""

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


class NAType:
    """A missing value, like NA of pandas."""


CEST = timezone(timedelta(hours=2))

CONVERSIONS: dict[str, tuple[Any, Any]] = {
    "a NumPy float": (np.float64(0.1), 0.1),
    "a NumPy float of 32 bits": (np.float32(0.5), 0.5),
    "a NumPy integer": (np.int64(2**62), 2**62),
    "a NumPy truth value": (np.bool_(True), True),
    "a NumPy text": (np.str_("text"), "text"),
    "a NumPy array": (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    "a NumPy array without dimensions": (np.array(7), 7),
    "a NumPy array with NaN": (np.array([1.0, np.nan, -np.inf]), [1.0, None, None]),
    "a NumPy long double": (np.longdouble("0.5"), Decimal("0.5")),
    "a NumPy array of long doubles": (np.array([[0.5]], dtype=np.longdouble), [[Decimal("0.5")]]),
    "a NumPy time": (np.datetime64("2026-01-31T12:00:00"), "2026-01-31T12:00:00.000000Z"),
    "a NumPy time in nanoseconds": (np.datetime64("2026-01-31T12:00:00.123456789"), "2026-01-31T12:00:00.123456Z"),
    "a NumPy array of days": (np.array(["2026-01-31", "NaT"], dtype="M8[D]"), ["2026-01-31T00:00:00.000000Z", None]),
    "a NumPy record": (np.array([(1, 0.5)], dtype=[("a", "i4"), ("b", "f8")]), [[1, 0.5]]),
    "NaN": (math.nan, None),
    "an infinity": (-math.inf, None),
    "a Decimal that is no number": (Decimal("NaN"), None),
    "a Decimal": (Decimal("0.1000000000000000055511151231257827"), Decimal("0.1000000000000000055511151231257827")),
    "a big integer": (10**40 + 1, 10**40 + 1),
    "a time without a zone": (datetime(2026, 1, 31, 12), "2026-01-31T12:00:00.000000Z"),  # noqa: DTZ001
    "a time in UTC": (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00.000000Z"),
    "a time elsewhere": (datetime(2026, 1, 31, 12, tzinfo=CEST), "2026-01-31T10:00:00.000000Z"),
    "a time that is none": (NaT(2026, 1, 31), None),
    "what is missing": (NAType(), None),
    "a day": (date(2026, 1, 31), "2026-01-31"),
    "a set": ({3, 1, 2}, [1, 2, 3]),
    "a tuple": ((1, (2,)), [1, [2]]),
    "a mapping": (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
    "keys that are no text": (
        {1: "a", None: "b", False: "c", 2.5: "d"},
        {"1": "a", "null": "b", "false": "c", "2.5": "d"},
    ),
    "a NumPy key": ({np.int64(3): "a"}, {"3": "a"}),
    "a member of an Enum": ([Color.RED], ["red"]),
    "a path": (Path("a/b"), "a/b"),
    "a UUID": (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
}


@pytest.mark.parametrize(("value", "meaning"), CONVERSIONS.values(), ids=CONVERSIONS)
def test_a_value_becomes_what_it_means(value: Any, meaning: Any) -> None:
    plain = to_json(value)

    assert plain == meaning
    assert repr(plain) == repr(meaning)  # 1 is not True, and 1.0 is not 1
    assert loads(dumps({"value": value})) == {"value": meaning}


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [{"b": object()}]}, "a[0].b: JSON cannot represent 'object'"),
        ({"a": b"bytes"}, "a: JSON cannot represent 'bytes'"),
        ({"a": 1j}, "a: JSON cannot represent 'complex'"),
        ({"a": np.complex128(1j)}, "a: JSON cannot represent 'complex128'"),
        ({"a": np.timedelta64(1, "s")}, "a: JSON cannot represent 'timedelta64'"),
        ({"a": np.array([object()])}, "a[0]: JSON cannot represent 'object'"),
        ({"a": {1: "x", "1": Decimal(1)}}, "a.1: the keys 1 and '1' are the same in JSON"),
        (object(), "The value: JSON cannot represent 'object'"),
    ],
)
def test_a_value_that_json_cannot_represent_is_refused_with_its_place(value: Any, place: str) -> None:
    with pytest.raises(UsageError) as raised:
        dumps(value)

    assert str(raised.value).startswith(place)


def test_a_value_that_contains_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless

    with pytest.raises(UsageError, match="contains itself"):
        dumps(endless)


numbers = st.integers(-(10**30), 10**30) | st.floats(allow_nan=False, allow_infinity=False) | st.decimals(-1000, 1000)
leaves = st.none() | st.booleans() | st.text() | numbers


def exact(value: Any) -> Any:
    """A float and a Decimal with the same text are equal."""
    match value:
        case list():
            return [exact(item) for item in value]
        case float() | Decimal():
            return Decimal(str(value))
    return value


@given(st.lists(st.recursive(leaves, st.lists, max_leaves=10), max_size=5))
@settings(max_examples=100, deadline=None)
def test_a_document_comes_back_as_it_was(document: list[Any]) -> None:
    assert exact(loads(dumps(document))) == exact(document)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", 0.1),
        ("1e-400", Decimal("1e-400")),
        ("1e400", Decimal("1e400")),
        ("0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        ("0.30000000000000004", 0.30000000000000004),
        ("1" * 40, int("1" * 40)),
    ],
)
def test_a_number_is_a_float_only_if_that_is_exact(text: str, value: Any) -> None:
    read = loads(text)

    assert read == value
    assert type(read) is type(value)
    assert Decimal(dumps(read)) == Decimal(text)


async def test_metadata_arrives_exactly(service: RunningService, fresh: None) -> None:
    metadata = {
        "weights": np.array([0.1, np.nan, 1e-7], dtype=np.float64),
        "scores": {"auc": np.float32(0.25), "calibrated": np.bool_(False)},
        "seed": 2**63 + 12345678901234567890,
        "price": Decimal("0.12345678901234567890123456789"),
        "trained_at": datetime(2026, 1, 31, 12, tzinfo=CEST),
        "classes": {7: "seven"},
        "text": "ünï\u2028\U0001f600",
        "nothing": None,
    }
    async with AsyncRegistry(service.url) as registry:
        body = {"model_name": "m", "version": "1.0", "additional_metadata": metadata, "model_params": {"a": (1, 2)}}
        await registry.transport.request("POST", "/register_model", json=body)

        version = await registry.version("m:1.0")

    assert version.additional_metadata == {
        "weights": [0.1, None, 1e-7],
        "scores": {"auc": 0.25, "calibrated": False},
        "seed": 2**63 + 12345678901234567890,
        "price": Decimal("0.12345678901234567890123456789"),
        "trained_at": "2026-01-31T10:00:00.000000Z",
        "classes": {"7": "seven"},
        "text": "ünï\u2028\U0001f600",
        "nothing": None,
    }
    assert version.model_params == {"a": [1, 2]}


def test_plain_values_are_written_like_the_json_module_does() -> None:
    plain = {"a": [1, 2.5, "ü", None, True], "b": {}}

    assert json.loads(dumps(plain)) == plain
    assert json.loads(dumps(plain | {"d": Decimal(1)})) == plain | {"d": 1}
