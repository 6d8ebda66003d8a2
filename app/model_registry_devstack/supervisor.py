"""Keeps one server running, from one thread."""

import contextlib
import logging
import subprocess
import threading
import time
from pathlib import Path
from typing import Protocol

from model_registry_devstack.errors import EmbeddedStackError, ServerFailed
from model_registry_devstack.processes import Stopped, StopSignals, end_leftovers, how_it_ended, kill

log = logging.getLogger("model_registry_devstack")

_START_SECONDS = 60
_POLL_SECONDS = 0.02
_WATCH_SECONDS = 0.1
_STEADY_SECONDS = 10
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 3.0


class Server(Protocol):
    name: str
    log: Path
    # In the command line of each of its processes, and of no other process on this machine.
    marker: str
    stop_signals: StopSignals

    def prepare(self, stopping: threading.Event) -> None:
        """Prepare the data for a start. Called before each start, when no process of the server is alive."""

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start the server."""

    def is_ready(self) -> bool:
        """Return whether the server answers; takes a few seconds at most."""


class Supervisor(threading.Thread):
    """Starts a server, restarts it whenever it ends, and stops it on request.

    The thread that spawns a server has to live as long as the server: Linux sends the parent-death signal when that
    *thread* ends. So each supervisor spawns, watches and stops its own server.
    """

    def __init__(self, server: Server) -> None:
        super().__init__(name=f"embedded {server.name}", daemon=True)
        self._server = server
        self._stopping = threading.Event()
        self._settled = threading.Event()
        self._failure: Exception | None = None

    def wait_until_ready(self) -> None:
        self._settled.wait()
        if self._failure is not None:
            raise self._failure

    def request_stop(self) -> None:
        self._stopping.set()

    def run(self) -> None:
        try:
            process = self._bring_up()
        except Exception as error:
            self._failure = error
            return
        finally:
            self._settled.set()
        with contextlib.suppress(Stopped):
            self._keep_up(process)

    def _bring_up(self) -> subprocess.Popen[bytes]:
        server = self._server
        end_leftovers(server.marker)
        server.prepare(self._stopping)
        process = server.spawn()
        deadline = time.monotonic() + _START_SECONDS
        try:
            while not server.is_ready():
                if process.poll() is not None:
                    raise ServerFailed(f"{server.name} did not start ({how_it_ended(process)}).", server.log)
                if time.monotonic() > deadline:
                    raise ServerFailed(f"{server.name} was not ready within {_START_SECONDS} seconds.", server.log)
                if self._stopping.wait(_POLL_SECONDS):
                    raise Stopped
        except BaseException:
            self._end(process)
            raise
        return process

    def _keep_up(self, process: subprocess.Popen[bytes]) -> None:
        pause = _FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            while process.poll() is None:
                if self._stopping.wait(_WATCH_SECONDS):
                    self._end(process)
                    return
            log.warning("%s ended unexpectedly (%s): starting it again", self._server.name, how_it_ended(process))
            if time.monotonic() - begun > _STEADY_SECONDS:
                pause = _FIRST_PAUSE_SECONDS
            process, pause = self._bring_back(pause)

    def _bring_back(self, pause: float) -> tuple[subprocess.Popen[bytes], float]:
        """Try until the server runs again; each attempt doubles the pause before the next one."""
        while True:
            if self._stopping.wait(pause):
                raise Stopped
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            try:
                return self._bring_up(), pause
            except (EmbeddedStackError, OSError) as error:
                log.error("%s; trying again in %.1f seconds", str(error).partition("\n")[0], pause)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        for number, seconds in self._server.stop_signals:
            process.send_signal(number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
            return
        kill(process)
        end_leftovers(self._server.marker)
