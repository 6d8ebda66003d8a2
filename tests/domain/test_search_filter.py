"""The language of filters and orders: what it accepts, what it refuses, and the position of errors."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model_registry.domain.entities import VersionState
from model_registry.domain.filter_parser import parse_filter
from model_registry.domain.search_filter import (
    MAX_CHARACTERS,
    MAX_COMPARISONS,
    MAX_LIST,
    MAX_NESTING,
    STATES,
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
    mentions,
)
from model_registry.domain.search_order import NEWEST_FIRST, Order, SearchPosition, parse_order
from model_registry.errors import InvalidField
from tests.support.filters import filter_text

A, B, C = (Comparison(Field("number"), Operator.EQ, number) for number in (1, 2, 3))
TAG = Field("tags", ("x",))


def parsed(text: str) -> Comparison:
    tree = parse_filter(text)
    assert isinstance(tree, Comparison)
    return tree


# Accepted filters


@pytest.mark.parametrize(
    ("text", "operator", "value"),
    [
        ("tags.x = 'a'", Operator.EQ, "a"),
        ("tags.x != 'a'", Operator.NE, "a"),
        ("tags.x < 1", Operator.LT, Decimal(1)),
        ("tags.x <= 1", Operator.LE, Decimal(1)),
        ("tags.x > 1", Operator.GT, Decimal(1)),
        ("tags.x >= 1", Operator.GE, Decimal(1)),
        ("tags.x LIKE 'a%'", Operator.LIKE, "a%"),
        ("tags.x not like 'a%'", Operator.NOT_LIKE, "a%"),
        ("tags.x ILike 'a%'", Operator.ILIKE, "a%"),
        ("tags.x NOT\n\tilike 'a%'", Operator.NOT_ILIKE, "a%"),
        ("tags.x in ('a')", Operator.IN, ("a",)),
        ("tags.x NOT IN('a' , 'b')", Operator.NOT_IN, ("a", "b")),
        ("tags.x=true", Operator.EQ, True),
        ("tags.x IN (TRUE, False)", Operator.IN, (True, False)),
    ],
)
def test_every_operator(text: str, operator: Operator, value: Scalar | tuple[Scalar, ...]) -> None:
    assert parse_filter(text) == Comparison(TAG, operator, value)


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("number=1 OR number=2 AND number=3", Or((A, And((B, C))))),
        ("number=1 AND number=2 OR number=3", Or((And((A, B)), C))),
        ("(number=1 OR number=2) AND number=3", And((Or((A, B)), C))),
        ("NOT number=1 AND number=2", And((Not(A), B))),
        ("not (number=1 and number=2)", Not(And((A, B)))),
        ("NOT NOT number=1", Not(Not(A))),
        ("number=1 AND number=2 AND number=3", And((A, B, C))),
        ("number=1 AND (number=2 AND number=3)", And((A, And((B, C))))),
        ("((number=1))", A),
        ("number=1 OR NOT number=2 OR number=3", Or((A, Not(B), C))),
    ],
)
def test_not_binds_closest_and_or_last(text: str, tree: Filter) -> None:
    assert parse_filter(text) == tree


@pytest.mark.parametrize(
    ("field", "name", "path"),
    [
        ("tags.team", "tags", ("team",)),
        ("tags.in", "tags", ("in",)),
        ("tags.NOT", "tags", ("NOT",)),
        ("tags . x", "tags", ("x",)),
        ("tags.`a.b c`", "tags", ("a.b c",)),
        ('tags."a.b c"', "tags", ("a.b c",)),
        ("tags.`a``b`", "tags", ("a`b",)),
        ('tags."a""b`"', "tags", ('a"b`',)),
        ("tags.`'; --`", "tags", ("'; --",)),
        ("tags.``", "tags", ("",)),
        ("tags.größe", None, ()),
        ("tags.`größe`", "tags", ("größe",)),
        ("model_params.2fa.0._x-1", "model_params", ("2fa", "0", "_x-1")),
        ('additional_metadata.metrics."top 5".auc', "additional_metadata", ("metrics", "top 5", "auc")),
        ("standardization_params.like.true.and", "standardization_params", ("like", "true", "and")),
    ],
)
def test_keys_with_other_characters_are_quoted(field: str, name: str | None, path: tuple[str, ...]) -> None:
    if name is None:
        with pytest.raises(InvalidFilter):
            parse_filter(f"{field} = 1")
    else:
        assert parsed(f"{field} = 1").field == Field(name, path)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("'it''s'", "it's"),
        ("''", ""),
        ("''''", "'"),
        ('"a"', "a"),
        ('"it\'s ""so"""', 'it\'s "so"'),
        (r"'\n'", r"\n"),
        ("'a\nb'", "a\nb"),
        ("'TRUE'", "TRUE"),
        ("'🙂'", "🙂"),
        ("0.1000000000000000055511151231257827", Decimal("0.1000000000000000055511151231257827")),
        ("-1e-7", Decimal("-1e-7")),
        ("+.5", Decimal("0.5")),
        ("5.", Decimal(5)),
        ("9223372036854775809", Decimal(9223372036854775809)),
        ("1e1000", Decimal("1e1000")),
    ],
)
def test_literals_are_exact(literal: str, value: Scalar) -> None:
    comparison = parsed(f"tags.x={literal}")

    assert comparison.value == value
    assert type(comparison.value) is type(value)


