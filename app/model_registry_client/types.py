"""What the registry knows, as values. Members that a newer service adds are kept."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from model_registry_client.errors import UsageError

LATEST = "latest"
Transfer = Literal["auto", "direct", "proxied"]
"""Which way bytes take: straight to and from storage, through the service, or the former as long as it works."""
_MODEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]*[A-Za-z0-9])?")
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Ref:
    """A version of a model, by its label, by an alias (`@champion`), or the latest."""

    model: str
    selector: str = LATEST

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """`fraud`, `fraud:2.4.0` or `fraud@champion`; raises `UsageError` for anything else."""
        model, separator, rest = text.partition(":") if ":" in text else text.partition("@")
        if not _MODEL.fullmatch(model) or ".." in model or (separator and not _pattern(separator).fullmatch(rest)):
            raise UsageError(f"{text!r} names no version: NAME, NAME:VERSION or NAME@ALIAS is expected.")
        return cls(model, LATEST if not separator else f"@{rest}" if separator == "@" else rest)

    @classmethod
    def of(cls, ref: "Ref | str") -> "Ref":
        """As it is, or as it is written."""
        return ref if isinstance(ref, Ref) else cls.parse(ref)

    @property
    def label(self) -> str:
        """The version's own label, which a change needs; raises `UsageError` where it is not named."""
        if self.selector == LATEST:
            raise UsageError(f"Name a version, as {self.model}:VERSION: the latest may be another one tomorrow.")
        if self.selector.startswith("@"):
            raise UsageError(f"{self} may be another version tomorrow: name the one you mean, as {self.model}:VERSION.")
        return self.selector

    def __str__(self) -> str:
        return f"{self.model}{self.selector}" if self.selector.startswith("@") else f"{self.model}:{self.selector}"


def _pattern(separator: str) -> re.Pattern[str]:
    return _ALIAS if separator == "@" else _LABEL


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class File(_Value):
    """A file of a version. `sha256` is `sha256:<hex>`; `url` is there where it was asked for, until `expires_at`."""

    path: str
    size_bytes: int
    sha256: str
    media_type: str = "application/octet-stream"
    url: str | None = None
    expires_at: AwareDatetime | None = None


class Version(_Value):
    """One version of one model."""

    id: int
    model_name: str
    version: str
    number: int
    state: str
    """`pending`, `verifying`, `ready` or `removed`."""
    file_path: str | None
    standardization_params: dict[str, Any]
    model_params: dict[str, Any]
    additional_metadata: dict[str, Any]
    description: str | None
    tags: dict[str, Any]
    digest: str | None
    size_bytes: int
    file_count: int
    files: tuple[File, ...]
    """The first 100, by path."""
    is_prerelease: bool
    yanked: bool
    yank_reason: str | None = None
    aliases: tuple[str, ...]
    created_at: AwareDatetime
    created_by: str
    ready_at: AwareDatetime | None
    removed_at: AwareDatetime | None
    purge_after: AwareDatetime | None = None
    purged_at: AwareDatetime | None = None
    download_url: str | None
    etag: str | None = None
    """As `if_match` takes it; `None` in lists."""

    @property
    def ref(self) -> Ref:
        return Ref(self.model_name, self.version)


class Alias(_Value):
    """A name that points at a version; `generation` is another one after each move."""

    alias: str
    version: str
    generation: int
    updated_at: AwareDatetime
    updated_by: str


class AliasMove(_Value):
    """What an alias pointed at from `at` on; `version` is `None` where it was dropped."""

    version: str | None
    generation: int
    at: AwareDatetime
    by: str


class Model(_Value):
    """A model. `aliases` are there when it was asked for by name, and not in lists."""

    name: str
    description: str | None
    tags: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime
    latest_version: str | None
    version_count: int
    aliases: tuple[Alias, ...] = ()
    etag: str | None = None
    """As `if_match` takes it; `None` in lists."""


class Event(_Value):
    """Something that happened."""

    id: int
    time: AwareDatetime
    actor: str
    action: str
    model: str
    version: str | None
    details: dict[str, Any]
    resume_after: str | None = None
    """Where to go on reading after this event; the last one of each page that was read has it."""


class Upload(_Value):
    """How one file of a push is to be sent."""

    path: str
    sha256: str
    size_bytes: int
    already_stored: bool
    method: str | None = None
    """`put`, `multipart` or `proxy`; `None` where nothing is to be sent."""
    url: str | None = None
    headers: dict[str, str] | None = None
    expires_at: AwareDatetime | None = None
    upload_id: str | None = None
    part_size: int | None = None


class DownloadUrl(File):
    """A file's URL for GET, good without credentials until `expires_at`."""

    model_name: str
    version: str
    url: str
    expires_at: AwareDatetime


class Pushed(_Value):
    """What a push did. `was_ready`: it had been done before."""

    version: Version
    sent_bytes: int
    saved_bytes: int
    sent_files: int
    was_ready: bool


class Pulled(_Value):
    """What a pull did. `was_complete`: everything was there already."""

    version: Version
    path: Path
    downloaded_bytes: int
    cached_bytes: int
    was_complete: bool
