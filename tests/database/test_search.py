"""Search in PostgreSQL: the versions that a filter finds, their order, pages and indexes."""

import json
import operator
import random
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import ClauseElement, Executable, select, text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from model_registry.database.filter_sql import where
from model_registry.database.search import page_statement
from model_registry.db_models import ModelInfoDB
from model_registry.domain.filter_parser import parse_filter
from model_registry.domain.search_filter import (
    MAX_NESTING,
    MAX_PATH,
    STATES,
    And,
    Comparison,
    Field,
    Filter,
    Not,
    Operator,
    Or,
    Scalar,
)
from model_registry.domain.search_order import NEWEST_FIRST, parse_order
from model_registry.utils import to_json_text
from tests.support.service import RunningService

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Row:
    """A version that a test inserts into the database."""

    version: str
    model_name: str = "resnet"
    number: int = 0
    state: str = "ready"
    size_bytes: int = 0
    created_at: datetime = NOON
    created_by: str = "anonymous"
    tags: dict[str, Any] = field(default_factory=dict)
    model_params: dict[str, Any] = field(default_factory=dict)
    standardization_params: dict[str, Any] = field(default_factory=dict)
    additional_metadata: dict[str, Any] = field(default_factory=dict)


_MODEL = text("INSERT INTO registered_models (name, is_provisional) VALUES (:model_name, false) ON CONFLICT DO NOTHING")
_VERSION = text("""
    INSERT INTO model_info (
        model_name, version, number, state, digest, ready_at, lease_expires_at, removed_at, purge_after, size_bytes,
        created_at, created_by, tags, model_params, standardization_params, additional_metadata
    ) VALUES (
        :model_name, :version, :number, :state, sha256(''), now(),
        CASE WHEN :state IN ('pending', 'verifying') THEN now() + interval '1 h' END,
        CASE WHEN :state = 'removed' THEN now() END, CASE WHEN :state = 'removed' THEN now() + interval '1 h' END,
        :size_bytes, :created_at, :created_by,
        CAST(:tags AS jsonb), CAST(:model_params AS jsonb),
        CAST(:standardization_params AS jsonb), CAST(:additional_metadata AS jsonb)
    )
""")


async def add(engine: AsyncEngine, *rows: Row) -> None:
    """Insert versions; those without a number get increasing ones."""
    async with engine.begin() as connection:
        last = await connection.scalar(text("SELECT coalesce(max(number), 0) FROM model_info"))
        for place, row in enumerate(rows, 1):
            values = {
                name: to_json_text(value) if isinstance(value, dict) else value for name, value in vars(row).items()
            }
            await connection.execute(_MODEL, {"model_name": row.model_name})
            await connection.execute(_VERSION, values | {"number": row.number or last + place})


async def search(
    service: RunningService, condition: str = "", order_by: str = "created_at DESC", limit: int = 1000
) -> list[dict[str, Any]]:
    """Return the documents of all pages."""
    order, found, after = parse_order(order_by), list[dict[str, Any]](), None
    while True:
        async with service.services.database.reading() as tx:
            page = await tx.search.page(
                condition=parse_filter(condition) if condition else None, order=order, after=after, limit=limit
            )
        found += [each.document.parsed for each in page.items]
        if not page.has_more:
            return found
        assert len(page.items) == limit
        after = order.position_of(page.items[-1])


async def labels(service: RunningService, condition: str) -> set[str]:
    return {info["version"] for info in await search(service, condition)}


# Matches