@pytest.mark.parametrize(
    ("literal", "moment"),
    [
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31t12:00:00z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31 12:00:00", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.25+05:30", datetime(2026, 1, 31, 6, 30, 0, 250000, tzinfo=UTC)),
        ("2026-01-31T12:00:00.000001-08:00", datetime(2026, 1, 31, 20, 0, 0, 1, tzinfo=UTC)),
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=UTC)),
    ],
)
def test_a_time_without_a_zone_is_utc(literal: str, moment: datetime) -> None:
    assert parsed(f"created_at >= '{literal}'").value == moment


@pytest.mark.parametrize(("literal", "value"), [("7", 7), ("7.0", 7), ("7e3", 7000), (str(2**63 - 1), 2**63 - 1)])
def test_an_integer_may_be_written_in_any_way(literal: str, value: int) -> None:
    comparison = parsed(f"size_bytes = {literal}")

    assert comparison.value == value
    assert type(comparison.value) is int


def test_it_is_known_whether_a_filter_mentions_a_field() -> None:
    tree = parse_filter("number = 1 AND NOT (version = '1' OR state = 'removed')")

    assert mentions(tree, "state")
    assert not mentions(tree, "tags")


def test_the_states_are_those_of_the_registry() -> None:
    assert list(VersionState) == list(STATES)


