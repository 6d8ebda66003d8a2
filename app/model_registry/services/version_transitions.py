"""What happens to a version in one step, whoever asks for it: discarded, published, purged."""

from collections.abc import Callable, Collection

from model_registry.auth.permissions import Actor
from model_registry.database.blobs import KeptBlob
from model_registry.database.engine import Transaction
from model_registry.database.versions import ExistingVersion
from model_registry.domain.entities import Digest, Event, ModelInfo, StoredBlob, VersionRef
from model_registry.errors import VersionExists
from model_registry.utils import to_json_text


def already_exists(ref: VersionRef, existing: ExistingVersion) -> VersionExists:
    """What to say to whoever may not go on with a version that is there."""
    digest = str(existing.digest) if existing.digest else None
    return VersionExists(ref.model_name, ref.version, state=existing.state, digest=digest)


async def discard_unfinished(
    tx: Transaction, version_id: int, *, only_expired: bool = False, delay_seconds: float = 0
) -> bool:
    """Take back a version that never became ready, its label and its uploads; returns whether there was one.

    Hold the model's row before, and ask afterwards whether anything else uses it.
    """
    if not await tx.version_cleanup.lock_discardable(version_id, only_expired=only_expired):
        return False
    await tx.uploads.discard(await tx.uploads.of_version(version_id), delay_seconds=delay_seconds)
    pinned = await tx.declared.drop(version_id)
    await tx.version_cleanup.delete_unfinished(version_id)
    # What this version alone still held on to.
    await tx.garbage.add_blobs(await tx.blobs.drop_unreferenced(pinned), delay_seconds=delay_seconds)
    return True


async def keep_blobs(
    tx: Transaction, uploaded: Collection[StoredBlob], location: Callable[[str], str], *, actor: Actor
) -> dict[Digest, str]:
    """Make uploaded objects blobs, once for equal bytes; returns the key that counts for each digest.

    Bytes that were there before stay, and ours become garbage; unless those were found damaged, and then ours take
    their place.
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
    """What follows in the model and the log when a version has become ready."""
    details = to_json_text({"digest": str(info.digest), "file_count": info.file_count})
    event = Event(actor.name, "version.registered", info.model_name, info.version, details)
    await tx.events.record_and_count(event, 1)


async def purge(tx: Transaction, version_id: int, ref: VersionRef, *, grace_seconds: float, actor: Actor) -> None:
    """Give up the files of a removed version for good, keeping its row; what nothing else shows becomes garbage."""
    unused = await tx.blobs.drop_unreferenced(await tx.version_cleanup.purge(version_id))
    # Somebody may still be reading by a URL that was signed a moment ago.
    await tx.garbage.add_blobs(unused, delay_seconds=grace_seconds)
    await tx.events.record(Event(actor.name, "version.purged", ref.model_name, ref.version))
