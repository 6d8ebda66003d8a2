"""The commands that only read: ls, info, search, diff, url."""

from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from model_registry_client.cli import key_values
from model_registry_client.cli.arguments import Tags, VersionRef
from model_registry_client.cli.command import Session, command
from model_registry_client.cli.output import Cell, Listing, Size, Words, visible

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Mapping, Sequence

    from model_registry_client.types import Version

commands = typer.Typer()

_Item = TypeVar("_Item")

_Limit = Annotated[int | None, typer.Option(min=1, help="Maximum number of items. The default is all.")]


@command(commands, "ls")
async def ls(
    session: Session,
    ref: Annotated[
        str | None,
        typer.Argument(
            metavar="REF", help="NAME for the versions of a model, NAME:VERSION or NAME@ALIAS for its files."
        ),
    ] = None,
    search: Annotated[str | None, typer.Option(help="Only models with this text in their name.")] = None,
    tag: Tags = None,
    state: Annotated[
        Literal["ready", "pending", "verifying", "removed"] | None,
        typer.Option(help="Only versions in this state. The default is ready."),
    ] = None,
    limit: _Limit = None,
) -> None:
    """List models, the versions of a model, or the files of a version.

    Example: model-registry ls fraud-detector
    """
    from model_registry_client.errors import UsageError
    from model_registry_client.types import Ref

    if ref is not None and (search is not None or tag):
        raise UsageError(f"{'--tag' if search is None else '--search'} filters models. Omit {ref}.")
    if state is not None and (ref is None or Ref.parse(ref).model != ref):
        raise UsageError(f"--state filters the versions of a model: `model-registry ls NAME --state {state}`.")
    if ref is None:
        tags = key_values.tags("--tag", tag or ())
        await _list_models(session, search, tags, limit)
    elif (wanted := Ref.parse(ref)).model == ref:
        state = state or "ready"
        versions = await _first(limit, session.registry.versions(wanted.model, state=state))
        _show_versions(session, versions, f"{wanted.model} has no {state} versions.")
    else:
        files = await _first(limit, session.registry.files(wanted))
        rows = [(file.path, Size(file.size_bytes), file.sha256, file.media_type) for file in files]
        session.out.listing(files, Listing(("path", "size", "sha256", "type"), rows, empty=f"{ref} has no files."))


@command(commands)
async def info(session: Session, ref: VersionRef) -> None:
    """Show everything about a version.

    Example: model-registry info fraud-detector@champion
    """
    from model_registry_client.types import Ref

    version = await session.registry.version(Ref.parse(ref))
    if session.out.is_quiet and not session.out.as_json:
        session.out.done(version, "", quiet=str(version.ref))
        return
    rows: list[tuple[Cell, Cell]] = [
        ("ref", str(version.ref)),
        ("number", version.number),
        ("state", _state(version)),
        ("aliases", version.aliases),
        ("description", version.description),
        ("size", Size(version.size_bytes)),
        ("files", version.file_count),
        ("digest", version.digest),
        ("created", version.created_at),
        ("by", version.created_by),
        *((f"tags.{key}", str(value)) for key, value in version.tags.items()),
        *((path, _text(value)) for path, value in _values(version)),
        *((f"files/{file.path}", Words((Size(file.size_bytes), file.sha256))) for file in version.files),
    ]
    session.out.listing(version, Listing(("what", "value"), rows))


@command(commands)
async def search(
    session: Session,
    condition: Annotated[str, typer.Argument(metavar="FILTER", help="A condition on versions. See the example.")],
    order_by: Annotated[str | None, typer.Option(help="The order, such as 'created_at DESC'.")] = None,
    limit: _Limit = None,
) -> None:
    """Search the versions of all models.

    Example: model-registry search "tags.stage = 'test' AND additional_metadata.metrics.auc >= 0.9"
    """
    versions = await _first(limit, session.registry.search(condition, order_by=order_by))
    _show_versions(session, versions, "No versions match.")


@command(commands)
async def diff(
    session: Session,
    a: Annotated[str, typer.Argument(metavar="A", help="A version, such as NAME:VERSION.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The version to compare it with.")],
    exit_code: Annotated[bool, typer.Option("--exit-code", help="Exit with 1 if they differ.")] = False,
) -> None:
    """Compare two versions: their files by digest, their parameters and metadata.

    Example: model-registry diff fraud-detector@champion fraud-detector:2.0.0
    """
    from model_registry_client.cli.comparison import compared, is_same
    from model_registry_client.types import Ref

    # By label from here on: an alias may move during the comparison.
    versions = [await session.registry.version(Ref.parse(ref)) for ref in (a, b)]
    files = [[file async for file in session.registry.files(version.ref)] for version in versions]
    comparison = compared(versions[0], versions[1], files[0], files[1])
    headings = ("what", *(str(version.ref) for version in versions), "")
    session.out.listing(comparison, Listing(headings, list(chain(_file_rows(comparison), _value_rows(comparison)))))
    if exit_code and not is_same(comparison):
        raise typer.Exit(1)


