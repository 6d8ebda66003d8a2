"""Services that are wrong on purpose, which prove that a soak finds mistakes.

Each undoes one decision of docs/architecture.md. `install` patches the process of a replica before it serves;
`statements` remove what makes the database refuse the mistake; `changes` make a soak short and likely to show it.
"""

import asyncio
import contextvars
import hashlib
import os
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import delete, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from model_registry.database.blobs import BlobRepository
from model_registry.database.engine import Database, Transaction
from model_registry.db_models import BlobDB, DeclaredFileDB, VersionFileDB
from model_registry.domain.entities import Digest, FileEntry, NewUpload, StoredBlob
from model_registry.maintenance import collector
from model_registry.object_store.blob_store import BlobStore
from model_registry.runtime.failpoints import EXIT_CODE
from model_registry.services import lifecycle, registration, version_transitions
from model_registry.services.push import proxied, reservation
from model_registry.transfer import upload_intents
from model_registry_devstack import StackAddresses
from tests.resilience.soak.plan import Plan

_REUSE = {"flash": 1.0}
"""Bytes that are registered, read and purged all the time."""


@dataclass(frozen=True)
class Mutant:
    install: Callable[[], None]
    statements: Sequence[str] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)


# Keys that are digests: a delete decided before the bytes came back removes the new object.

_digest: contextvars.ContextVar[str | None] = contextvars.ContextVar("digest", default=None)


def _key(_upload_id: UUID) -> str:
    return f"blobs/{_digest.get() or uuid4()}"


def _keys_of_content() -> None:
    add_file, store = registration.Registration.add_file, proxied.ProxiedUploads._store
    new_upload = reservation.Reservations._new_upload

    async def add_file_by_content(
        self: registration.Registration, path: str, chunks: AsyncIterable[bytes], **more: Any
    ) -> None:
        data = b"".join([chunk async for chunk in chunks])

        async def again() -> AsyncIterator[bytes]:
            yield data

        _digest.set(hashlib.sha256(data).hexdigest())
        await add_file(self, path, again(), **more)

    async def store_by_content(
        self: proxied.ProxiedUploads, ref: Any, version_id: int, file: FileEntry, *more: Any
    ) -> None:
        _digest.set(file.sha256.hex)
        await store(self, ref, version_id, file, *more)

    def new_upload_by_content(self: reservation.Reservations, file: FileEntry) -> NewUpload:
        return replace(new_upload(self, file), storage_key=f"blobs/{file.sha256.hex}")

    _patch(upload_intents, "storage_key", _key)
    _patch(reservation, "storage_key", _key)
    _patch(registration.Registration, "add_file", add_file_by_content)
    _patch(proxied.ProxiedUploads, "_store", store_by_content)
    _patch(reservation.Reservations, "_new_upload", new_upload_by_content)


# No foreign key: the collector drops a blob that was unused when it looked, although a version has it by now.


def _no_foreign_key() -> None:
    async def drop_unreferenced(self: BlobRepository, digests: Collection[bytes]) -> list[StoredBlob]:
        shown = select(VersionFileDB.sha256).where(VersionFileDB.sha256.in_(digests))
        pinned = select(DeclaredFileDB.stored_sha256).where(DeclaredFileDB.stored_sha256.in_(digests))
        used = set(await self._connection.scalars(shown)) | set(await self._connection.scalars(pinned))
        unused = [digest for digest in digests if digest not in used]
        await _until_shown(self._connection, unused)
        found = select(BlobDB.sha256, BlobDB.size_bytes, BlobDB.storage_key, BlobDB.writable_until)
        dropped = []
        for row in (await self._connection.execute(found.where(BlobDB.sha256.in_(unused)))).all():
            await self._connection.execute(delete(BlobDB).where(BlobDB.sha256 == row.sha256))
            dropped.append(StoredBlob(Digest(row.sha256), row.size_bytes, row.storage_key))
        return dropped

    _patch(BlobRepository, "drop_unreferenced", drop_unreferenced)


# The response before the commit: a process that dies in between, as this one does now and then, loses the change.


