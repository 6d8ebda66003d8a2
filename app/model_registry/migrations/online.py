"""Migration steps during which the service continues to read and write."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

LOCK_TIMEOUT_SECONDS = 5


def create_index(name: str, table: str, columns: Sequence[str], **options: Any) -> None:
    """Build an index without blocking writes; drop an incomplete one from an interrupted run first.

    It runs outside the migration's transaction, so a migration that uses it must do nothing else.
    """
    with op.get_context().autocommit_block():
        # It waits for older transactions, and nothing waits behind it, so it needs no timeout.
        op.execute(sa.text("SET lock_timeout = 0"))
        op.drop_index(name, table, if_exists=True, postgresql_concurrently=True)
        op.create_index(name, table, columns, postgresql_concurrently=True, **options)
        op.execute(sa.text(f"SET lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))


def needs_code_since(revision: str) -> None:
    """Declare that services of older revisions cannot work with this schema.

    All other migrations leave the schema usable for running services, which continue until they are replaced.
    """
    op.execute(sa.text("UPDATE schema_floor SET oldest_revision = :revision").bindparams(revision=revision))
