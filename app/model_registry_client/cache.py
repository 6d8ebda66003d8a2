"""The files that were pulled before, by digest. All processes of a user share them.

The cache is not trusted: bytes are hashed when they are copied, and an entry with the wrong digest is dropped. So
nothing is synced to disk. A lost entry costs one download.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if sys.platform != "win32":
    import fcntl

_DIGEST = re.compile(r"(?:sha256:)?([0-9a-f]{64})")
_COPY_BYTES = 1024**2
_DEAD_NANOSECONDS = 60 * 10**9
_FICLONE = 0x40049409
"""ioctl_ficlone(2): the two files share their blocks until one of them is written to."""


class Cache:
    """Entries are `blobs/sha256/ab/cdef…` below `root`. The mtime of an entry is the time of its last use.

    Any number of processes may share a cache. An entry appears complete, by a rename. When the entries are larger than
    `limit_bytes` together, the least recently used ones are deleted, but never one that a process is reading.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._added_bytes = 0

    def copy(self, sha256: str, size_bytes: int, target: int) -> bool | None:
        """Copy an entry to the file descriptor `target`, from its start. Returns whether `target` has the bytes.

        `False` means that the entry was damaged: it is dropped, and `target` is empty. `None` means that there is no
        entry; `target` is unchanged. Raises `OSError` if `target` cannot be written.
        """
        hex_digest = _hex(sha256)
        try:
            source = os.open(self._path(hex_digest), os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            lock(source, shared=True)
            os.lseek(target, 0, os.SEEK_SET)
            if os.fstat(source).st_size == size_bytes and _copied(source, target) == hex_digest:
                with contextlib.suppress(OSError):
                    os.utime(source)
                return True
        finally:
            os.close(source)
        os.ftruncate(target, 0)
        self.drop(hex_digest)
        return False

    def add(self, sha256: str, size_bytes: int, source: int) -> None:
        """Add the bytes of the file descriptor `source`, which the caller has verified. Raises `OSError`."""
        hex_digest = _hex(sha256)
        if size_bytes > self.limit_bytes:
            return
        path = self._path(hex_digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._temporary_folder / secrets.token_hex(8)
        temporary.parent.mkdir(exist_ok=True)
        target = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            lock(target)
            os.lseek(source, 0, os.SEEK_SET)
            if _copied(source, target) == hex_digest:
                temporary.rename(path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(target)
        self._added_bytes += size_bytes
        if self._added_bytes > self.limit_bytes // 10:
            self.trim()

    def drop(self, sha256: str) -> None:
        """Delete an entry."""
        with contextlib.suppress(OSError):
            self._path(_hex(sha256)).unlink()

    def trim(self) -> None:
        """Delete the least recently used entries until the rest is within the limit. The newest entry always stays.

        Also deletes the temporary files of writers that have died. Does nothing while another process trims.

        Raises `OSError`.
        """
        self._added_bytes = 0
        self.root.mkdir(parents=True, exist_ok=True)
        guard = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if not lock(guard, wait=False):
                return
            for mtime_ns, _, path in _files(self._temporary_folder):
                # By this age a running writer has locked its file.
                if time.time_ns() - mtime_ns > _DEAD_NANOSECONDS:
                    _remove_unless_in_use(path)
            entries = sorted(_entries(self.root / "blobs" / "sha256"))
            excess_bytes = sum(size_bytes for _, size_bytes, _ in entries) - self.limit_bytes
            for _, size_bytes, path in entries[:-1]:
                if excess_bytes <= 0:
                    break
                if _remove_unless_in_use(path):
                    excess_bytes -= size_bytes
        finally:
            os.close(guard)

    @property
    def _temporary_folder(self) -> Path:
        return self.root / "tmp"

    def _path(self, hex_digest: str) -> Path:
        return self.root / "blobs" / "sha256" / hex_digest[:2] / hex_digest[2:]


def lock(descriptor: int, *, shared: bool = False, wait: bool = True) -> bool:
    """Lock a file until it is closed (flock(2)). Returns whether it is locked; `True` on systems without locks."""
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}:
            raise
    return True


def digest_of(descriptor: int) -> str:
    """Return the sha256 of a whole file as hex digits."""
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, _COPY_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _copied(source: int, target: int) -> str:
    """Copy a whole file, and return the sha256 of the copied bytes."""
    if _is_cloned(source, target):
        return digest_of(target)
    digest = hashlib.sha256()
    while piece := os.read(source, _COPY_BYTES):
        digest.update(piece)
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(target, rest) :]
    return digest.hexdigest()


def _is_cloned(source: int, target: int) -> bool:
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _hex(sha256: str) -> str:
    match = _DIGEST.fullmatch(sha256)
    if match is None:
        raise ValueError(f"{sha256!r} is not a sha256")
    return match[1]


def _entries(parent: Path) -> Iterator[tuple[int, int, str]]:
    """Yield the mtime in nanoseconds, the size and the path of each entry."""
    with contextlib.suppress(FileNotFoundError), os.scandir(parent) as folders:
        for folder in folders:
            yield from _files(folder.path)


def _files(folder: str | Path) -> Iterator[tuple[int, int, str]]:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield status.st_mtime_ns, status.st_size, entry.path


def _remove_unless_in_use(path: str) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True
    try:
        if not lock(descriptor, wait=False):
            return False
        Path(path).unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
