"""Sends the files of a push to storage or through the service, as the reservation says."""

import asyncio
import math
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx

from model_registry_client.concurrency import for_each
from model_registry_client.errors import Damaged, RegistryError, ServerError, Unreachable
from model_registry_client.local_files import FileChanged, LocalFile
from model_registry_client.progress import Progress
from model_registry_client.transport import Content, Transport
from model_registry_client.types import Upload
from model_registry_client.urls import url_path

MAX_ATTEMPTS = 3
_PARTS_SIGNED_AT_ONCE = 4
_WRONG_BYTES = frozenset({"digest-mismatch", "size-mismatch"})
RESERVE_AGAIN = _WRONG_BYTES | {
    "commit-in-progress",
    "lease-lost",
    "upload-incomplete",
    "upload-unknown",
    "version-exists",
    "version-not-available",
    "version-not-found",
}
"""Problems after which a new reservation says what to do, or why nothing can be done."""


@dataclass
class OutgoingFile:
    """A file and how far it is.

    `_shown` has the bytes reported to the progress, by the offset at which a transfer began. So the progress counts
    bytes that are sent twice only once.
    """

    file: LocalFile
    sha256: str
    progress: Progress
    was_sent: bool = False
    _is_settled: bool = False
    _shown: dict[int, int] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return self.file.path

    @property
    def size_bytes(self) -> int:
        return self.file.size_bytes

    async def check_content(self) -> None:
        """Raises `FileChanged` if the bytes have changed, even if size and time have not."""
        if await self.file.digest() != self.sha256:
            raise FileChanged(self.file.source)

    def content(self, offset: int, size_bytes: int) -> Content:
        """The body of a request with this part of the file."""

        async def pieces() -> AsyncIterator[bytes]:
            done_bytes = 0
            async for piece in self.file.pieces(offset, size_bytes):
                yield piece
                done_bytes += len(piece)
                self.show(offset, done_bytes, self.progress.sent)

        return pieces

    def show(self, offset: int, size_bytes: int, report: Callable[[int], None]) -> None:
        """Report the bytes from `offset` on that are not reported yet."""
        if (news := size_bytes - self._shown.get(offset, 0)) > 0:
            self._shown[offset] = size_bytes
            report(news)

    def settle(self) -> None:
        """Report that storage has the file."""
        if not self._is_settled:
            self._is_settled = True
            if rest_bytes := self.size_bytes - sum(self._shown.values()):
                self.progress.saved(rest_bytes)
            self.progress.file_done(self.path)


