"""Record which services can work with the schema, so that running ones continue during an upgrade

Revision ID: 0004
Revises: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    table = op.create_table("schema_floor", sa.Column("oldest_revision", sa.Text(), primary_key=True))
    op.bulk_insert(table, [{"oldest_revision": revision}])
