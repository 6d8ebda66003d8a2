"""The commands login and open."""

import sys
from typing import Annotated

import typer

from model_registry_client.cli.command import Session, command

commands = typer.Typer()

_Registry = Annotated[
    str, typer.Argument(metavar="URL", help="The URL of the registry, such as https://models.example.org.")
]


@command(commands, url_argument=_Registry)
async def login(session: Session) -> None:
    """Save the URL of the registry that commands use by default.

    Example: model-registry login http://localhost:8000
    """
    from model_registry_client.settings import save_url

    url = session.registry.base_url
    about = await session.registry.transport.get_json("/version")
    if not isinstance(about, dict) or "version" not in about:
        raise session.registry.transport.not_a_registry()
    path = save_url(url)
    session.out.done(
        {"url": url, "version": about["version"], "config": str(path)},
        f"Commands now use {url} (version {about['version']}). Saved in {path}.",
    )


@command(commands, "open")
async def open_docs(session: Session) -> None:
    """Open the interactive documentation of the registry in a browser, or print its URL if there is none.

    Example: model-registry open
    """
    import webbrowser

    address = f"{session.registry.base_url}/docs"
    is_shown = sys.stdout.isatty() and not session.out.as_json and webbrowser.open(address)
    session.out.done({"url": address}, f"{address} is open in your browser." if is_shown else address, quiet=address)