@command(commands)
async def url(
    session: Session,
    ref: VersionRef,
    path: Annotated[str | None, typer.Argument(help="The file, if the version has several.")] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long the URL works, such as 90s, 15m, 2h or 7d.")
    ] = None,
) -> None:
    """Print a URL that downloads one file from storage without credentials, until it expires.

    Example: model-registry url fraud-detector:2.0.0 model.onnx --expires 2h
    """
    from model_registry_client.errors import Invalid, UsageError
    from model_registry_client.types import Ref

    expires_in_seconds = None if expires is None else key_values.seconds("--expires", expires)
    try:
        signed = await session.registry.download_url(Ref.parse(ref), path, expires_in_seconds=expires_in_seconds)
    except Invalid as error:
        wrong = {each.loc[-1]: each.msg for each in error.problem.errors}
        if "expires_in_seconds" in wrong:
            raise UsageError(f"--expires {expires}: {wrong['expires_in_seconds']} (in seconds).") from None
        if path is None and "path" in wrong:
            raise UsageError(f"{ref} has several files. Name one: `model-registry url {ref} PATH`.") from None
        raise
    session.out.done(signed, signed.url, quiet=signed.url)


async def _list_models(session: Session, search: str | None, tags: "Mapping[str, str]", limit: int | None) -> None:
    models = await _first(limit, session.registry.models(search=search, tags=tags or None))
    rows = [
        (model.name, model.latest_version, model.version_count, _pairs(model.tags), model.created_at)
        for model in models
    ]
    headings = ("name", "latest", "versions", "tags", "created")
    session.out.listing(models, Listing(headings, rows, empty="No models match."))


def _show_versions(session: Session, versions: "Sequence[Version]", empty: str) -> None:
    rows = [
        (
            str(version.ref),
            version.aliases,
            _pairs(version.tags),
            version.file_count,
            Size(version.size_bytes),
            version.created_at,
            version.yanked,
        )
        for version in versions
    ]
    headings = ("version", "aliases", "tags", "files", "size", "created", "yanked")
    session.out.listing(versions, Listing(headings, rows, empty=empty))


def _file_rows(comparison: "Mapping[str, Any]") -> "Sequence[tuple[str, Cell, Cell, str]]":
    files = comparison["files"]
    return [
        *((file["path"], None, _bytes(file), "added") for file in files["added"]),
        *((file["path"], _bytes(file), None, "removed") for file in files["removed"]),
        *((file["path"], _bytes(file["a"]), _bytes(file["b"]), "changed") for file in files["changed"]),
        *((file["path"], _bytes(file), _bytes(file), "same") for file in files["same"]),
    ]


def _value_rows(comparison: "Mapping[str, Any]") -> "Sequence[tuple[str, str | None, str | None, str]]":
    from model_registry_client.cli.comparison import VALUES, agree

    rows = []
    for name in VALUES:
        for path, pair in comparison[name].items():
            a, b = (_text(pair[side]) if side in pair else None for side in ("a", "b"))
            verdict = "same" if agree(pair) else "added" if a is None else "removed" if b is None else "changed"
            rows.append((f"{name}.{path}", a, b, verdict))
    return rows


def _bytes(file: "Mapping[str, Any]") -> Words:
    return Words((file["sha256"].removeprefix("sha256:")[:12], Size(file["size_bytes"])))


def _values(version: "Version") -> "Sequence[tuple[str, Any]]":
    from model_registry_client.cli.comparison import VALUES, leaves

    return [(f"{name}.{path}", value) for name in VALUES for path, value in leaves(getattr(version, name))]


def _state(version: "Version") -> str:
    if not version.yanked:
        return version.state
    return f"{version.state}, yanked: {version.yank_reason}" if version.yank_reason else f"{version.state}, yanked"


def _text(value: Any) -> str:
    from model_registry_client.json_values import dumps

    return value if isinstance(value, str) else dumps(value)


def _pairs(tags: "Mapping[str, Any]") -> tuple[str, ...]:
    return tuple(f"{key}={visible(str(value))}" for key, value in tags.items())


async def _first(limit: int | None, items: "AsyncIterable[_Item]") -> list[_Item]:
    found: list[_Item] = []
    async for item in items:
        found.append(item)
        if len(found) == limit:
            break
    return found
