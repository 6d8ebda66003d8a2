"""How PostgreSQL answers searches over many versions: the plan and the time of each kind of query.

    python -m benchmarks.search_plans --versions 1000000 --models 10000

fills a database of its own (embedded, in a temporary folder) and then shows, for each query, the first page and the
page after 90 % of all versions: milliseconds in the server (best of three), pages of 8 KiB that were touched, and how
the rows were found.
"""

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import ClauseElement, Executable, select, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from benchmarks.generator import fill
from model_registry.database.engine import Database
from model_registry.database.pool import DatabaseLimits
from model_registry.database.search import page_statement
from model_registry.db_models import ModelInfoDB
from model_registry.domain.filter_parser import parse_filter
from model_registry.domain.search_order import Order, SearchPosition, parse_order
from model_registry.migrations import migrate
from model_registry_devstack import EmbeddedStack

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
    # One version in a hundred, all from the same days.
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


async def position(connection: AsyncConnection, order: Order, share: float) -> SearchPosition:
    """Return where the page ends that follows this share of all ready versions."""
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
    """Return how the page was found: the scans of the inner query, and whether it had to sort."""
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
    for step, seconds in (await fill(url, versions=versions, models=models)).items():
        say(f"{seconds:7.1f} s   {step}")
    database = Database(url, DatabaseLimits(statement_timeout_seconds=3600))
    async with database.reading() as tx:
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
