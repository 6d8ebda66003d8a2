"""Services by fork: one process imports everything, and each test gets a copy of it that serves at once.

A copy is armed as `REGISTRY_FAULTS` arms a process. In addition, it can pass its crash point a number of times first.
"""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, get_args

from model_registry.runtime import failpoints
from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import ServiceProcess, announced_url, service_environment
from tests.support.checkout import ROOT
from tests.support.processes import environment

PATIENCE_SECONDS = 120
"""Importing the service takes a second, and half a minute on a machine that does ten other things."""


class Nursery:
    def __init__(self, mother: asyncio.subprocess.Process, folder: Path) -> None:
        self._mother = mother
        self._folder = folder
        self._numbers = itertools.count(1)
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def open(cls, folder: Path) -> AsyncIterator["Nursery"]:
        env = environment() | {failpoints.VARIABLE: ",".join(f"{point}:0" for point in get_args(failpoints.Point))}
        env["PYTHONPATH"] = os.pathsep.join([str(ROOT), env["PYTHONPATH"]])
        mother = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "tests.resilience.faults.forked"),
            env=env,
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            yield cls(mother, folder)
        finally:
            assert mother.stdin is not None
            mother.stdin.close()
            with contextlib.suppress(ConnectionError):
                await mother.stdin.wait_closed()
            await asyncio.wait_for(mother.wait(), PATIENCE_SECONDS)

    @asynccontextmanager
    async def serving(
        self, stack: StackAddresses, point: str = "", *, passed: int = 0, **settings: str
    ) -> AsyncIterator[ServiceProcess]:
        """As `measures.serving`; the process dies at `point` after passing it the given number of times."""
        log = self._folder / f"{next(self._numbers)}.log"
        log.touch()
        pid = await self._ask(env=service_environment(stack, **settings), log=str(log), point=point, passed=passed)

        async def exit_code() -> int:
            while True:
                if (code := await self._ask(poll=pid)) is not None:
                    return int(code)
                await asyncio.sleep(0.01)

        try:
            yield ServiceProcess(await _announced(log), pid, exit_code)
        finally:
            await self._ask(end=pid)

    async def _ask(self, **question: Any) -> Any:
        assert self._mother.stdin is not None
        assert self._mother.stdout is not None
        async with self._turn:
            self._mother.stdin.write(json.dumps(question).encode() + b"\n")
            return json.loads(await asyncio.wait_for(self._mother.stdout.readline(), PATIENCE_SECONDS))


async def _announced(log: Path) -> str:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for line in _lines(log):
                if '"serving"' in line and line.endswith("\n"):
                    return announced_url(line)
            await asyncio.sleep(0.01)


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines(keepends=True)
