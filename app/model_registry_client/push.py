"""One call that pushes a folder: hash it, reserve the version, send what storage lacks, commit."""

import asyncio
import math
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import httpx

from model_registry_client.digests import version_digest
from model_registry_client.errors import (
    Conflict,
    Damaged,
    Invalid,
    NotFound,
    RegistryError,
    ServerError,
    Unreachable,
    UsageError,
)
from model_registry_client.json_values import to_json
from model_registry_client.local_files import FileChanged, LocalFile, check_all, scan
from model_registry_client.progress import Progress, Silent
from model_registry_client.transport import Content, Transport, telling, url_path
from model_registry_client.types import LATEST, Pushed, Ref, Upload, Version

_Item = TypeVar("_Item")

_TRANSFERS = ("auto", "direct", "proxied")
_RENEW_SECONDS = 240
"""To reserve again keeps the version ours, and the URLs good; the service gives either up after 900 s."""
_PARTS_SIGNED_AT_ONCE = 4
_TRIES = 3
_REFUSED_BYTES = frozenset({"digest-mismatch", "size-mismatch"})
_ASK_AGAIN = _REFUSED_BYTES | {
    "commit-in-progress",
    "lease-lost",
    "upload-incomplete",
    "upload-unknown",
    "version-exists",
    "version-not-available",
    "version-not-found",
}
"""Problems after which to reserve again tells what to do, or why nothing can be done."""


async def push(
    transport: Transport,
    source: Path,
    ref: Ref | tuple[str, str | None],
    *,
    params: Mapping[str, Any] | None = None,
    standardization_params: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    description: str | None = None,
    tags: Mapping[str, Any] | None = None,
    alias: str | None = None,
    transfer: str = "auto",
    parallel: int = 8,
    include_all: bool = False,
    progress: Progress | None = None,
) -> Pushed:
    """Make a file or a folder a version, which nobody sees before it is whole and verified.

    To push again is safe: what has arrived is not sent again, and a version that is ready with the same files and
    parameters is left as it is. Cancelled or killed in the middle, it leaves a reservation that the service gives up in
    time, and that the same call goes on with. Memory is bounded: 1 MiB for each transfer at a time.

    Parameters
    ----------
    ref
        Without a version, the next number.
    params, standardization_params
        Frozen with the files; `metadata`, `description` and `tags` can be changed later, and are not looked at where
        the version is ready already.
    alias
        Points at the version once it is ready.
    transfer
        `direct`: to storage itself, by presigned URLs. `proxied`: through the service. `auto`: direct, unless storage
        can never be reached from here or does not take what is sent.
    parallel
        How many transfers there are at a time.
    include_all
        Takes `.git`, `__pycache__`, `.DS_Store` and what a pull has not finished along, too.

    Raises
    ------
    UsageError
        There is nothing to push, or something that can never be a file of a version.
    Conflict
        The version is there with other files or parameters, of which the message says which; `problem.digest` is that
        of what is there.
    FileChanged
        A file is not what it was when the push began. Nothing is published.
    Damaged
        Bytes did not arrive as they are on disk, however often they were sent.
    Unreachable, Busy, Invalid
    """
    if transfer not in _TRANSFERS:
        raise UsageError(f"{transfer!r} is no way to transfer; there are {', '.join(_TRANSFERS)}.")
    if parallel < 1:
        raise UsageError("A push needs at least one transfer at a time.")
    model, label = _target(ref)
    progress = progress or Silent()
    files = await asyncio.to_thread(scan, source, include_all=include_all)
    with telling(progress.say):
        if alias is not None:
            await _check_alias(transport, model, alias)
        total_bytes = sum(file.size_bytes for file in files)
        progress.begin(f"{model}:{label}" if label else model, total_bytes, len(files))
        try:
            outgoing = await _hashed(files, progress)
            body = {
                "files": [
                    {"path": each.path, "size_bytes": each.size_bytes, "sha256": each.sha256}
                    for each in outgoing.values()
                ],
                "model_params": to_json(params or {}, "params"),
                "standardization_params": to_json(standardization_params or {}, "standardization_params"),
                "additional_metadata": to_json(metadata or {}, "metadata"),
                "tags": to_json(tags or {}, "tags"),
                "description": description,
            }
            running = _Push(transport, model, label, body, outgoing, transfer, parallel, progress)
            version, was_ready = await running.run()
            if alias is not None and alias not in version.aliases:
                version = await running.point(alias)
        finally:
            progress.end()
    return Pushed(
        version=version,
        sent_bytes=running.sent_bytes,
        saved_bytes=max(0, total_bytes - running.sent_bytes),
        sent_files=running.sent_files,
        was_ready=was_ready,
    )


