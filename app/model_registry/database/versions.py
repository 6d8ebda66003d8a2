"""Versions of models and their files: `model_info`, `version_files`, and the aliases that point at them.

The statements that are run often are built once: building one costs more than running it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Interval,
    LargeBinary,
    Row,
    Select,
    Text,
    Uuid,
    bindparam,
    delete,
    func,
    literal,
    select,
    tuple_,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import aliased

from model_registry.database.file_rows import add_files
from model_registry.database.sql import is_in, latest, seconds
from model_registry.database.version_json import LISTED, page_of_documents, to_listed
from model_registry.database.version_rows import INFO, INFO_COLUMNS, IS_NOT_EXPIRED, NEW_INFO_COLUMNS, to_info
from model_registry.db_models import AliasDB, BlobDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import (
    Annotations,
    Digest,
    FileEntry,
    ListedVersion,
    ListPosition,
    Manifest,
    ModelDetails,
    ModelInfo,
    ModelSummary,
    Page,
    PublishedVersion,
    StoredBlob,
    StoredFile,
    VersionRef,
    VersionSelector,
    VersionState,
)
from model_registry.domain.version_labels import Precedence
from model_registry.utils import JsonText

_READY = is_in(VersionState.READY)
_NAME = bindparam("model_name", type_=Text)
_LABEL = bindparam("version", type_=Text)

_ALIASED_ID = select(AliasDB.version_id).where(AliasDB.model_name == _NAME, AliasDB.alias == _LABEL)

_IS_LABEL = (ModelInfoDB.model_name == _NAME) & (ModelInfoDB.version == _LABEL) & _READY
_IS_LATEST = ModelInfoDB.id == latest(ModelInfoDB.id, ModelInfoDB, _NAME).scalar_subquery()
_IS_ALIASED = (ModelInfoDB.id == _ALIASED_ID.scalar_subquery()) & _READY

_PUBLISHED = select(
    ModelInfoDB.id,
    ModelInfoDB.model_name,
    ModelInfoDB.version,
    ModelInfoDB.digest,
    ModelInfoDB.file_count,
    ModelInfoDB.ready_at,
)

_AnySelect = Select[*tuple[Any, ...]]
_AnyRow = Row[*tuple[Any, ...]]


def _by_selector(statement: _AnySelect) -> dict[str, _AnySelect]:
    return {
        "label": statement.where(_IS_LABEL),
        "latest": statement.where(_IS_LATEST),
        "alias": statement.where(_IS_ALIASED),
    }


_INFO_BY = _by_selector(INFO)
_PUBLISHED_BY = _by_selector(_PUBLISHED)
_INFO_BY_ID = INFO.where(ModelInfoDB.id == bindparam("id"))
_HAS_VISIBLE = select(ModelInfoDB.id).where(ModelInfoDB.model_name == _NAME, _READY).limit(1)

# Columns that are parameters alone are not said here: SQLAlchemy takes them from the parameters.
_INSERT = pg_insert(ModelInfoDB).on_conflict_do_nothing(index_elements=[ModelInfoDB.model_name, ModelInfoDB.version])
_RESERVE = _INSERT.values(
    state=VersionState.PENDING, lease_expires_at=func.now() + bindparam("lease", type_=Interval)
).returning(ModelInfoDB.id)
_REGISTER = _INSERT.values(state=VersionState.READY, ready_at=func.now()).returning(*NEW_INFO_COLUMNS)
_LOCK = select(ModelInfoDB.state).where(ModelInfoDB.id == bindparam("id"), IS_NOT_EXPIRED).with_for_update()
_PUBLISH = (
    update(ModelInfoDB)
    .where(ModelInfoDB.id == bindparam("version_id"))
    .values(
        state=VersionState.READY,
        lease_expires_at=None,
        ready_at=func.now(),
        generation=ModelInfoDB.generation + 1,
    )
    .returning(*INFO_COLUMNS)
)

_RENEW = (
    update(ModelInfoDB)
    .where(ModelInfoDB.id == bindparam("version_id"), ModelInfoDB.lease_expires_at > func.now())
    .values(lease_expires_at=func.now() + bindparam("lease", type_=Interval))
)
_SET_STATE = (
    update(ModelInfoDB)
    .where(ModelInfoDB.id == bindparam("version_id"), ModelInfoDB.state == bindparam("instead_of", type_=Text))
    .values(state=bindparam("to", type_=Text), generation=ModelInfoDB.generation + 1)
)
_COUNT_UNFINISHED = select(func.count()).select_from(
    select(ModelInfoDB.id)
    .where(ModelInfoDB.lease_expires_at > func.now(), ModelInfoDB.created_by == bindparam("actor", type_=Text))
    .limit(bindparam("at_most", type_=BigInteger))
    .subquery()
)
_ANY_TAKEN = select(
    ModelInfoDB.id,
    ModelInfoDB.version,
    ModelInfoDB.state,
    ModelInfoDB.digest,
    ModelInfoDB.reservation,
    ModelInfoDB.created_by,
    func.coalesce(ModelInfoDB.lease_expires_at < func.now(), literal(False)).label("is_expired"),
).where(ModelInfoDB.model_name == _NAME)
_TAKEN = _ANY_TAKEN.where(ModelInfoDB.version == _LABEL)
_TAKEN_BY = _ANY_TAKEN.where(ModelInfoDB.reservation == bindparam("reservation", type_=Uuid))

_STORED_FILES = (
    select(
        VersionFileDB.path,
        VersionFileDB.size_bytes,
        VersionFileDB.sha256,
        VersionFileDB.media_type,
        BlobDB.storage_key,
        BlobDB.damaged_at,
    )
    .join(BlobDB, BlobDB.sha256 == VersionFileDB.sha256)
    .where(VersionFileDB.version_id == bindparam("version_id"))
    .order_by(VersionFileDB.path)
)
_STORED_FILES_AFTER = _STORED_FILES.where(VersionFileDB.path > bindparam("after", type_=Text)).limit(
    bindparam("limit", type_=BigInteger)
)
_STORED_FILE = _STORED_FILES.where(VersionFileDB.path == bindparam("path", type_=Text))

_newest = aliased(ModelInfoDB)
_IS_LATEST_OF_ITS_MODEL = ModelInfoDB.id == (
    latest(_newest.id, _newest, ModelInfoDB.model_name).correlate(ModelInfoDB).scalar_subquery()
)
_LIST = (
    select(
        ModelInfoDB.model_name,
        ModelInfoDB.version,
        func.coalesce(_IS_LATEST_OF_ITS_MODEL, literal(False)).cast(Boolean).label("is_latest"),
        ModelInfoDB.size_bytes,
        ModelInfoDB.digest,
        ModelInfoDB.created_at,
        ModelInfoDB.precedence,
        ModelInfoDB.number,
    )
    .where(_READY)
    .order_by(ModelInfoDB.model_name, ModelInfoDB.precedence.desc(), ModelInfoDB.number.desc())
    .limit(bindparam("limit"))
)
_AFTER_PRECEDENCE = bindparam("after_precedence", type_=LargeBinary)
_AFTER_NUMBER = bindparam("after_number", type_=BigInteger)
_LATER_IN_MODEL = tuple_(ModelInfoDB.precedence, ModelInfoDB.number) < tuple_(_AFTER_PRECEDENCE, _AFTER_NUMBER)
_AFTER_NAME = bindparam("after_name", type_=Text)
# Two places in the index, as one condition would have it read from where the model begins.
_rest = union_all(
    _LIST.where(ModelInfoDB.model_name == _AFTER_NAME, _LATER_IN_MODEL).subquery().select(),
    _LIST.where(ModelInfoDB.model_name > _AFTER_NAME).subquery().select(),
).subquery()
_LIST_AFTER = (
    select(_rest)
    .order_by(_rest.c.model_name, _rest.c.precedence.desc(), _rest.c.number.desc())
    .limit(bindparam("limit"))
)
_LIST_OF_MODEL = _LIST.where(ModelInfoDB.model_name == _NAME)
_LIST_OF_MODEL_AFTER = _LIST_OF_MODEL.where(_LATER_IN_MODEL)


@cache
def _listed_of_model(state: VersionState, *, by_precedence: bool, is_first: bool) -> _AnySelect:
    wanted = select(ModelInfoDB.id).where(ModelInfoDB.model_name == _NAME, is_in(state), IS_NOT_EXPIRED)
    order: tuple[ColumnElement[Any], ...] = (ModelInfoDB.number.desc(),)
    if by_precedence:
        order = (ModelInfoDB.precedence.desc(), *order)
    if not is_first:
        wanted = wanted.where(_LATER_IN_MODEL if by_precedence else ModelInfoDB.number < _AFTER_NUMBER)
    ids = wanted.order_by(*order).limit(bindparam("limit")).subquery()
    # The files and aliases are looked up for these rows alone.
    return LISTED.where(ModelInfoDB.id.in_(select(ids.c.id))).order_by(*order)


@dataclass(frozen=True, slots=True)
class TakenLabel:
    """What stands in the way of a new version of this name."""

    id: int
    version: str
    state: VersionState
    digest: Digest | None
    reservation: UUID | None
    created_by: str
    is_expired: bool


class VersionRepository:
    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    # Reading

    async def info(self, selector: VersionSelector) -> ModelInfo | None:
        """The ready version that the selector names."""
        row = (await self._connection.execute(_INFO_BY[_kind(selector)], _parameters(selector))).one_or_none()
        return None if row is None else to_info(row)

    async def unfinished(self, ref: VersionRef) -> ModelInfo | None:
        """The version of this label, while it is being pushed or registered."""
        row = (
            await self._connection.execute(
                INFO.where(
                    ModelInfoDB.model_name == ref.model_name,
                    ModelInfoDB.version == ref.version,
                    ModelInfoDB.lease_expires_at > func.now(),
                )
            )
        ).one_or_none()
        return None if row is None else to_info(row)

    async def info_by_id(self, version_id: int) -> ModelInfo:
        """A version in any state."""
        return to_info((await self._connection.execute(_INFO_BY_ID, {"id": version_id})).one())

    async def published(self, selector: VersionSelector) -> PublishedVersion | None:
        row = (await self._connection.execute(_PUBLISHED_BY[_kind(selector)], _parameters(selector))).one_or_none()
        if row is None:
            return None
        return PublishedVersion(row.id, row.model_name, row.version, Digest(row.digest), row.file_count, row.ready_at)

    async def has_visible(self, model_name: str) -> bool:
        return await self._connection.scalar(_HAS_VISIBLE, {"model_name": model_name}) is not None

    async def page(self, *, model_name: str | None, after: ListPosition | None, limit: int) -> Page[ModelSummary]:
        """Ready versions by name, then newest precedence first; `after` is where the page before ended."""
        parameters: dict[str, object] = {"limit": limit + 1}
        statement = _LIST if model_name is None else _LIST_OF_MODEL
        if model_name is not None:
            parameters["model_name"] = model_name
        if after is not None:
            statement = _LIST_AFTER if model_name is None else _LIST_OF_MODEL_AFTER
            parameters |= {"after_precedence": after.precedence, "after_number": after.number}
            if model_name is None:
                parameters["after_name"] = after.model_name
        rows = (await self._connection.execute(statement, parameters)).all()
        return Page(tuple(_to_summary(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def page_of_model(
        self,
        model_name: str,
        state: VersionState,
        *,
        by_precedence: bool,
        after: ListPosition | None,
        limit: int,
    ) -> Page[ListedVersion]:
        """Versions of one model in one state, newest precedence first, or last registered first."""

        async def fetch(last: ListedVersion | None, at_most: int) -> Sequence[ListedVersion]:
            place = last.position if last else after
            statement = _listed_of_model(state, by_precedence=by_precedence, is_first=place is None)
            parameters = {"model_name": model_name, "limit": at_most}
            if place is not None:
                parameters |= {"after_precedence": place.precedence, "after_number": place.number}
            return [to_listed(row) for row in await self._connection.execute(statement, parameters)]

        return await page_of_documents(fetch, limit)

    async def stored_files(self, version_id: int) -> Sequence[StoredFile]:
        """All files of a version with where their bytes are, by path."""
        rows = await self._connection.execute(_STORED_FILES, {"version_id": version_id})
        return [_to_stored_file(row) for row in rows]

    async def page_of_files(self, version_id: int, *, after: str | None, limit: int) -> Page[StoredFile]:
        """Files by path."""
        parameters = {"version_id": version_id, "after": after or "", "limit": limit + 1}
        rows = (await self._connection.execute(_STORED_FILES_AFTER, parameters)).all()
        return Page(tuple(_to_stored_file(row) for row in rows[:limit]), has_more=len(rows) > limit)

    async def stored_file(self, version_id: int, path: str) -> StoredFile | None:
        row = (await self._connection.execute(_STORED_FILE, {"version_id": version_id, "path": path})).one_or_none()
        return None if row is None else _to_stored_file(row)

    async def taken(self, ref: VersionRef) -> TakenLabel | None:
        """The version of this name, in any state."""
        return await self._taken(_TAKEN, {"model_name": ref.model_name, "version": ref.version})

    async def taken_by(self, model_name: str, reservation: UUID) -> TakenLabel | None:
        """The version that this reservation made."""
        return await self._taken(_TAKEN_BY, {"model_name": model_name, "reservation": reservation})

    async def _taken(self, statement: _AnySelect, parameters: dict[str, Any]) -> TakenLabel | None:
        row = (await self._connection.execute(statement, parameters)).one_or_none()
        if row is None:
            return None
        digest = Digest(row.digest) if row.digest else None
        return TakenLabel(
            row.id, row.version, VersionState(row.state), digest, row.reservation, row.created_by, row.is_expired
        )

    async def has_params(self, version_id: int, details: ModelDetails) -> bool:
        """Whether the frozen parameters of a version are these; numbers are compared by value."""
        return (
            await self._connection.scalar(
                select(ModelInfoDB.id).where(
                    ModelInfoDB.id == version_id,
                    ModelInfoDB.standardization_params == literal(details.standardization_params, JSONB),
                    ModelInfoDB.model_params == literal(details.model_params, JSONB),
                )
            )
            is not None
        )

    # From pending to ready

    async def register(
        self, ref: VersionRef, *, number: int, precedence: Precedence, actor: str, details: ModelDetails
    ) -> ModelInfo | None:
        """Take the label with a version that has no files, ready at once, or return `None` as `reserve` does."""
        parameters = _begun(ref, number, precedence, actor) | _columns_of(details) | _manifest(Manifest.of([]))
        row = (await self._connection.execute(_REGISTER, parameters)).one_or_none()
        return None if row is None else to_info(row)

    async def reserve(
        self,
        ref: VersionRef,
        *,
        number: int,
        precedence: Precedence,
        reservation: UUID,
        actor: str,
        lease_seconds: float,
        details: ModelDetails | None = None,
        annotations: Annotations | None = None,
        manifest: Manifest | None = None,
    ) -> int | None:
        """Take the label with a pending version, or return `None` where it is taken.

        The unique index decides, so of any number of concurrent calls exactly one succeeds. A push knows by now what
        the version will be.
        """
        known = (
            (_columns_of(details) if details else {})
            | (_columns_of(annotations) if annotations else {})
            | (_manifest(manifest) if manifest else {})
        )
        version_id: int | None = await self._connection.scalar(
            _RESERVE,
            {
                **_begun(ref, number, precedence, actor),
                "reservation": reservation,
                "lease": timedelta(seconds=lease_seconds),
                **known,
            },
        )
        return version_id

    async def renew(self, version_id: int, lease_seconds: float) -> bool:
        """Prolong the lease of an unfinished version, if it still lives."""
        result = await self._connection.execute(
            _RENEW, {"version_id": version_id, "lease": timedelta(seconds=lease_seconds)}
        )
        return result.rowcount == 1

    async def lock(self, version_id: int) -> VersionState | None:
        """The state of a version, its row held; `None` when it is gone or its lease has run out."""
        state = await self._connection.scalar(_LOCK, {"id": version_id})
        return None if state is None else VersionState(state)

    async def annotate(self, version_id: int, metadata: JsonText, annotations: Annotations) -> None:
        """Say something else of a version."""
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(
                additional_metadata=metadata,
                generation=ModelInfoDB.generation + 1,
                **_columns_of(annotations),
            )
        )

    async def set_state(self, version_id: int, state: VersionState, *, instead_of: VersionState) -> None:
        """Go on to another unfinished state, or back."""
        await self._connection.execute(_SET_STATE, {"version_id": version_id, "to": state, "instead_of": instead_of})

    async def add_files(self, version_id: int, files: Sequence[FileEntry]) -> None:
        await add_files(self._connection, VersionFileDB, version_id, files)

    async def publish(
        self,
        version_id: int,
        *,
        file_path: str | None,
        details: ModelDetails | None = None,
        manifest: Manifest | None = None,
    ) -> ModelInfo:
        """Make a version ready; what was not known when it was reserved is said now."""
        known = (_columns_of(details) if details else {}) | (_manifest(manifest) if manifest else {})
        parameters = {"version_id": version_id, "file_path": file_path, **known}
        return to_info((await self._connection.execute(_PUBLISH, parameters)).one())

    async def drop_unfinished(self, version_id: int) -> None:
        """Delete a version that never became ready, freeing its label."""
        await self._connection.execute(
            delete(ModelInfoDB).where(ModelInfoDB.id == version_id, ModelInfoDB.lease_expires_at.is_not(None))
        )

    async def expired(self, limit: int) -> Sequence[tuple[int, str]]:
        """Unfinished versions past their lease, with their models' names."""
        rows = await self._connection.execute(
            select(ModelInfoDB.id, ModelInfoDB.model_name)
            .where(ModelInfoDB.lease_expires_at < func.now())
            .order_by(ModelInfoDB.lease_expires_at)
            .limit(limit)
        )
        return [(row.id, row.model_name) for row in rows]

    async def count_unfinished(self, actor: str, at_most: int) -> int:
        """How many versions somebody has begun and not finished, counted no further than `at_most`."""
        return await self._connection.scalar(_COUNT_UNFINISHED, {"actor": actor, "at_most": at_most}) or 0

    async def lock_discardable(self, version_id: int, *, only_expired: bool) -> bool:
        """Hold an unfinished version's row; `False` when there is none, or its lease still lives and must not."""
        is_expired = await self._connection.scalar(
            select(ModelInfoDB.lease_expires_at < func.now())
            .where(ModelInfoDB.id == version_id, ModelInfoDB.lease_expires_at.is_not(None))
            .with_for_update()
        )
        return is_expired is not None and (is_expired or not only_expired)

    async def showing(self, sha256: Digest, limit: int) -> Sequence[tuple[VersionRef, str]]:
        """The first versions, removed ones too, and paths that are made of these bytes."""
        rows = await self._connection.execute(
            select(ModelInfoDB.model_name, ModelInfoDB.version, VersionFileDB.path)
            .join(VersionFileDB, VersionFileDB.version_id == ModelInfoDB.id)
            .where(VersionFileDB.sha256 == sha256.raw)
            .order_by(ModelInfoDB.id, VersionFileDB.path)
            .limit(limit)
        )
        return [(VersionRef(row.model_name, row.version), row.path) for row in rows]

    async def moved(self, sha256: Digest, file_path: str) -> None:
        """These bytes are somewhere else now: what versions of one file show as their `file_path` follows."""
        showing = select(VersionFileDB.version_id).where(VersionFileDB.sha256 == sha256.raw)
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id.in_(showing), ModelInfoDB.file_path.is_not(None))
            .values(file_path=file_path, generation=ModelInfoDB.generation + 1)
        )

    # From ready to removed to purged

    async def yank(self, version_id: int, reason: str | None) -> None:
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(
                yanked_at=func.coalesce(ModelInfoDB.yanked_at, func.now()),
                yank_reason=reason,
                generation=ModelInfoDB.generation + 1,
            )
        )

    async def unyank(self, version_id: int) -> None:
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(yanked_at=None, yank_reason=None, generation=ModelInfoDB.generation + 1)
        )

    async def remove(self, version_id: int, purge_after_seconds: float) -> None:
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(
                state=VersionState.REMOVED,
                removed_at=func.now(),
                purge_after=func.now() + seconds(purge_after_seconds),
                generation=ModelInfoDB.generation + 1,
            )
        )

    async def restore(self, version_id: int) -> None:
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(state=VersionState.READY, removed_at=None, purge_after=None, generation=ModelInfoDB.generation + 1)
        )

    async def count_expired(self) -> int:
        return await self._count(ModelInfoDB.lease_expires_at < func.now())

    async def count_due_for_purge(self) -> int:
        return await self._count(ModelInfoDB.purge_after < func.now(), ModelInfoDB.purged_at.is_(None))

    async def _count(self, *conditions: ColumnElement[bool]) -> int:
        return await self._connection.scalar(select(func.count()).where(*conditions)) or 0

    async def due_for_purge(self) -> tuple[int, VersionRef] | None:
        """A removed version whose time has come, its row held; those that other collectors hold are left out."""
        row = (
            await self._connection.execute(
                select(ModelInfoDB.id, ModelInfoDB.model_name, ModelInfoDB.version)
                .where(ModelInfoDB.purge_after < func.now(), ModelInfoDB.purged_at.is_(None))
                .order_by(ModelInfoDB.purge_after)
                .limit(1)
                .with_for_update(skip_locked=True)
            )
        ).one_or_none()
        return None if row is None else (row.id, VersionRef(row.model_name, row.version))

    async def purge(self, version_id: int) -> Collection[bytes]:
        """Give up the files of a removed version, keeping its row; returns the digests that it referred to."""
        digests = await self._connection.scalars(
            delete(VersionFileDB).where(VersionFileDB.version_id == version_id).returning(VersionFileDB.sha256)
        )
        referred = set(digests)
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id == version_id)
            .values(purged_at=func.now(), file_path=None, generation=ModelInfoDB.generation + 1)
        )
        return referred


