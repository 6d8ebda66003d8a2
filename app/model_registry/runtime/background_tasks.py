"""Work that outlives its request, and that a shutdown waits for."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundTasks:
    """The registrations and commits of a process that are in progress, including the cleanup after failures."""

    def __init__(self) -> None:
        # Strong references, because the event loop keeps only weak references to its tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun = 0
        self._changed = asyncio.Event()

    def begin(self) -> None:
        """Count work that runs in the caller's own task, until `end`."""
        self._begun += 1

    def end(self) -> None:
        self._begun -= 1
        self._changed.set()

    def run(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """Start a task that continues when the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def settle(self, timeout_seconds: float) -> None:
        """Wait until all of the work is over, or until the timeout."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._begun or self._tasks:
                    self._changed.clear()
                    await self._changed.wait()
