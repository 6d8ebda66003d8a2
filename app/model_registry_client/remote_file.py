"""A file in the registry as an open file. It downloads only the ranges that you read."""

import io
import random
import time
from collections import OrderedDict
from collections.abc import Mapping
from itertools import count
from typing import TYPE_CHECKING

import httpx

from model_registry_client.errors import Damaged, ServerError, Unreachable, UsageError
from model_registry_client.problems import problem_of
from model_registry_client.transport import Transport
from model_registry_client.types import Version
from model_registry_client.urls import url_path

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

BLOCK_BYTES = 256 * 1024
_KEPT_BLOCKS = 64
_MOST_AHEAD_BLOCKS = 32
_RETRIED = frozenset({429, 500, 502, 503, 504})


class RemoteFile(io.RawIOBase):
    """One file of one version. It can seek. Use it from one thread at a time.

    Sequential reads download more and more at a time, up to 8 MiB. 16 MiB are kept in memory.

    A range has no digest, so its bytes are not verified. If you need verified bytes, pull the version.

    Raises
    ------
    UsageError
        `path` is omitted, and the version does not have exactly one file.
    NotFound
        The file does not exist. While reading: the version was removed.
    Unreachable, ServerError
        As in `Transport`.
    """

    def __init__(self, transport: Transport, version: Version, path: str | None = None) -> None:
        super().__init__()
        if path is None and version.file_count != 1:
            raise UsageError(f"{version.ref} has {version.file_count} files. Name the one to open.")
        self.name = path or version.files[0].path
        self.version = version
        self._policy = transport.policy
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._position = 0
        self._ahead_blocks = 1
        self._next_block = 0
        folders = ("v1", "models", version.model_name, "versions", version.version, "files")
        self._url = transport.url + url_path(*folders, *self.name.split("/"))
        timeout = httpx.Timeout(self._policy.timeout_seconds, connect=self._policy.connect_timeout_seconds)
        self._http = httpx.Client(timeout=timeout, headers={"Accept-Encoding": "identity"})
        try:
            self.size_bytes, self.sha256 = self._size_and_digest()
        except BaseException:
            self.close()
            raise

    @property
    def mode(self) -> str:
        return "rb"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._check_open()
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size_bytes}
        if whence not in starts:
            raise ValueError(f"invalid whence ({whence}, should be 0, 1 or 2)")
        position = starts[whence] + offset
        if position < 0:
            raise ValueError(f"negative seek position {position}")
        self._position = position
        return position

    def readinto(self, buffer: "WriteableBuffer", /) -> int:
        """Fill the buffer, unless the file ends before."""
        self._check_open()
        view = memoryview(buffer).cast("B")
        stop = min(self._position + len(view), self.size_bytes)
        filled = 0
        while self._position < stop:
            index, offset = divmod(self._position, BLOCK_BYTES)
            piece = self._block(index, last=(stop - 1) // BLOCK_BYTES)[offset : offset + stop - self._position]
            view[filled : filled + len(piece)] = piece
            filled += len(piece)
            self._position += len(piece)
        return filled

    def readall(self) -> bytes:
        return self.read(max(0, self.size_bytes - self._position)) or b""

    def close(self) -> None:
        if not self.closed:
            self._blocks.clear()
            self._http.close()
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file.")

    def _block(self, index: int, last: int) -> bytes:
        """Return a block. A download includes the blocks up to `last`, and more if the read is sequential."""
        if index in self._blocks:
            self._blocks.move_to_end(index)
            return self._blocks[index]
        goes_on = index == self._next_block and index > 0
        self._ahead_blocks = min(self._ahead_blocks * 2, _MOST_AHEAD_BLOCKS) if goes_on else 1
        blocks = min(max(self._ahead_blocks, last - index + 1), _MOST_AHEAD_BLOCKS)
        start, stop = index * BLOCK_BYTES, min((index + blocks) * BLOCK_BYTES, self.size_bytes)
        content = self._download(start, stop)
        for at in range(0, len(content), BLOCK_BYTES):
            self._blocks[index + at // BLOCK_BYTES] = content[at : at + BLOCK_BYTES]
            self._blocks.move_to_end(index + at // BLOCK_BYTES)
        self._next_block = index + blocks
        while len(self._blocks) > _KEPT_BLOCKS:
            self._blocks.popitem(last=False)
        return self._blocks[index]

    def _size_and_digest(self) -> tuple[int, str]:
        """Return size and digest, from the version if it lists the file."""
        for file in self.version.files:
            if file.path == self.name:
                return file.size_bytes, file.sha256
        try:
            head = self._request("HEAD", {}).headers
        except ServerError:
            # A response to HEAD has no body that says why.
            self._request("GET", {"Range": "bytes=0-0"})
            raise
        return int(head["content-length"]), f"sha256:{head['etag'].strip(chr(34))}"

    def _download(self, start: int, stop: int) -> bytes:
        headers = {"If-Match": f'"{self.sha256.removeprefix("sha256:")}"'}
        if stop - start < self.size_bytes:
            headers["Range"] = f"bytes={start}-{stop - 1}"
        response = self._request("GET", headers)
        content = response.content if response.status_code == 206 else response.content[start:stop]
        if len(content) != stop - start:
            raise Damaged(f"{self.name}: {len(content)} bytes arrived instead of {stop - start}.")
        return content

    def _request(self, method: str, headers: Mapping[str, str]) -> httpx.Response:
        """Return a response with a status below 300 and its body read. Retries within the time of the policy."""
        started = time.monotonic()
        for attempt in count():
            trouble: Unreachable | ServerError
            try:
                response = self._http.request(method, self._url, params={"redirect": "false"}, headers=headers)
            except httpx.TransportError as error:
                trouble = Unreachable(f"No response from {self._url}: {str(error) or type(error).__name__}.")
                trouble.__cause__ = error
            else:
                if response.is_success:
                    return response
                trouble = ServerError.of(problem_of(response))
                if response.status_code not in _RETRIED:
                    raise trouble
            ceiling = min(self._policy.max_delay_seconds, self._policy.base_delay_seconds * 2**attempt)
            if time.monotonic() - started + ceiling > self._policy.retry_seconds:
                raise trouble
            time.sleep(random.uniform(0, ceiling))  # noqa: S311 - not a secret
        raise AssertionError
