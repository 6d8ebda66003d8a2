"""Search filters as a syntax tree, and the rules that every tree keeps. `filter_parser` has the language.

A comparison is true or false, never unknown. It is false if the value that it reads is missing or has another JSON
type: ``tags.x != 'a'`` matches versions whose tag x is another text, ``NOT tags.x = 'a'`` also those without the tag.
Numbers compare by value, exactly; text compares by code point. Only ready versions are searched, unless a filter
mentions `state`.

The constructors raise `InvalidFilter`, so a tree that was not parsed keeps the same rules.
"""

import difflib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum

from model_registry.errors import Invalid, shown

MAX_CHARACTERS = 10_000
MAX_COMPARISONS = 100
MAX_NESTING = 50
MAX_LIST = 1000
MAX_PATH = 64
"""Keys in a path; metadata is nested at most this deep."""

STATES = ("pending", "verifying", "ready", "removed")

_BIGINT = range(-(2**63), 2**63)
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
UNSTORABLE_RULE = "text has no NUL character and no lone surrogate"
NUMBER_RULE = "a number has at most 1000 digits before and after the point, written out"
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_TIME_RULE = (
    "a time is in RFC 3339 format, such as '2026-01-31T12:00:00Z', from year 1 to 9999, with at most 6 decimals"
)


class InvalidFilter(Invalid):
    """A filter that is not valid. `column` counts characters from 1; a tree that was not parsed has none."""

    slug = "invalid-filter"

    def __init__(self, rule: str, value: object = None, *, column: int | None = None) -> None:
        where = "filter" if column is None else f"filter: column {column}"
        members: dict[str, object] = {} if column is None else {"column": column}
        super().__init__(
            f"{where}: {rule}", errors=[{"loc": ["query", "filter"], "msg": rule, "value": shown(value)}], **members
        )
        self.rule = rule
        self.value = value


class Operator(StrEnum):
    EQ = "="
    NE = "!="
    LT = "<"
    LE = "<="
    GT = ">"
    GE = ">="
    LIKE = "LIKE"
    NOT_LIKE = "NOT LIKE"
    ILIKE = "ILIKE"
    NOT_ILIKE = "NOT ILIKE"
    IN = "IN"
    NOT_IN = "NOT IN"


class FieldKind(Enum):
    """The kind of values that a field compares with, in words."""

    TEXT = "text in single quotes"
    LABEL = "a label in single quotes"
    STATE = "'pending', 'verifying', 'ready' or 'removed'"
    INTEGER = "an integer of at most 64 bits"
    TIME = "a time in single quotes, such as '2026-01-31T12:00:00Z'"
    JSON = "text in single quotes, a number, TRUE or FALSE"


_EQUALITIES = (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN)
_INEQUALITIES = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_PATTERNS = (Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE)
LIST_OPERATORS = (Operator.IN, Operator.NOT_IN)

_FIELDS = {
    "model_name": FieldKind.TEXT,
    "version": FieldKind.LABEL,
    "number": FieldKind.INTEGER,
    "state": FieldKind.STATE,
    "size_bytes": FieldKind.INTEGER,
    "created_at": FieldKind.TIME,
    "created_by": FieldKind.TEXT,
    "tags": FieldKind.JSON,
    "model_params": FieldKind.JSON,
    "standardization_params": FieldKind.JSON,
    "additional_metadata": FieldKind.JSON,
}
_OPERATORS = {
    FieldKind.TEXT: tuple(Operator),
    FieldKind.LABEL: (*_EQUALITIES, *_PATTERNS),
    FieldKind.STATE: _EQUALITIES,
    FieldKind.INTEGER: (*_EQUALITIES, *_INEQUALITIES),
    FieldKind.TIME: (*_EQUALITIES, *_INEQUALITIES),
    FieldKind.JSON: tuple(Operator),
}
FIELDS_RULE = "fields are " + ", ".join(
    f"{name}.<{'key' if name == 'tags' else 'path'}>" if kind is FieldKind.JSON else name
    for name, kind in _FIELDS.items()
)


@dataclass(frozen=True, slots=True)
class Field:
    """The left side of a comparison. For a JSON field, `path` has the keys to the value; a tag has one key."""

    name: str
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _FIELDS:
            hint = f" (did you mean {near}?)" if (near := _near_field(self.name.lower())) else ""
            raise InvalidFilter(f"there is no field {shown(self.name)}{hint}; {FIELDS_RULE}", self.name)
        dotted = ".".join(self.path)
        if self.kind is not FieldKind.JSON and self.path:
            raise InvalidFilter(f"{self.name} is a single value, without keys", dotted)
        if self.kind is FieldKind.JSON and not self.path:
            raise InvalidFilter(f"{self.name} needs a key, as in {self.name}.key = 'value'", self.name)
        if self.name == "tags" and len(self.path) > 1:
            raise InvalidFilter(
                f"a tag has one key; write a key with dots in backticks: tags.`{shown(dotted)}`", dotted
            )
        if len(self.path) > MAX_PATH:
            raise InvalidFilter(f"a path has at most {MAX_PATH} keys", dotted)
        _validate_storable(dotted)

    @property
    def kind(self) -> FieldKind:
        return _FIELDS[self.name]


