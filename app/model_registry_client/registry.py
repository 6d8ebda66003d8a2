"""The registry for code without an event loop: one in a thread of its own does the work."""

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from functools import partial
from inspect import isfunction
from io import BufferedReader
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from model_registry_client.async_registry import UNSET, AsyncRegistry, Pages, Unset
from model_registry_client.errors import UsageError
from model_registry_client.progress import Progress
from model_registry_client.settings import Settings
from model_registry_client.transport import RetryPolicy
from model_registry_client.types import (
    Alias,
    AliasMove,
    DownloadUrl,
    Event,
    File,
    Model,
    Pulled,
    Pushed,
    Ref,
    Transfer,
    Version,
)

T = TypeVar("T")

_CLOSING_SECONDS = 10
_CLOSED = "This registry is closed: make another."


class _Background:
    """An `AsyncRegistry` and its event loop, in a thread that ends with the process at the latest."""

    def __init__(self, make: Callable[[], AsyncRegistry]) -> None:
        self.process_id = os.getpid()
        self._make = make
        self._started: Future[None] = Future()
        # A daemon: where nobody closes it, the interpreter must not wait for it.
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
        """What `work` comes to. Ctrl-C cancels it, and waits until it has put things in order."""
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
        # Of a process that was forked off, neither the thread nor the connections are its own.
        if self.process_id != os.getpid() or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # two close it, and the other one was faster
            self._loop.call_soon_threadsafe(self._stop.set)
        # The garbage collector may have come by in the very thread.
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSING_SECONDS)


