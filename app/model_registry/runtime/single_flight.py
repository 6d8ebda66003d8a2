"""Equal reads at the same time are made once, as when a thousand pods start together and all read `@champion`."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from model_registry.errors import Unavailable

T = TypeVar("T")


class SingleFlight(Generic[T]):
    """One of several equal reads runs at a time. Calls that arrive meanwhile share the result of the next one.

    A call never gets the result of a read that began before the call. So each caller sees every change that was
    acknowledged before it called.
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
        # If the earlier read failed, the next one would fail too, after the same wait.
        earlier.result()
        return await self._run(key, read)

    async def _run(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        ended = self._running[key] = asyncio.get_running_loop().create_future()
        try:
            result = await read()
        except Unavailable as error:
            ended.set_exception(error)
            ended.exception()  # marks it as retrieved, in case nothing waits for it
            raise
        finally:
            del self._running[key]
            if not ended.done():
                ended.set_result(None)
        return result
