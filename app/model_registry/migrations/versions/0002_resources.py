"""Push, aliases with a history, damaged blobs, and columns for the v1 resources

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def _time(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=True)


def upgrade() -> None:
    op.add_column(
        "registered_models", sa.Column("version_count", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.execute(
        "UPDATE registered_models SET version_count = counted.versions FROM "
        "(SELECT model_name, count(*) AS versions FROM model_info WHERE state = 'ready' GROUP BY model_name) AS counted"
        " WHERE registered_models.name = counted.model_name"
    )
    op.create_check_constraint("ck_registered_models_version_count", "registered_models", "version_count >= 0")
    op.create_index(
        "ix_registered_models_tags",
        "registered_models",
        ["tags"],
        postgresql_using="gin",
        postgresql_ops={"tags": "jsonb_path_ops"},
    )

    op.add_column("model_info", sa.Column("yank_reason", sa.Text(), nullable=True))
    op.create_check_constraint(
        "ck_model_info_purged_stays_removed", "model_info", "purged_at IS NULL OR state = 'removed'"
    )

    for name in ("verified_at", "damaged_at", "writable_until"):
        op.add_column("blobs", _time(name))

    op.create_table(
        "declared_files",
        sa.Column("version_id", sa.BigInteger(), nullable=False),
        sa.Column("path", sa.Text(collation="C"), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("stored_sha256", sa.LargeBinary(), nullable=True),
        sa.CheckConstraint("octet_length(sha256) = 32", name="ck_declared_files_sha256"),
        sa.CheckConstraint("stored_sha256 = sha256", name="ck_declared_files_pins_its_own_bytes"),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_info.id"], name="fk_declared_files_version_id", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["stored_sha256"], ["blobs.sha256"], name="fk_declared_files_stored_sha256", ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("version_id", "path", name="pk_declared_files"),
    )
    op.create_index("ix_declared_files_stored_sha256", "declared_files", ["stored_sha256"])

    for name, kind in (
        ("sha256", sa.LargeBinary()),
        ("size_bytes", sa.BigInteger()),
        ("part_size", sa.BigInteger()),
        ("found_sha256", sa.LargeBinary()),
        ("found_size_bytes", sa.BigInteger()),
    ):
        op.add_column("uploads", sa.Column(name, kind, nullable=True))
    op.add_column("uploads", sa.Column("state", sa.Text(), server_default=sa.text("'open'"), nullable=False))
    op.add_column("uploads", _time("writable_until"))
    op.create_check_constraint("ck_uploads_state", "uploads", "state IN ('open', 'stored', 'refused')")
    op.create_check_constraint("ck_uploads_sha256", "uploads", "octet_length(sha256) = 32")
    op.create_check_constraint("ck_uploads_declared_whole", "uploads", "(sha256 IS NULL) = (size_bytes IS NULL)")

    op.create_table(
        "alias_history",
        sa.Column("model_name", sa.Text(collation="C"), nullable=False),
        sa.Column("alias", sa.Text(collation="C"), nullable=False),
        sa.Column("generation", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("version_id", sa.BigInteger(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_name"],
            ["registered_models.name"],
            name="fk_alias_history_model_name",
            onupdate="CASCADE",
            ondelete="RESTRICT",
        ),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_info.id"], name="fk_alias_history_version_id", ondelete="RESTRICT"
        ),
        sa.PrimaryKeyConstraint("model_name", "alias", "generation", name="pk_alias_history"),
    )
    op.create_index("ix_alias_history_version_id", "alias_history", ["version_id"])

    op.drop_index("ix_events_model_name_id", "events")
    op.create_index("ix_events_xid_id", "events", ["xid", "id"])
    op.create_index("ix_events_model_name_xid_id", "events", ["model_name", "xid", "id"])

    op.add_column("garbage", sa.Column("size_bytes", sa.BigInteger(), nullable=True))
    op.add_column("garbage", _time("writable_until"))
