"""What a search asks for: the language of filters, their syntax tree, and orders.

A filter is comparisons joined by AND, OR, NOT and parentheses, NOT binding closest and OR last; keywords in any case::

    model_name LIKE 'fraud-%' AND additional_metadata.metrics.auc >= 0.9 AND NOT tags.`my stage` IN ('dev', 'test')

==========================  ==========================================================================================
field                       is compared with
==========================  ==========================================================================================
`model_name`, `created_by`  text, by all operators: ``= != < <= > >= LIKE ILIKE IN``
`version`                   text, by ``= != LIKE ILIKE IN``; there is no order of labels here
`number`, `size_bytes`      integers, by ``= != < <= > >= IN``
`created_at`                an RFC 3339 time or date in quotes, UTC where it does not say, by the same
`state`                     'pending', 'verifying', 'ready' or 'removed', by ``= != IN``
`tags.<key>`                text, a number, TRUE or FALSE, by all operators
`model_params.<path>`, `standardization_params.<path>`, `additional_metadata.<path>`
                            the same; a path goes from object to object, never into a list
==========================  ==========================================================================================

LIKE, ILIKE and IN may have a NOT before them. Text stands in single quotes, where a quote is doubled, or in double
quotes; a key of more than letters, digits, ``_`` and ``-`` in backticks or double quotes. ``%`` and ``_`` are the
wildcards of LIKE, and a backslash makes them ordinary.

A comparison is true or false, never unknown. It is false where what it looks at is missing, or of another JSON type
than the value: ``tags.x != 'a'`` is for versions whose tag x is another text, ``NOT tags.x = 'a'`` also for those that
have none. Numbers compare by value, exactly; text by code point. Unless a filter mentions `state`, only ready versions
are searched.

A syntax tree that did not come from the parser is held to the same rules: the constructors raise `InvalidFilter`.
"""

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any, Generic, NamedTuple, TypeVar, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from model_registry.errors import Invalid, InvalidField, shown

T = TypeVar("T")

MAX_CHARACTERS = 10_000
MAX_COMPARISONS = 100
MAX_NESTING = 50
MAX_LIST = 1000
MAX_PATH = 64
"""Keys in a path; metadata is not nested any deeper."""

STATES = ("pending", "verifying", "ready", "removed")

