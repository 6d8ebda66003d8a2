"""What all commands share: the common options, the client of the registry, and the output."""

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

_Url = Annotated[
    str | None,
    typer.Option(help="URL of the registry. The default is MODEL_REGISTRY_URL, then the URL saved by `login`."),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print only names: no bars and no sentences.")]

_Given = ParamSpec("_Given")


@dataclass(frozen=True)
class Session:
    """What a command receives."""

    registry: "AsyncRegistry"
    out: Output


Work = Callable[Concatenate[Session, _Given], Awaitable[None]]


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C interrupt a blocking read from a person or a pipe at once.

    Otherwise it only cancels the coroutine, at its next `await`.
    """
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
    """Make a coroutine a command of `app`, with the common options.

    Ctrl-C cancels the coroutine, so that it can clean up. `url_argument` is the annotation of an argument that replaces
    `--url`. The saved settings are not read then, so that `login` works if they are damaged.
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
        # For example a full disk or a folder without write permission: not a bug.
        if error.errno == errno.EPIPE:
            raise
        raise RegistryError(f"{error.strerror or error}: {error.filename}" if error.filename else str(error)) from error
