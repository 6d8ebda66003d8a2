"""Downloads the files of a version from storage or through the service, until their digests are right."""

import asyncio
import hashlib
import random
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import httpx

from model_registry_client.concurrency import cancelled, for_each, in_thread
from model_registry_client.errors import Damaged, RegistryError, ServerError, Unreachable, UsageError
from model_registry_client.folder import Part
from model_registry_client.progress import Progress
from model_registry_client.retries import RetryPolicy
from model_registry_client.transport import Transport
from model_registry_client.types import File
from model_registry_client.urls import url_path

_WRITE_BYTES = 1024**2
_IN_THREAD_BYTES = 256 * 1024
"""Writing or hashing less takes less time than starting a thread."""
_HASH_BYTES = 8 * 1024**2
_ATTEMPTS = 3
"""Attempts at a file whose bytes are wrong. The last one goes through the service."""
_RENEWALS = 2
"""Renewals of a URL that has never worked."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class Downloader:
    """Downloads files of one version with at most `parallel` requests at a time.

    `transfer` is "direct" (only from storage), "proxied" (only through the service) or "auto" (from storage while that
    works).
    """

    def __init__(
        self, transport: Transport, version_path: str, *, transfer: str, parallel: int, progress: Progress
    ) -> None:
        self._transport = transport
        self._version_path = version_path
        self.is_direct = transfer != "proxied"
        self._may_switch = transfer == "auto"
        self._slots = asyncio.Semaphore(parallel)
        self._parallel = parallel
        self._progress = progress
        self._urls: dict[str, str] = {}
        self._working: set[str] = set()
        self._renewals: Counter[str] = Counter()
        self._renewing = asyncio.Lock()

    async def fill(self, file: File, part: Part) -> None:
        """Download what is missing, and verify the digest of the whole file.

        Raises `Damaged` (then the unfinished file is deleted), `Unreachable`, `ServerError`, `OSError`.
        """
        for attempt in range(1, _ATTEMPTS + 1):
            through_the_service = self._may_switch and attempt == _ATTEMPTS
            if await _FileDownload(self, file, part, through_the_service=through_the_service).is_right():
                return
            part.restart()
        part.discard()
        raise Damaged(f"{file.path}: the bytes that arrive do not hash to {file.sha256}, in {_ATTEMPTS} attempts.")

    async def receive(self, file: File, wanted: range, take: "_Taker", *, through_the_service: bool) -> bool:
        """Request one range. Returns whether to request it again at once, because there is a new URL or another way.

        Raises `httpx.TransportError` if the connection breaks. The bytes that arrived before are kept.
        """
        headers = {} if len(wanted) == file.size_bytes else {"Range": f"bytes={wanted.start}-{wanted.stop - 1}"}
        async with self._slots:
            if through_the_service or not self.is_direct:
                path = f"{self._version_path}/files{url_path(*file.path.split('/'))}"
                # The service may redirect by default.
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
                refused = f"it responded with {response.status_code}"
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
        """Get a new URL, once for all requests that find the old one expired."""
        async with self._renewing:
            if self._urls.get(file.path, file.url) != used:
                return
            path = f"{self._version_path}/download_url"
            response = await self._transport.request("POST", path, json={"path": file.path})
            self._urls[file.path] = response.json()["url"]
            self._renewals[file.path] += 1

    def leave_storage(self, reason: str, error: RegistryError | None) -> None:
        """Use the service from now on. Raises if only storage may be used."""
        if not self._may_switch:
            raise error or Unreachable(f"Storage cannot be read: {reason}.")
        if self.is_direct:
            self.is_direct = False
            self._progress.say(f"Storage cannot be read from here ({reason}). Downloading through the service instead.")

    @property
    def policy(self) -> RetryPolicy:
        return self._transport.policy

    @property
    def parallel(self) -> int:
        return self._parallel

    def received(self, size_bytes: int) -> None:
        self._progress.received(size_bytes)


_Taker = Callable[[httpx.Response], Awaitable[None]]


class _WrongResponse(Exception):
    """A response that cannot have the bytes of this file."""


class _FileDownload:
    """One attempt at one file. Pieces arrive in any order; the hash follows from the beginning."""

    def __init__(self, downloader: Downloader, file: File, part: Part, *, through_the_service: bool) -> None:
        self._downloader = downloader
        self._file = file
        self._part = part
        self._through_the_service = through_the_service
        self._arrived = asyncio.Event()

    async def is_right(self) -> bool:
        hashing = asyncio.create_task(self._digest())
        try:
            indices = [index for index in range(len(self._part.pieces)) if self._part.missing(index)]
            await for_each(indices, self._download, parallel=min(self._downloader.parallel, len(indices)))
            return await hashing == self._file.sha256.removeprefix("sha256:")
        except _WrongResponse:
            return False
        finally:
            await cancelled([hashing])

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

    async def _download(self, index: int) -> None:
        """Download one piece, with as many requests as necessary."""
        patience = _Patience(self._downloader.policy)
        while missing := self._part.missing(index):

            async def take(response: httpx.Response, missing: range = missing) -> None:
                await self._take(response, index, missing)

            why: Exception | None = None
            again = False
            is_direct = self._downloader.is_direct and not self._through_the_service
            try:
                again = await self._downloader.receive(
                    self._file, missing, take, through_the_service=self._through_the_service
                )
            except httpx.TransportError as error:
                why = error
            if self._part.missing(index) != missing:
                patience = _Patience(self._downloader.policy)
            elif not again:
                try:
                    await patience.wait(self._file.path, why)
                except Unreachable as error:
                    if not is_direct:
                        raise
                    self._downloader.leave_storage(str(error), error)
                    patience = _Patience(self._downloader.policy)

    async def _take(self, response: httpx.Response, index: int, missing: range) -> None:
        skipped_bytes = self._offset(response, missing)
        room_bytes = len(missing)
        buffer = bytearray()
        try:
            async for chunk in response.aiter_raw():
                if not room_bytes:
                    break  # there is more than the request asked for
                data = chunk[skipped_bytes:][:room_bytes]
                skipped_bytes = max(0, skipped_bytes - len(chunk))
                room_bytes -= len(data)
                self._downloader.received(len(data))
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
            # Also if the connection breaks or the task is cancelled: the next request continues after these bytes.
            if buffer:
                self._part.write(index, bytes(buffer))
                self._arrived.set()

    def _offset(self, response: httpx.Response, missing: range) -> int:
        """Return how many bytes to skip. Raises `_WrongResponse` if the response is not a part of this file."""
        size_bytes = self._file.size_bytes
        if response.status_code == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if match is None or int(match[1]) != missing.start or match[2] not in {"*", str(size_bytes)}:
                raise _WrongResponse
            return 0
        if response.status_code != 200 or "content-encoding" in response.headers:
            raise _WrongResponse
        return missing.start


class _Patience:
    """Limits the retries during which not a single byte arrives."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._started = time.monotonic()
        self._attempts = 0

    async def wait(self, path: str, why: Exception | None) -> None:
        ceiling = min(self._policy.max_delay_seconds, self._policy.base_delay_seconds * 2**self._attempts)
        self._attempts += 1
        if time.monotonic() - self._started + ceiling > self._policy.retry_seconds:
            reason = (str(why) or type(why).__name__) if why else "responses are incomplete"
            raise Unreachable(f"{path} does not arrive: {reason}. Pull again to continue where it stopped.")
        await asyncio.sleep(random.uniform(0, ceiling))  # noqa: S311 - not a secret
