"""A version as one tar: deterministic, its exact length known before a byte is read, any range of it readable.

Members are sorted by path bytes, with mtime 0, owner 0 and mode 0644, in GNU format (GNU tar manual, "Basic Tar
Format"): paths are UTF-8, with a header of their own where they are longer than 100 bytes; sizes from 8 GiB on are
binary. Every reader knows it. BusyBox, the tar of small images, takes no size from the POSIX pax format's headers.
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
    """Where everything is in the archive; headers are made again when they are read, so little is kept."""

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
        """What stands at `start` to `stop` (exclusive), in order: literal bytes, or where to get them."""
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
    """Changes with the files, and with the way that this module writes them (the 2)."""
    return f"tar2-{manifest.hex}"


def _padded(size_bytes: int) -> int:
    return -(-size_bytes // _BLOCK) * _BLOCK


def _header(file: StoredFile) -> bytes:
    member = tarfile.TarInfo(file.path)
    member.size = file.blob.size_bytes
    member.mode = 0o644
    return member.tobuf(tarfile.GNU_FORMAT, "utf-8")