async def test_a_comparison_with_what_is_missing_or_of_another_type_is_false(
    service: RunningService, engine: AsyncEngine, fresh: None
) -> None:
    tags = {"a": "a", "b": "b", "five": 5, "text-5": "5", "true": True, "false": False, "null": None, "list": ["a", 5]}
    await add(engine, *(Row(version, tags={"x": value}) for version, value in tags.items()), Row("none"))
    everything = {*tags, "none"}

    for condition, found in {
        "tags.x = 'a'": {"a"},
        "tags.x != 'a'": {"b", "text-5"},
        "NOT tags.x = 'a'": everything - {"a"},
        "NOT tags.x != 'a'": everything - {"b", "text-5"},
        "tags.x = 5": {"five"},
        "tags.x = '5'": {"text-5"},
        "tags.x != 5": set(),
        "tags.x != 6.5": {"five"},
        "tags.x = TRUE": {"true"},
        "tags.x != TRUE": {"false"},
        "tags.x IN (TRUE, FALSE)": {"true", "false"},
        "tags.x IN ('a', 'b', 'c')": {"a", "b"},
        "tags.x NOT IN ('a', 'c')": {"b", "text-5"},
        "NOT tags.x IN ('a', 'c')": everything - {"a"},
        "tags.x >= 5": {"five"},
        "tags.x < 5": set(),
        "NOT tags.x < 5": everything,
        "tags.x > '5'": {"a", "b"},
        "tags.x <= '5'": {"text-5"},
        "tags.x LIKE '%'": {"a", "b", "text-5"},
        "tags.x NOT LIKE 'a'": {"b", "text-5"},
        "NOT tags.x LIKE 'a'": everything - {"a"},
        "tags.y = 'a' OR tags.y != 'a' OR tags.y LIKE '%' OR tags.y < 1": set(),
        "tags.x = 'a' OR NOT (tags.x > 4 OR tags.x < 4)": everything - {"five"},
    }.items():
        assert await labels(service, condition) == found, condition


async def test_numbers_are_compared_by_value_and_exactly(
    service: RunningService, engine: AsyncEngine, fresh: None
) -> None:
    numbers = {
        "tenth": "0.1",
        "double": "0.1000000000000000055511151231257827",
        "one": "1.0",
        "big": "9223372036854775809",
    }
    await add(engine, *(Row(name, model_params={"n": Decimal(number)}) for name, number in numbers.items()))

    for condition, found in {
        "model_params.n = 0.1": {"tenth"},
        "model_params.n = 0.10": {"tenth"},
        "model_params.n > 0.1 AND model_params.n < 0.2": {"double"},
        "model_params.n IN (1, 2)": {"one"},
        "model_params.n = 1e0": {"one"},
        "model_params.n = 9223372036854775808": set(),
        "model_params.n > 9223372036854775808": {"big"},
        "model_params.n >= 9.223372036854775809e18": {"big"},
        f"model_params.n < 1{'0' * 1000}": set(numbers),
        "model_params.n > -1e-1000": set(numbers),
    }.items():
        assert await labels(service, condition) == found, condition


async def test_a_path_goes_through_objects_and_not_into_lists(
    service: RunningService, engine: AsyncEngine, fresh: None
) -> None:
    documents: dict[str, dict[str, Any]] = {
        "nested": {"metrics": {"auc": 0.9, "0": "zero", "top 5.x": 1}},
        "list": {"metrics": [0.9, {"auc": 0.9}]},
        "flat": {"metrics.auc": 0.9},
        "text": {"metrics": "auc"},
    }
    await add(engine, *(Row(name, additional_metadata=document) for name, document in documents.items()))

    for condition, found in {
        "additional_metadata.metrics.auc = 0.9": {"nested"},
        "additional_metadata.metrics.auc >= 0.9": {"nested"},
        "additional_metadata.metrics.auc IN (0.8, 0.9)": {"nested"},
        "additional_metadata.`metrics.auc` = 0.9": {"flat"},
        "additional_metadata.metrics.0 LIKE 'z%'": {"nested"},
        "additional_metadata.metrics.0 > 0": set(),
        "additional_metadata.metrics.0 = 0.9": set(),
        "additional_metadata.metrics.`top 5.x` < 2": {"nested"},
        'additional_metadata.metrics."top 5.x" != 2': {"nested"},
        "additional_metadata.metrics LIKE 'auc'": {"text"},
    }.items():
        assert await labels(service, condition) == found, condition


