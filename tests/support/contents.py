"""The contents of PostgreSQL and the bucket, read without the code of the service."""

import asyncio
import time
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.db_models import Base
from tests.support.bucket import Bucket
from tests.support.service import Collect


class Registry:
    """Everything that is stored, counted without the service's code."""

    def __init__(self, engine: AsyncEngine, bucket: Bucket, collect: Collect) -> None:
        self._engine = engine
        self._bucket = bucket
        self._collect = collect

    async def content(self) -> dict[str, Any]:
        await self._collect()
        counts = ", ".join(
            f"(SELECT count(*) FROM {table.name}) AS {table.name}" for table in Base.metadata.sorted_tables
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(text(f"SELECT {counts}"))).mappings().one()
        return {**rows, "objects": await self._bucket.keys(), "unfinished": await self._bucket.unfinished()}

    async def assert_unchanged(self, before: dict[str, Any] | None = None) -> None:
        """Wait at most two seconds until the contents are as expected; `None` stands for an empty registry."""
        deadline = time.monotonic() + 2
        while (now := await self.content()) != before:
            if before is None and not any(now.values()):
                return
            if time.monotonic() > deadline:
                assert now == (before or {}), "left behind"
            await asyncio.sleep(0.05)
