"""PostgreSQL for the use cases: transactions, single reads, and retries."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.aliases import AliasRepository
from model_registry.database.blobs import BlobRepository
from model_registry.database.declared_files import DeclaredFileRepository
from model_registry.database.events import EventMark, EventRepository
from model_registry.database.garbage import GarbageRepository
from model_registry.database.idempotency import IdempotencyRepository
from model_registry.database.models import ModelRepository
from model_registry.database.pool import ConnectionPool, DatabaseLimits
from model_registry.database.push_uploads import PushUploadRepository
from model_registry.database.search import SearchRepository
from model_registry.database.transient import is_worth_a_retry, transient_as_unavailable
from model_registry.database.uploads import UploadRepository
from model_registry.database.version_cleanup import VersionCleanupRepository
from model_registry.database.version_files import VersionFileRepository
from model_registry.database.version_lists import VersionListRepository
from model_registry.database.versions import VersionRepository
from model_registry.errors import Unavailable
from model_registry.runtime.failpoints import failpoint

T = TypeVar("T")

RESTART_SECONDS = 10
"""How long work waits for a database that is being restarted, once its bytes are stored: pass it as the patience."""
_UNCONFIRMED_PATIENCE_SECONDS = 5


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """`current` is `None` before the first migration. `floor` is the oldest revision whose services still work."""

    current: str | None
    floor: str | None


class Transaction:
    """The repositories, all on one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    @cached_property
    def models(self) -> ModelRepository:
        return ModelRepository(self.connection)

    @cached_property
    def versions(self) -> VersionRepository:
        return VersionRepository(self.connection)

    @cached_property
    def version_files(self) -> VersionFileRepository:
        return VersionFileRepository(self.connection)

    @cached_property
    def version_lists(self) -> VersionListRepository:
        return VersionListRepository(self.connection)

    @cached_property
    def version_cleanup(self) -> VersionCleanupRepository:
        return VersionCleanupRepository(self.connection)

    @cached_property
    def aliases(self) -> AliasRepository:
        return AliasRepository(self.connection)

    @cached_property
    def blobs(self) -> BlobRepository:
        return BlobRepository(self.connection)

    @cached_property
    def uploads(self) -> UploadRepository:
        return UploadRepository(self.connection)

    @cached_property
    def push_uploads(self) -> PushUploadRepository:
        return PushUploadRepository(self.connection)

    @cached_property
    def declared(self) -> DeclaredFileRepository:
        return DeclaredFileRepository(self.connection)

    @cached_property
    def search(self) -> SearchRepository:
        return SearchRepository(self.connection)

    @cached_property
    def garbage(self) -> GarbageRepository:
        return GarbageRepository(self.connection)

    @cached_property
    def events(self) -> EventRepository:
        return EventRepository(self.connection)

    @cached_property
    def idempotency(self) -> IdempotencyRepository:
        return IdempotencyRepository(self.connection)

    async def was_committed(self, mark: EventMark) -> bool:
        """Return whether an earlier transaction committed; raise `Unavailable` while it is in progress."""
        if await self.connection.scalar(_TRANSACTION_STATUS, {"xid": mark.xid}) == "in progress":
            raise Unavailable("PostgreSQL") from ConnectionError("an earlier transaction has not ended yet")
        return await self.events.has(mark)


# A server has no status for a transaction that it has not started: the server before it started that one.
_TRANSACTION_STATUS = text(
    "SELECT CASE WHEN earlier.xid < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(earlier.xid) END "
    "FROM (SELECT CAST(CAST(:xid AS text) AS xid8) AS xid) AS earlier"
)


class Database:
    """PostgreSQL through SQLAlchemy Core.

    Every wait has a limit. If a limit expires or the server cannot be reached, the caller gets `Unavailable`.
    """

    def __init__(self, url: str, limits: DatabaseLimits) -> None:
        self._pool = ConnectionPool(url, limits)
        self._statement_seconds = limits.statement_timeout_seconds

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """READ COMMITTED; commits at the end, rolls back on any error. Do not wait for anything else inside."""
        with transient_as_unavailable():
            async with self._pool.connection() as connection:
                yield Transaction(connection)
                await self._commit(connection)

    async def _commit(self, connection: AsyncConnection) -> None:
        """Commit. A caller that stops waiting terminates the connection; it does not cancel the COMMIT.

        Cancelling a COMMIT that waits for a synchronous standby makes the change visible at once, as if the standby
        had it (PostgreSQL manual, "Planning for High Availability"). A later reader would take the change for safe.
        """
        driver = (await connection.get_raw_connection()).driver_connection
        committing = asyncio.create_task(connection.commit())
        try:
            async with asyncio.timeout(self._statement_seconds):
                await asyncio.shield(committing)
        except (TimeoutError, asyncio.CancelledError):
            if driver is not None:
                driver.terminate()
            await asyncio.wait({committing})
            committing.exception()
            raise

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """Run each statement as a transaction of its own, which is a third of the cost for a single read."""
        with transient_as_unavailable():
            async with self._pool.connection(autocommit=True) as connection:
                yield Transaction(connection)

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        patience_seconds: float = 0.5,
        is_one_statement: bool = False,
    ) -> T:
        """Run `work` in a transaction; start again if the connection breaks or PostgreSQL resolves a deadlock.

        A lost reply to COMMIT looks like a COMMIT that never arrived. If `work` recorded an event, this asks the server
        whether that transaction committed, so the work is done once; otherwise `work` must be idempotent.

        Parameters
        ----------
        patience_seconds
            Maximum seconds to retry while the server is down, counted from the first failure. It is longer if the
            reply to a COMMIT with an event is missing.
        is_one_statement
            `work` is a single statement. It then takes one round trip instead of three.
        """
        failed_at: float | None = None
        unconfirmed: tuple[EventMark, T] | None = None
        for attempt in itertools.count(1):
            try:
                async with self.reading() if is_one_statement else self.transaction() as tx:
                    if unconfirmed is not None and await tx.was_committed(unconfirmed[0]):
                        return unconfirmed[1]
                    unconfirmed = None
                    result = await work(tx)
                    if tx.events.mark is not None:
                        unconfirmed = (tx.events.mark, result)
                    failpoint("tx-before-commit")
                failpoint("tx-after-commit")
                return result
            except Unavailable as error:
                now = time.monotonic()
                failed_at = failed_at or now
                # If the change may have been committed, it is worth waiting to find out.
                patience = patience_seconds
                if unconfirmed is not None:
                    patience = max(patience_seconds, _UNCONFIRMED_PATIENCE_SECONDS)
                pause = min(0.05 * 2**attempt, 1)
                if not is_worth_a_retry(error.__cause__) or now + pause > failed_at + patience:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def ping(self) -> None:
        """Return if the database responds; otherwise raise `Unavailable`."""
        async with self.reading() as tx:
            await tx.connection.execute(text("SELECT 1"))

    async def schema_revision(self) -> SchemaRevision:
        """Return the schema's revision and the oldest revision whose services can work with it."""
        async with self.reading() as tx:
            tables = text("SELECT to_regclass('alembic_version') IS NOT NULL, to_regclass('schema_floor') IS NOT NULL")
            is_migrated, has_floor = (await tx.connection.execute(tables)).one()
            revision = floor = None
            if is_migrated:
                revision = await tx.connection.scalar(text("SELECT version_num FROM alembic_version"))
            if has_floor:
                floor = await tx.connection.scalar(text("SELECT oldest_revision FROM schema_floor"))
            return SchemaRevision(revision, floor)

    async def close(self) -> None:
        await self._pool.close()
