"""Writes files into a folder and never outside it. A file appears under its name only when it is complete.

Paths come from the registry, and folders may change during a pull. So paths are opened segment by segment without
following symbolic links, and files are created and renamed below the opened folder.
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
"""Control characters, backslashes, surrogates; segments that are empty, dots, or begin like a drive of Windows."""
_COUNT = struct.Struct("<Q")
_LARGEST_NAME_BYTES = 200
_READ_BYTES = 256 * 1024


class Folder:
    """The folder that a version is pulled into."""

    def __init__(self, root: Path) -> None:
        if sys.platform == "win32":
            raise UsageError(
                "Pulling into a folder needs Linux or macOS. On other systems, download archive.tar of the version."
            )
        if root.is_file():
            raise UsageError(f"{root} is a file. Name a folder.")
        self.root = root

    def create(self) -> None:
        """Raises `OSError`."""
        self.root.mkdir(parents=True, exist_ok=True)

    def holds(self, path: str, size_bytes: int, sha256: str) -> bool:
        """Return whether this file exists and has these bytes.

        Raises `UnsafePath` or `UsageError` if it could not be written, `OSError` if it cannot be read.
        """
        try:
            with self._parent(path, create=False) as (parent, name):
                descriptor = self._opened(path, name, parent)
                try:
                    status = os.fstat(descriptor)
                    if not stat.S_ISREG(status.st_mode):
                        raise UsageError(f"{self.root / path} is not a file. Move it, or pull into another folder.")
                    return status.st_size == size_bytes and digest_of(descriptor) == sha256
                finally:
                    os.close(descriptor)
        except FileNotFoundError:
            return False

    def part(self, path: str, sha256: str, pieces: Sequence[range]) -> "Part | None":
        """Open the unfinished file. `None` while another process uses it. Raises the same errors as `holds`."""
        with self._parent(path, create=True) as (parent, name):
            return Part.opened(os.dup(parent), name, sha256, pieces)

    def _opened(self, path: str, name: str, parent: int) -> int:
        # O_NONBLOCK, because opening a named pipe would wait for its other end.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(name, flags, dir_fd=parent)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise UnsafePath(self._is_a_link(path)) from None
            raise

    @contextmanager
    def _parent(self, path: str, *, create: bool) -> Iterator[tuple[int, str]]:
        """Open the folder of a file. Yields its descriptor and the name of the file in it."""
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
                f"{self.root / path} is a file, but the version has a folder there. Move it, or pull elsewhere."
            ) from None

    def _is_a_link(self, path: str) -> str:
        return f"{self.root / path} is a symbolic link, which a pull does not follow. Remove it, or pull elsewhere."


class Part:
    """An unfinished file beside its target. After the bytes it has a count of the bytes of each piece that arrived.

    The counts may be wrong after a power failure, so the whole file is hashed before it is finished.
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
        """Open the unfinished file of `target` in the folder `parent`. Closing it closes `parent`."""
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
        """The number of bytes from the beginning without a gap."""
        ready = 0
        for piece, done in zip(self.pieces, self._done, strict=True):
            ready += done
            if done < len(piece):
                break
        return ready

    def missing(self, index: int) -> range:
        """The bytes of one piece that have not arrived."""
        return self.pieces[index][self._done[index] :]

    def write(self, index: int, data: bytes | memoryview) -> None:
        """Write the next bytes of one piece."""
        _write(self.descriptor, data, self.missing(index).start)
        self._done[index] += len(data)
        _write(self.descriptor, _COUNT.pack(self._done[index]), self._counts_at + _COUNT.size * (1 + index))

    def hash(self, digest: "hashlib._Hash", start: int, stop: int) -> None:
        """Update a digest with these bytes. If the file has become shorter, with fewer."""
        buffer = memoryview(bytearray(min(_READ_BYTES, stop - start)))
        while start < stop and (count := os.preadv(self.descriptor, [buffer[: stop - start]], start)):
            digest.update(buffer[:count])
            start += count

    def reload(self) -> None:
        """Continue with the bytes in the file, or start again if they are not from a pull of this file."""
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
        """Discard all bytes."""
        self._done = [0] * len(self.pieces)
        os.ftruncate(self.descriptor, 0)
        counts = _COUNT.pack(self._piece_bytes) + bytes(_COUNT.size * len(self.pieces))
        _write(self.descriptor, counts, self._counts_at)

    def keep_in(self, cache: Cache, sha256: str) -> None:
        """Add the verified bytes to a cache. Raises `OSError`."""
        os.ftruncate(self.descriptor, self._size_bytes)
        cache.add(sha256, self._size_bytes, self.descriptor)

    def finish(self) -> None:
        """Rename the file to its target. It is synced first, so that a power failure leaves no incomplete target."""
        os.ftruncate(self.descriptor, self._size_bytes)
        os.fsync(self.descriptor)
        os.rename(self._name, self._target, src_dir_fd=self._parent, dst_dir_fd=self._parent)

    def discard(self) -> None:
        """Delete the unfinished file."""
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
    """Return the path if it stays below any folder it is joined to, on any disk. Raises `UnsafePath`."""
    if _UNSAFE.search(path):
        raise UnsafePath(f"The registry has a file named {path!r}, which leads out of the folder. Nothing was pulled.")
    return path


def _locked(name: str, parent: int) -> int | None:
    """Open and lock the file of this name. `None` if another process has locked it."""
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
    """Return whether this is still the file of that name, a regular one without a second name.

    Writing to any other file would change something else.
    """
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
