"""The registry's values: frozen, complete, independent of any database or protocol."""

import hashlib
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar
from uuid import UUID

from model_registry.domain.naming_rules import validate_alias, validate_model_name
from model_registry.domain.version_labels import validate_version
from model_registry.errors import InvalidField
from model_registry.utils import EMPTY_OBJECT, JsonText

T = TypeVar("T")

Precondition = Callable[[str | None], bool]
"""Returns whether a change is allowed, given the current ETag; `None` if nothing exists."""


def unconditional(_etag: str | None) -> bool:
    return True


FILES_SHOWN = 100
"""The maximum number of files in a `ModelInfo`; the manifest has all of them."""

_HEX = re.compile("[0-9a-f]{64}")


class VersionState(StrEnum):
    PENDING = "pending"
    VERIFYING = "verifying"
    READY = "ready"
    REMOVED = "removed"

    @property
    def is_unfinished(self) -> bool:
        """Whether the version is not ready yet. It has a lease, and can still be discarded."""
        return self in {VersionState.PENDING, VersionState.VERIFYING}


@dataclass(frozen=True, slots=True)
class Digest:
    """A sha256 of 32 bytes, written `sha256:<64 hex digits>`."""

    raw: bytes

    @property
    def hex(self) -> str:
        return self.raw.hex()

    def __str__(self) -> str:
        return f"sha256:{self.hex}"

    @classmethod
    def parse(cls, text: str, loc: tuple[str | int, ...]) -> "Digest":
        """Parse a digest with or without the prefix `sha256:`. Raises `InvalidField`."""
        digits = text.removeprefix("sha256:")
        if not _HEX.fullmatch(digits):
            raise InvalidField(loc, "a digest is sha256: followed by 64 lower-case hex digits", text)
        return cls(bytes.fromhex(digits))


@dataclass(frozen=True, slots=True)
class VersionRef:
    """A model name and a version label, both valid."""

    model_name: str
    version: str

    def __post_init__(self) -> None:
        validate_model_name(self.model_name)
        validate_version(self.version)


@dataclass(frozen=True, slots=True)
class VersionSelector:
    """A version as a read names it: by label, as `latest`, or as `@alias`."""

    model_name: str
    version: str

    def __post_init__(self) -> None:
        validate_model_name(self.model_name)
        if self.alias is not None:
            validate_alias(self.alias, "version")
        elif not self.is_latest:
            validate_version(self.version)

    @property
    def is_latest(self) -> bool:
        return self.version == "latest"

    @property
    def is_label(self) -> bool:
        return not self.is_latest and self.alias is None

    @property
    def alias(self) -> str | None:
        return self.version[1:] if self.version.startswith("@") else None


@dataclass(frozen=True, slots=True)
class AliasRef:
    """A model name and an alias, both valid."""

    model_name: str
    alias: str

    def __post_init__(self) -> None:
        validate_model_name(self.model_name)
        validate_alias(self.alias)


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a version."""

    path: str
    size_bytes: int
    sha256: Digest
    media_type: str


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A complete object in the store, with the digest of the bytes that were sent.

    `writable_until` is when the last presigned URL that can write this key expires.
    """

    sha256: Digest
    size_bytes: int
    storage_key: str
    writable_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file and the location of its bytes; `is_damaged` if the store was found to have other bytes."""

    path: str
    media_type: str
    blob: StoredBlob
    is_damaged: bool = False

    @property
    def entry(self) -> FileEntry:
        return FileEntry(self.path, self.blob.size_bytes, self.blob.sha256, self.media_type)


@dataclass(frozen=True, slots=True)
class ModelDetails:
    """The parameters and metadata given at registration. The parameters never change."""

    standardization_params: JsonText = EMPTY_OBJECT
    model_params: JsonText = EMPTY_OBJECT
    additional_metadata: JsonText = EMPTY_OBJECT


@dataclass(frozen=True, slots=True)
class Manifest:
    """A summary of the files of a version."""

    digest: Digest
    size_bytes: int
    file_count: int

    @classmethod
    def of(cls, files: Collection[FileEntry]) -> "Manifest":
        return cls(manifest_digest(files), sum(file.size_bytes for file in files), len(files))


@dataclass(frozen=True, slots=True)
class Annotations:
    """The description and tags of a version or a model. They can be edited later."""

    description: str | None = None
    tags: JsonText = EMPTY_OBJECT


@dataclass(frozen=True, slots=True)
class ListPosition:
    """The position of a version in a list: by name, then highest precedence first, then last registered first."""

    model_name: str
    precedence: bytes
    number: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A version. `files` has the first 100 files by path; `file_count` counts all.

    Each member is a column of `model_info` with the same name, or is computed in `database.version_rows`.
    """

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

    @property
    def etag(self) -> str:
        """The id and the generation. The id is part of it, so that a new `latest` is never a 304."""
        return f"{self.id}.{self.generation}"


