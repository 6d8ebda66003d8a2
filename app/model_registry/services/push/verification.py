"""Whether the bytes of a push are those that it declared."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import Digest, PushUpload, VersionRef
from model_registry.errors import DigestMismatch, SizeMismatch, UploadIncomplete
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.failpoints import failpoint
from model_registry.services.push.multipart_completion import Parts, PartTag, complete_multipart
from model_registry.transfer.lease import Lease
from model_registry.transfer.object_digest import ObjectHasher

_AT_ONCE = 8
_BATCH = 256


@dataclass(frozen=True, slots=True)
class _OtherBytes:
    """The object has other bytes than declared. The digest is known only if the size is right."""

    size_bytes: int
    sha256: Digest | None


@dataclass(frozen=True, slots=True)
class _Absent:
    """The object is not there yet; `parts` are the missing parts of a multipart upload."""

    parts: tuple[int, ...] = ()


_Finding = _OtherBytes | _Absent | None


class Verification:
    """Verifies the uploads of a push. One instance serves a whole process."""

    def __init__(self, *, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._hasher = ObjectHasher(blobs)

    async def verify(self, ref: VersionRef, uploads: Sequence[PushUpload], parts: Parts, lease: Lease) -> None:
        """Verify uploads, and record each result.

        Results are recorded even if a later upload fails, so that a repeated commit continues from there. Raises
        `SizeMismatch` or `DigestMismatch` for the first upload with other bytes, and `UploadIncomplete` with all that
        is missing.
        """
        turn = asyncio.Semaphore(_AT_ONCE)

        async def find(upload: PushUpload) -> _Finding:
            async with turn:
                lease.require_held()
                return await self._find(upload, parts.get(upload.id))

        absent: dict[str, tuple[int, ...]] = {}
        mismatches: list[SizeMismatch | DigestMismatch] = []
        for start in range(0, len(uploads), _BATCH):
            batch = uploads[start : start + _BATCH]
            results = await asyncio.gather(*(find(upload) for upload in batch), return_exceptions=True)
            findings: list[tuple[PushUpload, _Finding]] = []
            failure: BaseException | None = None
            for upload, found in zip(batch, results, strict=True):
                match found:
                    case BaseException():
                        failure = failure or found
                        continue
                    case _OtherBytes():
                        mismatches.append(mismatch(upload, found.size_bytes, found.sha256))
                    case _Absent():
                        absent[upload.path] = found.parts
                findings.append((upload, found))
            await self._database.run(partial(_record, findings=findings))
            failpoint("c-found")
            if failure is not None:
                raise failure
        if mismatches:
            raise mismatches[0]
        if absent:
            raise UploadIncomplete(ref.model_name, ref.version, absent)

    async def _find(self, upload: PushUpload, tags: Sequence[PartTag] | None) -> _Finding:
        is_in_parts = upload.part_size is not None
        missing = await complete_multipart(upload, tags, blobs=self._blobs) if is_in_parts else ()
        stored = await self._blobs.stored(upload.storage_key)
        if stored is None:
            return _Absent(missing)
        if stored.size_bytes != upload.size_bytes:
            return _OtherBytes(stored.size_bytes, None)
        if not is_in_parts and stored.sha256 == upload.sha256:
            # The store refuses a PUT whose bytes do not match the checksum that is signed into its URL.
            return None
        if is_in_parts:
            # Two requests for the first URLs each begin a multipart upload, and the other one may be left.
            await self._blobs.abort_multipart(upload.storage_key, None)
        found = await self._hasher.digest(upload.storage_key, upload.size_bytes)
        if found is None:
            return _OtherBytes(0, None)  # the store has the object, and does not return its bytes
        return None if found == upload.sha256 else _OtherBytes(upload.size_bytes, found)


def mismatch(upload: PushUpload, size_bytes: int, sha256: Digest | None) -> SizeMismatch | DigestMismatch:
    """The error for an upload whose object has other bytes than declared."""
    if sha256 is None:
        return SizeMismatch(upload.path, upload.size_bytes, size_bytes)
    return DigestMismatch(upload.path, str(upload.sha256), str(sha256))


async def _record(tx: Transaction, findings: Sequence[tuple[PushUpload, _Finding]]) -> None:
    await tx.push_uploads.mark_stored([upload.id for upload, found in findings if found is None])
    for upload, found in findings:
        if isinstance(found, _OtherBytes):
            await tx.push_uploads.mark_refused(upload.id, found.size_bytes, found.sha256)
