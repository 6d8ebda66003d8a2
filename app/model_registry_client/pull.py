"""Pulling a version into a folder: what is missing is fetched, verified, and only then called by its name."""

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
from model_registry_client.digests import version_digest
from model_registry_client.download import Fetcher, for_each, in_thread
from model_registry_client.errors import Damaged, NotFound, Problem, RegistryError, UnsafePath, UsageError
from model_registry_client.folder import Folder, Part, checked_path
from model_registry_client.progress import Progress, Silent
from model_registry_client.transport import Transport, telling, url_path
from model_registry_client.types import File, Pulled, Ref, Version

LARGE_BYTES = 64 * 1024**2
"""Files over this arrive in pieces, several at a time."""
PIECE_BYTES = 16 * 1024**2
_PAGE = 1000
_TRANSFERS = ("auto", "direct", "proxied")
_OTHERS_SECONDS = 0.2
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
    """Bring the files of a version into a folder, byte for byte.

    What is there with the right bytes is left alone, so pulling again transfers nothing; what was interrupted goes on
    where it stopped. A file has its name only when it is whole and hashes to its digest. Files of the folder that the
    version does not have stay. An alias, or `latest`, is looked up once: all files are of one version.

    Parameters
    ----------
    directory
        Made where it is not there. Nothing is written outside of it, whatever the registry or a symbolic link in it
        says. `None` is a folder of the model's name in the working directory.
    include
        Patterns, of which a file's path must match one: `*.json`, where `*` stands for any characters, `/` too; or the
        path of a folder, for all that is in it. None means all files.
    cache
        Where to take files from that were pulled before, and to keep those that arrive.
    parallel
        Requests under way at any time.
    transfer
        "direct" reads from storage, "proxied" through the service, and "auto" from storage for as long as that works.

    Raises
    ------
    NotFound
        No such version, or it was removed meanwhile; or it has no file that matches.
    Damaged, UnsafePath, UsageError
        Storage has other bytes than the version's digest; a path that would lead outside; something in the way.
    Unreachable, ServerError
        As `Transport` does.
    RegistryError
        A file cannot be read or written; the message names it.
    """
    ref = Ref.of(ref)
    if parallel < 1:
        raise UsageError("At least one request must be under way: parallel is 1 or more.")
    if transfer not in _TRANSFERS:
        raise UsageError(f"{transfer!r} is no way to transfer files: there are {', '.join(_TRANSFERS)}.")
    folder = Folder(Path(directory if directory is not None else ref.model))
    progress = progress or Silent()
    with telling(progress.say):
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
    _check(version, manifest)
    files = [file for file in manifest if _is_included(file.path, include)]
    if include and not files:
        said = f"{version.ref} has no file that matches {' or '.join(include)}."
        raise NotFound(Problem(status=404, title="Not Found", detail=said))
    progress.begin(str(version.ref), sum(file.size_bytes for file in files), len(files))
    try:
        fetcher = Fetcher(transport, version_path, transfer=transfer, parallel=parallel, progress=progress)
        puller = _Puller(folder, cache, fetcher, progress)
        return await puller.pull(version, files, parallel)
    finally:
        progress.end()


