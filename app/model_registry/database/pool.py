"""Connections to PostgreSQL: how they are made, checked before use, and given up."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from model_registry.utils import JsonText, clean_json_object, to_json_text

_FRESH_SECONDS = 0.1
_USED_AT = "used_at"


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    pool_size: int = 8
    pool_timeout_seconds: float = 2
    connect_timeout_seconds: float = 5
    statement_timeout_seconds: float = 5
    lock_timeout_seconds: float = 2


class ConnectionPool:
    """A SQLAlchemy engine. Every wait has a limit: for a connection, for a lock and for a statement."""

    def __init__(self, url: str, limits: DatabaseLimits) -> None:
        self._engine = create_async_engine(
            url,
            pool_size=limits.pool_size,
            max_overflow=0,
            # `connection` limits this wait together with the waits that follow it.
            pool_timeout=None,
            # Every use ends its own transaction, so there is nothing to reset.
            pool_reset_on_return=None,
            # Errors are logged, and logs must not contain what users registered.
            hide_parameters=True,
            json_serializer=_serialize,
            json_deserializer=JsonText,
            connect_args={
                "timeout": limits.connect_timeout_seconds,
                # A frozen server never reports its own timeout, so the client has a slightly longer one.
                "command_timeout": limits.statement_timeout_seconds + 1,
                "server_settings": {
                    "application_name": "model-registry",
                    "statement_timeout": _milliseconds(limits.statement_timeout_seconds),
                    "lock_timeout": _milliseconds(limits.lock_timeout_seconds),
                    "idle_in_transaction_session_timeout": _milliseconds(2 * limits.statement_timeout_seconds),
                },
            },
        )
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wait_seconds = limits.pool_timeout_seconds
        self._terminating: set[asyncio.Task[Any] | None] = set()
        event.listen(self._engine.sync_engine, "invalidate", self._terminate)
        event.listen(self._engine.sync_engine, "connect", _record_use)
        event.listen(self._engine.sync_engine, "checkin", _record_use)
        event.listen(self._engine.sync_engine, "checkout", _require_alive)

    @asynccontextmanager
    async def connection(self, *, autocommit: bool = False) -> AsyncIterator[AsyncConnection]:
        """A usable connection, rolled back at the end.

        Waiting for a free connection, checking it and reconnecting take at most `pool_timeout_seconds` together; then
        `TimeoutError` is raised. A silent server must not hold a caller once for each step.
        """
        connection = (self._autocommit if autocommit else self._engine).connect()
        with self._terminates_given_up():
            async with asyncio.timeout(self._wait_seconds):
                await connection.start()
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_exit(connection)
            try:
                yield connection
            except TimeoutError:
                # The server would not respond to a ROLLBACK either.
                with self._terminates_given_up():
                    await connection.invalidate()
                raise

    async def close(self) -> None:
        await self._engine.dispose()

    @contextmanager
    def _terminates_given_up(self) -> Iterator[None]:
        """Terminate connections that are given up in this block; an orderly close waits for a silent server again."""
        task = asyncio.current_task()
        self._terminating.add(task)
        try:
            yield
        finally:
            self._terminating.discard(task)

    def _terminate(self, connection: Any, _record: object, _error: BaseException | None) -> None:
        if asyncio.current_task() in self._terminating:
            connection.driver_connection.terminate()


def _record_use(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _require_alive(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Replace a dead connection of the pool.

    `pool_pre_ping` takes three round trips for every use, a third of the cost of a read. This takes one, and none if
    the connection was used within the last 100 ms.
    """
    is_fresh = time.monotonic() - record.info[_USED_AT] < _FRESH_SECONDS
    if is_fresh and not connection.driver_connection.is_closed():
        return
    try:
        # Not ";": the driver expects more in reply to that than the server sends.
        connection.run_async(lambda driver: driver.execute("SELECT"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise InvalidatePoolError from error


def _serialize(value: Any) -> str:
    return value if isinstance(value, JsonText) else to_json_text(clean_json_object(value, ("value",)))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
