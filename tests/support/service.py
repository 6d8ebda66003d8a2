"""The service in this process, on a real socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import uvicorn
from fastapi import FastAPI
from sqlalchemy import Table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.api import create_app
from model_registry.maintenance.collector import Collected
from model_registry.server.http11 import BoundedHttp
from model_registry.settings import Settings
from model_registry.wiring import Services
from model_registry_devstack import StackAddresses


def make_settings(stack: StackAddresses, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": stack.database_url,
        "s3_endpoint_url": stack.s3_endpoint_url,
        "s3_bucket": stack.s3_bucket,
        "s3_region": stack.s3_region,
        "s3_access_key_id": stack.s3_access_key_id,
        "s3_secret_access_key": stack.s3_secret_access_key,
        "gc_interval_seconds": 3600,
        "gc_grace_seconds": 0,
        # Machines that run tests are busy. Tests that need the service to give up sooner say so.
        "database_pool_timeout_seconds": 30,
        "database_statement_timeout_seconds": 30,
        "database_lock_timeout_seconds": 30,
    }
    return Settings(_env_file=None, **(values | changes))


@dataclass(frozen=True)
class RunningService:
    """The service, in this process and on a real socket."""

    app: FastAPI
    url: str

    @property
    def services(self) -> Services:
        return cast(Services, self.app.state.services)

    @property
    def address(self) -> tuple[str, int]:
        parsed = httpx.URL(self.url)
        assert parsed.port is not None
        return parsed.host, parsed.port


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningService]:
    """Serve until the block ends; then cut connections that are still open."""
    app = create_app(settings)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=BoundedHttp, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.capture_signals = _without_signals  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            serving.result()
            raise AssertionError("the service did not start")
        await asyncio.sleep(0.01)
    try:
        yield RunningService(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        await serving
        listener.close()


@contextmanager
def _without_signals() -> Iterator[None]:
    yield


ServiceWith = Callable[..., Awaitable[RunningService]]


async def empty(engine: AsyncEngine, tables: Sequence[Table]) -> None:
    """Delete all rows of these tables, which stand in the order of their foreign keys.

    A TRUNCATE takes ten times as long, because it gives every table and every index a new file.
    """
    names = ", ".join(table.name for table in tables)
    deletions = ", ".join(f"of_{table.name} AS (DELETE FROM {table.name})" for table in reversed(tables))
    for _ in range(5):
        # A collector, or a registration that is being given up, may hold rows. PostgreSQL ends one of two that
        # deadlock.
        with contextlib.suppress(DBAPIError):
            async with engine.begin() as connection:
                await connection.execute(text(f"LOCK TABLE {names} IN SHARE ROW EXCLUSIVE MODE"))
                await connection.execute(text(f"WITH {deletions} SELECT"))
            return
    raise AssertionError("the tables could not be emptied")


Collect = Callable[[], Awaitable[Collected]]