class Uploader:
    """Sends files by the instructions of the last reservation.

    A file that failed and may succeed after a new reservation is left for the next round; `trouble` says why. Reasons
    are a URL that has expired, damaged bytes, or an upload that was given up.
    """

    def __init__(
        self, transport: Transport, files: Mapping[str, OutgoingFile], *, may_switch: bool, parallel: int
    ) -> None:
        self._transport = transport
        self._files = files
        self._may_switch = may_switch
        self._parallel = parallel
        self._slots = asyncio.Semaphore(parallel)
        self._version_path = ""
        self._uploads: dict[str, Upload] = {}
        self._etags: dict[str, dict[int, str]] = {}
        self._are_urls_stale = False
        self.trouble: RegistryError | None = None
        self.is_storage_unreachable = False
        self.accepted = 0
        """Files and parts that were taken, by storage or by the service."""
        self.sent_bytes = 0
        self.sent_files = 0

    def follow(self, version_path: str, uploads: Iterable[Upload]) -> None:
        """Use these instructions from now on."""
        self._version_path = version_path
        self._uploads = {upload.path: upload for upload in uploads if not upload.already_stored}
        self._are_urls_stale = False
        for path, each in self._files.items():
            if path not in self._uploads:
                each.settle()

    async def send_all(self) -> None:
        await for_each(list(self._uploads), self._send, parallel=self._parallel)

    def parts(self) -> dict[str, list[dict[str, Any]]]:
        """The parts of each multipart upload that belong to it. Some stores keep every part that was ever sent."""
        return {
            upload.upload_id: [{"part_number": number, "etag": etag} for number, etag in sorted(etags.items())]
            for upload in self._uploads.values()
            if upload.upload_id is not None and (etags := self._etags.get(upload.upload_id))
        }

    async def explained(self, error: ServerError) -> RegistryError:
        """Return what a response means for the user. Raises `FileChanged` if the file that it names has changed."""
        each = self._files.get(str(getattr(error.problem, "path", "")))
        if error.slug not in _WRONG_BYTES or each is None:
            return error
        await each.check_content()
        return Damaged(f"{each.file.source} arrives with different bytes: {error}")

    async def _send(self, path: str) -> None:
        each, upload = self._files[path], self._uploads.get(path)
        if upload is None:
            return  # it was stored when the reservation was renewed
        if (upload.method == "put" and self._are_urls_stale) or (
            upload.method != "proxy" and self.is_storage_unreachable
        ):
            return  # another file has failed for this reason
        try:
            match upload.method:
                case "put":
                    async with self._slots:
                        await self._to_storage(each, upload.url, upload.headers, 0, each.size_bytes)
                case "multipart":
                    await self._send_in_parts(each, upload)
                case _:
                    async with self._slots:
                        await self._through_service(each)
        except _NotTaken as error:
            self.trouble = error.reason
            self._are_urls_stale |= upload.method == "put" and error.status == 403
        except ServerError as error:
            if error.slug not in RESERVE_AGAIN:
                raise
            self.trouble = await self.explained(error)
        else:
            each.settle()

    async def _send_in_parts(self, each: OutgoingFile, upload: Upload) -> None:
        assert upload.upload_id is not None  # noqa: S101 - the contract of this method
        assert upload.part_size is not None  # noqa: S101
        count = math.ceil(each.size_bytes / upload.part_size)
        if await self._is_complete(each, upload.upload_id, upload.part_size):
            return
        etags = self._etags[upload.upload_id]
        missing = [number for number in range(1, count + 1) if number not in etags]
        groups = [missing[at : at + _PARTS_SIGNED_AT_ONCE] for at in range(0, len(missing), _PARTS_SIGNED_AT_ONCE)]
        await for_each(groups, partial(self._send_parts, each, upload, etags), parallel=self._parallel)

    async def _is_complete(self, each: OutgoingFile, upload_id: str, part_size: int) -> bool:
        """Return whether the parts have become one object. If not, `_etags` has those that are stored."""
        status = await self._transport.get_json(url_path("v1", "uploads", upload_id))
        if status["is_complete"]:
            return True
        listed: dict[int, list[str]] = {}
        for part in status["parts"]:
            listed.setdefault(part["part_number"], []).append(part["etag"].strip('"'))
        ours = self._etags.get(upload_id, {})
        # If a part was sent with several contents, only its sender knows which one is right.
        etags = {
            number: ours[number] if ours.get(number) in stored else stored[0]
            for number, stored in listed.items()
            if len(stored) == 1 or ours.get(number) in stored
        }
        self._etags[upload_id] = etags
        for number in etags:
            offset = (number - 1) * part_size
            each.show(offset, min(part_size, each.size_bytes - offset), each.progress.saved)
        return False

    async def _send_parts(
        self, each: OutgoingFile, upload: Upload, etags: dict[int, str], numbers: Sequence[int]
    ) -> None:
        """Send these parts. Each attempt gets new URLs for the parts that are still missing."""
        signing = url_path("v1", "uploads", str(upload.upload_id), "parts")
        async with self._slots:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                missing = [number for number in numbers if number not in etags]
                signed = await self._transport.request("POST", signing, json={"part_numbers": missing})
                try:
                    for part in self._transport.json_of(signed)["parts"]:
                        number, size_bytes = part["part_number"], int(part["headers"]["Content-Length"])
                        offset = (number - 1) * (upload.part_size or 0)
                        response = await self._to_storage(each, part["url"], part["headers"], offset, size_bytes)
                        etags[number] = response.headers.get("etag", "").strip('"')
                    return
                except _NotTaken:
                    if attempt == MAX_ATTEMPTS or self.is_storage_unreachable:
                        raise

    async def _to_storage(
        self, each: OutgoingFile, url: str | None, headers: Mapping[str, str] | None, offset: int, size_bytes: int
    ) -> httpx.Response:
        assert url is not None  # noqa: S101 - set for a file that goes to storage
        try:
            response = await self._transport.raw("PUT", url, headers=headers, content=each.content(offset, size_bytes))
        except (Unreachable, ServerError) as error:
            where, why = httpx.URL(url), error.__cause__ or error
            origin = f"{where.scheme}://{where.netloc.decode()}"
            unreachable = Unreachable(f"Storage at {origin} cannot be reached from here: {why}.")
            # Storage that has taken something is away only for now, and it has parts that would have to be sent again.
            if not self._may_switch or self.accepted:
                raise unreachable from error
            self.is_storage_unreachable = True
            raise _NotTaken(unreachable) from error
        # 412: these very bytes are stored, by another client or by an attempt whose response was lost.
        if response.is_success or (response.status_code == 412 and "If-None-Match" in (headers or {})):
            self._count(each, size_bytes)
            return response
        if response.status_code == 400:
            await each.check_content()
        reason = RegistryError(f"Storage did not take {each.file.source}: {_storage_error(response)}.")
        raise _NotTaken(reason, response.status_code)

    async def _through_service(self, each: OutgoingFile) -> None:
        path = self._version_path + "/files" + url_path(*each.path.split("/"))
        headers = {"Content-Length": str(each.size_bytes), "Content-Type": "application/octet-stream"}
        await self._transport.request("PUT", path, headers=headers, content=each.content(0, each.size_bytes))
        self._count(each, each.size_bytes)

    def _count(self, each: OutgoingFile, size_bytes: int) -> None:
        self.accepted += 1
        self.sent_files += not each.was_sent
        self.sent_bytes += size_bytes
        each.was_sent = True


class _NotTaken(Exception):
    """Storage did not take a file or a part. The next round may succeed."""

    def __init__(self, reason: RegistryError, status: int | None = None) -> None:
        self.reason = reason
        self.status = status
        super().__init__(str(reason))


def _storage_error(response: httpx.Response) -> str:
    """Status, code and message of an error of storage."""
    words = [match[1] for name in ("Code", "Message") if (match := re.search(f"<{name}>(.*?)</{name}>", response.text))]
    return ": ".join([f"{response.status_code} {response.reason_phrase}".strip(), *words])
