"""The history of the database schema, inside the package, so that an installed wheel can migrate.

May import `database` and `db_models`.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config


def alembic_config(database_url: str | None = None) -> "Config":
    """Return Alembic's configuration without an ini file. Alembic is imported late, because few commands need it."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


@cache
def head_revision() -> str:
    """Return the revision that this code needs."""
    from alembic.script import ScriptDirectory

    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None  # noqa: S101 - there is at least one migration
    return revision


def migrate(database_url: str) -> None:
    """Upgrade the schema to the newest revision. Safe to repeat, and to run in several processes at once.

    Raises `Unavailable` if the database cannot be reached.
    """
    from alembic import command

    from model_registry.database.transient import transient_as_unavailable

    with transient_as_unavailable():
        command.upgrade(alembic_config(database_url), "head")
