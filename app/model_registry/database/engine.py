"""The connection pool, and the two ways to use it: a transaction, or a read without one."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from model_registry.database.aliases import AliasRepository
from model_registry.database.blobs import BlobRepository
from model_registry.database.declared_files import DeclaredFileRepository
from model_registry.database.events import EventRepository, Mark
from model_registry.database.garbage import GarbageRepository
from model_registry.database.idempotency import IdempotencyRepository
from model_registry.database.models import ModelRepository
from model_registry.database.search import SearchRepository
from model_registry.database.uploads import UploadRepository
from model_registry.database.versions import VersionRepository
from model_registry.errors import Unavailable
from model_registry.runtime.failpoints import failpoint
from model_registry.utils import JsonText, clean_json_object, to_json_text

T = TypeVar("T")

_ANSWER_SECONDS = 5
_FRESH_SECONDS = 0.1
_USED_AT = "used_at"

# Classes of SQLSTATE (PostgreSQL manual, appendix A) that say "not now" rather than "not so".
_TRANSIENT = ("08", "28", "3D", "40", "53", "57", "55P03", "25006", "25P03")


@dataclass(frozen=True, slots=True)
class DatabaseLimits:
    pool_size: int = 8
    pool_timeout_seconds: float = 2
    connect_timeout_seconds: float = 5
    statement_timeout_seconds: float = 5
    lock_timeout_seconds: float = 2


@dataclass(frozen=True, slots=True)
class SchemaRevision:
    """`current` is `None` before the first migration. `floor` is the oldest revision whose services still work."""

    current: str | None
    floor: str | None


class Transaction:
    """The repositories, all over one connection."""

    def __init__(self, connection: AsyncConnection) -> None:
        self.connection = connection

    @cached_property
    def models(self) -> ModelRepository:
        return ModelRepository(self.connection)

    @cached_property
    def versions(self) -> VersionRepository:
        return VersionRepository(self.connection)

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

    async def was_committed(self, mark: Mark) -> bool:
        """What became of an earlier transaction; `Unavailable` while the server still decides."""
        if await self.connection.scalar(_FATE, {"xid": mark.xid}) == "in progress":
            raise Unavailable("PostgreSQL") from ConnectionError("an earlier transaction has not ended yet")
        return await self.events.has(mark)


# A server knows nothing of a transaction that it has not begun yet: that is of the one that it took over from.
_FATE = text(
    "SELECT CASE WHEN earlier.xid < pg_snapshot_xmax(pg_current_snapshot()) THEN pg_xact_status(earlier.xid) END "
    "FROM (SELECT CAST(CAST(:xid AS text) AS xid8) AS xid) AS earlier"
)


class Database:
    """PostgreSQL through SQLAlchemy Core.

    Every wait is bounded: for a connection that answers, for a lock, for a statement. When one runs out, or the
    server cannot be reached, the caller gets `Unavailable`.
    """

    def __init__(self, url: str, limits: DatabaseLimits) -> None:
        self._engine = create_async_engine(
            url,
            pool_size=limits.pool_size,
            max_overflow=0,
            # `_connected` bounds this wait together with those that follow it.
            pool_timeout=None,
            # Every use below ends its own transaction, so there is nothing left to reset.
            pool_reset_on_return=None,
            # Errors end up in the log; what people registered must not.
            hide_parameters=True,
            json_serializer=_serialize,
            json_deserializer=JsonText,
            connect_args={
                "timeout": limits.connect_timeout_seconds,
                # A frozen server never reports its own timeout; the client's is a little longer.
                "command_timeout": limits.statement_timeout_seconds + 1,
                "server_settings": {
                    "application_name": "model-registry",
                    "statement_timeout": _milliseconds(limits.statement_timeout_seconds),
                    "lock_timeout": _milliseconds(limits.lock_timeout_seconds),
                    "idle_in_transaction_session_timeout": _milliseconds(2 * limits.statement_timeout_seconds),
                },
            },
        )
        self._reader = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wait_seconds = limits.pool_timeout_seconds
        self._statement_seconds = limits.statement_timeout_seconds
        self._cutting: set[asyncio.Task[Any] | None] = set()
        event.listen(self._engine.sync_engine, "invalidate", self._cut)
        event.listen(self._engine.sync_engine, "connect", _used)
        event.listen(self._engine.sync_engine, "checkin", _used)
        event.listen(self._engine.sync_engine, "checkout", _check)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """READ COMMITTED; commits at the end, rolls back on any error. Wait for nothing else inside."""
        with translated():
            async with self._connected(self._engine) as connection:
                yield Transaction(connection)
                await self._commit(connection)

    async def _commit(self, connection: AsyncConnection) -> None:
        """Whoever waits for a COMMIT no longer cuts the connection, and does not cancel the COMMIT.

        One that waits for a synchronous standby would be shown at once by a cancel, as if the standby had it
        (PostgreSQL manual, "Planning for High Availability"), and whoever asks again would take it for safe.
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
        """One statement at a time, each a transaction by itself: a third of the cost for a single read."""
        with translated():
            async with self._connected(self._reader) as connection:
                yield Transaction(connection)

    @asynccontextmanager
    async def _connected(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        """A connection that answers, rolled back at the end.

        To wait for a free one, to ask whether it is alive and to connect anew take `pool_timeout_seconds` together,
        or end in `TimeoutError`: a server that is silent must not hold its callers once for each.
        """
        connection = engine.connect()
        with self._no_goodbyes():
            async with asyncio.timeout(self._wait_seconds):
                await connection.start()
        async with AsyncExitStack() as cleanup:
            cleanup.push_async_exit(connection)
            try:
                yield connection
            except TimeoutError:
                # It would not answer a ROLLBACK either.
                with self._no_goodbyes():
                    await connection.invalidate()
                raise

    @contextmanager
    def _no_goodbyes(self) -> Iterator[None]:
        """Connections that are given up in this block are cut: to be polite is to wait for an answer once more."""
        task = asyncio.current_task()
        self._cutting.add(task)
        try:
            yield
        finally:
            self._cutting.discard(task)

    def _cut(self, connection: Any, _record: object, _error: BaseException | None) -> None:
        if asyncio.current_task() in self._cutting:
            connection.driver_connection.terminate()

    async def run(
        self,
        work: Callable[[Transaction], Awaitable[T]],
        *,
        patience_seconds: float = 0.5,
        is_one_statement: bool = False,
    ) -> T:
        """`work` in a transaction, again from the start when the connection broke or a deadlock was resolved.

        A lost reply to COMMIT looks like a commit that never arrived. Where `work` recorded an event, the server is
        asked what became of that transaction, so the work is done once; where it did not, `work` must be idempotent.
        `patience_seconds` is how long a server that is away is waited for, from its first failure on, before the
        caller gets `Unavailable`; it is longer where a COMMIT of a recorded event has gone unanswered. One statement is
        a transaction by itself, and one round trip instead of three.
        """
        failed_at: float | None = None
        unanswered: tuple[Mark, T] | None = None
        for attempt in itertools.count(1):
            try:
                async with self.reading() if is_one_statement else self.transaction() as tx:
                    if unanswered is not None and await tx.was_committed(unanswered[0]):
                        return unanswered[1]
                    unanswered = None
                    result = await work(tx)
                    if tx.events.mark is not None:
                        unanswered = (tx.events.mark, result)
                    failpoint("tx-before-commit")
                failpoint("tx-after-commit")
                return result
            except Unavailable as error:
                now = time.monotonic()
                failed_at = failed_at or now
                # Where the change may have been made, it is worth waiting to know it.
                patience = patience_seconds if unanswered is None else max(patience_seconds, _ANSWER_SECONDS)
                pause = min(0.05 * 2**attempt, 1)
                if not _is_worth_another_try(error.__cause__) or now + pause > failed_at + patience:
                    raise
                await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def ping(self) -> None:
        """Return when the database answers, raise `Unavailable` otherwise."""
        async with self.reading() as tx:
            await tx.connection.execute(text("SELECT 1"))

    async def schema_revision(self) -> SchemaRevision:
        """The revision that the database is at, and which services can work with it."""
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
        await self._engine.dispose()


def _used(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.info[_USED_AT] = time.monotonic()


def _check(connection: Any, record: ConnectionPoolEntry, _proxy: object) -> None:
    """Whether a connection of the pool is alive. `pool_pre_ping` asks each time, with three round trips (a third of
    what a read costs); here it is one, and none where the connection was in use a moment ago."""
    is_fresh = time.monotonic() - record.info[_USED_AT] < _FRESH_SECONDS
    if is_fresh and not connection.driver_connection.is_closed():
        return
    try:
        # Not ";", to which the driver expects more of an answer than there is.
        connection.run_async(lambda driver: driver.execute("SELECT"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise InvalidatePoolError from error


@contextmanager
def translated() -> Iterator[None]:
    """Turns "PostgreSQL is away, too busy or closed to us" into `Unavailable`; leaves bugs and domain errors alone."""
    try:
        yield
    except Exception as error:
        if _is_transient(error):
            raise Unavailable("PostgreSQL") from error
        raise


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None) or ""
        return error.connection_invalidated or state.startswith(_TRANSIENT) or isinstance(error.orig, OSError)
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "").startswith(_TRANSIENT)
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError)


def _is_worth_another_try(cause: BaseException | None) -> bool:
    """Not where a wait has just run out: for a free connection, a lock, or a statement."""
    if isinstance(cause, DBAPIError):
        state = getattr(cause.orig, "sqlstate", None) or ""
        return cause.connection_invalidated or state.startswith(("08", "40", "57P"))
    is_broken = isinstance(cause, OSError | asyncpg.PostgresError | asyncpg.InterfaceError)
    return is_broken and not isinstance(cause, TimeoutError)


def _serialize(value: Any) -> str:
    return value if isinstance(value, JsonText) else to_json_text(clean_json_object(value, ("value",)))


def _milliseconds(seconds: float) -> str:
    return str(round(seconds * 1000))
