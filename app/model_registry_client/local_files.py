"""The files that a push reads from disk. They must not change until it has ended."""

import asyncio
import os
import re
import stat
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model_registry_client.digests import sha256
from model_registry_client.errors import RegistryError, UsageError

IGNORED = frozenset({".git", "__pycache__", ".DS_Store"})
_UNFINISHED = re.compile(r"\..*\.[0-9a-f]{16}\.part", re.DOTALL)
"""The unfinished files of an interrupted pull. See `folder.Part`."""
_PIECE = 1024**2


class FileChanged(RegistryError):
    """A file has changed since the push began."""

    def __init__(self, path: Path) -> None:
        self.path = path
        super().__init__(
            f"{path} changed during the push, so nothing was published. Push again when the file is complete."
        )


@dataclass(frozen=True, slots=True)
class _Stamp:
    """Distinguishes two states of a file without reading it."""

    device: int
    inode: int
    size_bytes: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> "_Stamp":
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file as it was found: its path in the version, and where it is on disk."""

    path: str
    source: Path
    stamp: _Stamp

    @property
    def size_bytes(self) -> int:
        return self.stamp.size_bytes

    def check(self) -> None:
        """Raises `FileChanged` if the file was replaced, edited or deleted."""
        with _explained(self.source):
            status = self.source.stat()
        if _Stamp.of(status) != self.stamp:
            raise FileChanged(self.source)

    async def digest(self, on_bytes: Callable[[int], None] | None = None) -> str:
        """Return the `sha256:<hex>` of the file. Raises `FileChanged`."""
        with _explained(self.source):
            digest = await sha256(self.source, on_bytes)
        self.check()
        return digest

    async def pieces(self, offset: int, size_bytes: int) -> AsyncIterator[bytes]:
        """Yield `size_bytes` bytes from `offset` on, in pieces of at most 1 MiB. Raises `FileChanged`.

        The file is open only while a piece is read, so an interrupted iteration leaves nothing open.
        """
        end = offset + size_bytes
        while offset < end:
            piece = await asyncio.to_thread(self._read, offset, min(_PIECE, end - offset))
            yield piece
            offset += len(piece)

    def _read(self, offset: int, size_bytes: int) -> bytes:
        with _explained(self.source), self.source.open("rb") as file:
            is_same = _Stamp.of(os.fstat(file.fileno())) == self.stamp
            file.seek(offset)
            piece = file.read(size_bytes)
        if not is_same or len(piece) < size_bytes:
            raise FileChanged(self.source)
        return piece


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise FileChanged(source) from error
    except OSError as error:
        raise RegistryError(f"{source} cannot be read: {error.strerror}.") from error


def scan(source: Path, *, include_all: bool = False) -> list[LocalFile]:
    """Find a single file, or all files below a folder, sorted by path. Follows links.

    Includes hidden files, but `.git`, `__pycache__`, `.DS_Store` and unfinished files of a pull only with
    `include_all`.

    Raises
    ------
    UsageError
        There are no files, or something that cannot be pushed: a link that is broken or circular, a pipe, a name that
        is not Unicode, two names that differ only in case.
    """
    try:
        if source.is_dir():
            files = sorted(_below(source, (), frozenset(), include_all), key=lambda file: file.path)
        else:
            files = [_local_file(source, source.name)]
    except OSError as error:
        raise UsageError(f"{error.filename or source} cannot be read: {error.strerror}.") from error
    if not files:
        raise UsageError(f"{source} has no files to push.")
    _check_distinct(files)
    return files


def check_all(files: Iterable[LocalFile]) -> None:
    """Raises `FileChanged` for the first file that has changed."""
    for file in files:
        file.check()


def _below(
    folder: Path, steps: tuple[str, ...], above: frozenset[tuple[int, int]], include_all: bool
) -> Iterator[LocalFile]:
    status = folder.stat()
    if (identity := (status.st_dev, status.st_ino)) in above:
        raise UsageError(f"{folder} is a link to a folder that contains it. Remove the link.")
    for child in folder.iterdir():
        if not include_all and (child.name in IGNORED or _UNFINISHED.fullmatch(child.name)):
            continue
        inside = (*steps, child.name)
        if child.is_dir():
            yield from _below(child, inside, above | {identity}, include_all)
        else:
            yield _local_file(child, "/".join(inside))


def _local_file(source: Path, path: str) -> LocalFile:
    try:
        path.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The name {os.fsencode(source)!r} is not UTF-8. Rename it.") from None
    status = source.stat()
    if not stat.S_ISREG(status.st_mode):
        raise UsageError(f"{source} is neither a file nor a folder.")
    return LocalFile(unicodedata.normalize("NFC", path), source, _Stamp.of(status))


def _check_distinct(files: Iterable[LocalFile]) -> None:
    seen: dict[str, Path] = {}
    for file in files:
        if (twin := seen.setdefault(file.path.casefold(), file.source)) is not file.source:
            raise UsageError(f"The names {twin} and {file.source} differ only in case. Rename one of them.")