async def test_columns_are_compared_as_what_they_are(service: RunningService, engine: AsyncEngine, fresh: None) -> None:
    await add(
        engine,
        Row("1.0", "Bert", number=1, size_bytes=10, created_by="Zoë"),
        Row("1.1", "bert-large", number=2, size_bytes=2**62, created_at=NOON + timedelta(microseconds=1)),
        Row("v1_0", "resnet", number=3, created_by="alice", created_at=NOON - timedelta(days=1)),
    )

    for condition, found in {
        "model_name = 'Bert'": {"1.0"},
        "model_name = 'bert'": set(),
        "model_name < 'a'": {"1.0"},
        "model_name >= 'bert-large'": {"1.1", "v1_0"},
        "model_name LIKE 'bert%'": {"1.1"},
        "model_name ILIKE 'BERT%'": {"1.0", "1.1"},
        "model_name NOT ILIKE '%E_t%'": {"v1_0"},
        "NOT model_name LIKE 'b%'": {"1.0", "v1_0"},
        "model_name LIKE 'b%' OR created_by = 'alice'": {"1.1", "v1_0"},
        "version LIKE '1._'": {"1.0", "1.1"},
        r"version LIKE '%\_%'": {"v1_0"},
        "version NOT IN ('1.0', '1.1')": {"v1_0"},
        "number IN (1, 3)": {"1.0", "v1_0"},
        "number != 2": {"1.0", "v1_0"},
        "size_bytes >= 4611686018427387904": {"1.1"},
        "size_bytes > 9223372036854775807": set(),
        "created_at = '2026-01-31T12:00:00Z'": {"1.0"},
        "created_at > '2026-01-31T13:00:00+01:00'": {"1.1"},
        "created_at < '2026-01-31'": {"v1_0"},
        "created_at IN ('2026-01-31T12:00:00.000001', '2000-01-01')": {"1.1"},
        "created_at < '9999-12-31T23:59:59.999999Z' AND created_at > '0001-01-01'": {"1.0", "1.1", "v1_0"},
        "created_by > 'a' AND created_by < 'b'": {"1.1", "v1_0"},
        "created_by ILIKE 'ZO_'": {"1.0"},
    }.items():
        assert await labels(service, condition) == found, condition


async def test_only_ready_versions_are_searched_unless_the_filter_mentions_the_state(
    service: RunningService, engine: AsyncEngine, fresh: None
) -> None:
    await add(engine, *(Row(state, state=state, tags={"x": "a"}) for state in STATES))

    assert await labels(service, "") == {"ready"}
    assert await labels(service, "tags.x = 'a'") == {"ready"}
    assert await labels(service, "tags.x = 'a' AND state = 'pending'") == {"pending"}
    assert await labels(service, "state != 'ready'") == {"pending", "verifying", "removed"}
    assert await labels(service, "state IN ('ready', 'removed')") == {"ready", "removed"}
    assert await labels(service, "tags.x = 'b' OR NOT state = 'verifying'") == {"ready", "pending", "removed"}


async def test_what_looks_like_sql_or_a_path_is_a_literal(
    service: RunningService, engine: AsyncEngine, fresh: None
) -> None:
    attacks = [
        "'; DROP TABLE model_info; --",
        "' OR '1'='1",
        '"} OR true --',
        '") || true || ("',
        'a" ? (1 == 1) || (@ == "a',
        "$1::text",
        ":x %s %(x)s {x}",
        r"\'; --",
        '\\" || 1 == 1',
        "a`b",
        "a\nb\tc\x01\x7f\u2028",
    ]
    await add(engine, *(Row(f"v{n}", tags={attack: attack}) for n, attack in enumerate(attacks)), Row("other"))

    for n, attack in enumerate(attacks):
        key, value = (attack.replace("`", "``"), attack.replace("'", "''"))
        pattern = re.sub(r"([%_\\])", r"\\\1", value)
        for condition in (
            f"tags.`{key}` = '{value}'",
            f"tags.`{key}` IN ('{value}')",
            f"tags.`{key}` >= '{value}' AND tags.`{key}` <= '{value}'",
            f"tags.`{key}` LIKE '{pattern}'",
            f"tags.`{key}` ILIKE '{pattern}'",
            f"tags.`{key}` != ''",
        ):
            assert await labels(service, condition) == {f"v{n}"}, condition
        assert await labels(service, f"model_name = '{value}' OR created_by LIKE '{pattern}'") == set()