class Registry:
    """A registry at `url`, or where the settings say; see `AsyncRegistry` for what the methods do.

    Any number of threads may use one. It works after `fork`, too, and need not be closed before the process ends.
    """

    def __init__(
        self, url: str | None = None, *, settings: Settings | None = None, policy: RetryPolicy | None = None
    ) -> None:
        self.settings = settings or Settings.load(url=url)
        # Without `self`: what runs in the background must not keep it alive.
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
        """End what is under way, and let go of the connections."""
        self._is_closed = True
        self._background.close()

    @property
    def base_url(self) -> str:
        return self._registry.base_url

    def url(self, ref: Ref | str, path: str | None = None) -> str:
        return self._registry.url(ref, path)

    def models(
        self, search: str | None = None, tags: Mapping[str, object] | None = None, *, page_size: int = 1000
    ) -> Iterator[Model]:
        return self._items(self._registry.models(search, tags, page_size=page_size))

    def model(self, name: str) -> Model:
        return self._wait(self._registry.model(name))

    def create_model(
        self, name: str, *, description: str | None = None, tags: Mapping[str, object] | None = None
    ) -> Model:
        return self._wait(self._registry.create_model(name, description=description, tags=tags))

    def update_model(
        self,
        name: str,
        *,
        description: str | Unset | None = UNSET,
        tags: Mapping[str, object] | Unset = UNSET,
        if_match: str | None = None,
    ) -> Model:
        return self._wait(self._registry.update_model(name, description=description, tags=tags, if_match=if_match))

    def delete_model(self, name: str) -> None:
        self._wait(self._registry.delete_model(name))

    def versions(
        self, name: str, state: str = "ready", order: str = "precedence", *, page_size: int = 100
    ) -> Iterator[Version]:
        return self._items(self._registry.versions(name, state, order, page_size=page_size))

    def search(
        self,
        filter: str | None = None,  # noqa: A002 - as the API has it
        order_by: str | None = None,
        *,
        page_size: int = 100,
    ) -> Iterator[Version]:
        return self._items(self._registry.search(filter, order_by, page_size=page_size))

    def version(self, ref: Ref | str) -> Version:
        return self._wait(self._registry.version(ref))

    def update(
        self,
        ref: Ref | str,
        *,
        description: str | Unset | None = UNSET,
        tags: Mapping[str, object] | Unset = UNSET,
        additional_metadata: Mapping[str, object] | Unset = UNSET,
        if_match: str | None = None,
    ) -> Version:
        return self._wait(
            self._registry.update(
                ref, description=description, tags=tags, additional_metadata=additional_metadata, if_match=if_match
            )
        )

    def yank(self, ref: Ref | str, reason: str | None = None) -> Version:
        return self._wait(self._registry.yank(ref, reason))

    def unyank(self, ref: Ref | str) -> Version:
        return self._wait(self._registry.unyank(ref))

    def restore(self, ref: Ref | str) -> Version:
        return self._wait(self._registry.restore(ref))

    def remove(self, ref: Ref | str, purge: bool = False, force: bool = False) -> Version:
        return self._wait(self._registry.remove(ref, purge, force))

    def aliases(self, name: str, *, page_size: int = 1000) -> Iterator[Alias]:
        return self._items(self._registry.aliases(name, page_size=page_size))

    def alias(self, name: str, alias: str, *, at: str | None = None) -> Alias:
        return self._wait(self._registry.alias(name, alias, at=at))

    def alias_set(
        self,
        name: str,
        alias: str,
        version: str,
        *,
        expected_generation: int | None = None,
        create_only: bool = False,
    ) -> Alias:
        return self._wait(
            self._registry.alias_set(
                name, alias, version, expected_generation=expected_generation, create_only=create_only
            )
        )

    def alias_remove(self, name: str, alias: str, *, expected_generation: int | None = None) -> None:
        self._wait(self._registry.alias_remove(name, alias, expected_generation=expected_generation))

    def alias_rollback(self, name: str, alias: str, *, expected_generation: int | None = None) -> Alias:
        return self._wait(self._registry.alias_rollback(name, alias, expected_generation=expected_generation))

    def alias_history(self, name: str, alias: str, *, page_size: int = 1000) -> Iterator[AliasMove]:
        return self._items(self._registry.alias_history(name, alias, page_size=page_size))

    def swap(self, name: str, moves: Iterable[Mapping[str, str | None]]) -> list[Alias]:
        return self._wait(self._registry.swap(name, moves))

    def files(self, ref: Ref | str, *, presign: bool = False, page_size: int = 1000) -> Iterator[File]:
        return self._items(self._registry.files(ref, presign=presign, page_size=page_size))

    def download_url(
        self, ref: Ref | str, path: str | None = None, expires_in_seconds: int | None = None
    ) -> DownloadUrl:
        return self._wait(self._registry.download_url(ref, path, expires_in_seconds))

    def events(self, after: str | None = None, *, model: str | None = None, page_size: int = 1000) -> Iterator[Event]:
        return self._items(self._registry.events(after, model=model, page_size=page_size))

    def push(
        self,
        path: Path | str,
        ref: Ref | str,
        *,
        params: Mapping[str, object] | None = None,
        standardization_params: Mapping[str, object] | None = None,
        metadata: Mapping[str, object] | None = None,
        description: str | None = None,
        tags: Mapping[str, object] | None = None,
        alias: str | None = None,
        transfer: Transfer = "auto",
        parallel: int = 8,
        include_all: bool = False,
        progress: Progress | None = None,
    ) -> Pushed:
        return self._wait(
            self._registry.push(
                path,
                ref,
                params=params,
                standardization_params=standardization_params,
                metadata=metadata,
                description=description,
                tags=tags,
                alias=alias,
                transfer=transfer,
                parallel=parallel,
                include_all=include_all,
                progress=progress,
            )
        )

    def pull(
        self,
        ref: Ref | str,
        path: Path | str | None = None,
        *,
        include: Sequence[str] = (),
        use_cache: bool = True,
        transfer: Transfer = "auto",
        parallel: int = 8,
        progress: Progress | None = None,
    ) -> Pulled:
        return self._wait(
            self._registry.pull(
                ref,
                path,
                include=include,
                use_cache=use_cache,
                transfer=transfer,
                parallel=parallel,
                progress=progress,
            )
        )

    def open(self, ref: Ref | str, path: str | None = None) -> BufferedReader:
        return self._wait(self._registry.open(ref, path))

    @property
    def _registry(self) -> AsyncRegistry:
        return self._running().registry

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._running().wait_for(work)

    def _items(self, pages: Pages[T]) -> Iterator[T]:
        # By pages: to cross over to the other thread for each item would take longer than to fetch it.
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
        # Also at the end of the process, as long as its event loop still works.
        weakref.finalize(self, background.close)
        return background


for _name, _method in vars(AsyncRegistry).items():
    if not _name.startswith("_") and isfunction(_method) and hasattr(Registry, _name):
        getattr(Registry, _name).__doc__ = _method.__doc__
