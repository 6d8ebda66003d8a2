"""Versions: `model_info`. Reads of one version, and the changes of its state.

Statements that run often are built once, because building one costs more than running it.
"""

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Interval,
    Row,
    Select,
    Text,
    Uuid,
    bindparam,
    func,
    literal,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import insert as pg_insert
from sqlalchemy.ext.asyncio import AsyncConnection

from model_registry.database.sql import is_in, latest, seconds
from model_registry.database.version_rows import INFO, INFO_COLUMNS, IS_NOT_EXPIRED, NEW_INFO_COLUMNS, to_info
from model_registry.db_models import AliasDB, ModelInfoDB, VersionFileDB
from model_registry.domain.entities import (
    Annotations,
    Digest,
    Manifest,
    ModelDetails,
    ModelInfo,
    PublishedVersion,
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
_HAS_READY = select(ModelInfoDB.id).where(ModelInfoDB.model_name == _NAME, _READY).limit(1)

# SQLAlchemy adds the columns of the parameters to these statements.
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
_EXISTING = select(
    ModelInfoDB.id,
    ModelInfoDB.version,
    ModelInfoDB.state,
    ModelInfoDB.digest,
    ModelInfoDB.reservation,
    ModelInfoDB.created_by,
    func.coalesce(ModelInfoDB.lease_expires_at < func.now(), literal(False)).label("is_expired"),
).where(ModelInfoDB.model_name == _NAME)
_EXISTING_LABEL = _EXISTING.where(ModelInfoDB.version == _LABEL)
_EXISTING_RESERVED = _EXISTING.where(ModelInfoDB.reservation == bindparam("reservation", type_=Uuid))


@dataclass(frozen=True, slots=True)
class ExistingVersion:
    """The version that already has a label, in any state."""

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

    # Reads

    async def info(self, selector: VersionSelector) -> ModelInfo | None:
        """Return the ready version that the selector names."""
        row = (await self._connection.execute(_INFO_BY[_kind(selector)], _parameters(selector))).one_or_none()
        return None if row is None else to_info(row)

    async def unfinished(self, ref: VersionRef) -> ModelInfo | None:
        """Return the version with this label while it is unfinished."""
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
        """Return a version in any state."""
        return to_info((await self._connection.execute(_INFO_BY_ID, {"id": version_id})).one())

    async def published(self, selector: VersionSelector) -> PublishedVersion | None:
        row = (await self._connection.execute(_PUBLISHED_BY[_kind(selector)], _parameters(selector))).one_or_none()
        if row is None:
            return None
        return PublishedVersion(row.id, row.model_name, row.version, Digest(row.digest), row.file_count, row.ready_at)

    async def has_ready(self, model_name: str) -> bool:
        return await self._connection.scalar(_HAS_READY, {"model_name": model_name}) is not None

    async def find(self, ref: VersionRef) -> ExistingVersion | None:
        """Return the version that has this label, in any state."""
        return await self._find(_EXISTING_LABEL, {"model_name": ref.model_name, "version": ref.version})

    async def find_reserved(self, model_name: str, reservation: UUID) -> ExistingVersion | None:
        """Return the version that this reservation created."""
        return await self._find(_EXISTING_RESERVED, {"model_name": model_name, "reservation": reservation})

    async def _find(self, statement: _AnySelect, parameters: dict[str, Any]) -> ExistingVersion | None:
        row = (await self._connection.execute(statement, parameters)).one_or_none()
        if row is None:
            return None
        digest = Digest(row.digest) if row.digest else None
        return ExistingVersion(
            row.id, row.version, VersionState(row.state), digest, row.reservation, row.created_by, row.is_expired
        )

    async def has_params(self, version_id: int, details: ModelDetails) -> bool:
        """Return whether a version has these frozen parameters; numbers compare by value."""
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
        """Insert a version without files that is ready at once, or return `None` if the label is taken."""
        parameters = _new_row(ref, number, precedence, actor) | _columns_of(details) | _manifest(Manifest.of([]))
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
        """Insert a pending version, or return `None` if the label is taken.

        The unique index decides, so exactly one of several concurrent calls succeeds. A push gives details, annotations
        and manifest here; a form gives them to `publish`.
        """
        known = (
            (_columns_of(details) if details else {})
            | (_columns_of(annotations) if annotations else {})
            | (_manifest(manifest) if manifest else {})
        )
        version_id: int | None = await self._connection.scalar(
            _RESERVE,
            {
                **_new_row(ref, number, precedence, actor),
                "reservation": reservation,
                "lease": timedelta(seconds=lease_seconds),
                **known,
            },
        )
        return version_id

    async def renew(self, version_id: int, lease_seconds: float) -> bool:
        """Extend the lease of an unfinished version; return `False` if it expired."""
        result = await self._connection.execute(
            _RENEW, {"version_id": version_id, "lease": timedelta(seconds=lease_seconds)}
        )
        return result.rowcount == 1

    async def lock(self, version_id: int) -> VersionState | None:
        """Lock the row of a version and return its state; `None` if it does not exist or its lease expired."""
        state = await self._connection.scalar(_LOCK, {"id": version_id})
        return None if state is None else VersionState(state)

    async def annotate(self, version_id: int, metadata: JsonText, annotations: Annotations) -> None:
        """Replace the metadata, description and tags of a version."""
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
        """Change from one unfinished state to another."""
        await self._connection.execute(_SET_STATE, {"version_id": version_id, "to": state, "instead_of": instead_of})

    async def publish(
        self,
        version_id: int,
        *,
        file_path: str | None,
        details: ModelDetails | None = None,
        manifest: Manifest | None = None,
    ) -> ModelInfo:
        """Publish a version, with the details and manifest that `reserve` did not get."""
        known = (_columns_of(details) if details else {}) | (_manifest(manifest) if manifest else {})
        parameters = {"version_id": version_id, "file_path": file_path, **known}
        return to_info((await self._connection.execute(_PUBLISH, parameters)).one())

    async def count_unfinished(self, actor: str, at_most: int) -> int:
        """Return how many unfinished versions an actor has; counting stops at `at_most`."""
        return await self._connection.scalar(_COUNT_UNFINISHED, {"actor": actor, "at_most": at_most}) or 0

    async def update_file_path(self, sha256: Digest, file_path: str) -> None:
        """Update the `file_path` of versions of one file after the file's bytes moved."""
        with_file = select(VersionFileDB.version_id).where(VersionFileDB.sha256 == sha256.raw)
        await self._connection.execute(
            update(ModelInfoDB)
            .where(ModelInfoDB.id.in_(with_file), ModelInfoDB.file_path.is_not(None))
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


def _new_row(ref: VersionRef, number: int, precedence: Precedence, actor: str) -> dict[str, Any]:
    return {
        "model_name": ref.model_name,
        "version": ref.version,
        "number": number,
        "precedence": precedence.key,
        "is_prerelease": precedence.is_prerelease,
        "created_by": actor,
    }


def _columns_of(value: ModelDetails | Annotations) -> dict[str, Any]:
    """Return the columns that are named after the members of the value, with their values."""
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