_BIGINT = range(-(2**63), 2**63)
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_UNSTORABLE_RULE = "text has no NUL character and no lone surrogate"
_NUMBER_RULE = "a number has at most 1000 digits before and after the point, written out"
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d:\d\d(\.\d{1,6})?(Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_TIME_RULE = "a time is RFC 3339, such as '2026-01-31T12:00:00Z', from year 1 to 9999, to the microsecond at most"


class InvalidFilter(Invalid):
    """A filter that has no meaning. `column` counts its characters from 1; a tree that was never text has none."""

    slug = "invalid-filter"

    def __init__(self, rule: str, value: object = None, *, column: int | None = None) -> None:
        where = "filter" if column is None else f"filter: column {column}"
        members: dict[str, object] = {} if column is None else {"column": column}
        super().__init__(
            f"{where}: {rule}", errors=[{"loc": ["query", "filter"], "msg": rule, "value": shown(value)}], **members
        )
        self.rule = rule
        self.value = value


# The syntax tree


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
    """What a field is compared with, in words."""

    TEXT = "text in single quotes"
    LABEL = "a label in single quotes"
    STATE = "'pending', 'verifying', 'ready' or 'removed'"
    INTEGER = "an integer of at most 64 bits"
    TIME = "a time in single quotes, such as '2026-01-31T12:00:00Z'"
    JSON = "text in single quotes, a number, TRUE or FALSE"


_EQUALITIES = (Operator.EQ, Operator.NE, Operator.IN, Operator.NOT_IN)
_INEQUALITIES = (Operator.LT, Operator.LE, Operator.GT, Operator.GE)
_PATTERNS = (Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE)
_LISTS = (Operator.IN, Operator.NOT_IN)

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
_WHICH_FIELDS = "fields are " + ", ".join(
    f"{name}.<{'key' if name == 'tags' else 'path'}>" if kind is FieldKind.JSON else name
    for name, kind in _FIELDS.items()
)


@dataclass(frozen=True, slots=True)
class Field:
    """What a comparison looks at. Where that is JSON, `path` has the keys to it; a tag has one."""

    name: str
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in _FIELDS:
            hint = f", but {near}" if (near := _near_field(self.name.lower())) else ""
            raise InvalidFilter(f"there is no field {shown(self.name)}{hint}; {_WHICH_FIELDS}", self.name)
        dotted = ".".join(self.path)
        if self.kind is not FieldKind.JSON and self.path:
            raise InvalidFilter(f"{self.name} is a single value, without keys", dotted)
        if self.kind is FieldKind.JSON and not self.path:
            raise InvalidFilter(f"{self.name} needs a key, as in {self.name}.key = 'value'", self.name)
        if self.name == "tags" and len(self.path) > 1:
            raise InvalidFilter(
                f"a tag has one key; a key with dots stands in backticks: tags.`{shown(dotted)}`", dotted
            )
        if len(self.path) > MAX_PATH:
            raise InvalidFilter(f"a path has at most {MAX_PATH} keys", dotted)
        _check_storable(dotted)

    @property
    def kind(self) -> FieldKind:
        return _FIELDS[self.name]


def _near_field(name: str) -> str | None:
    """The field that was meant, perhaps: `model_name` where somebody wrote name, or moddel_name."""
    longer = [field for field in _FIELDS if len(name) > 2 and name in field]
    return next(iter(longer or difflib.get_close_matches(name, _FIELDS, n=1)), None)


Scalar = str | int | Decimal | bool | datetime


@dataclass(frozen=True, slots=True)
class Comparison:
    """One condition. `value` is a tuple with IN and NOT IN alone; a time has a zone."""

    field: Field
    operator: Operator
    value: Scalar | tuple[Scalar, ...]

    def __post_init__(self) -> None:
        values = self.value if isinstance(self.value, tuple) else (self.value,)
        _check_operator(self.field, self.operator, values, is_list=isinstance(self.value, tuple))
        for value in values:
            _check_value(self.field, self.operator, value, values[0])


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
    """Whether any comparison looks at the field of this name."""
    match condition:
        case Comparison():
            return condition.field.name == name
        case Not():
            return mentions(condition.operand, name)
        case And() | Or():
            return any(mentions(operand, name) for operand in condition.operands)


def _check_operator(field: Field, operator: Operator, values: tuple[object, ...], *, is_list: bool) -> None:
    taken = _OPERATORS[field.kind]
    if operator not in taken:
        reason = " (there is no order of labels here)" if operator in _INEQUALITIES and field.name == "version" else ""
        raise InvalidFilter(f"found {operator}, but {field.name} takes {', '.join(taken)}{reason}", operator.value)
    if is_list != (operator in _LISTS):
        raise InvalidFilter("IN takes a list, and no other operator does", operator.value)
    if not 1 <= len(values) <= MAX_LIST:
        raise InvalidFilter(f"a list has 1 to {MAX_LIST} values, and this one has {len(values)}", operator.value)


def _check_value(field: Field, operator: Operator, value: object, first: object) -> None:
    """Whether the field compares with such a value, the first of whose list is `first`."""
    _check_type(field.kind, operator, value)
    if json_type(value) != json_type(first):
        rule = "but the values of a list are all text, all numbers, or all TRUE and FALSE"
        raise InvalidFilter(f"found {_told(value)} after {_told(first)}, {rule}", value)
    if isinstance(value, str):
        _check_storable(value)
        if operator in _PATTERNS and (len(value) - len(value.rstrip("\\"))) % 2:
            raise InvalidFilter("a pattern does not end in a single backslash; doubled, it finds one", value)


def _check_type(kind: FieldKind, operator: Operator, value: object) -> None:
    match kind, value:
        case FieldKind.STATE, str() if value in STATES:
            return
        case ((FieldKind.TEXT | FieldKind.LABEL | FieldKind.JSON), str()):
            return
        case _, _ if operator in _PATTERNS:
            raise InvalidFilter(f"found {_told(value)}, but {operator} takes text in single quotes", value)
        case FieldKind.JSON, bool():
            if operator not in _EQUALITIES:
                raise InvalidFilter(f"found {_told(value)}, which is compared by {', '.join(_EQUALITIES)}", value)
            return
        case FieldKind.JSON, int() | Decimal():
            exponent = Decimal(value).as_tuple().exponent
            # The bounds of numbers in metadata, which are well within those of PostgreSQL.
            if not isinstance(exponent, int) or Decimal(value).adjusted() > 1000 or exponent < -1000:
                raise InvalidFilter(_NUMBER_RULE, value)
            return
        case FieldKind.INTEGER, int() if value in _BIGINT and not isinstance(value, bool):
            return
        case FieldKind.TIME, datetime() if value.tzinfo is not None:
            return
    raise InvalidFilter(f"found {_told(value)}, expected {kind.value}", value)


def _told(value: object) -> object:
    """A value as one writes it in a filter, shortened."""
    if isinstance(value, bool):
        return str(value).upper()
    return f"'{shown(value)}'" if isinstance(value, str) else shown(value)


def _check_storable(text: str) -> None:
    if _UNSTORABLE.search(text):
        raise InvalidFilter(_UNSTORABLE_RULE, text)


def json_type(value: object) -> str:
    """What JSON calls the type of a value; a time is written as text."""
    if isinstance(value, bool):
        return "boolean"
    return "number" if isinstance(value, int | Decimal) else "string"


# The parser

_GRAMMAR = r"""
?start: disjunction
?disjunction: conjunction (_OR conjunction)*
?conjunction: negation (_AND negation)*
?negation: atom
    | NOT negation -> negated
?atom: comparison
    | "(" disjunction ")" -> nested

comparison: field operator value
    | field in "(" value ("," value)* ")"
field: NAME ("." key)*
key: KEY | BACKTICKED | DOUBLE_QUOTED
operator: SIGN | NOT? (LIKE | ILIKE)
in: NOT? IN -> operator
value: SINGLE_QUOTED | DOUBLE_QUOTED | NUMBER | TRUE | FALSE

_AND.2: /AND(?![\w-])/i
_OR.2: /OR(?![\w-])/i
NOT.2: /NOT(?![\w-])/i
IN.2: /IN(?![\w-])/i
LIKE.2: /LIKE(?![\w-])/i
ILIKE.2: /ILIKE(?![\w-])/i
TRUE.2: /TRUE(?![\w-])/i
FALSE.2: /FALSE(?![\w-])/i
NAME: /(?!(?:AND|OR|NOT|IN|I?LIKE|TRUE|FALSE)(?![\w-]))[A-Z_][A-Z0-9_-]*/i
// A keyword is a key like any other.
KEY: /[A-Za-z0-9_][A-Za-z0-9_-]*/
SIGN: /[=!<>~]+/
SINGLE_QUOTED: /'[^']*(?:''[^']*)*'/
DOUBLE_QUOTED: /"[^"]*(?:""[^"]*)*"/
BACKTICKED: /`[^`]*(?:``[^`]*)*`/
NUMBER: /[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.])/

%ignore /\s+/
"""
_WHICH_OPERATORS = f"an operator ({', '.join(Operator)})"
# What was expected, told by the first of these that the parser would have taken.
_EXPECTED = {
    "NAME": f"a comparison ({_WHICH_FIELDS}), NOT or '('",
    "KEY": "a key (letters, digits, '_' and '-', or anything in backticks)",
    "SIGN": _WHICH_OPERATORS,
    "LIKE": "LIKE, ILIKE or IN",
    "NUMBER": f"a value ({FieldKind.JSON.value})",
    "LPAR": "a list in parentheses",
    "COMMA": "',' or ')'",
    "RPAR": "AND, OR or ')'",
    "$END": "AND, OR or the end",
}
_WORD = re.compile(r"[\w.+-]+|.", re.DOTALL)


class _Placed(NamedTuple, Generic[T]):
    """A field, an operator or a value, and the column where it begins."""

    it: T
    column: int


class _Part(NamedTuple):
    """A piece of the tree, the column where it begins, and its size."""

    tree: Filter
    column: int
    comparisons: int = 1
    nesting: int = 0


@contextmanager
def _at(column: int) -> Iterator[None]:
    """Says where it was that a rule of the tree was broken."""
    try:
        yield
    except InvalidFilter as error:
        raise InvalidFilter(error.rule, error.value, column=column) from None


class _Reader(Transformer[Token, _Part]):
    """What the parser makes of each rule, as soon as it has read it: from the inside out, without recursion."""

    def key(self, tokens: list[Token]) -> str:
        return str(tokens[0]) if tokens[0].type == "KEY" else _unquoted(tokens[0])

    def field(self, children: list[Any]) -> _Placed[Field]:
        name, *path = children
        with _at(_column(name)):
            return _Placed(Field(str(name), tuple(path)), _column(name))

    def operator(self, tokens: list[Token]) -> _Placed[Operator]:
        column = _column(tokens[0])
        try:
            return _Placed(Operator(" ".join(tokens).upper()), column)
        except ValueError:
            raise InvalidFilter(f"found {tokens[0]!s}, expected {_WHICH_OPERATORS}", tokens[0], column=column) from None

    def value(self, tokens: list[Token]) -> _Placed[str | Decimal | bool]:
        (token,) = tokens
        with _at(_column(token)):
            match token.type:
                case "TRUE" | "FALSE":
                    return _Placed(token.type == "TRUE", _column(token))
                case "NUMBER":
                    return _Placed(_number(token), _column(token))
                case _:
                    return _Placed(_unquoted(token), _column(token))

    def comparison(self, children: list[Any]) -> _Part:
        (field, start), (operator, column), *written = children
        with _at(column):
            _check_operator(field, operator, tuple(written), is_list=operator in _LISTS)
        values: list[Scalar] = []
        for literal, column in written:
            with _at(column):
                values.append(_converted(field.kind, literal))
                _check_value(field, operator, values[-1], values[0])
        return _Part(Comparison(field, operator, tuple(values) if operator in _LISTS else values[0]), start)

    def nested(self, parts: list[_Part]) -> _Part:
        return _deeper(parts[0], parts[0].tree)

    def negated(self, children: list[Any]) -> _Part:
        part: _Part = children[1]
        return _deeper(part, Not(part.tree))

    def conjunction(self, parts: list[_Part]) -> _Part:
        return _joined(parts, And(tuple(part.tree for part in parts)))

    def disjunction(self, parts: list[_Part]) -> _Part:
        return _joined(parts, Or(tuple(part.tree for part in parts)))


def _column(token: Token) -> int:
    return (token.start_pos or 0) + 1


def _unquoted(token: Token) -> str:
    return token[1:-1].replace(token[0] * 2, token[0])


def _number(text: str) -> Decimal:
    try:
        return Decimal(text)
    except ArithmeticError:
        raise InvalidFilter(_NUMBER_RULE, text) from None


def _converted(kind: FieldKind, literal: str | Decimal | bool) -> Scalar:
    """A literal as the value that such a field has, if it can be one."""
    match kind, literal:
        case FieldKind.TIME, str():
            return _time(literal)
        case FieldKind.INTEGER, Decimal() if literal.adjusted() < 19 and literal == int(literal):
            return int(literal)
        case _:
            return literal


def _time(text: str) -> datetime:
    if not _TIME.fullmatch(text.upper()):
        raise InvalidFilter(_TIME_RULE, text)
    try:
        moment = datetime.fromisoformat(text.upper())
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidFilter(_TIME_RULE, text) from None


def _deeper(part: _Part, tree: Filter) -> _Part:
    if part.nesting == MAX_NESTING:
        rule = f"parentheses and NOT are nested at most {MAX_NESTING} deep"
        raise InvalidFilter(rule, column=part.column)
    return _Part(tree, part.column, part.comparisons, part.nesting + 1)


def _joined(parts: list[_Part], tree: Filter) -> _Part:
    comparisons = 0
    for part in parts:
        comparisons += part.comparisons
        if comparisons > MAX_COMPARISONS:
            raise InvalidFilter(f"a filter has at most {MAX_COMPARISONS} comparisons", column=part.column)
    return _Part(tree, parts[0].column, comparisons, max(part.nesting for part in parts))


# Made with the module, which takes 20 ms, so that no request waits for it.
_PARSER = Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False, transformer=_Reader())


