"""Steps of a migration that let the service go on reading and writing meanwhile."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

LOCK_TIMEOUT_SECONDS = 5


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Build an index without keeping anybody from writing; one that an interrupted run left half-built is dropped.

    It runs outside of the migration's transaction, so a migration that uses it does nothing else.
    """
    with op.get_context().autocommit_block():
        # It waits for transactions that are older than itself, and nobody waits behind it: so it may take its time.
        op.execute(sa.text("SET lock_timeout = 0"))
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
        op.execute(sa.text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))


def needs_code_since(revision: str) -> None:
    """Say that services which were made for older revisions cannot work with this schema.

    Every other migration leaves the schema usable for the services that are running: they go on until they are
    replaced.
    """
    op.execute(sa.text("UPDATE schema_floor SET oldest_revision = :revision").bindparams(revision=revision))
