"""How every command begins and ends: its common options, the registry it talks to, how it prints."""

import asyncio
import errno
import inspect
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from model_registry_client.cli.output import Output

if TYPE_CHECKING:
    from model_registry_client import AsyncRegistry

PANEL = "Models"

_Url = Annotated[str | None, typer.Option(help="The registry; otherwise MODEL_REGISTRY_URL, or what `login` wrote.")]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no sentences: names alone.")]

_Given = ParamSpec("_Given")


@dataclass(frozen=True)
class Session:
    """What a command works with."""

    registry: "AsyncRegistry"
    out: Output


Work = Callable[Concatenate[Session, _Given], Awaitable[None]]


@contextmanager
def interruptible() -> Iterator[None]:
    """For what waits for a person or a pipe: Ctrl-C ends it there and then, where it would otherwise only cancel the
    coroutine, at its next `await`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def command(
    app: typer.Typer, name: str | None = None, *, url_argument: Any = None, panel: str | None = PANEL
) -> Callable[[Work[_Given]], Work[_Given]]:
    """Make a coroutine a command of `app`, with the options that all of them have.

    Ctrl-C cancels the coroutine, so that what it has under way ends in order. `url_argument` is the annotation of an
    argument in the place of `--url`; what was written down before is not read then, so that `login` can mend it.
    """
    is_login = url_argument is not None

    def register(work: Work[_Given]) -> Work[_Given]:
        def run(url: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
            out = Output(as_json=as_json, is_quiet=quiet)
            asyncio.run(_within_session(work, url, out, given, is_login=is_login))

        where = _option("url", inspect.Parameter.empty, url_argument) if is_login else _option("url", None, _Url)
        own = list(inspect.signature(work).parameters.values())[1:]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
        parameters += [where, _option("as_json", False, _Json), _option("quiet", False, _Quiet)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in parameters}
        run.__name__, run.__doc__ = work.__name__, work.__doc__
        app.command(name, rich_help_panel=panel)(run)
        return work

    return register


def _option(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


async def _within_session(
    work: Callable[..., Awaitable[None]], url: str | None, out: Output, given: Any, *, is_login: bool
) -> None:
    from model_registry_client import AsyncRegistry, Settings
    from model_registry_client.errors import RegistryError

    try:
        async with AsyncRegistry(url, settings=Settings() if is_login else None) as registry:
            await work(Session(registry, out), **given)
    except OSError as error:
        # A full disk, a folder that may not be written: nobody's bug.
        if error.errno == errno.EPIPE:
            raise
        raise RegistryError(f"{error.strerror or error}: {error.filename}" if error.filename else str(error)) from error
