"""The bytes of a version's files, from storage or through the service, into unfinished files until they are right."""

import asyncio
import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

import httpx

from model_registry_client.errors import Damaged, RegistryError, ServerError, Unreachable, UsageError
from model_registry_client.folder import Part
from model_registry_client.progress import Progress
from model_registry_client.transport import RetryPolicy, Transport, url_path
from model_registry_client.types import File

_WRITE_BYTES = 1024**2
_IN_THREAD_BYTES = 256 * 1024
"""Less is written, or hashed, before a thread would have begun to."""
_HASH_BYTES = 8 * 1024**2
_ATTEMPTS = 3
"""How often a whole file is fetched whose bytes were wrong, the last time through the service."""
_RENEWALS = 2
"""How often a URL is renewed that has never worked."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

P = ParamSpec("P")
T = TypeVar("T")


class Fetcher:
    """Fetches files of one version; at most `parallel` requests are under way at any time.

    `transfer` is "direct" for storage alone, "proxied" for the service alone, or "auto": from storage, for as long as
    that works.
    """

    def __init__(
        self, transport: Transport, version_path: str, *, transfer: str, parallel: int, progress: Progress
    ) -> None:
        self._transport = transport
        self._version_path = version_path
        self.is_direct = transfer != "proxied"
        self._may_change = transfer == "auto"
        self._slots = asyncio.Semaphore(parallel)
        self._parallel = parallel
        self._progress = progress
        self._urls: dict[str, str] = {}
        self._working: set[str] = set()
        self._renewals: Counter[str] = Counter()
        self._renewing = asyncio.Lock()

    async def fill(self, file: File, part: Part) -> None:
        """Fetch what is missing, and make sure that the whole is what its digest says.

        Raises `Damaged` (and then nothing is left of it), `Unreachable`, `ServerError`, `OSError`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            through_the_service = self._may_change and attempt == _ATTEMPTS
            if await _Filling(self, file, part, through_the_service=through_the_service).is_right():
                return
            part.restart()
        part.discard()
        raise Damaged(f"{file.path}: what arrives, however often, does not hash to {file.sha256}.")

    async def receive(self, file: File, wanted: range, take: "_Taker", *, through_the_service: bool) -> bool:
        """One request for one range. Says whether there is a reason to ask again at once, as another way was found.

        What breaks in the middle is an `httpx.TransportError`, and what has been taken until then is there.
        """
        headers = {} if len(wanted) == file.size_bytes else {"Range": f"bytes={wanted.start}-{wanted.stop - 1}"}
        async with self._slots:
            if through_the_service or not self.is_direct:
                path = f"{self._version_path}/files{url_path(*file.path.split('/'))}"
                # A stream, whatever the service does by default.
                params = {"redirect": "false"}
                async with self._transport.stream("GET", path, params=params, headers=headers, read=False) as response:
                    await take(response)
                return False
            return await self._receive_from_storage(file, headers, take)

    async def _receive_from_storage(self, file: File, headers: Mapping[str, str], take: "_Taker") -> bool:
        url = self._urls.get(file.path) or file.url
        if url is None:
            await self._renew(file, url)
            return True
        try:
            async with self._transport.raw_stream("GET", url, headers=headers) as response:
                if response.status_code < 300:
                    self._working.add(url)
                    await take(response)
                    return False
                refused = f"it answered {response.status_code}"
        except (Unreachable, ServerError, UsageError) as error:
            self.leave_storage(str(error), error)
            return True
        if url in self._working:
            self._working.discard(url)
            self._renewals[file.path] = 0
        if self._renewals[file.path] < _RENEWALS:
            await self._renew(file, url)
        else:
            self.leave_storage(refused, None)
        return True

    async def _renew(self, file: File, used: str | None) -> None:
        """Get a fresh URL, once for all who find the old one expired."""
        async with self._renewing:
            if self._urls.get(file.path, file.url) != used:
                return
            path = f"{self._version_path}/download_url"
            response = await self._transport.request("POST", path, json={"path": file.path})
            self._urls[file.path] = response.json()["url"]
            self._renewals[file.path] += 1

    def leave_storage(self, reason: str, error: RegistryError | None) -> None:
        """Go through the service from now on, or raise where that was not wanted."""
        if not self._may_change:
            raise error or Unreachable(f"Storage cannot be read: {reason}.")
        if self.is_direct:
            self.is_direct = False
            self._progress.say(f"Storage cannot be read from here, so files come through the service ({reason}).")

    @property
    def policy(self) -> RetryPolicy:
        return self._transport.policy

    @property
    def parallel(self) -> int:
        return self._parallel

    def received(self, size_bytes: int) -> None:
        self._progress.received(size_bytes)


_Taker = Callable[[httpx.Response], Awaitable[None]]


