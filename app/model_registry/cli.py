"""`model-registry …`: parses, calls, prints. What a command needs is imported when it runs."""

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
except KeyboardInterrupt:  # early, and still no reason for a traceback
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
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """The model registry: push and pull models, run it, and look after it."""


_Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")]
_Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")]


@app.command()
def dev(
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    data_dir: Annotated[Path, typer.Option(help="Where PostgreSQL and S3 keep everything.")] = Path(".model-registry"),
    reload: Annotated[bool, typer.Option("--reload", help="Start again when the code changes.")] = False,
) -> None:
    """Run everything on this machine: PostgreSQL, S3, and the service.

    Example: model-registry dev --port 0 --data-dir /tmp/registry
    """
    from model_registry.server.serve import develop

    develop(host, port, data_dir, reload=reload, say=typer.echo)


@app.command()
def serve(
    host: _Host = "127.0.0.1",
    port: _Port = 8000,
    workers: Annotated[int, typer.Option(min=1, max=64, help="Processes.")] = 1,
) -> None:
    """Run the service; PostgreSQL and S3 come from the settings.

    Example: model-registry serve --host 0.0.0.0 --workers 2
    """
    from model_registry.server.serve import serve as run

    run(host, port, workers)


@app.command()
def migrate() -> None:
    """Bring the database schema to what this version needs."""
    from model_registry.migrations import head_revision
    from model_registry.migrations import migrate as run
    from model_registry.settings import load_settings

    run(load_settings().database_url.get_secret_value())
    typer.echo(f"The schema is at {head_revision()}.")


@app.command()
def init_bucket() -> None:
    """Make the bucket, unless it is there."""
    from model_registry.server.commands import make_bucket
    from model_registry.settings import load_settings

    settings = load_settings()
    made = make_bucket(settings)
    typer.echo(f"Bucket {settings.s3_bucket}: {'made' if made else 'is there'}.")


@app.command()
def gc(
    once: Annotated[bool, typer.Option("--once", help="One run, then stop.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what a run would free, and free nothing.")] = False,
) -> None:
    """Reclaim what failures, crashes and removals leave behind; the service does this by itself too."""
    from model_registry.server.commands import collect_for_ever, collect_once
    from model_registry.settings import load_settings

    if once or dry_run:
        typer.echo(collect_once(load_settings(), is_dry=dry_run))
    else:
        collect_for_ever(load_settings())


@app.command()
def verify(
    model: Annotated[str | None, typer.Option(help="Only what versions of this model are made of.")] = None,
) -> None:
    """Read stored bytes again and hash them: exit with 1 when some are damaged. Pushing such a file again heals it.

    Example: model-registry verify --model fraud-detector
    """
    from model_registry.server.commands import verify as run
    from model_registry.settings import load_settings

    if not run(load_settings(), model, typer.echo):
        raise typer.Exit(1)


@app.command()
def healthcheck(
    url: Annotated[str, typer.Option(help="The service to ask.")] = "http://127.0.0.1:8000",
) -> None:
    """Exit with 0 if the service is ready, with 1 and its answer if not."""
    from model_registry.server.healthcheck import readiness

    is_ready, answer = readiness(url)
    typer.echo(answer)
    raise typer.Exit(0 if is_ready else 1)


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    import json

    from model_registry.api import app as api

    typer.echo(json.dumps(api.openapi(), indent=2))


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script: a wrong set-up, or what a registry refuses, is a line or two and not a traceback."""
    _fill_in_streams()
    warnings.formatwarning = lambda message, *_rest: f"warning: {message}\n"
    try:
        app(arguments)
    except KeyboardInterrupt:
        sys.exit(130)
    except ModuleNotFoundError as error:
        # Those of the client are installed with it.
        of_the_server = {
            str(each.callback.__name__).replace("_", "-") for each in app.registered_commands if each.callback
        }
        given = sys.argv[1:] if arguments is None else arguments
        command = next((each for each in given if each in of_the_server), "")
        _fail(
            f"`model-registry {command}` is a command of the server, and {error.name} is not installed: "
            "in a checkout, pip install '.[server,embedded]'."
        )
    except Exception as error:
        if (failed := failure(error)) is not None:
            _fail(*failed)
        if not type(error).__module__.startswith("model_registry."):
            raise
        _fail(f"{error} ({error.__cause__})" if error.__cause__ else str(error))
    sys.exit(0)


def _fill_in_streams() -> None:
    """Python has none where a descriptor is closed, as by `>&-`, and its number would go to the next file opened."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115 - for as long as the process lives
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115


def _fail(message: str, exit_code: int = 1) -> NoReturn:
    typer.echo(f"error: {message}", err=True)
    sys.exit(exit_code)


if __name__ == "__main__":
    main()
