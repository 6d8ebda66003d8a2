"""The rows of `uploads` that one writer opens."""

import asyncio
from uuid import UUID, uuid4

from model_registry.database.engine import RESTART_SECONDS, Database, Transaction
from model_registry.domain.entities import FileEntry, NewUpload
from model_registry.errors import LeaseLost
from model_registry.object_store.blob_store import storage_key
from model_registry.runtime.failpoints import failpoint
from model_registry.transfer.lease import Lease


class UploadIntents:
    """Records each object before its first byte is sent, so that the collector knows every object.

    The lease renews the rows. In the end they are closed in the transaction that publishes the version, or given up.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease
        self._uploads: list[NewUpload] = []
        self._unopened: list[NewUpload] = []
        self._opening = asyncio.Lock()
        self._failure: Exception | None = None

    @property
    def ids(self) -> list[UUID]:
        """The uploads that were begun, even if opening them failed: its reply may have been lost."""
        return [upload.id for upload in self._uploads]

    async def open(self, path: str, declared: FileEntry | None = None) -> NewUpload:
        """Record the intent to write one object. Raises `LeaseLost` if the version no longer accepts objects."""
        upload = NewUpload(upload_id := uuid4(), storage_key(upload_id), path, declared)
        self._uploads.append(upload)
        await self._open_with_others(upload)
        self._lease.require_held()
        self._lease.upload_ids.append(upload.id)
        self._lease.keep()
        failpoint("u-intent")
        return upload

    async def _open_with_others(self, upload: NewUpload) -> None:
        """Intents that arrive while a statement runs go together into the next one."""
        self._unopened.append(upload)
        async with self._opening:
            if upload not in self._unopened:
                return
            if self._failure is not None:
                # The form is lost. A new attempt for each of its files would wait as long again for each.
                raise self._failure
            batch = tuple(self._unopened)
            try:
                if not await self._database.run(
                    lambda tx: tx.uploads.open(batch, self._lease.version_id, self._lease.seconds),
                    patience_seconds=RESTART_SECONDS,
                    is_one_statement=True,
                ):
                    raise LeaseLost
            except Exception as error:
                self._failure = error
                raise
            del self._unopened[: len(batch)]

    async def began_multipart(self, upload: NewUpload, multipart_id: str) -> None:
        """Record the store's id of a multipart upload before its first part is sent."""
        if not await self._database.run(
            lambda tx: tx.uploads.record_multipart(upload.id, multipart_id), patience_seconds=RESTART_SECONDS
        ):
            raise LeaseLost

    async def close(self, tx: Transaction) -> None:
        """End the uploads, because a version shows their objects from now on. Raises `LeaseLost` if one is gone."""
        if await tx.uploads.close(self.ids) != len(self._uploads):
            raise LeaseLost

    async def give_up(self, tx: Transaction, *, delay_seconds: float) -> None:
        """End the uploads. Their objects become garbage, which is deleted after `delay_seconds` at the earliest."""
        await tx.uploads.discard(self.ids, delay_seconds=delay_seconds)
        # Once more by key: after a lost lease the rows are gone, and perhaps their garbage too, but our last write
        # can have arrived after that.
        keys = [upload.storage_key for upload in self._uploads]
        await tx.garbage.add(keys, delay_seconds=delay_seconds, is_upload=True)
