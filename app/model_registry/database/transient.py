"""Which errors mean that PostgreSQL is unavailable, and which are worth a retry."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError

from model_registry.errors import Unavailable

# Classes of SQLSTATE (PostgreSQL manual, appendix A) that mean "not now": the same statement may succeed later.
_TRANSIENT = ("08", "28", "3D", "40", "53", "57", "55P03", "25006", "25P03")
_RETRYABLE = ("08", "40", "57P")


@contextmanager
def transient_as_unavailable() -> Iterator[None]:
    """Raise `Unavailable` if PostgreSQL is down, busy or refuses connections. Other errors pass unchanged."""
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


def is_worth_a_retry(cause: BaseException | None) -> bool:
    """Return `False` if a timeout just expired: for a free connection, a lock or a statement."""
    if isinstance(cause, DBAPIError):
        state = getattr(cause.orig, "sqlstate", None) or ""
        return cause.connection_invalidated or state.startswith(_RETRYABLE)
    is_broken = isinstance(cause, OSError | asyncpg.PostgresError | asyncpg.InterfaceError)
    return is_broken and not isinstance(cause, TimeoutError)