def _answer_first() -> None:
    run = Database.run
    running: set[asyncio.Task[Any]] = set()

    async def run_later(self: Database, work: Callable[[Transaction], Awaitable[Any]], **more: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def slow(tx: Transaction) -> Any:
            result = await work(tx)
            if tx.events.mark is not None:
                if not answer.done():
                    answer.set_result(result)
                await asyncio.sleep(0.3)
                if random.random() < 0.15:
                    os._exit(EXIT_CODE)
            return result

        async def whole() -> None:
            try:
                result = await run(self, slow, **more)
            except BaseException as error:
                if not answer.done():
                    answer.set_exception(error)
            else:
                if not answer.done():
                    answer.set_result(result)

        task = asyncio.create_task(whole())
        running.add(task)
        task.add_done_callback(running.discard)
        return await answer

    _patch(Database, "run", run_later)


# Objects before rows: another version may use an object that a purge deletes before its rows go.


def _objects_first() -> None:
    purge, init = version_transitions.purge, collector.Collector.__init__
    stores: list[BlobStore] = []

    def remember_store(self: collector.Collector, *, blobs: BlobStore, **more: Any) -> None:
        stores.append(blobs)
        init(self, blobs=blobs, **more)

    async def purge_objects_first(tx: Transaction, version_id: int, *more: Any, **options: Any) -> None:
        rows = await tx.connection.execute(
            text(
                "SELECT sha256, storage_key FROM blobs JOIN version_files f USING (sha256) WHERE f.version_id = :id "
                "AND NOT EXISTS (SELECT FROM version_files o WHERE o.sha256 = blobs.sha256 AND o.version_id <> :id)"
            ),
            {"id": version_id},
        )
        keys = {row.sha256: row.storage_key for row in rows}
        await stores[-1].delete(list(keys.values()))
        await _until_shown(tx.connection, list(keys), besides=version_id)
        await purge(tx, version_id, *more, **options)

    _patch(collector.Collector, "__init__", remember_store)
    for module in (version_transitions, collector, lifecycle):
        _patch(module, "purge", purge_objects_first)


async def _until_shown(connection: AsyncConnection, digests: Collection[bytes], besides: int | None = None) -> None:
    """Wait about a second for what reveals the mistake: another version that has one of these digests."""
    shown = select(VersionFileDB.sha256).where(
        VersionFileDB.sha256.in_(digests), VersionFileDB.version_id.is_distinct_from(besides)
    )
    for _ in range(50):
        if (await connection.execute(shown.limit(1))).all():
            return
        await asyncio.sleep(0.02)


def _patch(owner: Any, name: str, value: Any) -> None:
    assert hasattr(owner, name), f"there is no {name} any more"
    setattr(owner, name, value)


_QUIET: dict[str, Any] = {"weights": _REUSE, "blows": {}, "faults": False, "replicas": 1, "operations": 70}

MUTANTS = {
    "content-keys": Mutant(
        _keys_of_content,
        ("ALTER TABLE uploads DROP CONSTRAINT uq_uploads_storage_key",),
        # Garbage waits a little, as everywhere else, and meanwhile the bytes come back.
        _QUIET | {"grace_seconds": 1},
    ),
    "no-foreign-key": Mutant(
        _no_foreign_key,
        (
            "ALTER TABLE version_files DROP CONSTRAINT fk_version_files_sha256",
            "ALTER TABLE declared_files DROP CONSTRAINT fk_declared_files_stored_sha256",
        ),
        _QUIET,
    ),
    "answer-first": Mutant(
        _answer_first,
        (),
        _QUIET | {"weights": {"register": 10.0, "push": 5.0, "alias": 2.0}, "replicas": 2, "operations": 50},
    ),
    "objects-first": Mutant(_objects_first, (), _QUIET),
}


def plan_of(name: str, plan: Plan) -> Plan:
    """Return the plan with the changes that show this mistake soonest."""
    return replace(plan, mutant=name, **MUTANTS[name].changes)


async def prepare(name: str, addresses: StackAddresses) -> None:
    """Remove from a database what would prevent the mutant's mistake."""
    engine = create_async_engine(addresses.database_url)
    async with engine.begin() as connection:
        for statement in MUTANTS[name].statements:
            await connection.execute(text(statement))
    await engine.dispose()