DOCUMENT_MEMBERS = tuple(field.name for field in fields(ModelInfo) if field.name not in {"precedence", "generation"})
"""The members that the JSON document of a version shows, in its order; `download_url` follows them."""


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version in a list: its position in every order, and its JSON document."""

    id: int
    model_name: str
    number: int
    precedence: bytes
    size_bytes: int
    created_at: datetime
    document: JsonText

    @property
    def position(self) -> ListPosition:
        return ListPosition(self.model_name, self.precedence, self.number)


@dataclass(frozen=True, slots=True)
class RegisteredModel:
    """A model: a name with versions. `latest_version` and `version_count` count ready versions only."""

    name: str
    description: str | None
    tags: JsonText
    created_at: datetime
    updated_at: datetime
    latest_version: str | None
    version_count: int


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """A version as the list of all versions shows it."""

    model_name: str
    version: str
    is_latest: bool
    size_bytes: int
    digest: Digest
    created_at: datetime
    position: ListPosition


@dataclass(frozen=True, slots=True)
class PublishedVersion:
    """The part of a version that a download needs."""

    id: int
    model_name: str
    version: str
    digest: Digest
    file_count: int
    ready_at: datetime


@dataclass(frozen=True, slots=True)
class Alias:
    """The version that an alias points at, and since when. A generation is never reused, even after a delete."""

    alias: str
    version: str
    generation: int
    updated_at: datetime
    updated_by: str


@dataclass(frozen=True, slots=True)
class AliasMove:
    """The version that an alias pointed at from a time on; no version if the alias was deleted."""

    version: str | None
    generation: int
    at: datetime
    by: str


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    items: tuple[T, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Event:
    """An entry for the audit log. The action is in the past tense, such as `version.registered`."""

    actor: str
    action: str
    model_name: str
    version: str | None = None
    details: JsonText = EMPTY_OBJECT


class UploadState(StrEnum):
    OPEN = "open"
    STORED = "stored"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class PushUpload:
    """An object that a push uploads, one for each digest that was not stored. With a `part_size` it is sent in parts.

    `found_size_bytes` and `found_sha256` describe the wrong bytes of a refused upload.
    """

    id: UUID
    storage_key: str
    path: str
    sha256: Digest
    size_bytes: int
    part_size: int | None
    multipart_id: str | None
    state: UploadState
    found_size_bytes: int | None
    found_sha256: Digest | None
    writable_until: datetime | None

    @property
    def blob(self) -> StoredBlob:
        return StoredBlob(self.sha256, self.size_bytes, self.storage_key, self.writable_until)

    @property
    def is_direct(self) -> bool:
        """Whether clients write the object with presigned URLs. All other bytes pass through the service."""
        return self.writable_until is not None

    @property
    def part_sizes(self) -> list[int]:
        """The size of each part; empty for a single PUT."""
        if self.part_size is None:
            return []
        whole, rest = divmod(self.size_bytes, self.part_size)
        return [self.part_size] * whole + ([rest] if rest else [])


@dataclass(frozen=True, slots=True)
class EventPosition:
    """The position of an event in the log: the transaction that wrote it, then its id. The log starts after 0, 0."""

    xid: int
    id: int


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    position: EventPosition
    at: datetime
    event: Event


@dataclass(frozen=True, slots=True)
class NewUpload:
    """The intent to write an object. It is in the database before the first byte of the object is sent."""

    id: UUID
    storage_key: str
    path: str
    declared: FileEntry | None = None
    part_size: int | None = None


def manifest_digest(files: Iterable[FileEntry]) -> Digest:
    """Return the sha256 of the manifest: lines `<sha256 hex>  <size>  <path>`, sorted by the bytes of the path.

    You can compute it with standard tools. Without files it is the sha256 of the empty text.
    """
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.path.encode()):
        digest.update(f"{file.sha256.hex}  {file.size_bytes}  {file.path}\n".encode())
    return Digest(digest.digest())
