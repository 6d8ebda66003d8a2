"""The language of search filters: from text to a syntax tree.

A filter is a list of comparisons joined by AND, OR, NOT and parentheses. NOT binds closest, OR last. Keywords can be in
any case::

    model_name LIKE 'fraud-%' AND additional_metadata.metrics.auc >= 0.9 AND NOT tags.`my stage` IN ('dev', 'test')

==========================  ==========================================================================================
field                       compared with
==========================  ==========================================================================================
`model_name`, `created_by`  text, with all operators: ``= != < <= > >= LIKE ILIKE IN``
`version`                   text, with ``= != LIKE ILIKE IN``; labels have no order here
`number`, `size_bytes`      integers, with ``= != < <= > >= IN``
`created_at`                an RFC 3339 time or date in quotes, UTC without a time zone, with the same operators
`state`                     'pending', 'verifying', 'ready' or 'removed', with ``= != IN``
`tags.<key>`                text, a number, TRUE or FALSE, with all operators
`model_params.<path>`, `standardization_params.<path>`, `additional_metadata.<path>`
                            the same; a path goes from object to object, never into a list
==========================  ==========================================================================================

LIKE, ILIKE and IN can follow a NOT. Text is in single quotes, with a quote doubled, or in double quotes. A key with
characters other than letters, digits, ``_`` and ``-`` is in backticks or double quotes. ``%`` and ``_`` are the
wildcards of LIKE; a backslash before them makes them ordinary characters.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, Generic, NamedTuple, TypeVar, cast

from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from model_registry.domain.search_filter import (
    FIELDS_RULE,
    LIST_OPERATORS,
    MAX_CHARACTERS,
    MAX_COMPARISONS,
    MAX_NESTING,
    NUMBER_RULE,
    UNSTORABLE,
    UNSTORABLE_RULE,
    And,
    Comparison,
    Field,
    FieldKind,
    Filter,
    InvalidFilter,
    Not,
    Operator,
    Or,
    Scalar,
    parse_time,
    validate_operator,
    validate_value,
)
from model_registry.errors import shown

T = TypeVar("T")

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
# The words for what was expected: those of the first terminal here that the parser accepts.
_EXPECTED = {
    "NAME": f"a comparison ({FIELDS_RULE}), NOT or '('",
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
    """A field, an operator or a value, and the column where it starts."""

    it: T
    column: int


class _Part(NamedTuple):
    """A part of the tree, the column where it starts, and its size."""

    tree: Filter
    column: int
    comparisons: int = 1
    nesting: int = 0


@contextmanager
def _at(column: int) -> Iterator[None]:
    """Add the column to an error of the tree."""
    try:
        yield
    except InvalidFilter as error:
        raise InvalidFilter(error.rule, error.value, column=column) from None


class _Reader(Transformer[Token, _Part]):
    """Builds the tree while the parser reads, from the inside out and without recursion."""

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
            validate_operator(field, operator, tuple(written), is_list=operator in LIST_OPERATORS)
        values: list[Scalar] = []
        for literal, column in written:
            with _at(column):
                values.append(_converted(field.kind, literal))
                validate_value(field, operator, values[-1], values[0])
        return _Part(Comparison(field, operator, tuple(values) if operator in LIST_OPERATORS else values[0]), start)

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
        raise InvalidFilter(NUMBER_RULE, text) from None


def _converted(kind: FieldKind, literal: str | Decimal | bool) -> Scalar:
    """Return a literal as a value of the field's kind, or unchanged if it is not one."""
    match kind, literal:
        case FieldKind.TIME, str():
            return parse_time(literal)
        case FieldKind.INTEGER, Decimal() if literal.adjusted() < 19 and literal == int(literal):
            return int(literal)
        case _:
            return literal


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


# Built with the module, because it takes 20 ms and no request should wait for it.
_PARSER = Lark(_GRAMMAR, parser="lalr", maybe_placeholders=False, transformer=_Reader())


def parse_filter(text: str) -> Filter:
    """Return the syntax tree of a filter, or raise `InvalidFilter` with the column of the error; in linear time."""
    if len(text) > MAX_CHARACTERS:
        rule = f"a filter has at most {MAX_CHARACTERS} characters, and this one has {len(text)}"
        raise InvalidFilter(rule, text, column=MAX_CHARACTERS + 1)
    if unstorable := UNSTORABLE.search(text):
        raise InvalidFilter(UNSTORABLE_RULE, text, column=unstorable.start() + 1)
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
        return InvalidFilter("this quote is not closed", text[start:], column=start + 1)
    found = _WORD.findall(text[start:])[0]
    return InvalidFilter(f"found {shown(found)}, expected {expected}", found, column=start + 1)