async def test_the_deepest_filter_is_answered(service: RunningService, engine: AsyncEngine, fresh: None) -> None:
    deep: Any = "here"
    for _ in range(MAX_PATH - 1):
        deep = {"k": deep}
    await add(engine, Row("deep", additional_metadata=deep), Row("flat"))
    path = f"additional_metadata{'.k' * (MAX_PATH - 1)}"

    nested = f"{path} NOT LIKE 'h%'"
    for _ in range(MAX_NESTING - 1):
        nested = f"number = -1 OR number > 0 AND ({nested})"

    assert await labels(service, f"{path} = 'here' AND {path} > 'a' AND {path} LIKE 'h%'") == {"deep"}
    assert await labels(service, nested) == set()
    assert await labels(service, f"{'NOT ' * (MAX_NESTING - 2)}{path} = 'here'") == {"deep"}


# The same filters, evaluated in Python

VALUES: list[Any] = [
    *("a", "A", "b", "é", "", "1", "a%b", "a_b", "a\\b", "ab", "true", "Z", "😀"),
    *(0, 1, -1, Decimal("1.0"), Decimal("0.1"), Decimal("1e3"), 1000, 2**63, True, False, None),
]
KEYS = ["x", "0", "a.b"]
LABELS = ["1.0", "1.1", "2", "v1_0", "V1-0", "nightly"]
NAMES = ["bert", "Resnet", "a_b", "a-b"]
MOMENTS = [NOON + timedelta(seconds=seconds) for seconds in (-1, 0, 1e-6, 1)]


def some_rows(count: int) -> list[Row]:
    choose = random.Random(20260131)

    def document(depth: int = 0) -> Any:
        kind = choose.random()
        if depth and kind < 0.6:
            return choose.choice(VALUES)
        if depth and kind < 0.7:
            return [document(2) for _ in range(choose.randrange(3))]
        return {key: document(depth + 1) for key in KEYS if choose.random() < 0.6 and depth < 3}

    return [
        Row(
            f"{choose.choice(LABELS)}.{n}",
            choose.choice(NAMES),
            state=choose.choice(STATES),
            size_bytes=choose.choice([0, 1, 2**62]),
            created_at=choose.choice(MOMENTS),
            created_by=choose.choice(["alice", "Bob", "é"]),
            tags={key: choose.choice(VALUES) for key in KEYS if choose.random() < 0.8},
            model_params=document(),
            additional_metadata=document(),
        )
        for n in range(count)
    ]


_COMPARE: dict[Operator, Callable[[Any, Any], bool]] = {
    Operator.EQ: operator.eq,
    Operator.NE: operator.ne,
    Operator.LT: operator.lt,
    Operator.LE: operator.le,
    Operator.GT: operator.gt,
    Operator.GE: operator.ge,
    Operator.LIKE: lambda value, pattern: like(value, pattern, 0),
    Operator.NOT_LIKE: lambda value, pattern: not like(value, pattern, 0),
    Operator.ILIKE: lambda value, pattern: like(value, pattern, re.IGNORECASE | re.ASCII),
    Operator.NOT_ILIKE: lambda value, pattern: not like(value, pattern, re.IGNORECASE | re.ASCII),
}


def like(value: str, pattern: str, flags: int) -> bool:
    parts = re.findall(r"\\.|.", pattern, re.DOTALL)
    wildcards = {"%": ".*", "_": "."}
    return bool(
        re.fullmatch("".join(wildcards.get(part) or re.escape(part[-1]) for part in parts), value, flags | re.DOTALL)
    )


def kind(value: Any) -> type:
    return Decimal if isinstance(value, int | Decimal) and not isinstance(value, bool) else type(value)


def holds(tree: Filter, row: Row) -> bool:
    match tree:
        case And():
            return all(holds(operand, row) for operand in tree.operands)
        case Or():
            return any(holds(operand, row) for operand in tree.operands)
        case Not():
            return not holds(tree.operand, row)
        case Comparison():
            there = getattr(row, tree.field.name)
            for key in tree.field.path:
                if not isinstance(there, dict) or key not in there:
                    return False
                there = there[key]
            values = tree.value if isinstance(tree.value, tuple) else (tree.value,)
            if kind(there) is not kind(values[0]):
                return False
            if tree.operator in (Operator.IN, Operator.NOT_IN):
                return (there in values) == (tree.operator is Operator.IN)
            return _COMPARE[tree.operator](there, values[0])