class _Puller:
    """One pull, once it is known what there is."""

    def __init__(self, folder: Folder, cache: Cache | None, fetcher: Fetcher, progress: Progress) -> None:
        self._folder = folder
        self._cache = cache
        self._fetcher = fetcher
        self._progress = progress
        self._downloaded_bytes = 0
        self._cached_bytes = 0
        self._damaged: set[str] = set()

    async def pull(self, version: Version, files: Sequence[File], parallel: int) -> Pulled:
        missing: list[File] = []

        async def look(file: File) -> None:
            if not await self._is_there(file):
                missing.append(file)

        # Everything is looked at before anything is written, so that what is in the way is known beforehand.
        await for_each(files, look, parallel=parallel)
        with self._named(""):
            await in_thread(self._folder.make)
        await for_each(missing, self._obtain, parallel=parallel)
        if self._cache is not None:
            await self._tell(self._cache, self._cache.trim)
        return Pulled(
            version=version,
            path=self._folder.root,
            downloaded_bytes=self._downloaded_bytes,
            cached_bytes=self._cached_bytes,
            was_complete=not missing,
        )

    async def _is_there(self, file: File) -> bool:
        with self._named(file.path):
            is_there = await in_thread(self._folder.holds, file.path, file.size_bytes, _hex(file))
        if is_there:
            self._progress.saved(file.size_bytes)
            self._progress.file_done(file.path)
        return is_there

    async def _obtain(self, file: File) -> None:
        with self._named(file.path):
            part = await self._part(file)
            try:
                if await self._is_there(file):  # the other one had just finished it
                    part.discard()
                    return
                if not await self._take_from_cache(file, part):
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
        """The unfinished file, once no other pull is at it."""
        pieces = _pieces(file.size_bytes)
        while True:
            part = await in_thread(self._folder.part, file.path, _hex(file), pieces)
            if part is not None:
                return part
            await asyncio.sleep(_OTHERS_SECONDS)

    async def _take_from_cache(self, file: File, part: Part) -> bool:
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
        await self._fetcher.fill(file, part)
        self._downloaded_bytes += file.size_bytes - resumed_bytes
        if file.path in self._damaged:
            self._progress.say(f"The cached copy of {file.path} was damaged and was fetched again.")
        if self._cache is not None:
            await self._tell(self._cache, partial(part.keep_in, self._cache, file.sha256))

    @contextmanager
    def _named(self, path: str) -> Iterator[None]:
        """What the disk says, with the path that it says it of."""
        try:
            yield
        except OSError as error:
            raise RegistryError(f"{self._folder.root / path}: {error.strerror or error}.") from error

    async def _tell(self, cache: Cache, change: Callable[[], None]) -> None:
        """Change the cache. One that cannot be written is worth a word and no failure, and is not asked again."""
        try:
            await in_thread(change)
        except OSError as error:
            if self._cache is not None:
                self._cache = None
                self._progress.say(f"The cache at {cache.root} cannot be written: {error.strerror or error}.")


async def _version(transport: Transport, ref: Ref) -> Version:
    response = await transport.request("GET", url_path("v1", "models", ref.model, "versions", ref.selector))
    return _understood(transport, Version, transport.json_of(response))


async def _manifest(transport: Transport, version_path: str, *, presign: bool) -> AsyncIterator[File]:
    token = None
    while True:
        params = {"limit": _PAGE, "presign": presign, "page_token": token}
        page = _understood(transport, _Page, await transport.get_json(f"{version_path}/files", params=params))
        for file in page.items:
            yield file
        token = page.next_page_token
        if token is None:
            return


def _understood(transport: Transport, kind: type[M], answer: object) -> M:
    try:
        return kind.model_validate(answer)
    except ValidationError:
        raise transport.no_registry() from None


def _check(version: Version, files: Sequence[File]) -> None:
    """That these files are what the version's digest says, and can all be laid out in one folder."""
    places: dict[str, bool] = {}
    for file in files:
        place = checked_path(file.path).casefold()
        folders = [place[:end] for end, char in enumerate(place) if char == "/"]
        if place in places or any(places.get(folder) for folder in folders):
            raise UnsafePath(f"The registry has two files that would both be {file.path}: nothing was pulled.")
        places |= dict.fromkeys(folders, False) | {place: True}
        if not _DIGEST.fullmatch(file.sha256) or file.size_bytes < 0:
            raise Damaged(f"What the registry says of {file.path} is no digest and no size.")
    digest = version_digest((file.path, file.size_bytes, file.sha256) for file in files)
    if version.digest is not None and version.digest != digest:
        raise Damaged(f"The files that the registry lists are not those of {version.ref}: its digest is another one.")


def _is_included(path: str, include: Sequence[str]) -> bool:
    return not include or any(
        fnmatchcase(path, pattern) or path.startswith(f"{pattern.rstrip('/')}/") for pattern in include
    )


def _pieces(size_bytes: int) -> list[range]:
    """One for all, or many of the same size for what is large."""
    step = PIECE_BYTES if size_bytes > LARGE_BYTES else max(1, size_bytes)
    return [range(start, min(start + step, size_bytes)) for start in range(0, size_bytes, step)]


def _hex(file: File) -> str:
    return file.sha256.removeprefix("sha256:")
