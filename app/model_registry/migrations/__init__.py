"""The database schema's history, inside the package, so that an installed wheel can migrate."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alembic.config import Config


def alembic_config(database_url: str | None = None) -> "Config":
    """Alembic's configuration without an ini file; imported late, because few commands need it."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["database_url"] = database_url
    return config


@cache
def head_revision() -> str:
    """The revision that this code was made for."""
    from alembic.script import ScriptDirectory

    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    assert revision is not None  # noqa: S101 - there is at least one migration
    return revision


def migrate(database_url: str) -> None:
    """Bring the schema to the newest revision. Safe to run again, and in several places at once.

    Raises `Unavailable` when the database is out of reach.
    """
    from alembic import command

    from model_registry.database.transient import transient_as_unavailable

    with transient_as_unavailable():
        command.upgrade(alembic_config(database_url), "head")
