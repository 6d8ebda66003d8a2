"""A folder that files are written into and never past: each is whole or not there under its name.

A manifest is somebody else's text, and folders may change while we write. So paths are opened segment by segment
without following symbolic links, and every file is made and renamed below the folder that was opened.
"""

import errno
import hashlib
import os
import re
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from model_registry_client.cache import Cache, digest_of, lock
from model_registry_client.errors import UnsafePath, UsageError

_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\\ud800-\udfff]|(?:^|/)(?:\.{0,2}|.:[^/]*)(?:/|$)")
"""Control characters, backslashes, what is no text; segments that are empty or dots, or begin as a drive does."""
_COUNT = struct.Struct("<Q")
_LARGEST_NAME_BYTES = 200
_READ_BYTES = 256 * 1024


class Folder:
    """Where a version is pulled to."""

    def __init__(self, root: Path) -> None:
        if sys.platform == "win32":
            raise UsageError("Pulling into a folder needs Linux or macOS; archive.tar of a version is for any system.")
        if root.is_file():
            raise UsageError(f"{root} is a file: name a folder.")
        self.root = root

    def make(self) -> None:
        """Raises `OSError`."""
        self.root.mkdir(parents=True, exist_ok=True)

    def holds(self, path: str, size_bytes: int, sha256: str) -> bool:
        """Whether this file is there and has these bytes.

        Raises `UnsafePath` and `UsageError` where it could not be written to, `OSError` where it cannot be read.
        """
        try:
            with self._parent(path, create=False) as (parent, name):
                descriptor = self._opened(path, name, parent)
                try:
                    status = os.fstat(descriptor)
                    if not stat.S_ISREG(status.st_mode):
                        raise UsageError(f"{self.root / path} is no file: move it away, or pull to another folder.")
                    return status.st_size == size_bytes and digest_of(descriptor) == sha256
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            return False

    def part(self, path: str, sha256: str, pieces: Sequence[range]) -> "Part | None":
        """The unfinished file, as far as it is there; `None` while another process is at it. Raises as `holds` does."""
        with self._parent(path, create=True) as (parent, name):
            return Part.opened(os.dup(parent), name, sha256, pieces)

    def _opened(self, path: str, name: str, parent: int) -> int:
        # A named pipe would otherwise wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnsafePath(self._is_a_link(path)) from None
            raise

    @contextmanager
    def _parent(self, path: str, *, create: bool) -> Iterator[tuple[int, str]]:
        """The folder that a file belongs in, opened, and the file's name there."""
        *folders, name = checked_path(path).split("/")
        descriptor = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for depth, folder in enumerate(folders, start=1):
                inner = self._entered(folder, descriptor, "/".join(folders[:depth]), create=create)
                os.close(descriptor)
                descriptor = inner
            yield descriptor, name
        finally:
            os.close(descriptor)

    def _entered(self, name: str, parent: int, path: str, *, create: bool) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        if create:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        try:
            return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            if stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                raise UnsafePath(self._is_a_link(path)) from None
            raise UsageError(
                f"{self.root / path} is a file, where the version has a folder: move it away, or pull elsewhere."
            ) from None

    def _is_a_link(self, path: str) -> str:
        return f"{self.root / path} is a symbolic link, which is not written through: remove it, or pull elsewhere."