# Refused filters


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "the filter ends here, expected a comparison"),
        ("   ", 4, "the filter ends here"),
        ("number", 7, "expected an operator"),
        ("number =", 9, "expected a value"),
        ("number = 1 AND", 15, "fields are model_name, version, number"),
        ("number = 1 number = 2", 12, "found number, expected AND, OR or the end"),
        ("number = 1 && number = 2", 12, "found &, expected AND, OR or the end"),
        ("number = 1; DROP TABLE model_info", 11, "found ;"),
        ("(number = 1", 12, "expected AND, OR or ')'"),
        ("number = 1)", 11, "found ), expected AND, OR or the end"),
        ("()", 2, "found ), expected a comparison"),
        ("AND number = 1", 1, "found AND, expected a comparison"),
        ("number = 1 OR OR number = 2", 15, "found OR"),
        ("'a' = tags.x", 1, "found"),
        ("tags.x = prod", 10, "found prod, expected a value (text in single quotes"),
        ("tags.x = 'prod", 10, "this quote is not closed"),
        ("tags.`x = 1", 6, "this quote is not closed"),
        ("tags.x = 1a", 10, "found 1a"),
        ("tags.x = 1.2.3", 10, "found 1.2.3"),
        ("tags.x = --1", 10, "found --1"),
        ("tags.x = NaN", 10, "found NaN"),
        ("tags.x = NULL", 10, "found NULL"),
        ("tags.x IS NULL", 8, "found IS, expected an operator"),
        ("tags.x = 1and number=2", 10, "found 1and"),
        ("tags. = 1", 7, "expected a key"),
        ("tags..x = 1", 6, "expected a key"),
        ("tags.x == 1", 8, "found ==, expected an operator"),
        ("tags.x <> 1", 8, "found <>"),
        ("tags.x ~ 1", 8, "found ~"),
        ("tags.x NOT = 1", 12, "expected LIKE, ILIKE or IN"),
        ("tags.x NOTLIKE 'a'", 8, "found NOTLIKE"),
        ("tags.x IN 1", 11, "expected a list in parentheses"),
        ("tags.x IN ()", 12, "found ), expected a value"),
        ("tags.x IN (1,)", 14, "found ), expected a value"),
        ("tags.x IN (1 2)", 14, "found 2, expected ',' or ')'"),
        ("tags.x IN (1", 13, "expected ',' or ')'"),
        ("tags.x = (1)", 10, "found (, expected a value"),
        ("tags.x IN (1, 'a')", 15, "found 'a' after 1"),
        ("tags.x IN ('a', TRUE)", 17, "found TRUE after 'a'"),
        ("tags.x < TRUE", 10, "found TRUE, which is compared by =, !=, IN"),
        ("tags.x LIKE 1", 13, "found 1, but LIKE takes text"),
        ("tags.x LIKE TRUE", 13, "found TRUE, but LIKE takes text"),
        (r"tags.x LIKE 'a\'", 13, "cannot end with a single backslash"),
        (r"version NOT ILIKE 'a\\\'", 19, "cannot end with a single backslash"),
        ("tags.a.b = 1", 1, "tags.`a.b`"),
        ("tags = 1", 1, "tags needs a key"),
        ("model_params = 1", 1, "model_params needs a key, as in model_params.key"),
        ("version.x = '1'", 1, "version is a single value"),
        ("number = 1 AND modelname = 'x'", 16, "there is no field modelname (did you mean model_name?); fields are"),
        ("name = 'x'", 1, "did you mean model_name?"),
        ("metadata.x = 'x'", 1, "did you mean additional_metadata?"),
        ("Version = '1'", 1, "did you mean version?"),
        ("qqqq = 'x'", 1, "there is no field qqqq; fields are model_name, version"),
        ("version < '2.0'", 9, "labels have no order"),
        ("version = 2", 11, "found 2, expected a label in single quotes"),
        ("model_name = TRUE", 14, "found TRUE, expected text in single quotes"),
        ("number = '1'", 10, "found '1', expected an integer"),
        ("number = 1.5", 10, "found 1.5, expected an integer"),
        ("number = TRUE", 10, "found TRUE, expected an integer"),
        ("number = 9223372036854775808", 10, "expected an integer of at most 64 bits"),
        ("number = 1e999999999", 10, "expected an integer"),
        ("number LIKE '1%'", 8, "found LIKE, but number takes ="),
        ("state = 'gone'", 9, "found 'gone', expected 'pending', 'verifying', 'ready' or 'removed'"),
        ("state = 1", 9, "found 1, expected 'pending'"),
        ("state IN ('ready', 'READY')", 20, "found 'READY'"),
        ("state LIKE 're%'", 7, "found LIKE, but state takes =, !=, IN, NOT IN"),
        ("state > 'ready'", 7, "found >"),
        ("created_at > 5", 14, "found 5, expected a time"),
        ("created_at > 'yesterday'", 14, "RFC 3339"),
        ("created_at > '2026-02-30'", 14, "RFC 3339"),
        ("created_at > '2026-01-31T24:00:01Z'", 14, "RFC 3339"),
        ("created_at > '2026-W05-6'", 14, "RFC 3339"),
        ("created_at > '2026-01-31T12:00:00.1234567Z'", 14, "at most 6 decimals"),
        ("created_at > '0000-01-01T00:00:00Z'", 14, "from year 1"),
        ("created_at > '0001-01-01T00:00:00+14:00'", 14, "from year 1"),
        ("created_at > '9999-12-31T23:59:59-01:00'", 14, "from year 1 to 9999"),
        ("created_at > '٢٠٢٦-01-31'", 14, "RFC 3339"),
        ("tags.x = 1e1001", 10, "at most 1000 digits"),
        ("tags.x = 1e-1001", 10, "at most 1000 digits"),
        ("tags.x = 1e99999999999999999999", 10, "at most 1000 digits"),
        ("tags.x = 0e2000", 10, "at most 1000 digits"),
        (f"tags.x = {'9' * 5000}", 10, "at most 1000 digits"),
        ("tags.x = 'a\x00b'", 12, "no NUL"),
        ("tags.`\ud800` = 1", 7, "no lone surrogate"),
        (f"model_params.{'.'.join('a' * 65)} = 1", 1, "at most 64 keys"),
        (f"tags.x IN ({','.join('1' * (MAX_LIST + 1))})", 8, "a list has 1 to 1000 values"),
    ],
)
def test_nonsense_is_refused_where_it_stands(text: str, column: int, words: str) -> None:
    with pytest.raises(InvalidFilter) as caught:
        parse_filter(text)

    error = caught.value
    assert error.members["column"] == column, error.detail
    assert words in error.detail
    assert error.detail.startswith(f"filter: column {column}: ")
    (member,) = cast(list[dict[str, Any]], error.members["errors"])
    assert member["loc"] == ["query", "filter"]
    assert error.detail.endswith(member["msg"])
    assert len(error.detail.encode()) < 1000


