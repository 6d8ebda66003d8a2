"""How PostgreSQL answers searches over many versions: the plan and the time of each kind of query.

    python benchmarks/search_plans.py --versions 1000000 --models 10000

fills a database of its own (embedded, in a temporary folder) and then shows, for each query, the first page and the
page after 90 % of all versions: milliseconds in the server (best of three), pages of 8 KiB that were touched, and how
the rows were found.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import ClauseElement, Executable, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from model_registry.db_models import ModelInfoDB
from model_registry.embedded import EmbeddedStack
from model_registry.filters import Order, SearchPosition, parse_filter, parse_order
from model_registry.migrations import migrate
from model_registry.storage.database import Database, DatabaseLimits
from model_registry.storage.search import page_statement

QUERIES = [
    ("", "created_at DESC"),
    ("", "created_at ASC"),
    ("", "size_bytes DESC"),
    ("", "number DESC"),
    ("", "model_name ASC"),
    ("model_name = 'bert-00003'", "created_at DESC"),
    ("model_name = 'fraud-00000'", "created_at DESC"),
    ("model_name LIKE 'bert-0012%'", "created_at DESC"),
    ("model_name ILIKE '%BERT%'", "created_at DESC"),
    ("model_name ILIKE '%t-00123%'", "created_at DESC"),
    ("version = '0.3.1'", "created_at DESC"),
    ("version LIKE '0.3.%'", "created_at DESC"),
    ("created_by = 'carol'", "created_at DESC"),
    ("created_by = 'user-7'", "size_bytes DESC"),
    ("created_at >= '2024-06-01' AND created_at < '2024-06-02'", "created_at DESC"),
    ("created_at >= '2024-06-01' AND created_at < '2024-06-02'", "size_bytes DESC"),
    ("size_bytes > 3000000000", "size_bytes DESC"),
    ("state = 'removed'", "created_at DESC"),
    ("state = 'pending'", "created_at DESC"),
    ("state IN ('ready', 'removed')", "created_at DESC"),
    ("tags.ticket = 'T-500123'", "created_at DESC"),
    ("tags.ticket IN ('T-500123', 'T-17', 'T-99')", "created_at DESC"),
    ("tags.team = 'team-7'", "created_at DESC"),
    ("tags.stage = 'prod'", "created_at DESC"),
    ("tags.stage = 'prod'", "model_name ASC"),
    ("tags.stage = 'nowhere'", "created_at DESC"),
    # One in a hundred, all from the same days.
    ("tags.experiment = 'exp-20'", "created_at DESC"),
    ("tags.experiment = 'exp-20'", "size_bytes DESC"),
    ("tags.team = 'team-7' AND model_params.batch_size = 2", "created_at DESC"),
    ("model_params.optimizer = 'adam' AND model_params.learning_rate = 0.0123", "created_at DESC"),
    ("tags.ticket = 'T-5' OR version = '9.9.9' OR model_name = 'bert-00123'", "created_at DESC"),
    ("NOT tags.stage = 'prod'", "created_at DESC"),
    ("tags.ticket LIKE 'T-50012%'", "created_at DESC"),
    ("additional_metadata.metrics.auc >= 0.9", "created_at DESC"),
    ("additional_metadata.metrics.auc >= 0.9999", "created_at DESC"),
    ("additional_metadata.metrics.auc >= 2", "created_at DESC"),
    ("additional_metadata.metrics.auc >= 0.99 AND tags.team = 'team-7'", "created_at DESC"),
    ("additional_metadata.metrics.auc >= 0.99 AND model_name = 'fraud-00000'", "created_at DESC"),
]

FILL = [
    "INSERT INTO registered_models (name, is_provisional, next_number) "
    "SELECT pg_temp.model_name(i), false, 1 + :versions FROM generate_series(0, :models - 1) AS i",
    # One version in fifty belongs to one large model, one in twenty is removed.
    """
    INSERT INTO model_info (
        model_name, version, number, state, digest, ready_at, removed_at, purge_after, size_bytes, file_count,
        precedence, created_at, created_by, tags, model_params, standardization_params, additional_metadata
    )
    SELECT
        pg_temp.model_name(model), number / 100 || '.' || number / 10 % 10 || '.' || number % 10, number, state,
        sha256(i::text::bytea), at, CASE WHEN state = 'removed' THEN at END, CASE WHEN state = 'removed' THEN at END,
        (1000 * exp(random() * 15))::bigint, 1, int4send(number), at,
        CASE WHEN i % 1000 = 0 THEN 'carol' ELSE 'user-' || i % 199 END,
        jsonb_build_object(
            'team', 'team-' || i % 50, 'stage', (ARRAY['dev', 'test', 'prod'])[1 + i % 3], 'ticket', 'T-' || i,
            'experiment', 'exp-' || i * 100 / :versions
        ),
        jsonb_build_object(
            'learning_rate', round(random()::numeric, 4), 'batch_size', 2 ^ (i % 8), 'n_estimators', 100 * (i % 20),
            'optimizer', (ARRAY['adam', 'sgd', 'lamb'])[1 + i % 3], 'max_depth', i % 12, 'dropout', i % 10 / 10.0,
            'penalty', 'l2', 'seed', i % 1000, 'early_stopping', i % 2 = 0
        ),
        jsonb_build_object(
            'mean', (SELECT jsonb_agg(round(random()::numeric, 5)) FROM generate_series(1, 8) AS n WHERE n + i > 0),
            'scale', (SELECT jsonb_agg(round(random()::numeric, 5)) FROM generate_series(1, 8) AS n WHERE n + i > 0)
        ),
        jsonb_build_object(
            'framework', (ARRAY['scikit-learn', 'pytorch', 'xgboost'])[1 + i % 3],
            'git', jsonb_build_object('commit', md5(i::text), 'branch', 'main'),
            'dataset', jsonb_build_object('name', 'ds-' || i % 300, 'rows', i % 100000),
            'metrics', jsonb_build_object(
                'auc', round(random()::numeric, 4), 'accuracy', round(random()::numeric, 4),
                'loss', round(random()::numeric, 6)
            )
        )
    FROM (
        SELECT
            i, CASE WHEN i % 50 = 0 THEN 0 ELSE i % :models END AS model,
            CASE WHEN i % 50 = 0 THEN i / 50 + :versions / :models + 1 ELSE i / :models + 1 END AS number,
            CASE WHEN i % 20 = 7 THEN 'removed' ELSE 'ready' END AS state,
            timestamptz '2024-01-01 00:00+00' + i * interval '1 minute' AS at
        FROM generate_series(1, :versions) AS i
    ) AS rows
    """,
]
MODEL_NAME = """
    CREATE FUNCTION pg_temp.model_name(i integer) RETURNS text IMMUTABLE RETURN
    (ARRAY['fraud', 'churn', 'resnet', 'bert', 'ranker', 'forecast', 'yolo', 'whisper'])[1 + i % 8]
    || '-' || lpad(i::text, 5, '0')
