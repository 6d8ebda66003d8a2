"""Steps in the life of a version that several use cases share: discard, publish, purge."""

from collections.abc import Callable, Collection

from model_registry.auth.permissions import Actor
from model_registry.database.blobs import KeptBlob
from model_registry.database.engine import Transaction
from model_registry.database.versions import ExistingVersion
from model_registry.domain.entities import Digest, Event, ModelInfo, StoredBlob, VersionRef
from model_registry.errors import VersionExists
from model_registry.utils import to_json_text


def already_exists(ref: VersionRef, existing: ExistingVersion) -> VersionExists:
    """The error for a client that may not continue the version that has the label."""
    digest = str(existing.digest) if existing.digest else None
    return VersionExists(ref.model_name, ref.version, state=existing.state, digest=digest)


async def discard_unfinished(
    tx: Transaction, version_id: int, *, only_expired: bool = False, delay_seconds: float = 0
) -> bool:
    """Delete a version that never became ready, with its uploads; its label is free again.

    Returns whether there was one. Lock the model before, and afterwards call `drop_if_unused` for it.
    """
    if not await tx.version_cleanup.lock_discardable(version_id, only_expired=only_expired):
        return False
    await tx.uploads.discard(await tx.uploads.of_version(version_id), delay_seconds=delay_seconds)
    pinned = await tx.declared.drop(version_id)
    await tx.version_cleanup.delete_unfinished(version_id)
    # Blobs that only this version used.
    await tx.garbage.add_blobs(await tx.blobs.drop_unreferenced(pinned), delay_seconds=delay_seconds)
    return True


async def keep_blobs(
    tx: Transaction, uploaded: Collection[StoredBlob], location: Callable[[str], str], *, actor: Actor
) -> dict[Digest, str]:
    """Turn uploaded objects into blobs, one for equal bytes. Returns the key of each digest.

    If the same bytes were stored before, the earlier object stays and ours becomes garbage. If the earlier object is
    damaged, ours replaces it.
    """
    kept = await tx.blobs.remember({blob.sha256: blob for blob in uploaded}.values())
    keys = {digest: each.blob.storage_key for digest, each in kept.items()}
    for blob in uploaded:
        if kept[blob.sha256].is_damaged and keys[blob.sha256] != blob.storage_key:
            await tx.blobs.replace(blob)
            await tx.garbage.add_blobs([kept[blob.sha256].blob])
            await tx.versions.update_file_path(blob.sha256, location(blob.storage_key))
            await tx.events.record_for_versions_with(blob.sha256, "version.healed", actor=actor.name)
            keys[blob.sha256] = blob.storage_key
            kept[blob.sha256] = KeptBlob(blob, is_damaged=False)
    await tx.garbage.add_blobs([blob for blob in uploaded if blob.storage_key != keys[blob.sha256]])
    return keys


async def announce(tx: Transaction, info: ModelInfo, *, actor: Actor) -> None:
    """Record that a version is ready: an event, and the version count of its model."""
    details = to_json_text({"digest": str(info.digest), "file_count": info.file_count})
    event = Event(actor.name, "version.registered", info.model_name, info.version, details)
    await tx.events.record_and_count(event, 1)


async def purge(tx: Transaction, version_id: int, ref: VersionRef, *, grace_seconds: float, actor: Actor) -> None:
    """Delete the files of a removed version for good. Its row stays; unused blobs become garbage."""
    unused = await tx.blobs.drop_unreferenced(await tx.version_cleanup.purge(version_id))
    # A client may still be reading by a URL that was signed a moment ago.
    await tx.garbage.add_blobs(unused, delay_seconds=grace_seconds)
    await tx.events.record(Event(actor.name, "version.purged", ref.model_name, ref.version))