def parse_filter(text: str) -> Filter:
    """The syntax tree of a filter, or `InvalidFilter` with the column where it broke; in linear time."""
    if len(text) > MAX_CHARACTERS:
        rule = f"a filter has at most {MAX_CHARACTERS} characters, and this one has {len(text)}"
        raise InvalidFilter(rule, text, column=MAX_CHARACTERS + 1)
    if unstorable := _UNSTORABLE.search(text):
        raise InvalidFilter(_UNSTORABLE_RULE, text, column=unstorable.start() + 1)
    try:
        return cast(_Part, _PARSER.parse(text)).tree
    except UnexpectedInput as error:
        raise _syntax_error(text, error) from None


def _syntax_error(text: str, error: UnexpectedInput) -> InvalidFilter:
    parser: Any = error.interactive_parser
    accepted = parser.accepts()
    expected = next(words for terminal, words in _EXPECTED.items() if terminal in accepted)
    if isinstance(error, UnexpectedToken) and error.token.type == "$END":
        return InvalidFilter(f"the filter ends here, expected {expected}", column=len(text) + 1)
    start = error.pos_in_stream or 0
    if isinstance(error, UnexpectedCharacters) and text[start] in "'\"`":
        return InvalidFilter("this quote is never closed", text[start:], column=start + 1)
    found = _WORD.findall(text[start:])[0]
    return InvalidFilter(f"found {shown(found)}, expected {expected}", found, column=start + 1)


