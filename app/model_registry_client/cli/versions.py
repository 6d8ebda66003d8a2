"""What becomes of versions: tag, yank, rm and back."""

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
    ref: Annotated[str, typer.Argument(metavar="REF", help="NAME:VERSION, or NAME for the model itself.")],
    changes: Annotated[list[str], typer.Argument(metavar="KEY=VALUE|KEY-…", help="KEY- takes a tag off.")],
) -> None:
    """Put tags on a version or a model, or take them off.

    Example: model-registry tag fraud-detector:2.0.0 stage=production reviewed-
    """
    from model_registry_client.types import Ref

    wanted = Ref.parse(ref)
    tags = key_values.label_changes(changes)
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
    reason: Annotated[str | None, typer.Option(help="Why; shown to everybody who asks for it.")] = None,
) -> None:
    """Keep a version from being the latest; who names it still gets it.

    Example: model-registry yank fraud-detector:2.0.0 --reason "trained on the wrong labels"
    """
    from model_registry_client.types import Ref

    version = await session.registry.yank(Ref.parse(ref), reason=reason)
    session.out.done(version, f"{version.ref} is yanked: never the latest, but there for who names it.")


@command(commands)
async def unyank(session: Session, ref: ExactRef) -> None:
    """Let a yanked version be the latest again.

    Example: model-registry unyank fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    version = await session.registry.unyank(Ref.parse(ref))
    session.out.done(version, f"{version.ref} is not yanked any more.")


@command(commands)
async def rm(
    session: Session,
    ref: ExactRef,
    purge: Annotated[bool, typer.Option("--purge", help="Give up the bytes for good, at once.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Also when aliases point at it; they are dropped.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before --purge.")] = False,
) -> None:
    """Remove a version; `restore` brings it back for a while, except after --purge.

    Example: model-registry rm fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    wanted = Ref.parse(ref)
    if purge and not yes:
        await _check_there(session, wanted)
        _confirm(f"{wanted} will be gone for good.")
    version = await session.registry.remove(wanted, purge=purge, force=force)
    if version.ready_at is None:
        sentence = f"The unfinished {version.ref} is dropped; its label is free again."
    elif version.purged_at is not None:
        sentence = f"{version.ref} is gone for good."
    else:
        until = f" until {moment(version.purge_after)}" if version.purge_after else ""
        sentence = f"{version.ref} is removed; `model-registry restore {version.ref}` brings it back{until}."
    session.out.done(version, sentence)


@command(commands)
async def restore(session: Session, ref: ExactRef) -> None:
    """Bring a removed version back.

    Example: model-registry restore fraud-detector:2.0.0
    """
    from model_registry_client.types import Ref

    version = await session.registry.restore(Ref.parse(ref))
    session.out.done(version, f"{version.ref} is back.")


async def _check_there(session: Session, wanted: "Ref") -> None:
    """Raises `NotFound` for a version that is not there, not even removed."""
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
        raise UsageError(f"{what} Say --yes to do it without being asked.")
    with interruptible():
        typer.echo(f"{what} Go on? [y/N]: ", nl=False, err=True)
        answer = sys.stdin.readline()
    if answer.strip().lower() not in {"y", "yes"}:
        raise typer.Abort
