"""Both servers on one data directory."""

import atexit
import contextlib
import dataclasses
import fcntl
import json
import os
import secrets
import time
from pathlib import Path
from types import TracebackType

from model_registry_devstack.errors import DataDirInUse, EmbeddedStackError, ServerFailed
from model_registry_devstack.ports import Ports, pick_ports
from model_registry_devstack.postgres import Postgres
from model_registry_devstack.processes import end_leftovers
from model_registry_devstack.seaweedfs import BUCKET, REGION, SeaweedFS
from model_registry_devstack.supervisor import Server, Supervisor

_ATTEMPTS = 3
_LOCK_SECONDS = 0.3
_FREE_PORTS_SECONDS = 1


@dataclasses.dataclass(frozen=True)
class StackAddresses:
    database_url: str
    s3_endpoint_url: str
    s3_bucket: str
    s3_region: str
    s3_access_key_id: str
    s3_secret_access_key: str


@dataclasses.dataclass(frozen=True)
class _Credentials:
    postgres_password: str
    s3_access_key_id: str
    s3_secret_access_key: str


class EmbeddedStack:
    """PostgreSQL and an S3 server that run as long as this process does, with their data in `data_dir`.

    They listen on 127.0.0.1 only and require the credentials that `start` returns. A server that dies is started again
    at the same address. The servers end when this process ends, even if it is killed; the next start has all data that
    was acknowledged. You may move `data_dir` between two starts, but only the user who created it can use it.

    Parameters
    ----------
    durable
        False for test suites: PostgreSQL then survives its own death, but not a crash of the machine.
    """

    def __init__(self, data_dir: Path, *, durable: bool = True) -> None:
        self._data_dir = data_dir.absolute()
        self._durable = durable
        self._supervisors: list[Supervisor] = []
        self._held = contextlib.ExitStack()
        self._pid = os.getpid()

    def __enter__(self) -> StackAddresses:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> StackAddresses:
        """Start both servers at once, and return when PostgreSQL has its database and S3 has taken an object.

        Raises
        ------
        DataDirInUse
            Another stack runs on this directory.
        EmbeddedNotInstalled
            The wheels with the servers are missing.
        EmbeddedStackError
            A server did not start. No server is running now.
        """
        if self._supervisors:
            raise RuntimeError("This stack is running.")
        self._pid = os.getpid()
        atexit.register(self.stop)
        try:
            self._make_data_dir()
            self._lock_data_dir()
            return self._start_servers()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop both servers: gracefully, and after some seconds by force. Does nothing if they are not running."""
        if os.getpid() != self._pid:
            # This process is a fork of the one that the servers belong to.
            return
        self._stop_servers()
        self._held.close()
        atexit.unregister(self.stop)

    def _make_data_dir(self) -> None:
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            owner = self._data_dir.stat().st_uid
            if owner != os.geteuid():
                raise EmbeddedStackError(f"{self._data_dir} belongs to user {owner}, not to user {os.geteuid()}.")
            self._data_dir.chmod(0o700)
            (self._data_dir / "logs").mkdir(exist_ok=True)
            (self._data_dir / ".gitignore").write_text("*\n")
        except OSError as error:
            raise EmbeddedStackError(f"Cannot write to {self._data_dir}: {error.strerror}.") from error

    def _lock_data_dir(self) -> None:
        """Lock the directory until this process ends; the servers do not inherit the lock.

        A process that was just killed may hold it for some milliseconds more.
        """
        lock = os.open(self._data_dir / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._held.callback(os.close, lock)
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DataDirInUse(self._data_dir, os.pread(lock, 100, 0).decode().strip()) from None
                time.sleep(0.02)
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"pid {os.getpid()}\n".encode(), 0)

    def _start_servers(self) -> StackAddresses:
        credentials = self._credentials()
        for server in (Postgres, SeaweedFS):
            end_leftovers(self._marker(server))
        for _ in range(_ATTEMPTS - 1):
            ports = self._choose_ports()
            try:
                return self._start_on(ports, credentials)
            except ServerFailed:
                self._stop_servers()
                if ports.are_free():
                    raise
                # Another process took a port after we had found it free.
        return self._start_on(self._choose_ports(), credentials)

    def _start_on(self, ports: Ports, credentials: _Credentials) -> StackAddresses:
        postgres = Postgres(
            self._data_dir,
            self._marker(Postgres),
            ports.postgres,
            credentials.postgres_password,
            durable=self._durable,
        )
        weed = SeaweedFS(
            self._data_dir,
            self._marker(SeaweedFS),
            ports,
            credentials.s3_access_key_id,
            credentials.s3_secret_access_key,
        )
        addresses = StackAddresses(
            database_url=postgres.url,
            s3_endpoint_url=weed.url,
            s3_bucket=BUCKET,
            s3_region=REGION,
            s3_access_key_id=credentials.s3_access_key_id,
            s3_secret_access_key=credentials.s3_secret_access_key,
        )
        state = {"pid": os.getpid(), "ports": dataclasses.asdict(ports), "addresses": dataclasses.asdict(addresses)}
        _write_private(self._state_file, state)
        self._held.callback(weed.remove_sockets)
        servers: tuple[Server, ...] = (postgres, weed)
        for server in servers:
            supervisor = Supervisor(server)
            supervisor.start()
            self._supervisors.append(supervisor)
        for supervisor in self._supervisors:
            supervisor.wait_until_ready()
        return addresses

    def _stop_servers(self) -> None:
        for supervisor in self._supervisors:
            supervisor.request_stop()
        for supervisor in self._supervisors:
            supervisor.join()
        self._supervisors.clear()

    def _credentials(self) -> _Credentials:
        """Return the secrets. They are created once: PostgreSQL stores its password, and a saved S3 key stays valid."""
        path = self._data_dir / "credentials.json"
        if not path.exists():
            made = _Credentials(secrets.token_hex(24), secrets.token_hex(10).upper(), secrets.token_hex(20))
            _write_private(path, dataclasses.asdict(made))
        return _Credentials(**json.loads(path.read_text()))

    def _choose_ports(self) -> Ports:
        """Return the ports of the last run if they are free; a process that was just killed holds them for a moment."""
        try:
            last = Ports(**json.loads(self._state_file.read_text())["ports"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return pick_ports()
        deadline = time.monotonic() + _FREE_PORTS_SECONDS
        while not last.are_free():
            if time.monotonic() > deadline:
                return pick_ports()
            time.sleep(0.02)
        return last

    def _marker(self, server: type[Postgres | SeaweedFS]) -> str:
        """Return the common part of our servers' command lines; a moved directory keeps it, a copied one does not."""
        directory = self._data_dir.stat()
        return f"model-registry-{directory.st_dev:x}-{directory.st_ino:x}-{server.name.lower()}"

    @property
    def _state_file(self) -> Path:
        return self._data_dir / "stack.json"


def _write_private(path: Path, content: dict[str, object]) -> None:
    """Replace a file that only its owner may read. A crash leaves either the old or the new file."""
    new = path.with_suffix(".new")
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
