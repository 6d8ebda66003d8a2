"""How a client sends each file of a push."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from model_registry.database.engine import Database
from model_registry.domain.entities import Digest, FileEntry, ModelInfo, PushUpload, UploadState
from model_registry.object_store.blob_store import BlobStore, PresignedRequest
from model_registry.runtime.offload import offload
from model_registry.services.push.arrived import find_arrived
from model_registry.services.push.limits import PushLimits

_LOOK_UPS_AT_ONCE = 8
_SIGNED_AT_ONCE = 1000


class Method(StrEnum):
    PUT = "put"
    MULTIPART = "multipart"
    PROXY = "proxy"


@dataclass(frozen=True, slots=True)
class Instruction:
    """How to send one file.

    Without a method there is nothing to send: the bytes are stored, or another file of the push has the same bytes.
    """

    file: FileEntry
    method: Method | None = None
    request: PresignedRequest | None = None
    expires_at: datetime | None = None
    upload_id: UUID | None = None
    part_size: int | None = None


@dataclass(frozen=True, slots=True)
class ReservedVersion:
    """A version that the caller may push.

    `to_send` has the bytes that are not stored, each with the first file that has them. `uploads` are the uploads that
    bring them.
    """

    info: ModelInfo
    to_send: Mapping[Digest, FileEntry]
    uploads: Mapping[Digest, PushUpload]
    is_new: bool


class Instructions:
    """Writes the instructions for the files of a reserved version."""

    def __init__(self, *, database: Database, blobs: BlobStore, limits: PushLimits) -> None:
        self._database = database
        self._blobs = blobs
        self._limits = limits

    async def for_files(
        self, files: Sequence[FileEntry], reserved: ReservedVersion, *, is_direct: bool
    ) -> Sequence[Instruction]:
        done = {digest for digest, upload in reserved.uploads.items() if upload.state == UploadState.STORED}
        still_open = [upload for upload in reserved.uploads.values() if upload.state == UploadState.OPEN]
        if not reserved.is_new:
            done |= await self._arrived(still_open)
        direct = {upload.sha256: upload for upload in still_open if upload.sha256 not in done} if is_direct else {}
        expires_at = self._limits.expires_at()
        requests = await self._sign([upload for upload in direct.values() if upload.part_size is None])

        def instruction(file: FileEntry) -> Instruction:
            first = reserved.to_send.get(file.sha256)
            if first is None or first.path != file.path or file.sha256 in done:
                return Instruction(file)
            upload = direct.get(file.sha256)
            if upload is None:
                return Instruction(file, Method.PROXY)
            if upload.part_size is None:
                return Instruction(file, Method.PUT, requests[upload.id], expires_at)
            return Instruction(file, Method.MULTIPART, upload_id=upload.id, part_size=upload.part_size)

        return await offload(lambda: [instruction(file) for file in files], len(files))

    async def _arrived(self, uploads: Sequence[PushUpload]) -> set[Digest]:
        """The digests whose object is in the store with the right size. `commit` verifies the bytes."""
        arrived: set[Digest] = set()
        for start in range(0, len(uploads), _LOOK_UPS_AT_ONCE):
            batch = uploads[start : start + _LOOK_UPS_AT_ONCE]
            found = await asyncio.gather(
                *(find_arrived(upload, database=self._database, blobs=self._blobs) for upload in batch)
            )
            arrived |= {upload.sha256 for upload, each in zip(batch, found, strict=True) if each.is_complete}
        return arrived

    async def _sign(self, uploads: Sequence[PushUpload]) -> Mapping[UUID, PresignedRequest]:
        requests: dict[UUID, PresignedRequest] = {}
        for start in range(0, len(uploads), _SIGNED_AT_ONCE):
            batch = uploads[start : start + _SIGNED_AT_ONCE]
            signed = await self._blobs.presign_puts(
                [(upload.storage_key, upload.sha256, upload.size_bytes) for upload in batch],
                expires_in_seconds=self._limits.presign_expiry_seconds,
            )
            requests |= {upload.id: request for upload, request in zip(batch, signed, strict=True)}
            await asyncio.sleep(0)  # signing never waits, so give other requests a turn
        return requests
