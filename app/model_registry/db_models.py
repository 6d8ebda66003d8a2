"""The tables. Their constraints and indexes enforce the invariants; Alembic creates them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import UserDefinedType

_NOW = func.now()
_EMPTY_OBJECT = text("'{}'::jsonb")


def _label() -> Text:
    """Text that sorts by code point, for names and paths."""
    return Text(collation="C")


class Xid8(UserDefinedType[int]):
    """A transaction id of 64 bits, which never wraps around."""

    cache_ok = True

    def get_col_spec(self, **_kwargs: Any) -> str:
        return "xid8"


# Alembic needs this to recognize the type when it compares the database with these tables.
ischema_names["xid8"] = Xid8


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        int: BigInteger,
        bytes: LargeBinary,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        str: Text,
        UUID: Uuid,
    }


class SchemaFloorDB(Base):
    """One row: the oldest revision whose services can work with the current schema."""

    __tablename__ = "schema_floor"

    oldest_revision: Mapped[str] = mapped_column(primary_key=True)


class RegisteredModelDB(Base):
    """A model. It is provisional until a version of it is ready or the model itself is created.

    `version_count` counts the ready versions, so that no read has to count them.
    """

    __tablename__ = "registered_models"

    name: Mapped[str] = mapped_column(_label(), primary_key=True)
    description: Mapped[str | None]
    tags: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    next_number: Mapped[int] = mapped_column(server_default=text("1"))
    is_provisional: Mapped[bool] = mapped_column(server_default=text("false"))
    version_count: Mapped[int] = mapped_column(server_default=text("0"))

    __table_args__ = (
        CheckConstraint("version_count >= 0", name="version_count"),
        Index("uq_registered_models_lower_name", text("lower(name)"), unique=True),
        Index(None, "tags", postgresql_using="gin", postgresql_ops={"tags": "jsonb_path_ops"}),
    )


class ModelInfoDB(Base):
    """A version of a model. The row outlives its bytes, so that a label never names other bytes.

    A new column is three edits: here, in `domain.entities.ModelInfo`, and in `web.responses.schemas.ModelInfoOut`.
    """

    __tablename__ = "model_info"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    model_name: Mapped[str] = mapped_column(
        _label(), ForeignKey("registered_models.name", onupdate="CASCADE", ondelete="RESTRICT")
    )
    version: Mapped[str] = mapped_column(_label())
    number: Mapped[int]
    state: Mapped[str] = mapped_column(server_default=text("'pending'"))
    reservation: Mapped[UUID | None]
    file_path: Mapped[str | None]
    standardization_params: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)
    model_params: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)
    additional_metadata: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)
    tags: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)
    description: Mapped[str | None]
    digest: Mapped[bytes | None]
    size_bytes: Mapped[int] = mapped_column(server_default=text("0"))
    file_count: Mapped[int] = mapped_column(server_default=text("0"))
    precedence: Mapped[bytes] = mapped_column(server_default=text("''::bytea"))
    is_prerelease: Mapped[bool] = mapped_column(server_default=text("false"))
    yanked_at: Mapped[datetime | None]
    yank_reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    created_by: Mapped[str] = mapped_column(server_default=text("'anonymous'"))
    ready_at: Mapped[datetime | None]
    removed_at: Mapped[datetime | None]
    purge_after: Mapped[datetime | None]
    purged_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime | None]
    generation: Mapped[int] = mapped_column(server_default=text("1"))

    __table_args__ = (
        UniqueConstraint("model_name", "version"),
        UniqueConstraint("model_name", "number"),
        CheckConstraint("state IN ('pending', 'verifying', 'ready', 'removed')", name="state"),
        CheckConstraint("octet_length(digest) = 32", name="digest"),
        CheckConstraint("state <> 'ready' OR (digest IS NOT NULL AND ready_at IS NOT NULL)", name="ready_is_whole"),
        CheckConstraint(
            "(state IN ('pending', 'verifying')) = (lease_expires_at IS NOT NULL)", name="only_unfinished_has_a_lease"
        ),
        CheckConstraint("(state = 'removed') = (purge_after IS NOT NULL)", name="only_removed_is_purged"),
        CheckConstraint("purged_at IS NULL OR state = 'removed'", name="purged_stays_removed"),
        # The order of lists; and with the pre-release flag first, the latest version.
        Index(
            "ix_model_info_list",
            "model_name",
            text("precedence DESC"),
            text("number DESC"),
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_model_info_latest",
            "model_name",
            "is_prerelease",
            text("precedence DESC"),
            text("number DESC"),
            postgresql_where=text("state = 'ready' AND yanked_at IS NULL"),
        ),
        Index("ix_model_info_lapsed", "lease_expires_at", postgresql_where=text("lease_expires_at IS NOT NULL")),
        Index(
            "ix_model_info_to_purge",
            "purge_after",
            postgresql_where=text("purge_after IS NOT NULL AND purged_at IS NULL"),
        ),
        # Search: its orders, the most frequent filters (in the default order), and equality on JSON. The order by name
        # uses the unique index of names and numbers.
        Index("ix_model_info_created_at", "created_at", "id", postgresql_where=text("state = 'ready'")),
        Index("ix_model_info_number", "number", "id", postgresql_where=text("state = 'ready'")),
        Index("ix_model_info_size_bytes", "size_bytes", "id", postgresql_where=text("state = 'ready'")),
        Index(
            "ix_model_info_model_name_created_at",
            "model_name",
            "created_at",
            "id",
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_model_info_created_by_created_at",
            "created_by",
            "created_at",
            "id",
            postgresql_where=text("state = 'ready'"),
        ),
        Index(
            "ix_model_info_version_created_at", "version", "created_at", "id", postgresql_where=text("state = 'ready'")
        ),
        Index("ix_model_info_unready", "state", "created_at", "id", postgresql_where=text("state <> 'ready'")),
        # Without fastupdate, no registration does the deferred work of thousands, and no search reads the pending list.
        Index(
            "ix_model_info_json",
            "tags",
            "model_params",
            "standardization_params",
            "additional_metadata",
            postgresql_using="gin",
            postgresql_ops={
                "tags": "jsonb_path_ops",
                "model_params": "jsonb_path_ops",
                "standardization_params": "jsonb_path_ops",
                "additional_metadata": "jsonb_path_ops",
            },
            postgresql_with={"fastupdate": "off"},
            postgresql_where=text("state = 'ready'"),
        ),
    )


class BlobDB(Base):
    """Bytes in the object store, under a key that was written once and is never reused.

    `damaged_at` is when `verify` found other bytes under the key. `writable_until` is when the last URL that can write
    the key expires.
    """

    __tablename__ = "blobs"

    sha256: Mapped[bytes] = mapped_column(primary_key=True)
    size_bytes: Mapped[int]
    storage_key: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    verified_at: Mapped[datetime | None]
    damaged_at: Mapped[datetime | None]
    writable_until: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("size_bytes >= 0", name="size"),
    )


class VersionFileDB(Base):
    """A file of a version. RESTRICT prevents the deletion of a blob that a file refers to."""

    __tablename__ = "version_files"

    version_id: Mapped[int] = mapped_column(ForeignKey("model_info.id", ondelete="RESTRICT"), primary_key=True)
    path: Mapped[str] = mapped_column(_label(), primary_key=True)
    sha256: Mapped[bytes] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"))
    size_bytes: Mapped[int]
    media_type: Mapped[str]

    __table_args__ = (Index(None, "sha256"),)


class DeclaredFileDB(Base):
    """A file that a pending version will have. `stored_sha256` pins a blob that is already stored, so that it stays."""

    __tablename__ = "declared_files"

    version_id: Mapped[int] = mapped_column(ForeignKey("model_info.id", ondelete="CASCADE"), primary_key=True)
    path: Mapped[str] = mapped_column(_label(), primary_key=True)
    sha256: Mapped[bytes]
    size_bytes: Mapped[int]
    media_type: Mapped[str]
    stored_sha256: Mapped[bytes | None] = mapped_column(ForeignKey("blobs.sha256", ondelete="RESTRICT"))

    __table_args__ = (
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("stored_sha256 = sha256", name="pins_its_own_bytes"),
        Index(None, "stored_sha256"),
    )


class UploadDB(Base):
    """An object that is being written and does not belong to a version yet.

    An upload with a declared digest belongs to a push. It is `stored` once its bytes are known to be right, and
    `refused` once they are known to be wrong. With a `part_size` it is sent in parts.
    """

    __tablename__ = "uploads"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("model_info.id", ondelete="CASCADE"))
    path: Mapped[str]
    storage_key: Mapped[str] = mapped_column(unique=True)
    multipart_id: Mapped[str | None]
    sha256: Mapped[bytes | None]
    size_bytes: Mapped[int | None]
    part_size: Mapped[int | None]
    state: Mapped[str] = mapped_column(server_default=text("'open'"))
    found_sha256: Mapped[bytes | None]
    found_size_bytes: Mapped[int | None]
    writable_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    lease_expires_at: Mapped[datetime]

    __table_args__ = (
        CheckConstraint("state IN ('open', 'stored', 'refused')", name="state"),
        CheckConstraint("octet_length(sha256) = 32", name="sha256"),
        CheckConstraint("(sha256 IS NULL) = (size_bytes IS NULL)", name="declared_whole"),
        Index(None, "version_id"),
        Index(None, "lease_expires_at"),
    )


class AliasDB(Base):
    """A name that points at a version. Generations come from one sequence, so they are never reused."""

    __tablename__ = "aliases"

    model_name: Mapped[str] = mapped_column(
        _label(), ForeignKey("registered_models.name", onupdate="CASCADE", ondelete="RESTRICT"), primary_key=True
    )
    alias: Mapped[str] = mapped_column(_label(), primary_key=True)
    version_id: Mapped[int] = mapped_column(ForeignKey("model_info.id", ondelete="RESTRICT"))
    generation: Mapped[int] = mapped_column(Identity(always=True))
    updated_at: Mapped[datetime] = mapped_column(server_default=_NOW)
    updated_by: Mapped[str]

    __table_args__ = (Index(None, "version_id"),)


class AliasMoveDB(Base):
    """The version that an alias pointed at from a time on; no version if the alias was deleted."""

    __tablename__ = "alias_history"

    model_name: Mapped[str] = mapped_column(
        _label(), ForeignKey("registered_models.name", onupdate="CASCADE", ondelete="RESTRICT"), primary_key=True
    )
    alias: Mapped[str] = mapped_column(_label(), primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version_id: Mapped[int | None] = mapped_column(ForeignKey("model_info.id", ondelete="RESTRICT"))
    at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    by: Mapped[str]

    __table_args__ = (Index(None, "version_id"),)


class EventDB(Base):
    """An entry of the audit log; append-only. `xid` lets a reader stop before changes that are not committed yet."""

    __tablename__ = "events"

    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=_NOW)
    xid: Mapped[int] = mapped_column(Xid8, server_default=text("pg_current_xact_id()"))
    actor: Mapped[str]
    action: Mapped[str]
    model_name: Mapped[str]
    version: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=_EMPTY_OBJECT)

    __table_args__ = (Index(None, "xid", "id"), Index(None, "model_name", "xid", "id"))


class GarbageDB(Base):
    """A storage key to delete after `not_before`. No other row refers to it.

    While a presigned URL can still write the key (`writable_until`), the row stays, and the object is deleted again.
    """

    __tablename__ = "garbage"

    storage_key: Mapped[str] = mapped_column(primary_key=True)
    multipart_id: Mapped[str | None]
    is_upload: Mapped[bool]
    size_bytes: Mapped[int | None]
    writable_until: Mapped[datetime | None]
    not_before: Mapped[datetime] = mapped_column(server_default=_NOW)
    attempts: Mapped[int] = mapped_column(server_default=text("0"))

    __table_args__ = (Index(None, "not_before"),)


class IdempotencyDB(Base):
    """The first response to an Idempotency-Key, and the hash of what its request meant."""

    __tablename__ = "idempotency"

    actor: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    meaning: Mapped[bytes]
    answer: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=_NOW)

    __table_args__ = (Index(None, "created_at"),)