def _near_field(name: str) -> str | None:
    """Return the field that was probably meant: `model_name` for name or moddel_name."""
    longer = [field for field in _FIELDS if len(name) > 2 and name in field]
    return next(iter(longer or difflib.get_close_matches(name, _FIELDS, n=1)), None)


Scalar = str | int | Decimal | bool | datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition. `value` is a tuple only with IN and NOT IN. A time has a time zone."""

    field: Field
    operator: Operator
    value: Scalar | tuple[Scalar, ...]

    def __post_init__(self) -> None:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        validate_operator(self.field, self.operator, values, is_list=isinstance(self.value, tuple))
        for value in values:
            validate_value(self.field, self.operator, value, values[0])


@dataclass(frozen=True, slots=True)
class And:
    operands: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    operands: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    operand: "Filter"


Filter = Comparison | And | Or | Not


def mentions(condition: Filter, name: str) -> bool:
    """Return whether a comparison of the filter reads this field."""
    match condition:
        case Comparison():
            return condition.field.name == name
        case Not():
            return mentions(condition.operand, name)
        case And() | Or():
            return any(mentions(operand, name) for operand in condition.operands)


def validate_operator(field: Field, operator: Operator, values: tuple[object, ...], *, is_list: bool) -> None:
    taken = _OPERATORS[field.kind]
    if operator not in taken:
        reason = " (labels have no order here)" if operator in _INEQUALITIES and field.name == "version" else ""
        raise InvalidFilter(f"found {operator}, but {field.name} takes {', '.join(taken)}{reason}", operator.value)
    if is_list != (operator in LIST_OPERATORS):
        raise InvalidFilter("only IN takes a list, and it always takes one", operator.value)
    if not 1 <= len(values) <= MAX_LIST:
        raise InvalidFilter(f"a list has 1 to {MAX_LIST} values, and this one has {len(values)}", operator.value)


def validate_value(field: Field, operator: Operator, value: object, first: object) -> None:
    """Raise `InvalidFilter` unless the field compares with this value; `first` is the first value of its list."""
    _validate_type(field.kind, operator, value)
    if json_type(value) != json_type(first):
        rule = "but the values of a list are all text, all numbers, or all TRUE and FALSE"
        raise InvalidFilter(f"found {_written(value)} after {_written(first)}, {rule}", value)
    if isinstance(value, str):
        _validate_storable(value)
        if operator in _PATTERNS and (len(value) - len(value.rstrip("\\"))) % 2:
            raise InvalidFilter("a pattern cannot end with a single backslash; double it to match a backslash", value)


def _validate_type(kind: FieldKind, operator: Operator, value: object) -> None:
    match kind, value:
        case FieldKind.STATE, str() if value in STATES:
            return
        case ((FieldKind.TEXT | FieldKind.LABEL | FieldKind.JSON), str()):
            return
        case _, _ if operator in _PATTERNS:
            raise InvalidFilter(f"found {_written(value)}, but {operator} takes text in single quotes", value)
        case FieldKind.JSON, bool():
            if operator not in _EQUALITIES:
                raise InvalidFilter(f"found {_written(value)}, which is compared by {', '.join(_EQUALITIES)}", value)
            return
        case FieldKind.JSON, int() | Decimal():
            exponent = Decimal(value).as_tuple().exponent
            # The limits of numbers in metadata, well within those of PostgreSQL.
            if not isinstance(exponent, int) or Decimal(value).adjusted() > 1000 or exponent < -1000:
                raise InvalidFilter(NUMBER_RULE, value)
            return
        case FieldKind.INTEGER, int() if value in _BIGINT and not isinstance(value, bool):
            return
        case FieldKind.TIME, datetime() if value.tzinfo is not None:
            return
    raise InvalidFilter(f"found {_written(value)}, expected {kind.value}", value)


def _written(value: object) -> object:
    """Return a value as it is written in a filter, shortened."""
    if isinstance(value, bool):
        return str(value).upper()
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def _validate_storable(text: str) -> None:
    if UNSTORABLE.search(text):
        raise InvalidFilter(UNSTORABLE_RULE, text)


def json_type(value: object) -> str:
    """Return the JSON type of a value. A time is text."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | Decimal) else "string"


def parse_time(text: str) -> datetime:
    if not _TIME.fullmatch(text.upper()):
        raise InvalidFilter(_TIME_RULE, text)
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidFilter(_TIME_RULE, text) from None