"""


class Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: ClauseElement) -> None:
        self.statement = statement


@compiles(Explain)
def _explain(element: Explain, compiler: SQLCompiler, **options: Any) -> str:
    return "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + compiler.process(element.statement, **options)


def say(line: str = "") -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def fill(connection: AsyncConnection, versions: int, models: int) -> None:
    """Without the indexes at first, which is ten times as fast."""
    indexes = sorted(ModelInfoDB.metadata.tables["model_info"].indexes, key=lambda index: str(index.name))
    await connection.execute(text(MODEL_NAME))
    for index in indexes:
        await connection.run_sync(index.drop)
    await connection.execute(text("SELECT setseed(0.5)"))
    for statement in FILL:
        used = {name: value for name, value in (("versions", versions), ("models", models)) if f":{name}" in statement}
        await connection.execute(text(statement), used)
    for index in indexes:
        began = time.perf_counter()
        await connection.run_sync(index.create)
        size = await connection.scalar(text(f"SELECT pg_size_pretty(pg_relation_size('{index.name}'))"))
        say(f"{index.name}: made in {time.perf_counter() - began:.1f} s, {size}")


async def position(connection: AsyncConnection, order: Order, share: float) -> SearchPosition:
    """Where the page ends that comes after this share of all ready versions."""
    key = [getattr(ModelInfoDB, name) for name in (order.field, order.tie)]
    ready = ModelInfoDB.state == "ready"
    count = await connection.scalar(text("SELECT count(*) FROM model_info WHERE state = 'ready'"))
    sorted_ = select(*key).where(ready).order_by(*(column.desc() if order.is_descending else column for column in key))
    return SearchPosition(*(await connection.execute(sorted_.offset(int(count * share)).limit(1))).one())


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", []):
        yield from nodes(part)


def way(plan: dict[str, Any]) -> str:
    """How the page was found: the scans of the inner query, and whether it had to sort."""
    found = next(node for node in list(nodes(plan))[1:] if node["Node Type"] == "Limit")
    steps = []
    for node in nodes(found):
        kind = node["Node Type"]
        if "Index Name" in node:
            backward = " backward" if node.get("Scan Direction") == "Backward" else ""
            steps.append(f"{kind}{backward} {node['Index Name']}")
        elif kind in {"Seq Scan", "Sort", "Incremental Sort", "BitmapAnd", "BitmapOr"}:
            steps.append(f"{kind} {node.get('Relation Name', '')}".strip())
    return " < ".join(steps)


async def measure(connection: AsyncConnection, condition: str, order: Order, after: SearchPosition | None) -> str:
    statement = page_statement(
        condition=parse_filter(condition) if condition else None, order=order, after=after, limit=101
    )
    explained: list[dict[str, Any]] = []
    for _ in range(3):
        (answer,) = (await connection.execute(Explain(statement))).one()
        explained.append((json.loads(answer) if isinstance(answer, str) else answer)[0])
    best = min(explained, key=lambda one: float(one["Execution Time"]))
    plan = best["Plan"]
    pages = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    rows = min(plan["Actual Rows"], 100)
    return f"{best['Execution Time']:9.1f} ms {pages:8d} pages {rows:4.0f} rows   {way(plan)}"


async def run(url: str, versions: int, models: int) -> None:
    database = Database(url, DatabaseLimits(statement_timeout_seconds=3600))
    began = time.perf_counter()
    async with database.transaction() as tx:
        await fill(tx.connection, versions, models)
    async with database.reading() as tx:
        await tx.connection.execute(text("VACUUM ANALYZE"))
        say(f"{versions} versions of {models} models in {time.perf_counter() - began:.0f} s\n")
        ends: dict[Order, SearchPosition] = {}
        for condition, order_by in QUERIES:
            order = parse_order(order_by)
            ends[order] = ends.get(order) or await position(tx.connection, order, 0.9)
            say(f"{condition or '(no filter)'}  ORDER BY {order_by}")
            say(f"   first {await measure(tx.connection, condition, order, None)}")
            say(f"   deep  {await measure(tx.connection, condition, order, ends[order])}")
    await database.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=1_000_000)
    parser.add_argument("--models", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, EmbeddedStack(Path(folder) / "data", durable=False) as stack:
        migrate(stack.database_url)
        asyncio.run(run(stack.database_url, arguments.versions, arguments.models))


if __name__ == "__main__":
    main()
