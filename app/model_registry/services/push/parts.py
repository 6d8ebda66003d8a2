"""Files that a client sends to the object store in parts: which parts have arrived, and URLs for the others."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from model_registry.auth.permissions import ANY_MODEL, Actor, Permission, require
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import ModelInfo, PushUpload, UploadState, VersionState
from model_registry.errors import InvalidField, UploadUnknown, VersionNotAvailable
from model_registry.object_store.blob_store import BlobStore, PresignedRequest, StoredPart
from model_registry.services.push.arrived import Arrived, find_arrived
from model_registry.services.push.limits import PushLimits


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """An upload in parts, as the store has it. A complete upload is one object and has no parts."""

    upload: PushUpload
    model_name: str
    version: str
    parts: Sequence[StoredPart]
    is_complete: bool


@dataclass(frozen=True, slots=True)
class SignedPart:
    number: int
    request: PresignedRequest
    expires_at: datetime


class UploadParts:
    """One instance serves a whole process. Every call renews the lease of the version."""

    def __init__(self, *, database: Database, blobs: BlobStore, lease_seconds: float, push_limits: PushLimits) -> None:
        self._database = database
        self._blobs = blobs
        self._lease_seconds = lease_seconds
        self._limits = push_limits

    async def status(self, upload_id: UUID, *, actor: Actor) -> UploadStatus:
        """What the store has of an upload, so that a client that lost its place can continue.

        Raises `UploadUnknown` if the upload is over, or if it is complete with other bytes than declared.
        """
        upload, info = await self._find(upload_id, actor)
        if upload.state == UploadState.STORED:
            arrived = Arrived((), is_complete=True)
        else:
            arrived = await find_arrived(upload, database=self._database, blobs=self._blobs)
        return UploadStatus(upload, info.model_name, info.version, arrived.parts, arrived.is_complete)

    async def sign(self, upload_id: UUID, numbers: Sequence[int], *, actor: Actor) -> Sequence[SignedPart]:
        """A URL for each part, valid for PUTs of exactly that part's size.

        Raises `UploadUnknown` as `status` does, and `VersionNotAvailable` while the version is verified.
        """
        upload, info = await self._find(upload_id, actor, writable_seconds=self._limits.writable_seconds)
        if info.state != VersionState.PENDING:
            raise VersionNotAvailable(info.model_name, info.version, info.state)
        if upload.state == UploadState.STORED:
            raise UploadUnknown(str(upload_id))
        sizes = upload.part_sizes
        for index, number in enumerate(numbers):
            if not 1 <= number <= len(sizes):
                raise InvalidField(("body", "part_numbers", index), f"this upload has parts 1 to {len(sizes)}", number)
        multipart_id = upload.multipart_id or await self._begin_multipart(upload)
        expires_at = self._limits.expires_at()
        requests = await self._blobs.presign_parts(
            upload.storage_key,
            multipart_id,
            [(number, sizes[number - 1]) for number in numbers],
            expires_in_seconds=self._limits.presign_expiry_seconds,
        )
        return [SignedPart(number, request, expires_at) for number, request in zip(numbers, requests, strict=True)]

    async def _find(
        self, upload_id: UUID, actor: Actor, *, writable_seconds: float | None = None
    ) -> tuple[PushUpload, ModelInfo]:
        require(actor, Permission.WRITE, ANY_MODEL)

        async def work(tx: Transaction) -> tuple[PushUpload, ModelInfo]:
            found = await tx.push_uploads.find(upload_id)
            if found is None or found[0].part_size is None or found[0].state == UploadState.REFUSED:
                raise UploadUnknown(str(upload_id))
            upload, version_id = found
            info = await tx.versions.info_by_id(version_id)
            if not actor.owns(info.created_by):
                raise UploadUnknown(str(upload_id))
            require(actor, Permission.WRITE, info.model_name)
            if not await tx.versions.renew(version_id, self._lease_seconds):
                raise UploadUnknown(str(upload_id))
            if writable_seconds is not None:
                await tx.push_uploads.extend_writable([upload_id], writable_seconds)
            return upload, info

        return await self._database.run(work)

    async def _begin_multipart(self, upload: PushUpload) -> str:
        ours = await self._blobs.create_multipart(upload.storage_key)
        noted = await self._database.run(lambda tx: tx.push_uploads.record_multipart(upload.id, ours))
        if noted != ours:
            # Another request began one at the same moment, or the upload is gone.
            await self._blobs.abort_multipart(upload.storage_key, ours)
        if noted is None:
            raise UploadUnknown(str(upload.id))
        return noted