def test_limits() -> None:
    comparisons = ["number = 1"] * MAX_COMPARISONS

    assert parse_filter(" AND ".join(comparisons)) == And((A,) * MAX_COMPARISONS)
    assert parse_filter(f"{'(' * MAX_NESTING}number = 1{')' * MAX_NESTING}") == A
    assert parse_filter(f"tags.x = '{'a' * (MAX_CHARACTERS - 11)}'")
    assert parse_filter(f"tags.x IN ({','.join('1' * MAX_LIST)})")

    for text, column, words in (
        (" AND ".join([*comparisons, "number = 1"]), 1 + 15 * MAX_COMPARISONS, "at most 100 comparisons"),
        (" OR ".join([f"({' AND '.join(comparisons[:50])})"] * 3), 1504, "at most 100 comparisons"),
        (f"{'(' * (MAX_NESTING + 1)}number = 1{')' * (MAX_NESTING + 1)}", MAX_NESTING + 2, "nested at most 50"),
        (f"{'NOT ' * (MAX_NESTING + 1)}number = 1", 1 + 4 * (MAX_NESTING + 1), "nested at most 50"),
        (f"tags.x = '{'a' * (MAX_CHARACTERS - 10)}'", MAX_CHARACTERS + 1, "at most 10000 characters"),
    ):
        with pytest.raises(InvalidFilter, match=words) as caught:
            parse_filter(text)
        assert caught.value.members["column"] == column


@pytest.mark.parametrize(
    "text",
    [
        "(" * 10_000,
        "NOT " * 2500,
        "((" + "number=1)AND(" * 700,
        "'" * 9_999,
        "tags." + "`" * 9_994,
        "tags.x = " + '"' * 9_990 + "'",
        "tags.x = " + "1" * 9_990 + "a",
        "tags.x = " + "1e" * 4_990,
        "tags.x IN (" + "1," * 4_990,
        "tags." + "a." * 4_990,
        "a" * 10_000,
        "=" * 10_000,
        "a" * 100_000,
        "(" * 100_000,
    ],
    ids=lambda text: f"{text[:10]}…{len(text)}",
)
def test_long_nonsense_is_refused(text: str) -> None:
    with pytest.raises(InvalidFilter):
        parse_filter(text)


