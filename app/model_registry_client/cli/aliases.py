"""`model-registry alias …`."""

from typing import Annotated

import typer

from model_registry_client.cli.arguments import ModelName
from model_registry_client.cli.command import PANEL, Session, command
from model_registry_client.cli.output import Listing

commands = typer.Typer()
_alias = typer.Typer(help="Manage aliases, the names that point at a version.", no_args_is_help=True)
commands.add_typer(_alias, name="alias", rich_help_panel=PANEL)

_Alias = Annotated[
    str, typer.Argument(metavar="NAME@ALIAS", help="A model and its alias, such as fraud-detector@champion.")
]


@command(_alias, "set", panel=None)
async def set_alias(
    session: Session,
    alias: _Alias,
    version: Annotated[
        str, typer.Argument(help="The label of a version, or its REF. @ALIAS or latest means the version it is now.")
    ],
    generation: Annotated[
        int | None, typer.Option("--if-generation", help="Only if the alias has not moved since. See `alias ls`.")
    ] = None,
    create_only: Annotated[bool, typer.Option("--create-only", help="Only if the alias does not exist.")] = False,
) -> None:
    """Point an alias at a version.

    Example: model-registry alias set fraud-detector@champion 2.0.0
    """
    from model_registry_client.errors import PreconditionFailed, UsageError
    from model_registry_client.types import LATEST, Ref

    model, name = _parsed(alias)
    is_ref = ":" in version or "@" in version[1:]
    target = Ref.parse(version if is_ref else f"{model}{'' if version.startswith('@') else ':'}{version}")
    if target.model != model:
        raise UsageError(f"{alias} cannot point at {target}: this is a version of another model.")
    if target.selector == LATEST or target.selector.startswith("@"):
        target = (await session.registry.version(target)).ref
    try:
        now = await session.registry.alias_set(
            model, name, target.label, expected_generation=generation, create_only=create_only
        )
    except PreconditionFailed as error:
        if not create_only:
            raise
        said = f"{alias} exists already. It points at {getattr(error.problem, 'version', 'a version')}."
        raise PreconditionFailed(error.problem.model_copy(update={"detail": said})) from error
    session.out.done(now, f"{model}@{now.alias} points at {now.version}.")


@command(_alias, "ls", panel=None)
async def list_aliases(session: Session, model: ModelName) -> None:
    """List the aliases of a model.

    Example: model-registry alias ls fraud-detector
    """
    aliases = [alias async for alias in session.registry.aliases(model)]
    session.out.listing(
        aliases,
        Listing(
            ("alias", "version", "generation", "moved", "by"),
            [(each.alias, each.version, each.generation, each.updated_at, each.updated_by) for each in aliases],
            empty=f"{model} has no aliases.",
        ),
    )


@command(_alias, "rm", panel=None)
async def remove_alias(session: Session, alias: _Alias) -> None:
    """Remove an alias. The version stays.

    Example: model-registry alias rm fraud-detector@challenger
    """
    model, name = _parsed(alias)
    await session.registry.alias_remove(model, name)
    session.out.done({"model_name": model, "alias": name}, f"{model}@{name} is removed.")


@command(_alias, "rollback", panel=None)
async def roll_back_alias(session: Session, alias: _Alias) -> None:
    """Move an alias back to its previous version. A second rollback undoes the first.

    Example: model-registry alias rollback fraud-detector@champion
    """
    model, name = _parsed(alias)
    now = await session.registry.alias_rollback(model, name)
    session.out.done(now, f"{model}@{now.alias} points at {now.version} again.", quiet=now.version)


@command(_alias, "history", panel=None)
async def alias_history(session: Session, alias: _Alias) -> None:
    """List the moves of an alias, newest first.

    Example: model-registry alias history fraud-detector@champion
    """
    model, name = _parsed(alias)
    moves = [move async for move in session.registry.alias_history(model, name)]
    session.out.listing(
        moves,
        Listing(
            ("version", "generation", "from", "by"),
            [(move.version, move.generation, move.at, move.by) for move in moves],
        ),
    )


def _parsed(text: str) -> tuple[str, str]:
    from model_registry_client.errors import UsageError
    from model_registry_client.types import Ref

    ref = Ref.parse(text)
    if not ref.selector.startswith("@"):
        raise UsageError(f"{text!r} is not an alias. Use NAME@ALIAS, such as fraud-detector@champion.")
    return ref.model, ref.selector[1:]