def _begun(ref: VersionRef, number: int, precedence: Precedence, actor: str) -> dict[str, Any]:
    return {
        "model_name": ref.model_name,
        "version": ref.version,
        "number": number,
        "precedence": precedence.key,
        "is_prerelease": precedence.is_prerelease,
        "created_by": actor,
    }


def _columns_of(value: ModelDetails | Annotations) -> dict[str, Any]:
    """The values of the columns that have the names of the value's members."""
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _manifest(manifest: Manifest) -> dict[str, Any]:
    return {
        "digest": manifest.digest.raw,
        "size_bytes": manifest.size_bytes,
        "file_count": manifest.file_count,
    }


def _kind(selector: VersionSelector) -> str:
    if selector.is_latest:
        return "latest"
    return "label" if selector.alias is None else "alias"


def _parameters(selector: VersionSelector) -> dict[str, str]:
    return {"model_name": selector.model_name, "version": selector.alias or selector.version}


def _to_summary(row: _AnyRow) -> ModelSummary:
    return ModelSummary(
        row.model_name,
        row.version,
        row.is_latest,
        row.size_bytes,
        Digest(row.digest),
        row.created_at,
        ListPosition(row.model_name, row.precedence, row.number),
    )


def _to_stored_file(row: _AnyRow) -> StoredFile:
    blob = StoredBlob(Digest(row.sha256), row.size_bytes, row.storage_key)
    return StoredFile(row.path, row.media_type, blob, is_damaged=row.damaged_at is not None)
