"""Kills, freezes and ends processes at random, and restarts what has died."""

import asyncio
import os
import random
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.resilience.soak.replicas import Replica, random_faults
from tests.resilience.soak.tally import Tally

_OF_STORE_SECONDS = 120


def servers_called(program: str) -> list[int]:
    """Return our child processes that run this program: the postmaster, or the S3 server."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if parent == os.getpid() and Path(command).name == program:
            found.append(int(entry.name))
    return found


class Monkey:
    """`faults` arms crash points at random on each start. Servers are killed only if they are our own."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        tally: Tally,
        chance: random.Random,
        *,
        lease_seconds: float,
        pause_seconds: tuple[float, float],
        weights: Mapping[str, float],
        faults: bool,
    ) -> None:
        self._replicas = replicas
        self._tally = tally
        self._chance = chance
        self._lease_seconds = lease_seconds
        self._pause_seconds = pause_seconds
        self._weights = weights
        self._faults = faults
        self._store_may_die_at = time.monotonic() + 20

    async def keep_up(self, replica: Replica) -> None:
        """Restart a replica whenever it has ended, until cancelled."""
        while True:
            if not replica.is_running:
                await replica.start(random_faults(self._chance) if self._faults else "")
            await replica.ended()
            await asyncio.sleep(self._chance.uniform(0, 0.5))

    async def rage(self) -> None:
        """Strike one blow after the other, until cancelled."""
        while True:
            await asyncio.sleep(self._chance.uniform(*self._pause_seconds))
            (blow,) = self._chance.choices(list(self._weights), list(self._weights.values()))
            replica = self._chance.choice(self._replicas)
            # Even on a slow machine, most of them get to serve before they are hit.
            is_there = replica.is_up or (replica.is_running and self._chance.random() < 0.1)
            match blow:
                case "kill" if is_there:
                    replica.send(signal.SIGKILL)
                case "terminate" if is_there:
                    replica.send(signal.SIGTERM)
                case "freeze" if is_there:
                    replica.send(signal.SIGSTOP)
                    try:
                        await asyncio.sleep(self._lease_seconds * self._chance.uniform(0.8, 1.8))
                    finally:
                        replica.send(signal.SIGCONT)
                case "postgres":
                    self._kill_server("postgres")
                case "store" if time.monotonic() > self._store_may_die_at:
                    self._store_may_die_at = time.monotonic() + _OF_STORE_SECONDS
                    self._kill_server("weed")
                case _:
                    continue
            self._tally.kills[blow] += 1

    def _kill_server(self, program: str) -> None:
        for pid in servers_called(program):
            os.kill(pid, signal.SIGKILL)