EQUALITIES = [Operator.EQ, Operator.NE]
INEQUALITIES = [Operator.LT, Operator.LE, Operator.GT, Operator.GE]
PATTERNS = [Operator.LIKE, Operator.NOT_LIKE, Operator.ILIKE, Operator.NOT_ILIKE]


def comparisons(
    fields: st.SearchStrategy[Field], values: Collection[Scalar], operators: Sequence[Operator]
) -> st.SearchStrategy[Filter]:
    lists = st.lists(st.sampled_from(list(values)), min_size=1, max_size=3).map(tuple)
    return st.builds(Comparison, fields, st.sampled_from(operators), st.sampled_from(list(values))) | st.builds(
        Comparison, fields, st.sampled_from([Operator.IN, Operator.NOT_IN]), lists
    )


def columns(*names: str) -> st.SearchStrategy[Field]:
    return st.sampled_from([Field(name) for name in names])


keys = st.sampled_from([*KEYS, "missing"])
paths = st.builds(Field, st.just("tags"), st.tuples(keys)) | st.builds(
    Field,
    st.sampled_from(["model_params", "additional_metadata"]),
    st.lists(keys, min_size=1, max_size=3).map(tuple),
)
texts = [value for value in VALUES if isinstance(value, str)]
numbers = [Decimal(value) for value in VALUES if kind(value) is Decimal]
patterns = st.lists(st.sampled_from(["a", "B", "%", "_", "\\%", "\\_", "\\\\", "1", "é", "-"]), max_size=4).map("".join)
trees: st.SearchStrategy[Filter] = st.recursive(
    st.one_of(
        comparisons(columns("model_name"), NAMES, EQUALITIES + INEQUALITIES),
        comparisons(columns("version"), [f"{label}.{n}" for n, label in enumerate(LABELS)], EQUALITIES),
        comparisons(columns("number"), [1, 7, 2**63 - 1], EQUALITIES + INEQUALITIES),
        comparisons(columns("size_bytes"), [0, 1, 2**62], EQUALITIES + INEQUALITIES),
        comparisons(columns("created_at"), MOMENTS, EQUALITIES + INEQUALITIES),
        comparisons(columns("created_by"), ["alice", "Bob", "a"], EQUALITIES + INEQUALITIES),
        comparisons(columns("state"), STATES, EQUALITIES),
        comparisons(paths, texts, EQUALITIES + INEQUALITIES),
        comparisons(paths, numbers, EQUALITIES + INEQUALITIES),
        comparisons(paths, [True, False], EQUALITIES),
        st.builds(Comparison, paths | columns("model_name", "version"), st.sampled_from(PATTERNS), patterns),
    ),
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


@pytest.fixture
async def rows(engine: AsyncEngine, fresh: None) -> dict[str, Row]:
    made = [replace(row, number=number) for number, row in enumerate(some_rows(150), 1)]
    await add(engine, *made)
    return {row.version: row for row in made}


@given(trees)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_postgresql_finds_what_a_plain_reading_of_the_tree_finds(
    service: RunningService, rows: dict[str, Row], tree: Filter
) -> None:
    async with service.services.database.reading() as tx:
        found = set(await tx.connection.scalars(select(ModelInfoDB.version).where(where(tree))))
        others = set(await tx.connection.scalars(select(ModelInfoDB.version).where(where(Not(tree)))))

    assert found == {version for version, row in rows.items() if holds(tree, row)}
    assert others == rows.keys() - found


# Orders and pages


@pytest.mark.parametrize(
    "order_by", [f"{name} {way}" for name in ("created_at", "model_name", "size_bytes") for way in ("ASC", "DESC")]
)
async def test_pages_stay_right_while_versions_are_added(
    service: RunningService, engine: AsyncEngine, fresh: None, order_by: str
) -> None:
    choose = random.Random(order_by)

    def some(count: int, prefix: str) -> Iterator[Row]:
        for n in range(count):
            yield Row(
                f"{prefix}{n}",
                choose.choice(NAMES),
                size_bytes=choose.randrange(3),
                created_at=NOON + timedelta(seconds=choose.randrange(3)),
                tags={"x": choose.choice("ab")},
            )

    await add(engine, *some(30, "old"))
    order = parse_order(order_by)
    expected = [info["version"] for info in await search(service, "tags.x = 'a'", order_by)]
    condition = parse_filter("tags.x = 'a'")

    found: list[dict[str, Any]] = []
    after = None
    for turn in range(1000):
        async with service.services.database.reading() as tx:
            page = await tx.search.page(condition=condition, order=order, after=after, limit=3)
        found += [each.document.parsed for each in page.items]
        if not page.has_more:
            break
        after = order.position_of(page.items[-1])
        if turn < 5:
            await add(engine, *some(4, f"new{turn}-"))

    assert [info["version"] for info in found if info["version"].startswith("old")] == expected
    assert len({info["id"] for info in found}) == len(found)
    ranks = [(info[order.field], info["id"]) for info in found]
    assert ranks == sorted(ranks, reverse=order.is_descending)


async def test_a_page_says_whether_there_is_more(service: RunningService, engine: AsyncEngine, fresh: None) -> None:
    await add(engine, *(Row(f"v{n}") for n in range(4)))

    async with service.services.database.reading() as tx:
        pages = [await tx.search.page(condition=None, order=NEWEST_FIRST, after=None, limit=n) for n in (3, 4, 5)]

    assert [(len(page.items), page.has_more) for page in pages] == [(3, True), (4, False), (4, False)]


async def test_what_is_found_is_the_whole_version(service: RunningService, engine: AsyncEngine, fresh: None) -> None:
    await add(engine, Row("1", tags={"x": "a"}, model_params={"n": Decimal("0.10")}, created_by="alice"))
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO blobs (sha256, size_bytes, storage_key) VALUES (sha256('x'), 1, 'k')")
        )
        await connection.execute(
            text("INSERT INTO version_files SELECT id, 'f', sha256('x'), 1, 'x/y' FROM model_info")
        )
        await connection.execute(
            text(
                "INSERT INTO aliases (model_name, alias, version_id, updated_by) "
                "SELECT model_name, 'prod', id, 'alice' FROM model_info"
            )
        )

    async with service.services.database.reading() as tx:
        page = await tx.search.page(condition=None, order=NEWEST_FIRST, after=None, limit=1)

    (document,) = (each.document for each in page.items)
    info = document.parsed
    assert (info["tags"], info["created_by"], info["aliases"]) == ({"x": "a"}, "alice", ["prod"])
    assert [file["path"] for file in info["files"]] == ["f"]
    assert '{"n": 0.10}' in document


