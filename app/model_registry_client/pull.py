"""Pulls a version into a folder: downloads the missing files, verifies them, and then gives them their names."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from model_registry_client.cache import Cache
from model_registry_client.concurrency import for_each, in_thread
from model_registry_client.digests import version_digest
from model_registry_client.download import Downloader
from model_registry_client.errors import Damaged, NotFound, Problem, RegistryError, UnsafePath
from model_registry_client.folder import Folder, Part, checked_path
from model_registry_client.progress import Progress, Silent
from model_registry_client.retries import reporting_outages
from model_registry_client.transport import Transport
from model_registry_client.types import File, Pulled, Ref, Version, check_transfer_options
from model_registry_client.urls import url_path

LARGE_BYTES = 64 * 1024**2
"""Larger files are downloaded in pieces, several at a time."""
PIECE_BYTES = 16 * 1024**2
_PAGE = 1000
_OTHER_PULL_SECONDS = 0.2
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


M = TypeVar("M", bound=BaseModel)


class _Page(BaseModel):
    items: list[File]
    next_page_token: str | None


async def pull(
    transport: Transport,
    ref: Ref | str,
    directory: Path | str | None = None,
    *,
    include: Sequence[str] = (),
    cache: Cache | None = None,
    parallel: int = 8,
    progress: Progress | None = None,
    transfer: str = "auto",
) -> Pulled:
    """Download the files of a version into a folder.

    Files that are in the folder with the right bytes are not downloaded again, and an interrupted pull continues where
    it stopped. A file gets its name only when it is complete and its digest is right. Other files in the folder stay.
    An alias or `latest` is resolved once, so that all files are of one version.

    Parameters
    ----------
    directory
        Created if it does not exist. Nothing is written outside it, whatever the registry or a symbolic link in it
        says. The default is a folder with the model's name in the working directory.
    include
        Patterns; a file is pulled if its path matches one of them. In `*.json`, `*` matches any characters, also `/`.
        The path of a folder matches all files in it. Without patterns, all files are pulled.
    cache
        Files that were pulled before are copied from here, and files that arrive are added.
    parallel
        Maximum number of parallel requests.
    transfer
        "direct" downloads from storage, "proxied" through the service, and "auto" from storage while that works.

    Raises
    ------
    NotFound
        The version does not exist, was removed during the pull, or has no file that matches.
    Damaged, UnsafePath, UsageError
        Storage has different bytes than the digest says; a path leads out of the folder; something is in the way.
    Unreachable, ServerError
        As in `Transport`.
    RegistryError
        A file cannot be read or written. The message names it.
    """
    ref = Ref.of(ref)
    check_transfer_options(transfer, parallel)
    folder = Folder(Path(directory if directory is not None else ref.model))
    progress = progress or Silent()
    with reporting_outages(progress.say):
        return await _pull(transport, ref, folder, include, cache, parallel, progress, transfer)


async def _pull(
    transport: Transport,
    ref: Ref,
    folder: Folder,
    include: Sequence[str],
    cache: Cache | None,
    parallel: int,
    progress: Progress,
    transfer: str,
) -> Pulled:
    version = await _version(transport, ref)
    version_path = url_path("v1", "models", ref.model, "versions", version.version)
    manifest = [file async for file in _manifest(transport, version_path, presign=transfer != "proxied")]
    _check_manifest(version, manifest)
    files = [file for file in manifest if _is_included(file.path, include)]
    if include and not files:
        said = f"{version.ref} has no file that matches {' or '.join(include)}."
        raise NotFound(Problem(status=404, title="Not Found", detail=said))
    progress.begin(str(version.ref), sum(file.size_bytes for file in files), len(files))
    try:
        downloader = Downloader(transport, version_path, transfer=transfer, parallel=parallel, progress=progress)
        puller = _Puller(folder, cache, downloader, progress)
        return await puller.pull(version, files, parallel)
    finally:
        progress.end()


class _Puller:
    """Pulls the files of one version that is known."""

    def __init__(self, folder: Folder, cache: Cache | None, downloader: Downloader, progress: Progress) -> None:
        self._folder = folder
        self._cache = cache
        self._downloader = downloader
        self._progress = progress
        self._downloaded_bytes = 0
        self._cached_bytes = 0
        self._damaged: set[str] = set()

    async def pull(self, version: Version, files: Sequence[File], parallel: int) -> Pulled:
        missing: list[File] = []

        async def check(file: File) -> None:
            if not await self._is_there(file):
                missing.append(file)

        # All files are checked before the first one is written, so that a pull fails early if something is in the way.
        await for_each(files, check, parallel=parallel)
        with self._naming(""):
            await in_thread(self._folder.create)
        await for_each(missing, self._obtain, parallel=parallel)
        if self._cache is not None:
            await self._change_cache(self._cache, self._cache.trim)
        return Pulled(
            version=version,
            path=self._folder.root,
            downloaded_bytes=self._downloaded_bytes,
            cached_bytes=self._cached_bytes,
            was_complete=not missing,
        )

    async def _is_there(self, file: File) -> bool:
        with self._naming(file.path):
            is_there = await in_thread(self._folder.holds, file.path, file.size_bytes, _hex(file))
        if is_there:
            self._progress.saved(file.size_bytes)
            self._progress.file_done(file.path)
        return is_there

    async def _obtain(self, file: File) -> None:
        with self._naming(file.path):
            part = await self._part(file)
            try:
                if await self._is_there(file):  # another pull has just finished it
                    part.discard()
                    return
                if not await self._copy_from_cache(file, part):
                    await self._download(file, part)
                await in_thread(part.finish)
            except BaseException:
                if not part.arrived_bytes:
                    part.discard()
                raise
            finally:
                part.close()
        self._progress.file_done(file.path)

    async def _part(self, file: File) -> Part:
        """Open the unfinished file. Waits while another pull uses it."""
        pieces = _pieces(file.size_bytes)
        while True:
            part = await in_thread(self._folder.part, file.path, _hex(file), pieces)
            if part is not None:
                return part
            await asyncio.sleep(_OTHER_PULL_SECONDS)

    async def _copy_from_cache(self, file: File, part: Part) -> bool:
        if self._cache is None:
            return False
        if not (is_right := await in_thread(self._cache.copy, file.sha256, file.size_bytes, part.descriptor)):
            if is_right is not None:
                self._damaged.add(file.path)
            await in_thread(part.reload)
            return False
        self._cached_bytes += file.size_bytes
        self._progress.saved(file.size_bytes)
        return True

    async def _download(self, file: File, part: Part) -> None:
        resumed_bytes = part.arrived_bytes
        self._progress.saved(resumed_bytes)
        await self._downloader.fill(file, part)
        self._downloaded_bytes += file.size_bytes - resumed_bytes
        if file.path in self._damaged:
            self._progress.say(f"The cached copy of {file.path} was damaged. The file was downloaded again.")
        if self._cache is not None:
            await self._change_cache(self._cache, partial(part.keep_in, self._cache, file.sha256))

    @contextmanager
    def _naming(self, path: str) -> Iterator[None]:
        """Turn an error of the disk into a `RegistryError` that names the path."""
        try:
            yield
        except OSError as error:
            raise RegistryError(f"{self._folder.root / path}: {error.strerror or error}.") from error

    async def _change_cache(self, cache: Cache, change: Callable[[], None]) -> None:
        """Change the cache. If it cannot be written, report that and continue without it."""
        try:
            await in_thread(change)
        except OSError as error:
            if self._cache is not None:
                self._cache = None
                self._progress.say(f"The cache at {cache.root} cannot be written: {error.strerror or error}.")


async def _version(transport: Transport, ref: Ref) -> Version:
    response = await transport.request("GET", url_path("v1", "models", ref.model, "versions", ref.selector))
    return _validated(transport, Version, transport.json_of(response))


async def _manifest(transport: Transport, version_path: str, *, presign: bool) -> AsyncIterator[File]:
    token = None
    while True:
        params = {"limit": _PAGE, "presign": presign, "page_token": token}
        page = _validated(transport, _Page, await transport.get_json(f"{version_path}/files", params=params))
        for file in page.items:
            yield file
        token = page.next_page_token
        if token is None:
            return


def _validated(transport: Transport, kind: type[M], document: object) -> M:
    try:
        return kind.model_validate(document)
    except ValidationError:
        raise transport.not_a_registry() from None


def _check_manifest(version: Version, files: Sequence[File]) -> None:
    """Check that these files have the version's digest, and that one folder can hold all of them."""
    places: dict[str, bool] = {}
    for file in files:
        place = checked_path(file.path).casefold()
        folders = [place[:end] for end, char in enumerate(place) if char == "/"]
        if place in places or any(places.get(folder) for folder in folders):
            raise UnsafePath(f"The registry has two files that would both be {file.path}. Nothing was pulled.")
        places |= dict.fromkeys(folders, False) | {place: True}
        if not _DIGEST.fullmatch(file.sha256) or file.size_bytes < 0:
            raise Damaged(f"The registry lists {file.path} with an invalid digest or size.")
    digest = version_digest((file.path, file.size_bytes, file.sha256) for file in files)
    if version.digest is not None and version.digest != digest:
        raise Damaged(f"The registry lists files that do not have the digest of {version.ref}.")


def _is_included(path: str, include: Sequence[str]) -> bool:
    return not include or any(
        fnmatchcase(path, pattern) or path.startswith(f"{pattern.rstrip('/')}/") for pattern in include
    )


def _pieces(size_bytes: int) -> list[range]:
    """One piece, or pieces of the same size for a large file."""
    step = PIECE_BYTES if size_bytes > LARGE_BYTES else max(1, size_bytes)
    return [range(start, min(start + step, size_bytes)) for start in range(0, size_bytes, step)]


def _hex(file: File) -> str:
    return file.sha256.removeprefix("sha256:")
