"""Equal reads that are asked for at the same time: a thousand pods that start at once and all want `@champion`."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from model_registry.errors import Unavailable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """Of equal reads one runs at a time, and whoever comes meanwhile gets what the next one finds.

    Never what a read found that began before they asked: so each sees every change that was acknowledged by then.
    """

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Future[None]] = {}
        self._following: dict[Hashable, asyncio.Task[T]] = {}

    async def read(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        following = self._following.get(key)
        if following is None:
            running = self._running.get(key)
            if running is None:
                return await self._run(key, read)
            following = self._following[key] = asyncio.create_task(self._follow(running, key, read))
        return await asyncio.shield(following)

    async def _follow(self, earlier: asyncio.Future[None], key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        await asyncio.wait({earlier})
        del self._following[key]
        # Where that one could not be made, another would only be waited for as long once more.
        earlier.result()
        return await self._run(key, read)

    async def _run(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        ended = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await read()
        except Unavailable as error:
            ended.set_exception(error)
            ended.exception()  # nobody may be waiting for it
            raise
        finally:
            del self._running[key]
            if not ended.done():
                ended.set_result(None)
        return result