# Indexes


class Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return "EXPLAIN (ANALYZE, FORMAT JSON) " + compiler.process(element.statement, **options)


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


@pytest.fixture
async def many(engine: AsyncEngine, fresh: None) -> None:
    """Insert 50 000 versions of 5000 models; one in twenty is removed."""
    async with engine.begin() as connection:
        await connection.execute(
            text("INSERT INTO registered_models (name) SELECT 'model-' || n FROM generate_series(0, 4999) AS n")
        )
        await connection.execute(
            text("""
                INSERT INTO model_info (
                    model_name, version, number, state, digest, ready_at, removed_at, purge_after, size_bytes,
                    created_at, created_by, tags, model_params, additional_metadata
                )
                SELECT
                    'model-' || n % 5000, 'v' || n / 5000 || '.' || n % 100, n / 5000 + 1, state, sha256(''), now(),
                    CASE WHEN state = 'removed' THEN now() END, CASE WHEN state = 'removed' THEN now() END, n * 7919,
                    timestamptz '2026-01-01 00:00+00' + n * interval '1 minute', 'user-' || n % 300,
                    jsonb_build_object('ticket', 'T-' || n), jsonb_build_object('seed', n % 5000),
                    jsonb_build_object('auc', n % 100 / 100.0)
                FROM (SELECT n, CASE n % 20 WHEN 7 THEN 'removed' ELSE 'ready' END AS state
                      FROM generate_series(0, 49999) AS n) AS made
            """)
        )
        await connection.execute(text("ANALYZE model_info, registered_models"))


