"""What has arrived in the object store of an upload that the client sends there."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from model_registry.database.engine import Database
from model_registry.domain.entities import PushUpload
from model_registry.object_store.blob_store import BlobStore, StoredPart

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Arrived:
    """The parts of an unfinished upload; none once the object is whole."""

    parts: Sequence[StoredPart]
    is_complete: bool


async def find_arrived(upload: PushUpload, *, database: Database, blobs: BlobStore) -> Arrived:
    """Ask the store for the parts of an upload, or for one object of the right size. The bytes are not verified.

    The id of a multipart upload that the store has lost is cleared.
    """
    if upload.multipart_id is not None:
        parts = await blobs.list_parts(upload.storage_key, upload.multipart_id)
        if parts is not None:
            return Arrived(list(dict.fromkeys(parts)), is_complete=False)
    stored = await blobs.stored(upload.storage_key)
    if stored is None and upload.multipart_id is not None:
        multipart_id = upload.multipart_id
        log.warning("upload.parts_lost", path=upload.path, storage_key=upload.storage_key)
        await database.run(lambda tx: tx.push_uploads.clear_multipart(upload.id, multipart_id))
    return Arrived((), is_complete=stored is not None and stored.size_bytes == upload.size_bytes)
