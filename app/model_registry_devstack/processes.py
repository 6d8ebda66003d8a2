"""Processes that end when this process ends, even if it is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from model_registry_devstack.errors import EmbeddedStackError, ServerFailed

_CHILD = Path(__file__).with_name("child.py")
# Linux can signal a process when its parent dies. On other systems the shim (child.py) stays and watches.
_MODE = "exec" if sys.platform == "linux" else "watch"
_HAS_PROC = sys.platform == "linux"

# The only environment variables that servers see: PGOPTIONS, WEED_*, AWS_* or http_proxy would change what they do.
_INHERITED = ("PATH", "TZ", "LD_LIBRARY_PATH")

_RUN_POLL_SECONDS = 0.05
_LOG_BYTES = 8 * 1024**2
_LEFTOVERS_END_SECONDS = 2
_LEFTOVERS_GIVE_UP_SECONDS = 20


# How to ask a server to end, most gracefully first, with the number of seconds for each request.
StopSignals = tuple[tuple[signal.Signals, float], ...]


class Stopped(Exception):
    """The stack was told to stop in the meantime. This is not a failure."""


def spawn(
    command: list[str],
    *,
    cwd: Path,
    log: Path,
    environment: Mapping[str, str] | None = None,
    user_id: int | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
    stdin: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start a process that gets `death_signal` when the calling *thread* ends, and so whenever this process ends.

    The process leads a session of its own. A Ctrl-C in the terminal therefore reaches only us, and we stop it in order.
    """
    shim = [sys.executable, "-I", "-S", str(_CHILD), str(os.getpid()), _MODE, str(int(death_signal))]
    user = "-" if user_id is None else str(user_id)
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    with log.open("ab") as output:
        return subprocess.Popen(
            [*shim, user, *command],
            cwd=cwd,
            env={**inherited, **(environment or {})},
            stdin=stdin,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def run(command: list[str], *, text: str, cwd: Path, log: Path, user_id: int | None, stopping: threading.Event) -> None:
    """Run a short-lived tool that reads `text`, until it has succeeded."""
    process = spawn(command, cwd=cwd, log=log, user_id=user_id, stdin=subprocess.PIPE)
    unsent: bytes | None = text.encode()
    try:
        while process.returncode is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(unsent, timeout=_RUN_POLL_SECONDS)
            unsent = None
            if stopping.is_set():
                raise Stopped
    finally:
        kill(process)
    if process.returncode != 0:
        raise ServerFailed(f"{Path(command[0]).name} failed ({how_it_ended(process)}).", log)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and, in watch mode, the server below it. Does nothing if the process has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def how_it_ended(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def end_leftovers(marker: str) -> None:
    """Wait until every process that has `marker` in its command line has ended; kill those that take too long.

    They are the orphans of a killed run, or the backends of a killed postmaster. Most are ending already, but a backend
    in a long computation does not notice that its postmaster is gone.
    """
    begun = time.monotonic()
    while pids := _mentioning(marker):
        waited = time.monotonic() - begun
        if waited > _LEFTOVERS_GIVE_UP_SECONDS:
            raise EmbeddedStackError(f"Processes of an earlier run do not end: {', '.join(map(str, pids))}. End them.")
        if waited > _LEFTOVERS_END_SECONDS:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def command_line(pid: int) -> str:
    """Return what `ps` shows for a process, or an empty string if there is no such process or only a zombie."""
    if _HAS_PROC:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            return ""
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return shown.stdout.decode(errors="replace")


def _mentioning(marker: str) -> list[int]:
    if _HAS_PROC:
        pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        return [pid for pid in pids if marker in command_line(pid)]
    shown = subprocess.run(["ps", "-axww", "-o", "pid=,command="], capture_output=True, check=True)
    lines = shown.stdout.decode(errors="replace").splitlines()
    return [int(line.split(maxsplit=1)[0]) for line in lines if marker in line]


def rotate(log: Path) -> None:
    """Rotate a log that has grown, and keep at most one older generation of it."""
    if log.exists() and log.stat().st_size > _LOG_BYTES:
        log.replace(log.with_suffix(".old.log"))
