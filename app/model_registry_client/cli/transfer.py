"""The commands push and pull."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from model_registry_client.cli import key_values
from model_registry_client.cli.arguments import Tags, VersionRef
from model_registry_client.cli.command import Session, command
from model_registry_client.cli.output import Output, count, size
from model_registry_client.progress import Progress, Silent

commands = typer.Typer()

_Values = list[str] | None
_Parallel = Annotated[int, typer.Option(min=1, max=64, help="Maximum number of parallel transfers.")]


@command(commands)
async def push(
    session: Session,
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder or a file.")],
    ref: Annotated[
        str, typer.Argument(metavar="NAME[:VERSION]", help="Without VERSION, the push takes the next number.")
    ],
    param: Annotated[
        _Values, typer.Option(metavar="KEY=VALUE|@FILE", help="A parameter of the model, as JSON or text. Repeatable.")
    ] = None,
    std_params: Annotated[
        _Values, typer.Option(metavar="KEY=VALUE|@FILE", help="A parameter of the standardization. Repeatable.")
    ] = None,
    metadata: Annotated[
        _Values, typer.Option(metavar="KEY=VALUE|@FILE", help="Metadata, which you can change later. Repeatable.")
    ] = None,
    tag: Tags = None,
    description: Annotated[str | None, typer.Option(help="A description in words.")] = None,
    alias: Annotated[str | None, typer.Option(help="Point this alias at the version when it is ready.")] = None,
    include_all: Annotated[
        bool,
        typer.Option("--include-all", help="Also push .git, __pycache__, .DS_Store and unfinished files of a pull."),
    ] = False,
    transfer: Annotated[
        Literal["auto", "direct", "proxied"], typer.Option(help="Send to storage directly, or through the service.")
    ] = "auto",
    parallel: _Parallel = 8,
) -> None:
    """Push a folder or a file as a version. After a failure, the same command continues where it stopped.

    Example: model-registry push folder fraud-detector:2.0.0 --param C=1.0 --metadata @metrics.json --tag stage=test
    """
    params = key_values.parameters("--param", param or ())
    standardization_params = key_values.parameters("--std-params", std_params or ())
    changeable = key_values.parameters("--metadata", metadata or ())
    with _progress(session.out, is_resumable=":" in ref) as progress:
        pushed = await session.registry.push(
            path,
            ref,
            params=params,
            standardization_params=standardization_params,
            metadata=changeable,
            description=description,
            tags=key_values.tags("--tag", tag or ()),
            alias=alias,
            include_all=include_all,
            transfer=transfer,
            parallel=parallel,
            progress=progress,
        )
    version = pushed.version
    how = "stored already" if pushed.was_ready else f"{size(pushed.sent_bytes)} sent"
    saved = f", {size(pushed.saved_bytes)} stored already" if pushed.saved_bytes and not pushed.was_ready else ""
    session.out.done(
        pushed,
        f"{version.ref} is ready: {count(version.file_count, 'file')}, {size(version.size_bytes)}, {how}{saved}.",
        quiet=str(version.ref),
    )


@command(commands)
async def pull(
    session: Session,
    ref: VersionRef,
    directory: Annotated[
        Path | None,
        typer.Argument(
            metavar="DIR", help="The folder for the files. The default is a folder with the name of the model."
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Only files that match, such as '*.onnx'. Repeatable.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Do not use the cache of this machine.")] = False,
    transfer: Annotated[
        Literal["auto", "direct", "proxied"],
        typer.Option(help="Download from storage directly, or through the service."),
    ] = "auto",
    parallel: _Parallel = 8,
) -> None:
    """Pull the files of a version and verify them. Files that are there already are not downloaded again.

    Example: model-registry pull fraud-detector:2.0.0 models/fraud
    """
    from model_registry_client.types import Ref

    wanted = Ref.parse(ref)
    with _progress(session.out) as progress:
        pulled = await session.registry.pull(
            wanted,
            directory or Path(wanted.model),
            include=include or (),
            use_cache=not no_cache,
            transfer=transfer,
            parallel=parallel,
            progress=progress,
        )
    saved = f", {size(pulled.cached_bytes)} from the cache" if pulled.cached_bytes else ""
    how = " already" if pulled.was_complete else f": {size(pulled.downloaded_bytes)} downloaded{saved}"
    session.out.done(pulled, f"{pulled.version.ref} is in {pulled.path}{how}.", quiet=str(pulled.path))


class _Remarks(Silent):
    def __init__(self, out: Output) -> None:
        self._out = out

    def say(self, text: str) -> None:
        self._out.remark(text)


@contextmanager
def _progress(out: Output, *, is_resumable: bool = True) -> Iterator[Progress]:
    """Bars on a terminal, otherwise only messages. `is_resumable`: the same command continues after Ctrl-C."""
    try:
        if out.wants_bars:
            from model_registry_client.cli.progress_bars import Bars

            yield Bars(out.console(is_error=True))
        else:
            yield _Remarks(out)
    except asyncio.CancelledError:
        out.remark("Interrupted. The same command continues from here." if is_resumable else "Interrupted.")
        raise
