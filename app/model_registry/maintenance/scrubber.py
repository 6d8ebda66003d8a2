"""The scrubber reads stored bytes again, to find what the object store has lost or changed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from model_registry.auth.permissions import SYSTEM
from model_registry.database.engine import Database, Transaction
from model_registry.domain.entities import Digest, StoredBlob, VersionRef
from model_registry.domain.naming_rules import validate_model_name
from model_registry.errors import ModelNotFound
from model_registry.object_store.blob_store import BlobStore
from model_registry.transfer.object_digest import ObjectHasher

log = structlog.get_logger(__name__)

_BATCH = 100
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Damage:
    """Stored bytes that are gone or have changed, and the first versions and paths that use them."""

    sha256: Digest
    shown_by: Sequence[tuple[VersionRef, str]]


@dataclass(slots=True)
class Verified:
    """What has been read so far."""

    blobs: int = 0
    size_bytes: int = 0
    damages: list[Damage] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class UnknownObject:
    """An object that no row names, such as one that is newer than the restored database. Nothing deletes it."""

    storage_key: str
    size_bytes: int


class Scrubber:
    def __init__(self, *, database: Database, blobs: BlobStore) -> None:
        self._database = database
        self._blobs = blobs
        self._hasher = ObjectHasher(blobs)

    async def verify(self, model_name: str | None = None, *, progress: Callable[[Verified], None]) -> Verified:
        """Hash every stored blob, or those of one model, and record which are intact and which are damaged.

        A damaged blob no longer counts as `already_stored`, and the next upload of the same bytes replaces it. Raises
        `Unavailable` if the store cannot be used, and `ModelNotFound`.
        """
        if model_name is not None:
            validate_model_name(model_name)
            async with self._database.reading() as tx:
                if not await tx.models.exists(model_name):
                    raise ModelNotFound(model_name)
        verified = Verified()
        after = b""
        while True:
            async with self._database.reading() as tx:
                batch = await tx.blobs.page(after=after, model_name=model_name, limit=_BATCH)
            if not batch:
                return verified
            digests = await asyncio.gather(*(self._digest(blob) for blob in batch))
            found = list(zip(batch, digests, strict=True))
            intact = [blob for blob, digest in found if digest == blob.sha256]
            damaged = [blob for blob, digest in found if digest != blob.sha256]
            verified.damages += await self._record(intact, damaged)
            verified.blobs += len(batch)
            verified.size_bytes += sum(blob.size_bytes for blob in batch)
            progress(verified)
            after = batch[-1].sha256.raw

    async def unknown_objects(self) -> AsyncIterator[UnknownObject]:
        """Objects in the bucket that no row names.

        The service leaves none. They were written after the backup from which the database was restored, or by another
        program.
        """
        async for page in self._blobs.objects():
            sizes = dict(page)
            async with self._database.reading() as tx:
                unknown = await tx.garbage.unknown(sizes)
            for key in sorted(unknown):
                # The collector may have deleted it, and then its row, after the page was listed.
                if await self._blobs.stored(key) is not None:
                    yield UnknownObject(key, sizes[key])

    async def _digest(self, blob: StoredBlob) -> Digest | None:
        stored = await self._blobs.stored(blob.storage_key)
        if stored is None or stored.size_bytes != blob.size_bytes:
            return None
        return await self._hasher.digest(blob.storage_key, blob.size_bytes)

    async def _record(self, intact: Sequence[StoredBlob], damaged: Sequence[StoredBlob]) -> list[Damage]:
        async def work(tx: Transaction) -> list[Damage]:
            # Blobs that have another key by now were purged or healed while they were read.
            for sha256 in await tx.blobs.mark_intact(intact):
                await tx.events.record_for_versions_with(sha256, "version.healed", actor=SYSTEM.name)
            damages = []
            for sha256, is_news in await tx.blobs.mark_damaged(damaged):
                if is_news:
                    await tx.events.record_for_versions_with(sha256, "version.damaged", actor=SYSTEM.name)
                damages.append(Damage(sha256, await tx.version_files.with_digest(sha256, _SHOWN)))
            return damages

        damages = await self._database.run(work)
        for damage in damages:
            log.error("blob.damaged", sha256=str(damage.sha256))
        return damages