async def test_every_kind_of_query_is_served_by_an_index(
    service: RunningService, engine: AsyncEngine, many: None
) -> None:
    of_model = "ix_model_info_(model_name_created_at|list)"
    either = "ix_model_info_(created_at|size_bytes)"
    queries = [
        ("", "created_at DESC", "ix_model_info_created_at"),
        ("", "created_at ASC", "ix_model_info_created_at"),
        ("", "size_bytes DESC", "ix_model_info_size_bytes"),
        ("", "number DESC", "ix_model_info_number"),
        ("", "model_name ASC", "uq_model_info_model_name_number"),
        ("model_name = 'model-7'", "created_at DESC", of_model),
        ("model_name LIKE 'model-499_'", "created_at DESC", of_model),
        ("model_name ILIKE '%L-499_'", "created_at DESC", of_model),
        ("version = 'v7.7'", "created_at DESC", "ix_model_info_version_created_at"),
        ("version IN ('v7.7', 'v8.8')", "created_at DESC", "ix_model_info_version_created_at"),
        ("created_by = 'user-7'", "created_at DESC", "ix_model_info_created_by_created_at"),
        ("created_at >= '2026-01-05' AND created_at < '2026-01-06'", "size_bytes", either),
        ("size_bytes > 390000000", "created_at", either),
        ("created_by = 'user-7'", "size_bytes", "ix_model_info_created_by_created_at"),
        ("state = 'removed'", "created_at DESC", "ix_model_info_unready"),
        ("state IN ('ready', 'removed')", "created_at DESC", "ix_model_info_unready"),
        ("state = 'pending'", "created_at DESC", "ix_model_info_unready"),
        ("tags.ticket = 'T-12345'", "created_at DESC", "ix_model_info_json"),
        ("tags.ticket IN ('T-1', 'T-2', 'T-3')", "created_at DESC", "ix_model_info_json"),
        ("model_params.seed = 77", "model_name", "ix_model_info_json"),
        ("standardization_params.mean = 1", "created_at", "ix_model_info_json"),
        ("additional_metadata.auc = 0.5 AND tags.ticket = 'T-50'", "created_at", "ix_model_info_json"),
        ("tags.ticket = 'T-1' OR version = 'v7.7' OR created_by = 'user-7'", "created_at", "ix_model_info_json"),
        ("additional_metadata.auc >= 0.5", "created_at DESC", "ix_model_info_created_at"),
        ("NOT tags.ticket = 'T-1'", "created_at DESC", "ix_model_info_created_at"),
    ]
    async with service.services.database.reading() as tx:
        for condition, order_by, index in queries:
            order = parse_order(order_by)
            tree = parse_filter(condition) if condition else None
            first = await tx.search.page(condition=tree, order=order, after=None, limit=10)
            for after in [None, *map(order.position_of, first.items[-1:])]:
                statement = page_statement(condition=tree, order=order, after=after, limit=101)
                explained = await tx.connection.scalar(Explain(statement))
                steps = list(nodes((json.loads(explained) if isinstance(explained, str) else explained)[0]["Plan"]))
                told = [f"{condition} ORDER BY {order_by} after {after}"]
                told += [
                    f"{step['Node Type']} {step.get('Index Name', step.get('Relation Name', ''))}" for step in steps
                ]

                # Near the end of an order few rows are left, so its index may be the cheapest.
                wanted = index if after is None else f"{index}|ix_model_info_{order.field}"
                assert any(re.fullmatch(wanted, step.get("Index Name", "")) for step in steps), told
                assert "Seq Scan model_info" not in told, told
                # Files and aliases are read for the rows of the page only.
                for table in ("version_files", "aliases"):
                    (loops,) = (step["Actual Loops"] for step in steps if step.get("Relation Name") == table)
                    assert loops <= 101, told
