"""Pushes a file or a folder: hash the files, reserve the version, send what storage does not have, commit."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from model_registry_client.concurrency import cancelled, for_each
from model_registry_client.digests import version_digest
from model_registry_client.errors import Conflict, Invalid, NotFound, RegistryError, ServerError
from model_registry_client.json_values import to_json
from model_registry_client.local_files import FileChanged, LocalFile, check_all, scan
from model_registry_client.progress import Progress, Silent
from model_registry_client.retries import reporting_outages
from model_registry_client.transport import Transport
from model_registry_client.types import LATEST, Pushed, Ref, Upload, Version, check_transfer_options
from model_registry_client.upload import MAX_ATTEMPTS, RESERVE_AGAIN, OutgoingFile, Uploader
from model_registry_client.urls import url_path

_RENEW_SECONDS = 240
"""A new reservation extends the lease of the version and its URLs, which the service ends after 900 s."""


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
    """Publish a file or a folder as a version. The version is visible when all its files are stored and verified.

    You can repeat a push. Files that have arrived are not sent again, and a version that is ready with the same files
    and parameters stays as it is. A push that is cancelled or killed leaves a reservation, which the same call
    continues; otherwise the service deletes it in time. Memory is bounded: 1 MiB for each parallel transfer.

    Parameters
    ----------
    ref
        Without a version, the push takes the next number.
    params, standardization_params
        Frozen with the files. You can change `metadata`, `description` and `tags` later; they are ignored if the
        version is ready already.
    alias
        Points at the version when it is ready.
    transfer
        `direct` sends to storage with presigned URLs, `proxied` through the service. `auto` is direct, unless storage
        cannot be reached from here or does not take the files.
    parallel
        Maximum number of parallel transfers.
    include_all
        Also pushes `.git`, `__pycache__`, `.DS_Store` and unfinished files of a pull.

    Raises
    ------
    UsageError
        There are no files to push, or something that cannot be a file of a version.
    Conflict
        The version exists with different files or parameters; the message says which. `problem.digest` is the digest
        of the existing version.
    FileChanged
        A file has changed since the push began. Nothing is published.
    Damaged
        Files arrived with different bytes in every attempt.
    Unreachable, Busy, Invalid
    """
    check_transfer_options(transfer, parallel)
    model, label = _target(ref)
    progress = progress or Silent()
    files = await asyncio.to_thread(scan, source, include_all=include_all)
    with reporting_outages(progress.say):
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
            uploader = Uploader(transport, outgoing, may_switch=transfer == "auto", parallel=parallel)
            running = _Push(transport, model, label, body, outgoing, uploader, progress, transfer=transfer)
            version, was_ready = await running.run()
            if alias is not None and alias not in version.aliases:
                version = await running.set_alias(alias)
        finally:
            progress.end()
    return Pushed(
        version=version,
        sent_bytes=uploader.sent_bytes,
        saved_bytes=max(0, total_bytes - uploader.sent_bytes),
        sent_files=uploader.sent_files,
        was_ready=was_ready,
    )


def _target(ref: Ref | tuple[str, str | None]) -> tuple[str, str | None]:
    if isinstance(ref, tuple):
        return ref
    return ref.model, None if ref.selector == LATEST else ref.label


async def _check_alias(transport: Transport, model: str, alias: str) -> None:
    """Raises `Invalid` for a name that cannot be an alias. Whether the alias exists does not matter."""
    with suppress(NotFound):
        await transport.request("GET", url_path("v1", "models", model, "aliases", alias))


async def _hashed(files: Sequence[LocalFile], progress: Progress) -> dict[str, OutgoingFile]:
    outgoing: dict[str, OutgoingFile] = {}

    async def hash_one(file: LocalFile) -> None:
        outgoing[file.path] = OutgoingFile(file, await file.digest(progress.hashed), progress)

    await for_each(files, hash_one, parallel=os.cpu_count() or 1)
    return outgoing


class _Push:
    """Works in rounds. Each round reserves, sends the missing files, and commits if all of them were taken.

    After three rounds without progress the push goes through the service instead of to storage, or fails.
    """

    def __init__(
        self,
        transport: Transport,
        model: str,
        label: str | None,
        body: dict[str, Any],
        files: Mapping[str, OutgoingFile],
        uploader: Uploader,
        progress: Progress,
        *,
        transfer: str,
    ) -> None:
        self._transport = transport
        self._model = model
        self._label = label
        self._is_numbered = label is None
        self._body = body
        self._files = files
        self._uploader = uploader
        self._progress = progress
        self._may_switch = transfer == "auto"
        self._is_proxied = transfer == "proxied"
        self._is_ours = False

    async def run(self) -> tuple[Version, bool]:
        """Return the version, and whether it was ready from the beginning."""
        try:
            return await self._run()
        except FileChanged:
            if self._is_ours:
                # The declared files will never be complete, and the label must be free for the new files.
                with suppress(RegistryError):
                    await self._transport.request("DELETE", self._path)
            raise
        except BaseException:
            if self._is_numbered and self._label is not None:
                self._progress.say(f"To continue this push, push to {self._model}:{self._label}.")
            raise

    async def set_alias(self, alias: str) -> Version:
        """Point the alias at the version, and return the version as it is then."""
        path = url_path("v1", "models", self._model, "aliases", alias)
        await self._transport.request("PUT", path, json={"version": self._label})
        return Version.model_validate(await self._transport.get_json(self._path))

    @property
    def _versions(self) -> str:
        return url_path("v1", "models", self._model, "versions")

    @property
    def _path(self) -> str:
        assert self._label is not None  # noqa: S101 - known after the first reservation
        return self._versions + url_path(self._label)

    async def _run(self) -> tuple[Version, bool]:
        is_first = True
        failed_commits = fruitless = 0
        while True:
            accepted, self._uploader.trouble = self._uploader.accepted, None
            version = await self._reserve()
            if version.state == "ready":
                return version, is_first
            is_first = False
            if version.state == "pending":
                async with self._renewing():
                    await self._uploader.send_all()
            if (trouble := self._uploader.trouble) is None:
                self._progress.publishing()
                await asyncio.to_thread(check_all, [each.file for each in self._files.values()])
                try:
                    version = await self._commit()
                except ServerError as error:
                    failed_commits += 1
                    explained = await self._uploader.explained(error)
                    if error.slug not in RESERVE_AGAIN or failed_commits == MAX_ATTEMPTS:
                        raise explained from error
                    if error.slug == "commit-in-progress":
                        await asyncio.sleep(1)
                else:
                    for each in self._files.values():
                        each.settle()
                    return version, False
            else:
                fruitless = fruitless + 1 if accepted == self._uploader.accepted else 0
                if self._uploader.is_storage_unreachable or fruitless == MAX_ATTEMPTS:
                    self._switch_to_service(trouble)
                    fruitless = 0

    def _switch_to_service(self, trouble: RegistryError) -> None:
        if self._is_proxied or not self._may_switch:
            raise trouble
        self._progress.say(f"{trouble} Sending through the registry instead.")
        self._is_proxied = True
        self._uploader.is_storage_unreachable = False

    async def _reserve(self) -> Version:
        """Reserve the version, or renew the reservation. The uploader follows the new instructions."""
        body = self._body | {"version": self._label, "transfer": "proxied" if self._is_proxied else "direct"}
        try:
            response = await self._transport.request("POST", self._versions, json=body)
        except (Conflict, Invalid) as error:
            raise type(error)(
                error.problem.model_copy(update={"detail": self._detail(error)}),
                after_lost_answer=error.after_lost_answer,
            ) from error
        reserved = self._transport.json_of(response)
        uploads = [Upload.model_validate(upload) for upload in reserved.pop("uploads")]
        version = Version.model_validate(reserved)
        self._label = version.version
        self._is_ours |= response.status_code == 201
        self._uploader.follow(self._path, uploads)
        return version

    @asynccontextmanager
    async def _renewing(self) -> AsyncIterator[None]:
        """Renew the reservation from time to time: the service does not see bytes that go to storage."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(_RENEW_SECONDS)
                with suppress(RegistryError):
                    await self._reserve()

        renewing = asyncio.create_task(renew())
        try:
            yield
        finally:
            await cancelled([renewing])

    async def _commit(self) -> Version:
        while True:
            response = await self._transport.request(
                "POST", f"{self._path}/commit", json={"parts": self._uploader.parts()}
            )
            if response.status_code != 202:
                return Version.model_validate(self._transport.json_of(response))
            await asyncio.sleep(1)

    def _detail(self, error: Conflict | Invalid) -> str:
        """Say why the version cannot be reserved, with what only this client knows."""
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
                    f"An unfinished push of {ref} has different files or parameters. To replace it, run "
                    f"`model-registry rm {ref}` and push again."
                )
            case "ready" if problem.slug == "version-exists":
                ours = version_digest((each.path, each.size_bytes, each.sha256) for each in self._files.values())
                if getattr(problem, "digest", None) == ours:
                    return (
                        f"{problem.detail} The files are the same, but the parameters differ. See them with "
                        f"`model-registry info {ref}`."
                    )
                return (
                    f"{problem.detail} The files differ. Push another version, then compare the two with "
                    "`model-registry diff`."
                )
        return problem.detail
