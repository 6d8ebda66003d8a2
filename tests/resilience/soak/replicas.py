"""Replicas of the service as processes that die, freeze and come back."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from model_registry.runtime.failpoints import EXIT_CODE, VARIABLE, Point
from tests.resilience.soak.tally import Tally
from tests.support.processes import COMMAND, free_port, resident_bytes, until_ready

# Any transaction passes these, including those of the collector, many times a second.
_BUSY = {"tx-before-commit", "tx-after-commit"}
_MIB = 1024**2
# 130 MiB and 12 buffers of 8 MiB (docs/operations.md), and as much again for memory that CPython keeps.
_MOST_RESIDENT = 450 * _MIB
_MOST_FILES = 400


def random_faults(chance: random.Random) -> str:
    """Return every crash point, each with a probability of its own."""
    probabilities = {
        point: chance.choice((0.0, 0.0001, 0.0005)) if point in _BUSY else chance.choice((0, 0.002, 0.01, 0.03))
        for point in get_args(Point)
    }
    probabilities["g-s3-deleted"] /= 4
    return ",".join(f"{point}:{probability}" for point, probability in probabilities.items())


class Replica:
    """One address, where a process serves most of the time. If the process ends, another one is started."""

    def __init__(
        self, name: str, *, environment: dict[str, str], directory: Path, tally: Tally, mutant: str | None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = directory / f"{name}.log"
        self._name = name
        self._environment = environment
        self._directory = directory
        self._tally = tally
        self._is_mutant = mutant is not None
        entry = COMMAND if mutant is None else [sys.executable, "-m", "tests.resilience.soak.serve_mutant", mutant]
        self._command = [*entry, "serve", "--port", str(self.port)]
        self._process: asyncio.subprocess.Process | None = None
        self._expected: set[int] = set()
        self._log_began = 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, faults: str = "") -> None:
        """Start the process and return; it may die before it is ready."""
        environment = self._environment | ({VARIABLE: faults} if faults else {})
        self._expected = {EXIT_CODE} if faults or self._is_mutant else set()
        with self.log.open("ab") as log:
            self._log_began = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command, env=environment, cwd=self._directory, stdout=log, stderr=log
            )

    async def ready(self, timeout_seconds: float = 120) -> None:
        await until_ready(self.url, timeout_seconds)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if there is a process."""
        if number == signal.SIGKILL:
            self._expected.add(-signal.SIGKILL)
        elif number == signal.SIGTERM:
            # During imports and at the very end, a signal has its default action; in between the process ends in order.
            is_second = 0 in self._expected
            self._expected |= {0} if self._has_logged("serving") and not is_second else {0, -signal.SIGTERM}
        with contextlib.suppress(ProcessLookupError):
            if self._process is not None:
                self._process.send_signal(number)

    @property
    def is_up(self) -> bool:
        """Whether the process answers, as far as known."""
        return self.is_running and self._has_logged("Application startup complete.")

    def _has_logged(self, event: str) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._log_began)
            return f'"event": "{event}"'.encode() in log.read()

    async def ended(self) -> None:
        """Return when the process has ended; counts crash points, and complains about an unexpected end."""
        assert self._process is not None
        code = await self._process.wait()
        if code == EXIT_CODE:
            self._tally.crash_points_hit += 1
        if code not in self._expected:
            self._tally.complain("M6", f"{self._name} ended with {code} and nobody asked for that; see {self.log}")

    async def stop(self) -> None:
        """End it gracefully; after the grace time, by force and with a complaint."""
        if not self.is_running:
            return
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        try:
            await asyncio.wait_for(self.ended(), 20)
        except TimeoutError:
            self._tally.complain("M6", f"{self._name} was still there 20 seconds after SIGTERM")
            await self.kill()

    async def kill(self) -> None:
        """End it by force."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def measure(self) -> str:
        """M8, roughly: return memory and files of the process now."""
        assert self._process is not None
        pid = self._process.pid
        try:
            resident, files = resident_bytes(pid), len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - only counted
        except (OSError, IndexError):
            return f"{self._name}: gone"
        if resident > _MOST_RESIDENT:
            self._tally.complain("M8", f"{self._name} has {resident // _MIB} MiB resident")
        if files > _MOST_FILES:
            self._tally.complain("M8", f"{self._name} has {files} files open")
        return f"{self._name}: {resident // _MIB} MiB, {files} files"

    def bugs_logged(self) -> list[str]:
        """Return the errors in the log that are neither an outage nor a refusal."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                said = json.loads(line)
            except ValueError:
                said = None
            if not isinstance(said, dict):
                if line.strip():
                    found.append(line)
            elif said.get("level") in {"error", "critical"} and not _is_outage(said):
                found.append(line)
        return found


def _is_outage(said: Mapping[str, str]) -> bool:
    """Return whether an error in the log is expected.

    Expected are downloads that were cut because their version was purged with no grace time, and uvicorn's messages
    about every response that has no end, and about a grace time that is over.
    """
    if said["event"] == "ASGI callable returned without completing response.":
        return True
    if said["event"].endswith("timeout graceful shutdown exceeded"):
        return True
    return "BlobMissing" in said.get("exception", "")
