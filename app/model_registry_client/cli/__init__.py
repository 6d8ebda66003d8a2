"""The commands of `model-registry` for people who push and pull models. The service mounts `commands`.

A command imports what it needs when it runs, so that help and completion are fast.
"""

import typer

from model_registry_client.cli import aliases, config, queries, transfer, versions

commands = typer.Typer()
for part in (transfer, queries, versions, aliases, config):
    commands.add_typer(part.commands)

__all__ = ["commands"]