# Orders

# What breaks ties: the id, and among versions of one model their number, which grows with it and has an index.
_TIES = {"created_at": "id", "model_name": "number", "number": "id", "size_bytes": "id"}
_ORDER_RULE = f"an order is one of {', '.join(_TIES)}, alone or with ASC or DESC after it"


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """Where a version stands in an order: what it is sorted by, and what breaks a tie."""

    value: str | int | datetime
    tie: int


@dataclass(frozen=True, slots=True)
class Order:
    """How a search is sorted. There is an index for each field that one may sort by.

    `created_by` is none of them, because one looks for a creator's versions by a filter.
    """

    field: str
    is_descending: bool

    @property
    def tie(self) -> str:
        return _TIES[self.field]

    def position_of(self, version: object) -> SearchPosition:
        """Where a version, as a search found it, stands."""
        return SearchPosition(getattr(version, self.field), getattr(version, self.tie))

    def position(self, value: Any, tie: Any) -> SearchPosition:
        """The position of these two, whatever they are, a time being text; `InvalidFilter` if there is none."""
        if self.field == "created_at" and isinstance(value, str):
            value = _time(value)
        for name, part in ((self.field, value), (self.tie, tie)):
            Comparison(Field("number" if name == "id" else name), Operator.EQ, part)
        return SearchPosition(value, tie)


NEWEST_FIRST = Order("created_at", is_descending=True)


def parse_order(text: str) -> Order:
    """`created_at DESC` and the like; ascending where it does not say. Raises `InvalidField`."""
    field, _, direction = text.strip().partition(" ")
    direction = direction.strip().upper() or "ASC"
    if field not in _TIES or direction not in {"ASC", "DESC"}:
        raise InvalidField("order_by", _ORDER_RULE, text)
    return Order(field, is_descending=direction == "DESC")
