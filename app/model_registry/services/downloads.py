"""Downloads: one file of a version, or all its files as a tar archive."""

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from model_registry.auth.permissions import Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import Digest, Page, PublishedVersion, StoredFile, VersionSelector
from model_registry.domain.naming_rules import validate_path
from model_registry.errors import FileDamaged, FileNotFound, InvalidField, VersionNotFound
from model_registry.object_store.blob_store import BlobDamaged, BlobStore
from model_registry.runtime.offload import offload
from model_registry.runtime.single_flight import SingleFlight
from model_registry.services.not_found import found
from model_registry.services.tar_archive import BlobRange, TarLayout, archive_etag
from model_registry.transfer.stream_digest import StreamDigest

_AT_ONCE_BYTES = 64 * 1024
_SMALL_BYTES = 64 * 1024
_PIECES_AHEAD = 24  # header, content and padding of eight files


@dataclass(frozen=True, slots=True)
class Download:
    """Bytes to download, with what HTTP headers say of them.

    `last_modified` is `None` if the version was selected by `latest` or by an alias. These can move back to an older
    version, and a comparison of dates would then report no change.
    """

    version: PublishedVersion
    last_modified: datetime | None
    filename: str
    size_bytes: int
    etag: str
    sha256: Digest | None
    content: "StoredFile | TarLayout"

    @property
    def is_archive(self) -> bool:
        return isinstance(self.content, TarLayout)

    @property
    def file(self) -> StoredFile | None:
        """The file, or `None` for an archive."""
        return self.content if isinstance(self.content, StoredFile) else None