class _WrongAnswer(Exception):
    """An answer that cannot be these bytes."""


class _Filling:
    """One attempt at one file: pieces arrive in any order, and the hash follows from the beginning on."""

    def __init__(self, fetcher: Fetcher, file: File, part: Part, *, through_the_service: bool) -> None:
        self._fetcher = fetcher
        self._file = file
        self._part = part
        self._through_the_service = through_the_service
        self._arrived = asyncio.Event()

    async def is_right(self) -> bool:
        hashing = asyncio.create_task(self._digest())
        try:
            indices = [index for index in range(len(self._part.pieces)) if self._part.missing(index)]
            await for_each(indices, self._fetch, parallel=min(self._fetcher.parallel, len(indices)))
            return await hashing == self._file.sha256.removeprefix("sha256:")
        except _WrongAnswer:
            return False
        finally:
            await _ended([hashing])

    async def _digest(self) -> str:
        digest, hashed = hashlib.sha256(), 0
        while hashed < self._file.size_bytes:
            stop = min(self._part.ready_bytes, hashed + _HASH_BYTES)
            if stop == hashed:
                self._arrived.clear()
                await self._arrived.wait()
            elif stop - hashed < _IN_THREAD_BYTES:
                self._part.hash(digest, hashed, stop)
            else:
                await in_thread(self._part.hash, digest, hashed, stop)
            hashed = stop
        return digest.hexdigest()

    async def _fetch(self, index: int) -> None:
        """One piece, with as many requests as it takes."""
        patience = _Patience(self._fetcher.policy)
        while missing := self._part.missing(index):

            async def take(response: httpx.Response, missing: range = missing) -> None:
                await self._take(response, index, missing)

            why: Exception | None = None
            again = False
            is_direct = self._fetcher.is_direct and not self._through_the_service
            try:
                again = await self._fetcher.receive(
                    self._file, missing, take, through_the_service=self._through_the_service
                )
            except httpx.TransportError as error:
                why = error
            if self._part.missing(index) != missing:
                patience = _Patience(self._fetcher.policy)
            elif not again:
                try:
                    await patience.wait(self._file.path, why)
                except Unreachable as error:
                    if not is_direct:
                        raise
                    self._fetcher.leave_storage(str(error), error)
                    patience = _Patience(self._fetcher.policy)

    async def _take(self, response: httpx.Response, index: int, missing: range) -> None:
        skipped_bytes = self._offset(response, missing)
        room_bytes = len(missing)
        buffer = bytearray()
        try:
            async for chunk in response.aiter_raw():
                if not room_bytes:
                    break  # there is more than was asked for
                data = chunk[skipped_bytes:][:room_bytes]
                skipped_bytes = max(0, skipped_bytes - len(chunk))
                room_bytes -= len(data)
                self._fetcher.received(len(data))
                if not buffer and len(data) >= _IN_THREAD_BYTES:
                    await in_thread(self._part.write, index, data)
                    self._arrived.set()
                    continue
                buffer += data
                if len(buffer) >= _WRITE_BYTES:
                    data, buffer = bytes(buffer), bytearray()
                    await in_thread(self._part.write, index, data)
                    self._arrived.set()
        finally:
            # Also where the connection breaks, or we are told to stop: the next request goes on behind it.
            if buffer:
                self._part.write(index, bytes(buffer))
                self._arrived.set()

    def _offset(self, response: httpx.Response, missing: range) -> int:
        """How much of the body is not wanted; raises `_WrongAnswer` for what is no part of this file."""
        size_bytes = self._file.size_bytes
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != missing.start or match[2] not in {"*", str(size_bytes)}:
                raise _WrongAnswer
            return 0
        if response.status_code != 200 or "content-encoding" in response.headers:
            raise _WrongAnswer
        return missing.start


class _Patience:
    """How long to go on without a single byte."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._started = time.monotonic()
        self._attempts = 0

    async def wait(self, path: str, why: Exception | None) -> None:
        ceiling = min(self._policy.max_delay_seconds, self._policy.base_delay_seconds * 2**self._attempts)
        self._attempts += 1
        if time.monotonic() - self._started + ceiling > self._policy.retry_seconds:
            reason = (str(why) or type(why).__name__) if why else "answers end before their end"
            raise Unreachable(f"{path} does not arrive: {reason}. Pull again to go on where it stopped.")
        await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - no secret


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, parallel: int) -> None:
    """Do `work` for each, so many at a time; the first failure ends the others, and is raised when they have ended."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    tasks = [asyncio.create_task(worker()) for _ in range(parallel)]
    try:
        await asyncio.gather(*tasks)
    finally:
        await _ended(tasks)


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """As `asyncio.to_thread`, but a cancellation waits for the thread: nothing is closed that it still uses."""
    task = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


async def _ended(tasks: list[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
