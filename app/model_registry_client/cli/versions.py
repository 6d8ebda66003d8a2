"""The commands that change versions: tag, yank, unyank, rm, restore."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model_registry_client.cli import key_values
from model_registry_client.cli.arguments import ExactRef
from model_registry_client.cli.command import Session, command, interruptible
from model_registry_client.cli.output import moment

if TYPE_CHECKING:
    from model_registry_client.types import Ref

commands = typer.Typer()


@command(commands)
async def tag(
    session: Session,
    ref: Annotated[str, typer.Argument(metavar="REF", help="NAME:VERSION for a version, or NAME for the model.")],
    changes: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE|KEY-…", help="KEY=VALUE sets a tag, KEY- removes it.")
    ],
) -> None:
    """Set or remove tags of a version or a model.

    Example: model-registry tag fraud-detector:2.0.0 stage=production reviewed-
    """
    from model_registry_client.types import Ref

    wanted = Ref.parse(ref)
    tags = key_values.tag_changes(changes)
    if ref == wanted.model:
        changed: Any = await session.registry.update_model(wanted.model, tags=tags)
    else:
        changed = await session.registry.update(wanted, tags=tags)
    now = " ".join(f"{key}={value}" for key, value in changed.tags.items())
    session.out.done(changed, f"{ref}: {now or 'no tags'}")


@command(commands)
async def yank(
    session: Session,
    ref: ExactRef,
    reason: Annotated[str | None, typer.Option(help="The reason. Everyone who looks at the version sees it.")] = None,
) -> None:
    """Yank a version: it is no longer the latest, but you can still use it by name.

    Example: model-registry yank fraud-detector:2.0.0 --reason "trained on the wrong labels"
    """
    from model_registry_client.types import Ref

    version = await session.registry.yank(Ref.parse(ref), reason=reason)
    session.out.done(version, f"{version.ref} is yanked. It is never the latest, but you can still use it by name.")


@command(commands)
async def unyank(session: Session, ref: ExactRef) -> None:
    """Undo a yank. The version can be the latest again.

    Example: model-registry unyank fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    version = await session.registry.unyank(Ref.parse(ref))
    session.out.done(version, f"{version.ref} is no longer yanked.")


@command(commands)
async def rm(
    session: Session,
    ref: ExactRef,
    purge: Annotated[bool, typer.Option("--purge", help="Also delete the bytes. You cannot undo this.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also remove the aliases that point at it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation of --purge.")] = False,
) -> None:
    """Remove a version. You can restore it for some time, unless you use --purge.

    Example: model-registry rm fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    wanted = Ref.parse(ref)
    if purge and not yes:
        await _check_exists(session, wanted)
        _confirm(f"{wanted} will be permanently deleted.")
    version = await session.registry.remove(wanted, purge=purge, force=force)
    if version.ready_at is None:
        sentence = f"The unfinished {version.ref} is deleted. Its label is free again."
    elif version.purged_at is not None:
        sentence = f"{version.ref} is permanently deleted."
    else:
        until = f" until {moment(version.purge_after)}" if version.purge_after else ""
        sentence = f"{version.ref} is removed. You can restore it{until}: `model-registry restore {version.ref}`."
    session.out.done(version, sentence)


@command(commands)
async def restore(session: Session, ref: ExactRef) -> None:
    """Restore a removed version.

    Example: model-registry restore fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    version = await session.registry.restore(Ref.parse(ref))
    session.out.done(version, f"{version.ref} is restored.")


async def _check_exists(session: Session, wanted: "Ref") -> None:
    """Raises `NotFound` for a version that does not exist, not even as a removed one."""
    from model_registry_client.errors import NotFound

    try:
        await session.registry.version(f"{wanted.model}:{wanted.label}")
    except NotFound:
        async for version in session.registry.versions(wanted.model, state="removed"):
            if version.ref == wanted:
                return
        raise


def _confirm(what: str) -> None:
    from model_registry_client.errors import UsageError

    if not sys.stdin.isatty():
        raise UsageError(f"{what} To confirm this in a script, use --yes.")
    with interruptible():
        typer.echo(f"{what} Continue? [y/N]: ", nl=False, err=True)
        answer = sys.stdin.readline()
    if answer.strip().lower() not in {"y", "yes"}:
        raise typer.Abort
