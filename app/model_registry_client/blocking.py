"""Runs an `AsyncRegistry` in a thread of its own, for code without an event loop."""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

from model_registry_client.async_registry import AsyncRegistry, Pages
from model_registry_client.errors import UsageError
from model_registry_client.retries import RetryPolicy
from model_registry_client.settings import Settings

T = TypeVar("T")

_CLOSING_SECONDS = 10
_CLOSED = "This client is closed. Create another one."


class _Background:
    """An `AsyncRegistry` and its event loop, in a thread that ends with the process at the latest."""

    def __init__(self, make: Callable[[], AsyncRegistry]) -> None:
        self.process_id = os.getpid()
        self._make = make
        self._started: Future[None] = Future()
        # A daemon thread: if nobody closes the client, the interpreter must not wait for it.
        self._thread = threading.Thread(target=self._run, name="model-registry-client", daemon=True)
        self._thread.start()
        self._started.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with self._make() as self.registry:
            self._started.set_result(None)
            await self._stop.wait()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and return its result. Ctrl-C cancels it and waits until it has cleaned up."""
        is_over = threading.Event()

        async def watched() -> T:
            try:
                return await work
            finally:
                is_over.set()

        watched_work = watched()
        try:
            future = asyncio.run_coroutine_threadsafe(watched_work, self._loop)
        except RuntimeError:
            watched_work.close()
            work.close()
            raise UsageError(_CLOSED) from None
        try:
            return future.result()
        except CancelledError:
            raise UsageError(_CLOSED) from None
        except BaseException:
            if not future.done():
                future.cancel()
                is_over.wait(_CLOSING_SECONDS)
            raise

    def close(self) -> None:
        # A forked process has neither the thread nor the connections.
        if self.process_id != os.getpid() or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # another thread closed it first
            self._loop.call_soon_threadsafe(self._stop.set)
        # The garbage collector may run in that very thread.
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSING_SECONDS)


class BlockingClient:
    """The base of `Registry`: its settings, its thread, and how it waits for a result."""

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, policy: RetryPolicy | None = None
    ) -> None:
        self.settings = settings or Settings.load(url=url)
        # Not a bound method: the thread must not keep this client alive.
        self._make = partial(AsyncRegistry, url, settings=self.settings, policy=policy)
        self._lock = threading.Lock()
        self._is_closed = False
        self._background = self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel running calls and close the connections."""
        self._is_closed = True
        self._background.close()

    @property
    def _registry(self) -> AsyncRegistry:
        return self._running().registry

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._running().wait_for(work)

    def _items(self, pages: Pages[T]) -> Iterator[T]:
        # One page at a time: switching threads for each item would take longer than fetching it.
        while not pages.is_over:
            yield from self._wait(pages.next_page())

    def _running(self) -> _Background:
        if self._is_closed:
            raise UsageError(_CLOSED)
        if self._background.process_id != os.getpid():
            with self._lock:
                if self._background.process_id != os.getpid():
                    self._background = self._begin()
        return self._background

    def _begin(self) -> _Background:
        background = _Background(self._make)
        # Also runs when the process ends, while the event loop still works.
        weakref.finalize(self, background.close)
        return background