class Part:
    """An unfinished file beside its target: its bytes, and behind them how many of each piece are there.

    What it says of itself may be wrong after a power cut, so the whole is hashed before it is finished.
    """

    def __init__(self, parent: int, name: str, target: str, descriptor: int, pieces: Sequence[range]) -> None:
        self.descriptor = descriptor
        self.pieces = pieces
        self._parent = parent
        self._name = name
        self._target = target
        self._size_bytes = pieces[-1].stop if pieces else 0
        self._done = [0] * len(pieces)

    @classmethod
    def opened(cls, parent: int, target: str, sha256: str, pieces: Sequence[range]) -> "Part | None":
        """Of the file `target` in the folder `parent`, which is closed with it."""
        begin = target.encode()[:_LARGEST_NAME_BYTES].decode(errors="ignore")
        name = f".{begin}.{sha256[:16]}.part"
        try:
            descriptor = _locked(name, parent)
            if descriptor is None:
                os.close(parent)
                return None
            part = cls(parent, name, target, descriptor, pieces)
        except BaseException:
            os.close(parent)
            raise
        try:
            part.reload()
        except BaseException:
            part.close()
            raise
        return part

    @property
    def arrived_bytes(self) -> int:
        return sum(self._done)

    @property
    def ready_bytes(self) -> int:
        """How many are there from the beginning on without a gap."""
        ready = 0
        for piece, done in zip(self.pieces, self._done, strict=True):
            ready += done
            if done < len(piece):
                break
        return ready

    def missing(self, index: int) -> range:
        """What is not there of one piece."""
        return self.pieces[index][self._done[index] :]

    def write(self, index: int, data: bytes | memoryview) -> None:
        """The next bytes of one piece."""
        _write(self.descriptor, data, self.missing(index).start)
        self._done[index] += len(data)
        _write(self.descriptor, _COUNT.pack(self._done[index]), self._counts_at + _COUNT.size * (1 + index))

    def hash(self, digest: "hashlib._Hash", start: int, stop: int) -> None:
        """Update a digest with these bytes; fewer where the file has become shorter."""
        buffer = memoryview(bytearray(min(_READ_BYTES, stop - start)))
        while start < stop and (count := os.preadv(self.descriptor, [buffer[: stop - start]], start)):
            digest.update(buffer[:count])
            start += count

    def reload(self) -> None:
        """Go on from what is in the file, or begin anew where that is nothing of ours."""
        length = _COUNT.size * (1 + len(self.pieces))
        if os.fstat(self.descriptor).st_size == self._counts_at + length:
            piece_bytes, *done = struct.unpack(
                f"<{1 + len(self.pieces)}Q", os.pread(self.descriptor, length, self._counts_at)
            )
            fits = all(count <= len(piece) for count, piece in zip(done, self.pieces, strict=True))
            if fits and piece_bytes == self._piece_bytes:
                self._done = done
                return
        self.restart()

    def restart(self) -> None:
        """Forget every byte."""
        self._done = [0] * len(self.pieces)
        os.ftruncate(self.descriptor, 0)
        counts = _COUNT.pack(self._piece_bytes) + bytes(_COUNT.size * len(self.pieces))
        _write(self.descriptor, counts, self._counts_at)

    def keep_in(self, cache: Cache, sha256: str) -> None:
        """Put the bytes, which are verified, into a cache. Raises `OSError`."""
        os.ftruncate(self.descriptor, self._size_bytes)
        cache.add(sha256, self._size_bytes, self.descriptor)

    def finish(self) -> None:
        """Become the target, whose bytes these are: synced first, so that a power cut leaves no half of it there."""
        os.ftruncate(self.descriptor, self._size_bytes)
        os.fsync(self.descriptor)
        os.rename(self._name, self._target, src_dir_fd=self._parent, dst_dir_fd=self._parent)

    def discard(self) -> None:
        """Leave nothing behind."""
        with suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._parent)

    def close(self) -> None:
        os.close(self.descriptor)
        os.close(self._parent)

    @property
    def _counts_at(self) -> int:
        return self._size_bytes

    @property
    def _piece_bytes(self) -> int:
        return len(self.pieces[0]) if self.pieces else 0


def checked_path(path: str) -> str:
    """A path that stays below the folder it is joined to, on any disk; raises `UnsafePath`."""
    if _UNSAFE.search(path):
        raise UnsafePath(f"The registry has a file called {path!r}, which leads elsewhere: nothing was pulled.")
    return path


def _locked(name: str, parent: int) -> int | None:
    """The file of this name, which nobody else has; `None` where somebody has it."""
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, 0o666, dir_fd=parent)
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
            os.unlink(name, dir_fd=parent)  # a symbolic link
            continue
        is_locked = False
        try:
            is_locked = lock(descriptor, wait=False) and _is_named(descriptor, name, parent)
            if is_locked:
                return descriptor
            if _is_named(descriptor, name, parent):
                return None
        finally:
            if not is_locked:
                os.close(descriptor)


def _is_named(descriptor: int, name: str, parent: int) -> bool:
    """Whether this is still the file of that name, and an ordinary one with no other name: else writing to it would
    change something else."""
    status = os.fstat(descriptor)
    try:
        if not os.path.samestat(os.stat(name, dir_fd=parent, follow_symlinks=False), status):
            return False
    except FileNotFoundError:
        return False
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return True
    os.unlink(name, dir_fd=parent)
    return False


def _write(descriptor: int, data: bytes | memoryview, position: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, position)
        rest, position = rest[written:], position + written
