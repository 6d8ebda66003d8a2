"""What a process is in the middle of: awaited at a shutdown, and kept from being forgotten by the event loop."""

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class BackgroundTasks:
    """The registrations and commits of a process that are not over yet, the cleaning up after failures included."""

    def __init__(self) -> None:
        # Strong references: the event loop itself keeps only weak ones to its tasks.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._begun = 0
        self._changed = asyncio.Event()

    def begin(self) -> None:
        self._begun += 1

    def end(self) -> None:
        self._begun -= 1
        self._changed.set()

    def run(self, work: Coroutine[None, None, T]) -> asyncio.Task[T]:
        """A task that goes on whatever becomes of the caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        self._changed.set()

    async def settle(self, timeout_seconds: float) -> None:
        """Wait until all of them are over, at a shutdown, but not longer than this."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                while self._begun or self._tasks:
                    self._changed.clear()
                    await self._changed.wait()