PIECES = [
    *("NOT", "AND", "or", "IN", "LIKE", "ilike", "TRUE", "(", ")", ",", ".", "=", "!=", "<=", ">", "'", '"', "`", "\\"),
    *("tags.x", "number", "version", "state", "created_at", "model_params.a.0", "'a'", "'ready'", "'2026-01-01'", "7"),
    *("1e5", "-.5", "1e1001", "\x00", "\ud800", "é", "--", ";", "%", "\n", "NaN", "''"),
]


@given(st.text() | st.lists(st.sampled_from(PIECES)).map(" ".join) | st.lists(st.sampled_from(PIECES)).map("".join))
@example("tags.x = 'a' AND number IN (1, 2) OR NOT state = 'ready'")
@settings(max_examples=1500, deadline=None)
def test_any_text_is_a_filter_or_an_invalid_one(text: str) -> None:
    try:
        parse_filter(text)
    except InvalidFilter as error:
        column = error.members["column"]
        assert isinstance(column, int)
        assert 1 <= column <= len(text) + 1


# The syntax tree

plain_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
patterns = plain_text.map(lambda text: text.rstrip("\\"))
numbers = st.decimals(allow_nan=False, allow_infinity=False, places=6) | st.integers(-(10**30), 10**30).map(Decimal)
integers = st.integers(-(2**63), 2**63 - 1)
times = st.datetimes(timezones=st.just(UTC))
EQUALITIES = [Operator.EQ, Operator.NE]
INEQUALITIES = [Operator.LT, Operator.LE, Operator.GT, Operator.GE]
PATTERNS = [Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE]
LISTS = [Operator.IN, Operator.NOT_IN]


def comparisons_of(
    fields: st.SearchStrategy[Field], values: st.SearchStrategy[Scalar], operators: list[Operator]
) -> st.SearchStrategy[Filter]:
    lists = st.lists(values, min_size=1, max_size=4).map(tuple)
    single = st.builds(Comparison, fields, st.sampled_from(operators), values)
    return single | st.builds(Comparison, fields, st.sampled_from(LISTS), lists)


def columns(*names: str) -> st.SearchStrategy[Field]:
    return st.sampled_from([Field(name) for name in names])


json_fields = st.builds(Field, st.just("tags"), st.tuples(plain_text)) | st.builds(
    Field,
    st.sampled_from(["model_params", "standardization_params", "additional_metadata"]),
    st.lists(plain_text, min_size=1, max_size=4).map(tuple),
)
trees: st.SearchStrategy[Filter] = st.recursive(
    st.one_of(
        comparisons_of(columns("model_name", "created_by"), plain_text, EQUALITIES + INEQUALITIES),
        comparisons_of(columns("version"), plain_text, EQUALITIES),
        comparisons_of(columns("number", "size_bytes"), integers, EQUALITIES + INEQUALITIES),
        comparisons_of(columns("state"), st.sampled_from(STATES), EQUALITIES),
        comparisons_of(columns("created_at"), times, EQUALITIES + INEQUALITIES),
        comparisons_of(json_fields, plain_text, EQUALITIES + INEQUALITIES),
        comparisons_of(json_fields, numbers, EQUALITIES + INEQUALITIES),
        comparisons_of(json_fields, st.booleans(), EQUALITIES),
        st.builds(Comparison, columns("model_name", "version") | json_fields, st.sampled_from(PATTERNS), patterns),
    ),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=4).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=4).map(tuple))
    ),
    max_leaves=12,
)


@given(trees)
@settings(max_examples=400, deadline=None)
def test_a_tree_survives_being_written_and_read(tree: Filter) -> None:
    assert parse_filter(filter_text(tree)) == tree