def _target(ref: Ref | tuple[str, str | None]) -> tuple[str, str | None]:
    if isinstance(ref, tuple):
        return ref
    return ref.model, None if ref.selector == LATEST else ref.label


async def _check_alias(transport: Transport, model: str, alias: str) -> None:
    """Raises `Invalid` for one that could not be set in the end; whether it is there does not matter."""
    with suppress(NotFound):
        await transport.request("GET", url_path("v1", "models", model, "aliases", alias))


@dataclass
class _Outgoing:
    """A file, and how far it is. `shown` says of each offset where a transfer began how much was told to the progress,
    which hears of bytes that are sent twice only once."""

    file: LocalFile
    sha256: str
    is_settled: bool = False
    was_sent: bool = False
    shown: dict[int, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def size_bytes(self) -> int:
        return self.file.size_bytes

    async def check_content(self) -> None:
        """Raises `FileChanged` where the bytes are others by now, whatever size and time say."""
        if await self.file.digest() != self.sha256:
            raise FileChanged(self.file.source)


async def _hashed(files: Sequence[LocalFile], progress: Progress) -> dict[str, _Outgoing]:
    outgoing: dict[str, _Outgoing] = {}

    async def hash_one(file: LocalFile) -> None:
        outgoing[file.path] = _Outgoing(file, await file.digest(progress.hashed))

    await _each(files, hash_one, at_once=os.cpu_count() or 1)
    return outgoing


class _Push:
    """Goes in rounds, each of which reserves, sends what is still missing, and commits if nothing was put aside.

    Whatever goes wrong with a file that a fresh reservation may mend (a URL that has expired, damaged bytes, an upload
    that was given up) puts that file aside. After three rounds in a row that got nothing done, the push takes the other
    way, or fails.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        label: str | None,
        body: dict[str, Any],
        files: Mapping[str, _Outgoing],
        transfer: str,
        parallel: int,
        progress: Progress,
    ) -> None:
        self._transport = transport
        self._model = model
        self._label = label
        self._is_numbered = label is None
        self._body = body
        self._files = files
        self._may_change_way = transfer == "auto"
        self._is_proxied = transfer == "proxied"
        self._parallel = parallel
        self._progress = progress
        self._turns = asyncio.Semaphore(parallel)
        self._is_ours = False
        self._uploads: dict[str, Upload] = {}
        self._etags: dict[str, dict[int, str]] = {}
        self._trouble: RegistryError | None = None
        self._are_urls_stale = False
        self._is_storage_away = False
        self._accepted = 0
        self.sent_bytes = 0
        self.sent_files = 0

    async def run(self) -> tuple[Version, bool]:
        """The version, and whether it was ready before anything was done."""
        try:
            return await self._run()
        except FileChanged:
            if self._is_ours:
                # Its files will never be complete, and its label must be free for what they are now.
                with suppress(RegistryError):
                    await self._transport.request("DELETE", self._path)
            raise
        except BaseException:
            if self._is_numbered and self._label is not None:
                self._progress.say(f"Push to {self._model}:{self._label} to go on where this stopped.")
            raise

    async def point(self, alias: str) -> Version:
        """Let the alias point at the version, and return that as it is then."""
        path = url_path("v1", "models", self._model, "aliases", alias)
        await self._transport.request("PUT", path, json={"version": self._label})
        return Version.model_validate(await self._transport.get_json(self._path))

    @property
    def _versions(self) -> str:
        return url_path("v1", "models", self._model, "versions")

    @property
    def _path(self) -> str:
        assert self._label is not None  # noqa: S101 - known from the first reservation on
        return self._versions + url_path(self._label)

    # Rounds

    async def _run(self) -> tuple[Version, bool]:
        is_first = True
        failed_commits = fruitless = 0
        while True:
            accepted, self._trouble = self._accepted, None
            version = await self._reserve()
            if version.state == "ready":
                return version, is_first
            is_first = False
            if version.state == "pending":
                await self._send_all()
            if self._trouble is None:
                self._progress.publishing()
                await asyncio.to_thread(check_all, [each.file for each in self._files.values()])
                try:
                    version = await self._commit()
                except ServerError as error:
                    failed_commits += 1
                    if error.slug not in _ASK_AGAIN or failed_commits == _TRIES:
                        raise await self._explained(error) from error
                    await self._explained(error)
                    if error.slug == "commit-in-progress":
                        await asyncio.sleep(1)
                else:
                    for each in self._files.values():
                        self._settle(each)
                    return version, False
            else:
                fruitless = fruitless + 1 if accepted == self._accepted else 0
                if self._is_storage_away or fruitless == _TRIES:
                    self._change_way(self._trouble)
                    fruitless = 0

    def _change_way(self, trouble: RegistryError) -> None:
        if self._is_proxied or not self._may_change_way:
            raise trouble
        self._progress.say(f"{trouble} Sending through the registry instead.")
        self._is_proxied = True
        self._is_storage_away = False

    async def _reserve(self) -> Version:
        """Reserve, for the first time or again; what there is to send is in `_uploads` then."""
        body = self._body | {"version": self._label, "transfer": "proxied" if self._is_proxied else "direct"}
        try:
            response = await self._transport.request("POST", self._versions, json=body)
        except (Conflict, Invalid) as error:
            raise type(error)(
                error.problem.model_copy(update={"detail": self._in_words_of_here(error)}),
                after_lost_answer=error.after_lost_answer,
            ) from error
        answer = self._transport.json_of(response)
        uploads = [Upload.model_validate(upload) for upload in answer.pop("uploads")]
        version = Version.model_validate(answer)
        self._are_urls_stale = False
        self._label = version.version
        self._is_ours |= response.status_code == 201
        self._uploads = {upload.path: upload for upload in uploads if not upload.already_stored}
        for path, each in self._files.items():
            if path not in self._uploads:
                self._settle(each)
        return version

    async def _send_all(self) -> None:
        async with self._kept():
            await _each(list(self._uploads), self._send, at_once=self._parallel)

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[None]:
        """While bytes go to storage, the service hears nothing of it, and would take the push for abandoned."""

        async def keep() -> None:
            while True:
                await asyncio.sleep(_RENEW_SECONDS)
                with suppress(RegistryError):
                    await self._reserve()

        keeping = asyncio.create_task(keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.wait({keeping})

    async def _commit(self) -> Version:
        # Named one by one, because some stores keep every part that was ever sent.
        parts = {
            upload.upload_id: [{"part_number": number, "etag": etag} for number, etag in sorted(etags.items())]
            for upload in self._uploads.values()
            if upload.upload_id is not None and (etags := self._etags.get(upload.upload_id))
        }
        while True:
            response = await self._transport.request("POST", f"{self._path}/commit", json={"parts": parts})
            if response.status_code != 202:
                return Version.model_validate(self._transport.json_of(response))
            await asyncio.sleep(1)

    async def _explained(self, error: ServerError) -> RegistryError:
        """What an answer means here; raises `FileChanged` where the file that it names is to blame."""
        each = self._files.get(str(getattr(error.problem, "path", "")))
        if error.slug not in _REFUSED_BYTES or each is None:
            return error
        await each.check_content()
        return Damaged(f"{each.file.source} does not arrive as it is: {error}")

    def _in_words_of_here(self, error: Conflict | Invalid) -> str:
        """Why nothing could be reserved, as far as only the one who pushes can say it."""
        problem = error.problem
        if isinstance(error, Invalid):
            said = problem.detail
            for each in problem.errors:
                if each.loc[:2] == ("body", "files") and len(each.loc) > 2 and isinstance(each.loc[2], int):
                    path = self._body["files"][each.loc[2]]["path"]
                    said = said.replace(f"{'.'.join(map(str, each.loc))}: ", f"{path!r}: ")
            return said
        ref = f"{self._model}:{self._label}"
        match getattr(problem, "state", None):
            case "pending":
                return (
                    f"An unfinished push of {ref} has other files or parameters. If it was given up: "
                    f"`model-registry rm {ref}`, and push again."
                )
            case "ready" if problem.slug == "version-exists":
                ours = version_digest((each.path, each.size_bytes, each.sha256) for each in self._files.values())
                if getattr(problem, "digest", None) == ours:
                    return (
                        f"{problem.detail} The files are the same, the parameters differ: `model-registry info {ref}`."
                    )
                return f"{problem.detail} The files differ: push another version, and `model-registry diff` shows how."
        return problem.detail

    # Files

    async def _send(self, path: str) -> None:
        each, upload = self._files[path], self._uploads.get(path)
        if upload is None:
            return  # it was there when the reservation was renewed
        if (upload.method == "put" and self._are_urls_stale) or (upload.method != "proxy" and self._is_storage_away):
            return  # another file has told already
        try:
            match upload.method:
                case "put":
                    async with self._turns:
                        await self._to_storage(each, upload.url, upload.headers, 0, each.size_bytes)
                case "multipart":
                    await self._send_in_parts(each, upload)
                case _:
                    async with self._turns:
                        await self._send_through_service(each)
        except _PutAside as aside:
            self._trouble = aside.reason
            self._are_urls_stale |= upload.method == "put" and aside.status == 403
        except ServerError as error:
            if error.slug not in _ASK_AGAIN:
                raise
            self._trouble = await self._explained(error)
        else:
            self._settle(each)

    async def _send_in_parts(self, each: _Outgoing, upload: Upload) -> None:
        assert upload.upload_id is not None  # noqa: S101 - the contract of this method
        assert upload.part_size is not None  # noqa: S101
        count = math.ceil(each.size_bytes / upload.part_size)
        if await self._is_whole(each, upload.upload_id, upload.part_size):
            return
        etags = self._etags[upload.upload_id]
        lacking = [number for number in range(1, count + 1) if number not in etags]
        groups = [lacking[at : at + _PARTS_SIGNED_AT_ONCE] for at in range(0, len(lacking), _PARTS_SIGNED_AT_ONCE)]
        await _each(groups, partial(self._send_parts, each, upload, etags), at_once=self._parallel)

    async def _is_whole(self, each: _Outgoing, upload_id: str, part_size: int) -> bool:
        """Whether the parts have become one object already; otherwise `_etags` has those that are there."""
        status = await self._transport.get_json(url_path("v1", "uploads", upload_id))
        if status["is_complete"]:
            return True
        listed: dict[int, list[str]] = {}
        for part in status["parts"]:
            listed.setdefault(part["part_number"], []).append(part["etag"].strip('"'))
        ours = self._etags.get(upload_id, {})
        # Of a part that was sent with several contents, by whomever, nobody but its sender knows which is right.
        etags = {
            number: ours[number] if ours.get(number) in there else there[0]
            for number, there in listed.items()
            if len(there) == 1 or ours.get(number) in there
        }
        self._etags[upload_id] = etags
        for number in etags:
            offset = (number - 1) * part_size
            self._show(each, offset, min(part_size, each.size_bytes - offset), self._progress.saved)
        return False

    async def _send_parts(self, each: _Outgoing, upload: Upload, etags: dict[int, str], numbers: Sequence[int]) -> None:
        """Send these, by URLs that are signed again for what a URL did not do."""
        signing = url_path("v1", "uploads", str(upload.upload_id), "parts")
        async with self._turns:
            for attempt in range(1, _TRIES + 1):
                lacking = [number for number in numbers if number not in etags]
                answer = await self._transport.request("POST", signing, json={"part_numbers": lacking})
                try:
                    for part in self._transport.json_of(answer)["parts"]:
                        number, size_bytes = part["part_number"], int(part["headers"]["Content-Length"])
                        offset = (number - 1) * (upload.part_size or 0)
                        response = await self._to_storage(each, part["url"], part["headers"], offset, size_bytes)
                        etags[number] = response.headers.get("etag", "").strip('"')
                    return
                except _PutAside:
                    if attempt == _TRIES or self._is_storage_away:
                        raise

    async def _to_storage(
        self, each: _Outgoing, url: str | None, headers: Mapping[str, str] | None, offset: int, size_bytes: int
    ) -> httpx.Response:
        assert url is not None  # noqa: S101 - of a file that goes to storage
        try:
            response = await self._transport.raw(
                "PUT", url, headers=headers, content=self._content(each, offset, size_bytes)
            )
        except (Unreachable, ServerError) as error:
            where, why = httpx.URL(url), error.__cause__ or error
            origin = f"{where.scheme}://{where.netloc.decode()}"
            away = Unreachable(f"Storage at {origin} cannot be reached from here: {why}.")
            # Storage that took something is only away for now, and has parts that would have to be sent again.
            if not self._may_change_way or self._accepted:
                raise away from error
            self._is_storage_away = True
            raise _PutAside(away) from error
        # 412: these very bytes are there, sent by somebody else or by an attempt whose answer was lost.
        if response.is_success or (response.status_code == 412 and "If-None-Match" in (headers or {})):
            self._sent(each, size_bytes)
            return response
        if response.status_code == 400:
            await each.check_content()
        reason = RegistryError(f"Storage did not take {each.file.source}: {_said(response)}.")
        raise _PutAside(reason, response.status_code)

    async def _send_through_service(self, each: _Outgoing) -> None:
        path = self._path + "/files" + url_path(*each.path.split("/"))
        headers = {"Content-Length": str(each.size_bytes), "Content-Type": "application/octet-stream"}
        await self._transport.request("PUT", path, headers=headers, content=self._content(each, 0, each.size_bytes))
        self._sent(each, each.size_bytes)

    def _content(self, each: _Outgoing, offset: int, size_bytes: int) -> Content:
        async def pieces() -> AsyncIterator[bytes]:
            done_bytes = 0
            async for piece in each.file.pieces(offset, size_bytes):
                yield piece
                done_bytes += len(piece)
                self._show(each, offset, done_bytes, self._progress.sent)

        return pieces

    # What there is to tell

    def _sent(self, each: _Outgoing, size_bytes: int) -> None:
        self._accepted += 1
        self.sent_files += not each.was_sent
        self.sent_bytes += size_bytes
        each.was_sent = True

    def _settle(self, each: _Outgoing) -> None:
        if not each.is_settled:
            each.is_settled = True
            if rest_bytes := each.size_bytes - sum(each.shown.values()):
                self._progress.saved(rest_bytes)
            self._progress.file_done(each.path)

    def _show(self, each: _Outgoing, offset: int, size_bytes: int, tell: Callable[[int], None]) -> None:
        if (news := size_bytes - each.shown.get(offset, 0)) > 0:
            each.shown[offset] = size_bytes
            tell(news)


class _PutAside(Exception):
    """A file, or a part of one, was not taken; the next round may do better."""

    def __init__(self, reason: RegistryError, status: int | None = None) -> None:
        self.reason = reason
        self.status = status
        super().__init__(str(reason))


def _said(response: httpx.Response) -> str:
    """What a store answered, in its own words."""
    words = [match[1] for name in ("Code", "Message") if (match := re.search(f"<{name}>(.*?)</{name}>", response.text))]
    return ": ".join([f"{response.status_code} {response.reason_phrase}".strip(), *words])


async def _each(items: Iterable[_Item], work: Callable[[_Item], Awaitable[None]], *, at_once: int) -> None:
    """Do them all, so many at a time. The first failure cancels the others and is raised as it is."""
    left = iter(items)

    async def worker() -> None:
        for item in left:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as failures:
        first = failures.exceptions[0]
        raise first from first.__cause__
