"""The schema is created by migrations, and equals the tables in the code."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.db_models import Base
from model_registry.migrations import head_revision, migrate
from model_registry.settings import Settings


async def test_the_migrated_schema_is_what_the_code_says(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True, "compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_every_foreign_key_has_an_index(engine: AsyncEngine) -> None:
    unindexed = text("""
        SELECT conrelid::regclass::text, conname FROM pg_constraint c
        WHERE contype = 'f' AND NOT EXISTS (
            SELECT 1 FROM pg_index i
            WHERE i.indrelid = c.conrelid AND (i.indkey::int2[])[0:cardinality(c.conkey) - 1] = c.conkey
        )
    """)

    async with engine.connect() as connection:
        assert (await connection.execute(unindexed)).all() == []


async def test_migrating_again_changes_nothing(settings: Settings, engine: AsyncEngine) -> None:
    await asyncio.to_thread(migrate, settings.database_url.get_secret_value())

    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == head_revision()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE model_info SET digest = '\\x00'",
        "UPDATE model_info SET state = 'ready', lease_expires_at = NULL",
        "UPDATE model_info SET state = 'gone'",
        "UPDATE model_info SET lease_expires_at = NULL",
        "INSERT INTO registered_models (name) VALUES ('M')",
        "INSERT INTO model_info (model_name, version, number, lease_expires_at) VALUES ('m', '1', 2, now())",
        "INSERT INTO model_info (model_name, version, number, lease_expires_at) VALUES ('m', '2', 1, now())",
        "DELETE FROM blobs",
        "DELETE FROM model_info",
        "DELETE FROM registered_models",
    ],
)
async def test_the_database_itself_refuses_what_must_never_be(engine: AsyncEngine, fresh: None, statement: str) -> None:
    async with engine.connect() as connection:
        for preparation in (
            "INSERT INTO registered_models (name) VALUES ('m')",
            "INSERT INTO model_info (model_name, version, number, lease_expires_at) VALUES ('m', '1', 1, now())",
            "INSERT INTO blobs (sha256, size_bytes, storage_key) VALUES (sha256('x'), 1, 'blobs/x')",
            "INSERT INTO version_files SELECT id, 'f', sha256('x'), 1, 'x/y' FROM model_info",
        ):
            await connection.execute(text(preparation))

        with pytest.raises(Exception, match=r"violates|not-null"):
            await connection.execute(text(statement))
