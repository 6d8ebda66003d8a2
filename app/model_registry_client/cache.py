"""Files that were pulled before, by their digest, for every folder and process of this user.

A cache is never trusted: what it gives is hashed on the way out, and an entry that is not what its name says is
dropped. So nothing here is synced to disk, and losing any of it costs a download and nothing else.
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
    """Entries are `blobs/sha256/ab/cdef…` below `root`, whose mtime says when they were last of use.

    Any number of processes may share it: an entry appears whole, by a rename, and the oldest ones go where they are
    more than `limit_bytes` in all, but never one that somebody is reading.
    """

    def __init__(self, root: Path, limit_bytes: int) -> None:
        self.root = root
        self.limit_bytes = limit_bytes
        self._added_bytes = 0

    def copy(self, sha256: str, size_bytes: int, target: int) -> bool | None:
        """Write the file `target` from its start, and say whether that was possible.

        What is wrong is dropped, and then `target` is empty (`False`); without an entry it is as it was (`None`).
        Raises `OSError` where `target` cannot be written.
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
        """Keep the bytes of the file descriptor `source`, which somebody has verified. Raises `OSError`."""
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
        """Forget an entry."""
        with contextlib.suppress(OSError):
            self._path(_hex(sha256)).unlink()

    def trim(self) -> None:
        """Let the entries go that were not of use for longest, until the rest is within the limit, but for the newest;
        and what writers left behind that are no more. Where another process is at it, that is enough.

        Raises `OSError`.
        """
        self._added_bytes = 0
        self.root.mkdir(parents=True, exist_ok=True)
        guard = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            if not lock(guard, wait=False):
                return
            for mtime_ns, _, path in _files(self._temporary_folder):
                # A writer that lives has its lock by then.
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
    """Lock a file until it is closed (flock(2)), and say whether it is ours; where there are no locks, it is."""
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
    """The sha256 of a whole file, as hex digits."""
    digest = hashlib.sha256()
    os.lseek(descriptor, 0, os.SEEK_SET)
    while piece := os.read(descriptor, _COPY_BYTES):
        digest.update(piece)
    return digest.hexdigest()


def _copied(source: int, target: int) -> str:
    """Copy a whole file, and give the sha256 of what was copied."""
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
        raise ValueError(f"{sha256!r} is no sha256")
    return match[1]


def _entries(parent: Path) -> Iterator[tuple[int, int, str]]:
    """The mtime (in nanoseconds), size and path of each."""
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
