"""Servers as separate processes, and what the kernel reports about them."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness import Report
from model_registry_devstack import StackAddresses
from tests.support.processes import environment, free_port

__all__ = ["Server", "bare", "environment", "free_port", "registry", "started"]

ROOT = Path(__file__).parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")
_LOOKS_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class Server:
    url: str
    pid: int

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def cpu_seconds(self) -> float:
        """Return user and system time so far: proc(5), fields 14 and 15 of `stat`."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mib(self, which: str = "VmRSS") -> float:
        """Return `VmRSS` now, or `VmHWM`, the highest since the start."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{which}:")[2].split()[0]) / 1024

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))


@contextmanager
def started(
    command: Sequence[str],
    url: str,
    *,
    ready_path: str = "/",
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
    seconds: float = 120,
) -> Iterator[Server]:
    """Run a command that listens at `url`, until the block ends; it begins when `ready_path` returns a success."""
    with contextlib.ExitStack() as cleanup:
        output = cleanup.enter_context(log.open("wb")) if log else subprocess.DEVNULL
        process = subprocess.Popen(  # noqa: S603
            command, env=dict(environment or os.environ), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
        )
        cleanup.callback(_end, process)
        deadline = time.monotonic() + seconds
        while not _answers(f"{url}{ready_path}"):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{' '.join(command)} does not answer at {url}{ready_path} (its log: {log}).")
            time.sleep(0.02)
        yield Server(url, process.pid)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - of a server of ours
            return True
    except (urllib.error.URLError, OSError):
        return False


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def registry(
    stack: StackAddresses, report: Report, *, workers: int = 1, log: Path | None = None, **settings: str
) -> Iterator[Server]:
    """Run our service; `settings` are named as in the environment, without the prefix.

    The report gets the highest memory and the largest number of open files of the process that was started.
    """
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "model_registry.cli", "serve", "--port", url.rpartition(":")[2]]
    command += ["--workers", str(workers)]
    with (
        started(command, url, ready_path="/readyz", environment=environment(stack, **settings), log=log) as server,
        _watched(server, report),
    ):
        yield server


@contextmanager
def _watched(server: Server, report: Report) -> Iterator[None]:
    has_ended = threading.Event()

    def look() -> None:
        while not has_ended.wait(_LOOKS_EVERY_SECONDS):
            report.peak("most open files of the service", server.open_files())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        has_ended.set()
        watcher.join()
        with contextlib.suppress(OSError):  # it has died, which another check reports
            report.peak("most MiB of the service", server.resident_mib("VmHWM"))


@contextmanager
def bare(log: Path | None = None) -> Iterator[Server]:
    """Run a FastAPI application that returns the same model each time, served like ours."""
    url = f"http://127.0.0.1:{free_port()}"
    options = ["--port", url.rpartition(":")[2], "--no-access-log", "--log-level", "warning"]
    with started([sys.executable, "-m", "uvicorn", "benchmarks.bare:app", *options], url, log=log) as server:
        yield server
