"""Runs the service in one process or several; for development also PostgreSQL and S3."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import structlog
import uvicorn
from uvicorn.supervisors import ChangeReload, Multiprocess

from model_registry.migrations import migrate
from model_registry.runtime.observability import configure_logging
from model_registry.server.http11 import BoundedHttp
from model_registry.settings import PREFIX, ConfigurationError, load_settings
from model_registry.wiring import check_schema_at

if TYPE_CHECKING:
    from model_registry_devstack import StackAddresses

log = structlog.get_logger(__name__)

_APP = "model_registry.server.graceful_shutdown:app"
_DEVELOPMENT_GRACE_SECONDS = 3
_BACKLOG = 2048


class CannotServe(ConfigurationError):
    """The service did not start. The log has the reason."""


def serve(host: str, port: int, workers: int) -> None:
    """Serve until SIGINT or SIGTERM, then finish the requests in flight within the grace time."""
    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    asyncio.run(check_schema_at(settings))
    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(KeyboardInterrupt), _listen(host, port) as listener:
        config = _config(settings.shutdown_grace_seconds, workers=workers)
        log.info("serving", url=f"http://{_for_people(host)}:{listener.getsockname()[1]}", workers=workers)
        if workers > 1:
            Multiprocess(config, sockets=[listener]).run()
        else:
            _run(_AnnouncingServer(config, lambda: None), listener)


def develop(host: str, port: int, data_dir: Path, *, reload: bool, say: Callable[[str], None]) -> None:
    """Start PostgreSQL and S3, migrate, and serve until SIGINT or SIGTERM."""
    # Only development needs the devstack; a server runs without it.
    from model_registry_devstack import EmbeddedStack

    signal.signal(signal.SIGTERM, _leave)
    with contextlib.suppress(KeyboardInterrupt), ExitStack() as cleanup:
        listener = cleanup.enter_context(_listen(host, port))
        stack = EmbeddedStack(data_dir)
        cleanup.callback(stack.stop)
        addresses = stack.start()
        os.environ.update(_as_environment(addresses))
        os.environ.setdefault(f"{PREFIX}SHUTDOWN_DELAY_SECONDS", "0")  # there is no load balancer
        migrate(load_settings().database_url.get_secret_value())
        url = f"http://{_for_people(host)}:{listener.getsockname()[1]}"
        address_file = data_dir / "address"
        address_file.unlink(missing_ok=True)  # left by a run that was killed
        cleanup.callback(address_file.unlink, missing_ok=True)
        config = _config(_DEVELOPMENT_GRACE_SECONDS, reload=reload)

        def announce() -> None:
            address_file.write_text(f"{url}\n")
            say(_welcome(url, data_dir))

        if reload:
            announce()
            ChangeReload(config, target=uvicorn.Server(config).run, sockets=[listener]).run()
        else:
            _run(_AnnouncingServer(config, announce), listener)


def _leave(_signal: int, _frame: object) -> NoReturn:
    # An exception closes what is open on its way out. The default action of the signal does not.
    raise SystemExit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, so that a port in use is an error before anything has started.

    The socket names its protocol: asyncio sets TCP_NODELAY only on sockets that name TCP. Workers that inherit a socket
    without it wait for a delayed acknowledgement (40 ms) with every response.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # From now on clients wait until the service is ready; the kernel does not refuse them.
        listener.listen(_BACKLOG)
    except OSError as error:
        raise ConfigurationError(
            f"Cannot listen on {host}:{port} ({error.strerror}); choose another port with --port (0 for any free one)."
        ) from None
    listener.set_inheritable(True)
    return listener


def _config(grace_seconds: int, *, reload: bool = False, workers: int = 1) -> uvicorn.Config:
    return uvicorn.Config(
        _APP,
        http=BoundedHttp,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=grace_seconds,
        reload=reload,
        reload_dirs=[str(Path(__file__).parents[1])] if reload else None,
        workers=workers,
    )


class _AnnouncingServer(uvicorn.Server):
    """Calls `announce` when the server accepts requests."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._announce()


def _run(server: _AnnouncingServer, listener: socket.socket) -> None:
    server.run(sockets=[listener])
    if not server.started:
        raise CannotServe("The service did not start; the log above has the reason.")


def _as_environment(addresses: "StackAddresses") -> dict[str, str]:
    values = {
        "DATABASE_URL": addresses.database_url,
        "S3_ENDPOINT_URL": addresses.s3_endpoint_url,
        "S3_PUBLIC_ENDPOINT_URL": addresses.s3_endpoint_url,
        "S3_BUCKET": addresses.s3_bucket,
        "S3_REGION": addresses.s3_region,
        "S3_ACCESS_KEY_ID": addresses.s3_access_key_id,
        "S3_SECRET_ACCESS_KEY": addresses.s3_secret_access_key,
    }
    return {PREFIX + name: value for name, value in values.items()}


def _for_people(host: str) -> str:
    if host in {"127.0.0.1", "0.0.0.0", "::", "::1", "localhost"}:
        return "localhost"
    return f"[{host}]" if ":" in host else host


def _welcome(url: str, data_dir: Path) -> str:
    return f"""
Model Registry is ready.

  Swagger UI   {url}/docs
  ReDoc        {url}/redoc
  Data         {data_dir.resolve()}   (PostgreSQL, S3 and their logs; delete it to start again without data)

Try this in another terminal:

  curl -F model_name=demo -F version=1.0.0 -F model_file=@README.md {url}/register_model
  curl {url}/get_latest_model_info/demo
  curl -o copy.md {url}/get_model/demo/latest

Ctrl-C stops everything and keeps the data.
"""