@pytest.mark.parametrize(
    ("field", "operator", "value"),
    [
        (Field("number"), Operator.EQ, 1.0),
        (Field("number"), Operator.EQ, True),
        (Field("number"), Operator.EQ, Decimal(1)),
        (Field("number"), Operator.EQ, 2**63),
        (Field("number"), Operator.EQ, None),
        (Field("number"), Operator.EQ, (1,)),
        (Field("number"), Operator.IN, 1),
        (Field("number"), Operator.IN, ()),
        (Field("number"), Operator.IN, (1,) * (MAX_LIST + 1)),
        (Field("created_at"), Operator.EQ, datetime(2026, 1, 1)),  # noqa: DTZ001 - refused because it has no time zone
        (Field("created_at"), Operator.EQ, "2026-01-01"),
        (Field("state"), Operator.EQ, "gone"),
        (Field("version"), Operator.EQ, "a\x00"),
        (Field("version"), Operator.LIKE, "\\"),
        (Field("version"), Operator.LT, "1"),
        (TAG, Operator.EQ, 0.5),
        (TAG, Operator.EQ, Decimal("NaN")),
        (TAG, Operator.EQ, Decimal("Infinity")),
        (TAG, Operator.EQ, Decimal("1e100000")),
        (TAG, Operator.GT, True),
        (TAG, Operator.IN, ("a", Decimal(1))),
        (TAG, Operator.EQ, "\udfff"),
    ],
)
def test_a_tree_is_held_to_the_rules_too(field: Field, operator: Operator, value: Scalar) -> None:
    with pytest.raises(InvalidFilter) as caught:
        Comparison(field, operator, value)

    assert "column" not in caught.value.members


def test_a_field_is_held_to_the_rules_too() -> None:
    assert Field("number").kind is FieldKind.INTEGER
    for name, path in (("numbr", ()), ("tags", ()), ("tags", ("a", "b")), ("number", ("x",)), ("tags", ("\x00",))):
        with pytest.raises(InvalidFilter):
            Field(name, path)


# Orders


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("created_at DESC", NEWEST_FIRST),
        ("created_at", Order("created_at", is_descending=False)),
        (" size_bytes   asc ", Order("size_bytes", is_descending=False)),
        ("model_name Desc", Order("model_name", is_descending=True)),
    ],
)
def test_an_order_is_a_field_and_a_direction(text: str, order: Order) -> None:
    assert parse_order(text) == order


@pytest.mark.parametrize(
    "text",
    [
        "",
        "DESC",
        "created_at down",
        "created_at DESC, id",
        "version",
        "tags.x",
        "1; drop table x",
        "x" * 100_000,
        "\x00",
    ],
)
def test_another_order_is_refused(text: str) -> None:
    rule = "order_by: an order is one of created_at, model_name, number, size_bytes"
    with pytest.raises(InvalidField, match=rule) as caught:
        parse_order(text)

    assert len(caught.value.detail) < 200


MOMENT = datetime(2026, 1, 31, 12, 0, 0, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("order", "value", "tie", "position"),
    [
        ("created_at", "2026-01-31T12:00:00.000001+00:00", 7, SearchPosition(MOMENT, 7)),
        ("model_name", "resnet", 7, SearchPosition("resnet", 7)),
        ("size_bytes", 0, 2**63 - 1, SearchPosition(0, 2**63 - 1)),
    ],
)
def test_a_position_is_read_from_its_parts(order: str, value: object, tie: int, position: SearchPosition) -> None:
    assert parse_order(order).position(value, tie) == position


@pytest.mark.parametrize(
    ("order", "value", "tie"),
    [
        ("created_at", "tomorrow", 7),
        ("created_at", 5, 7),
        ("created_at", None, 7),
        ("model_name", "a\x00", 7),
        ("model_name", ["a"], 7),
        ("size_bytes", 2**63, 7),
        ("size_bytes", True, 7),
        ("size_bytes", 0.5, 7),
        ("size_bytes", 5, 2**63),
        ("size_bytes", 5, "7"),
        ("size_bytes", {}, 7),
    ],
)
def test_other_parts_are_no_position(order: str, value: object, tie: object) -> None:
    with pytest.raises(InvalidFilter):
        parse_order(order).position(value, tie)
