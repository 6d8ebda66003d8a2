"""Indexes for the search over versions

It takes one or two minutes for a million versions. The service works during that time.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa

from model_registry.migrations.online import create_index

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_READY = sa.text("state = 'ready'")
_DOCUMENTS = ["tags", "model_params", "standardization_params", "additional_metadata"]


def upgrade() -> None:
    create_index("ix_model_info_created_at", "model_info", ["created_at", "id"], postgresql_where=_READY)
    create_index("ix_model_info_number", "model_info", ["number", "id"], postgresql_where=_READY)
    create_index("ix_model_info_size_bytes", "model_info", ["size_bytes", "id"], postgresql_where=_READY)
    for name in ("model_name", "version", "created_by"):
        create_index(
            f"ix_model_info_{name}_created_at", "model_info", [name, "created_at", "id"], postgresql_where=_READY
        )
    create_index(
        "ix_model_info_unready",
        "model_info",
        ["state", "created_at", "id"],
        postgresql_where=sa.text("state <> 'ready'"),
    )
    create_index(
        "ix_model_info_json",
        "model_info",
        _DOCUMENTS,
        postgresql_using="gin",
        postgresql_ops=dict.fromkeys(_DOCUMENTS, "jsonb_path_ops"),
        postgresql_with={"fastupdate": "off"},
        postgresql_where=_READY,
    )
