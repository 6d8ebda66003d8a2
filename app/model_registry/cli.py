"""The command `model-registry`: parses, calls, prints. It imports what a command needs when the command runs."""

import sys

try:
    import os
    import warnings
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Annotated, NoReturn

    import typer

    from model_registry import __version__
    from model_registry_client.cli import commands
    from model_registry_client.cli.failure import failure
except KeyboardInterrupt:  # Ctrl-C during the imports prints no traceback either
    sys.exit(130)

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(commands)


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"model-registry {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Push and pull models; run and maintain a model registry."""


_Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all addresses.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free port.")]


@app.command()
def dev(
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    data_dir: Annotated[Path, typer.Option(help="Directory for the data of PostgreSQL and S3.")] = Path(
        ".model-registry"
    ),
    reload: Annotated[bool, typer.Option("--reload", help="Restart when the code changes.")] = False,
) -> None:
    """Run PostgreSQL, S3 and the service on this machine.

    Example: model-registry dev --port 0 --data-dir /tmp/registry
    """
    from model_registry.server.serve import develop

    develop(host, port, data_dir, reload=reload, say=typer.echo)


@app.command()
def serve(
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Number of worker processes.")] = 1,
) -> None:
    """Run the service with the PostgreSQL and S3 of the settings.

    Example: model-registry serve --host 0.0.0.0 --workers 2
    """
    from model_registry.server.serve import serve as run

    run(host, port, workers)


@app.command()
def migrate() -> None:
    """Upgrade the database schema to this version."""
    from model_registry.migrations import head_revision
    from model_registry.migrations import migrate as run
    from model_registry.settings import load_settings

    run(load_settings().database_url.get_secret_value())
    typer.echo(f"The schema is at {head_revision()}.")


@app.command()
def init_bucket() -> None:
    """Create the bucket if it does not exist."""
    from model_registry.server.commands import create_bucket
    from model_registry.settings import load_settings

    settings = load_settings()
    created = create_bucket(settings)
    typer.echo(f"Bucket {settings.s3_bucket}: {'created' if created else 'exists'}.")


@app.command()
def gc(
    once: Annotated[bool, typer.Option("--once", help="Run once and exit.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what a run would delete, and delete nothing.")
    ] = False,
) -> None:
    """Delete what failures, crashes and removals leave behind. The service also does this by itself."""
    from model_registry.server.commands import collect_forever, collect_once
    from model_registry.settings import load_settings

    if once or dry_run:
        typer.echo(collect_once(load_settings(), is_dry=dry_run))
    else:
        collect_forever(load_settings())


@app.command()
def verify(
    model: Annotated[str | None, typer.Option(help="Check only the files of this model.")] = None,
) -> None:
    """Read and hash the stored files; exit with 1 if some are damaged. To repair a file, push it again.

    Example: model-registry verify --model fraud-detector
    """
    from model_registry.server.commands import verify as run
    from model_registry.settings import load_settings

    if not run(load_settings(), model, typer.echo):
        raise typer.Exit(1)


@app.command()
def healthcheck(
    url: Annotated[str, typer.Option(help="URL of the service.")] = "http://127.0.0.1:8000",
) -> None:
    """Exit with 0 if the service is ready, with 1 if not; print its response."""
    from model_registry.server.healthcheck import readiness

    is_ready, response = readiness(url)
    typer.echo(response)
    raise typer.Exit(0 if is_ready else 1)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from model_registry.api import app as api

    typer.echo(json.dumps(api.openapi(), indent=2))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the console script. A wrong setup or a refusal of the registry prints a line or two, not a traceback."""
    _open_missing_streams()
    warnings.formatwarning = lambda message, *_rest: f"warning: {message}\n"
    try:
        app(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        # The client is always installed with its own dependencies.
        server_commands = {
            str(each.callback.__name__).replace("_", "-") for each in app.registered_commands if each.callback
        }
        given = sys.argv[1:] if arguments is None else arguments
        command = next((each for each in given if each in server_commands), "")
        _fail(
            f"`model-registry {command}` needs the server, and {error.name} is not installed: "
            "in a checkout, run pip install '.[server,embedded]'."
        )
    except Exception as error:
        if (failed := failure(error)) is not None:
            _fail(*failed)
        if type(error).__module__.partition(".")[0] not in {"model_registry", "model_registry_devstack"}:
            raise
        _fail(f"{error} ({error.__cause__})" if error.__cause__ else str(error))
    sys.exit(0)


def _open_missing_streams() -> None:
    """Replace the streams that the shell has closed, as by `>&-`; the next open file would get their descriptors."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 - open until the process ends
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