class Downloads:
    """Find the bytes of a version, then sign URLs for them or read them.

    Equal calls of `find` at the same time share one query. Nothing here holds a database connection while bytes move.
    """

    def __init__(self, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._reads = SingleFlight[Download]()

    async def find(self, selector: VersionSelector, path: str | None, *, actor: Actor) -> Download:
        """Return the file at `path`. Without a path, return the only file, or the archive of several files.

        Raises `ModelNotFound`, `AliasNotFound`, `VersionNotFound`, `FileNotFound` or `FileDamaged`.
        """
        require(actor, Permission.READ, selector.model_name)
        return await self._reads.read((actor.visibility, selector, path), partial(self._find, selector, path))

    async def _find(self, selector: VersionSelector, path: str | None) -> Download:
        async with self._database.reading() as tx:
            if path is not None:
                version = await found(tx, selector, await tx.versions.published(selector))
                file = await tx.version_files.get(version.id, path) if _is_path(path) else None
                files = [file] if file else []
            else:
                version, files = await _with_all_files(tx, selector)
        if not files:
            raise FileNotFound(version.model_name, version.version, path)
        _ensure_intact(files)
        if len(files) == 1:
            return _of_file(version, files[0], selector)
        return await self._of_archive(version, files, selector)

    async def find_archive(self, selector: VersionSelector, *, actor: Actor) -> Download:
        """Return all files as an archive, even if there is one or none.

        Raises `ModelNotFound`, `AliasNotFound`, `VersionNotFound` or `FileDamaged`.
        """
        require(actor, Permission.READ, selector.model_name)
        async with self._database.reading() as tx:
            version, files = await _with_all_files(tx, selector)
        _ensure_intact(files)
        return await self._of_archive(version, files, selector)

    async def manifest(
        self, selector: VersionSelector, *, after: str | None = None, limit: int = 100, actor: Actor
    ) -> tuple[PublishedVersion, Page[StoredFile]]:
        """Return one page of the files of a version, by path. `after` is the last path of the previous page."""
        require(actor, Permission.READ, selector.model_name)
        async with self._database.reading() as tx:
            version = await found(tx, selector, await tx.versions.published(selector))
            page = await tx.version_files.page(version.id, after=after, limit=limit)
        if after is None and not page.items:
            _ensure_complete(version, 0)
        return version, page

    async def _of_archive(
        self, version: PublishedVersion, files: list[StoredFile], selector: VersionSelector
    ) -> Download:
        layout = await offload(lambda: TarLayout(files), len(files))
        return Download(
            version=version,
            last_modified=version.ready_at if selector.is_label else None,
            filename=f"{version.model_name}-{version.version}.tar",
            size_bytes=layout.size_bytes,
            etag=archive_etag(version.digest),
            sha256=None,
            content=layout,
        )

    async def presign(self, download: Download, *, disposition: str, expires_in_seconds: int) -> str | None:
        """Return a URL of the object store that needs no credentials, or `None` for an archive, which has no object."""
        if isinstance(download.content, TarLayout):
            return None
        (url,) = await self.presign_files([(download.content, disposition)], expires_in_seconds=expires_in_seconds)
        return url

    async def presign_files(self, files: Sequence[tuple[StoredFile, str]], *, expires_in_seconds: int) -> Sequence[str]:
        """Return a URL for each file. Its response has the given Content-Disposition. Raises `FileDamaged`."""
        _ensure_intact([file for file, _ in files])
        return await self._blobs.presign_gets(
            [(file.blob.storage_key, disposition) for file, disposition in files],
            expires_in_seconds=expires_in_seconds,
        )

    async def read(self, download: Download, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from `start` to `stop` (exclusive): all of them, or raise before the last one.

        A blob that is read whole is hashed as it passes. Its last chunk is held back until the digest is right.
        """
        if isinstance(download.content, TarLayout):
            async with aclosing(self._read_archive(download.content, start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk
        elif start < stop:
            async with aclosing(self._read_blob(BlobRange(download.content.blob, start, stop))) as chunks:
                async for chunk in chunks:
                    yield chunk

    async def _read_archive(self, layout: TarLayout, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """Yield a range of an archive.

        A tar header is yielded together with the first bytes of its file. If the store is unavailable, the client then
        gets an error response instead of a body that breaks off.
        """
        waiting = b""
        async with aclosing(self._reading_ahead(layout.read(start, stop))) as pieces:
            async for piece in pieces:
                if isinstance(piece, bytes):
                    waiting += piece
                    if len(waiting) >= _AT_ONCE_BYTES:
                        yield waiting
                        waiting = b""
                else:
                    async with aclosing(self._read_blob(piece)) as chunks:
                        async for chunk in chunks:
                            yield waiting + chunk if waiting else chunk
                            waiting = b""
        if waiting:
            yield waiting

    async def _reading_ahead(self, pieces: Iterator[bytes | BlobRange]) -> AsyncGenerator[bytes | BlobRange, None]:
        """Yield the pieces in order, with small blobs replaced by their bytes. Several small blobs are read at once."""
        ahead: deque[bytes | BlobRange | asyncio.Task[bytes]] = deque()
        try:
            while True:
                for piece in itertools.islice(pieces, _PIECES_AHEAD - len(ahead)):
                    if isinstance(piece, BlobRange) and piece.stop - piece.start <= _SMALL_BYTES:
                        ahead.append(asyncio.create_task(self._read_whole(piece)))
                    else:
                        ahead.append(piece)
                if not ahead:
                    return
                first = ahead.popleft()
                yield await first if isinstance(first, asyncio.Task) else first
        finally:
            reads = [each for each in ahead if isinstance(each, asyncio.Task)]
            for each in reads:
                each.cancel()
            await asyncio.gather(*reads, return_exceptions=True)

    async def _read_whole(self, wanted: BlobRange) -> bytes:
        async with aclosing(self._read_blob(wanted)) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def _read_blob(self, wanted: BlobRange) -> AsyncGenerator[bytes, None]:
        blob = wanted.blob
        is_whole = wanted.start == 0 and wanted.stop == blob.size_bytes
        digest = StreamDigest()
        held: bytes | None = None
        async with self._blobs.read(blob.storage_key, wanted.start, wanted.stop) as chunks:
            async for chunk in chunks:
                if is_whole:
                    await digest.update(chunk)
                if held is not None:
                    yield held
                held = chunk
        if is_whole and await digest.digest() != blob.sha256:
            raise BlobDamaged(blob.storage_key)
        if held is not None:
            yield held


def _of_file(version: PublishedVersion, file: StoredFile, selector: VersionSelector) -> Download:
    return Download(
        version=version,
        last_modified=version.ready_at if selector.is_label else None,
        filename=file.path.rpartition("/")[2],
        size_bytes=file.blob.size_bytes,
        etag=file.blob.sha256.hex,
        sha256=file.blob.sha256,
        content=file,
    )


async def _with_all_files(tx: Transaction, selector: VersionSelector) -> tuple[PublishedVersion, list[StoredFile]]:
    version = await found(tx, selector, await tx.versions.published(selector))
    files = list(await tx.version_files.all(version.id))
    _ensure_complete(version, len(files))
    return version, files


def _ensure_complete(version: PublishedVersion, count: int) -> None:
    """Raise `VersionNotFound` for a version that was purged between two statements: it would seem to have no files."""
    if count != version.file_count:
        raise VersionNotFound(version.model_name, version.version)


def _ensure_intact(files: Sequence[StoredFile]) -> None:
    for file in files:
        if file.is_damaged:
            raise FileDamaged(file.path, str(file.blob.sha256))


def _is_path(path: str) -> bool:
    """Return whether a file can have this path. If it cannot, there is no such file."""
    try:
        validate_path(path)
    except InvalidField:
        return False
    return True
