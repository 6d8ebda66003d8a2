"""Runs migrations: each in a transaction, one migrator at a time, with a short wait for locks."""

import asyncio
import time

from alembic import context
from sqlalchemy import Connection, pool, text
from sqlalchemy.ext.asyncio import create_async_engine

from model_registry.db_models import Base
from model_registry.migrations.online import LOCK_TIMEOUT_SECONDS

# Any number that no other program uses. Two migrators wait for each other instead of colliding.
_ADVISORY_LOCK = 7_316_044_201
_RETRY_SECONDS = 0.2


def _run(connection: Connection) -> None:
    # Polled, because waiting for the lock holds a transaction open, and a concurrent index build waits for it.
    while not connection.scalar(text(f"SELECT pg_try_advisory_lock({_ADVISORY_LOCK})")):
        connection.rollback()
        time.sleep(_RETRY_SECONDS)
    try:
        # DDL that waits for a lock blocks everyone behind it. It is better to fail and run again.
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            compare_server_default=True,
            transaction_per_migration=True,
        )
        with context.begin_transaction():
            context.run_migrations()
        _adopt_events(connection)
    finally:
        connection.rollback()
        connection.execute(text(f"SELECT pg_advisory_unlock({_ADVISORY_LOCK})"))
        connection.commit()


def _adopt_events(connection: Connection) -> None:
    """Give events of a restored dump a transaction id of this server.

    A dump from an older server can name transactions that this server has not started, and readers wait for those. All
    these events are older than any event of this server, in the order of their ids.
    """
    connection.execute(
        text("UPDATE events SET xid = pg_current_xact_id() WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())")
    )
    connection.commit()


async def _run_async(url: str) -> None:
    engine = create_async_engine(url, poolclass=pool.NullPool)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(_run)
    finally:
        await engine.dispose()


asyncio.run(_run_async(context.config.attributes["database_url"]))
