"""Work in parallel and in threads: after a cancellation nothing of it still runs."""

import asyncio
import threading
from typing import Any

import pytest

from model_registry_client.concurrency import cancelled, for_each, in_thread


@pytest.mark.parametrize("cancellations", [1, 2])
async def test_a_cancelled_worker_ends_after_its_thread(cancellations: int) -> None:
    started, release = threading.Event(), threading.Event()
    order: list[str] = []

    def write() -> None:
        started.set()
        release.wait()
        order.append("thread")

    async def work(item: str) -> None:
        if item == "waits":
            await asyncio.Event().wait()
        try:
            await in_thread(write)
        finally:
            order.append("worker")

    running = asyncio.create_task(for_each(["waits", "writes"], work, parallel=2))
    await asyncio.to_thread(started.wait)
    for _ in range(cancellations):
        running.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await running
    assert order == ["thread", "worker"]


async def test_the_first_failure_ends_the_other_workers() -> None:
    ended = asyncio.Event()

    async def work(item: str) -> None:
        if item == "fails":
            raise ValueError(item)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with pytest.raises(ValueError, match="fails"):
        await for_each(["waits", "fails"], work, parallel=2)
    assert ended.is_set()


async def test_a_cancellation_while_tasks_are_cancelled_is_not_lost() -> None:
    release = asyncio.Event()
    began = asyncio.Event()

    async def slow_to_end() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            began.set()
            await release.wait()

    async def caller(task: asyncio.Task[Any]) -> None:
        await asyncio.sleep(0)
        await cancelled([task])

    task = asyncio.create_task(slow_to_end())
    calling = asyncio.create_task(caller(task))
    await began.wait()
    calling.cancel()
    await asyncio.sleep(0)
    release.set()

    with pytest.raises(asyncio.CancelledError):
        await calling
    assert task.done()
