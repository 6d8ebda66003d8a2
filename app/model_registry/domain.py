"""The registry's values: frozen, complete, free of any database or protocol."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

from model_registry.names import check_alias, check_model_name
from model_registry.utils import EMPTY_OBJECT, JsonText
from model_registry.versions import check_version

T = TypeVar("T")


class VersionState(StrEnum):
    PENDING = "pending"
    VERIFYING = "verifying"
    READY = "ready"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Digest:
    """A sha256, 32 bytes; written `sha256:<64 hex digits>`."""

    raw: bytes

    @property
    def hex(self) -> str:
        return self.raw.hex()

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A model and a label, both valid."""

    model_name: str
    version: str

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        check_version(self.version)


@dataclass(frozen=True, slots=True)
class VersionSelector:
    """What a read may put where a version stands: a label, `latest`, or `@alias`."""

    model_name: str
    version: str

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        if self.alias is not None:
            check_alias(self.alias, "version")
        elif not self.is_latest:
            check_version(self.version)

    @property
    def is_latest(self) -> bool:
        return self.version == "latest"

    @property
    def alias(self) -> str | None:
        return self.version[1:] if self.version.startswith("@") else None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version; `storage_key` is where its bytes are."""

    path: str
    size_bytes: int
    sha256: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """Bytes in the object store, complete, with the digest of what was sent."""

    sha256: Digest
    size_bytes: int
    storage_key: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    path: str
    media_type: str
    blob: StoredBlob

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.path, self.blob.size_bytes, self.blob.sha256, self.media_type)


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """What the person who registers says of a version; the first two are frozen for ever."""

    standardization_params: JsonText = EMPTY_OBJECT
    model_params: JsonText = EMPTY_OBJECT
    additional_metadata: JsonText = EMPTY_OBJECT


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """One version of one model. `files` has the first 100 by path; `file_count` counts them all."""

    id: int
    model_name: str
    version: str
    number: int
    state: VersionState
    file_path: str | None
    standardization_params: JsonText
    model_params: JsonText
    additional_metadata: JsonText
    description: str | None
    tags: JsonText
    digest: Digest | None
    size_bytes: int
    file_count: int
    files: tuple[FileEntry, ...]
    precedence: bytes
    is_prerelease: bool
    yanked: bool
    yank_reason: str | None
    aliases: tuple[str, ...]
    created_at: datetime
    created_by: str
    ready_at: datetime | None
    removed_at: datetime | None
    purge_after: datetime | None
    purged_at: datetime | None
    generation: int


@dataclass(frozen=True, slots=True)
class ListPosition:
    """Where a version stands in a list: by name, then newest precedence first, then last registered first."""

    model_name: str
    precedence: bytes
    number: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A row of a list."""

    model_name: str
    version: str
    is_latest: bool
    size_bytes: int
    digest: Digest
    created_at: datetime
    position: ListPosition


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """What a download needs to know of a version, without its metadata."""

    id: int
    model_name: str
    version: str
    digest: Digest
    file_count: int
    ready_at: datetime


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Event:
    """What happened, past tense (`version.registered`), for the audit log."""

    actor: str
    action: str
    model_name: str
    version: str | None = None
    details: JsonText = EMPTY_OBJECT


@dataclass(frozen=True, slots=True)
class NewUpload:
    """An intent to write one object; in the database before the object's first byte is sent."""

    id: UUID
    storage_key: str
    path: str


def manifest_digest(files: Iterable[FileEntry]) -> Digest:
    """The sha256 of the canonical manifest: lines `<sha256 hex>  <size>  <path>`, sorted by path bytes.

    Anyone can recompute it with standard tools; no files give the sha256 of the empty text.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path.encode()):
        digest.update(f"{file.sha256.hex}  {file.size_bytes}  {file.path}\n".encode())
    return Digest(digest.digest())
