"""The commands for people who have models; `commands` is mounted into `model-registry`.

What a command needs is imported when it runs, so that help and completion are quick.
"""

import typer

from model_registry_client.cli import aliases, config, queries, transfer, versions

commands = typer.Typer()
for part in (transfer, queries, versions, aliases, config):
    commands.add_typer(part.commands)

__all__ = ["commands"]
