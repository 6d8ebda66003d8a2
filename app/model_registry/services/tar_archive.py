"""A version as a tar archive.

The archive is deterministic. Its exact length is known before a byte is read, and any range of it can be read.

Members are sorted by the bytes of their paths and have mtime 0, owner 0 and mode 0644. The format is GNU (GNU tar
manual, "Basic Tar Format"), which every reader supports: paths are UTF-8, a path of more than 100 bytes has a header of
its own, and sizes of 8 GiB and more are binary. POSIX pax is not an option, because BusyBox, the tar of small
container images, ignores sizes in pax headers.
"""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from model_registry.domain.entities import Digest, StoredBlob, StoredFile

_BLOCK = tarfile.BLOCKSIZE


@dataclass(frozen=True, slots=True)
class BlobRange:
    """Bytes `start` to `stop` (exclusive) of a blob."""

    blob: StoredBlob
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int
    header_bytes: int
    file: StoredFile


class TarLayout:
    """Where each member is in the archive. Headers are built again when they are read, to use little memory."""

    def __init__(self, files: Sequence[StoredFile]) -> None:
        self._members: list[_Member] = []
        offset = 0
        for file in sorted(files, key=lambda file: file.path.encode()):
            header_bytes = len(_header(file))
            self._members.append(_Member(offset, header_bytes, file))
            offset += header_bytes + _padded(file.blob.size_bytes)
        self._end = offset
        self.size_bytes = offset + 2 * _BLOCK

    def read(self, start: int, stop: int) -> Iterator[bytes | BlobRange]:
        """Yield the content from `start` to `stop` (exclusive), in order: literal bytes, or ranges of blobs."""
        for member in self._members:
            body = member.offset + member.header_bytes
            end = body + _padded(member.file.blob.size_bytes)
            if end <= start:
                continue
            if member.offset >= stop:
                return
            if start < body:
                yield _header(member.file)[max(0, start - member.offset) : stop - member.offset]
            first, last = max(0, start - body), min(member.file.blob.size_bytes, stop - body)
            if first < last:
                yield BlobRange(member.file.blob, first, last)
            padding = min(end, stop) - max(body + member.file.blob.size_bytes, start)
            if padding > 0:
                yield bytes(padding)
        if stop > self._end:
            yield bytes(stop - max(start, self._end))


def archive_etag(manifest: Digest) -> str:
    """Return the ETag of an archive. It depends on the files, and on the version of this module's format (the 2)."""
    return f"tar2-{manifest.hex}"


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK) * _BLOCK


def _header(file: StoredFile) -> bytes:
    member = tarfile.TarInfo(file.path)
    member.size = file.blob.size_bytes
    member.mode = 0o644
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8")
