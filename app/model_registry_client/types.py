"""The values that the registry returns. Members that a newer service adds are kept."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict

from model_registry_client.errors import UsageError

LATEST = "latest"
Transfer = Literal["auto", "direct", "proxied"]
"""How bytes travel: `direct` to and from storage, `proxied` through the service, `auto` direct while that works."""
_MODEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]*[A-Za-z0-9])?")
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


def check_transfer_options(transfer: str, parallel: int) -> None:
    """Raises `UsageError` for a `transfer` or a number of parallel transfers that a push or pull cannot have."""
    if transfer not in get_args(Transfer):
        raise UsageError(f"transfer must be one of {', '.join(get_args(Transfer))}, not {transfer!r}.")
    if parallel < 1:
        raise UsageError("parallel must be at least 1.")


@dataclass(frozen=True, slots=True)
class Ref:
    """Names a version of a model: by its label, by an alias (`@champion`), or `latest`."""

    model: str
    selector: str = LATEST

    @classmethod
    def parse(cls, text: str) -> "Ref":
        """Parse `fraud`, `fraud:2.4.0` or `fraud@champion`. Raises `UsageError` for anything else."""
        model, separator, rest = text.partition(":") if ":" in text else text.partition("@")
        if not _MODEL.fullmatch(model) or ".." in model or (separator and not _pattern(separator).fullmatch(rest)):
            raise UsageError(f"{text!r} is not a version. Use NAME, NAME:VERSION or NAME@ALIAS.")
        return cls(model, LATEST if not separator else f"@{rest}" if separator == "@" else rest)

    @classmethod
    def of(cls, ref: "Ref | str") -> "Ref":
        """Return a `Ref` as it is, or parse its text."""
        return ref if isinstance(ref, Ref) else cls.parse(ref)

    @property
    def label(self) -> str:
        """The label of the version, which a change needs. Raises `UsageError` if the ref has none."""
        if self.selector == LATEST:
            raise UsageError(f"Name a version, such as {self.model}:VERSION. The latest version can change.")
        if self.selector.startswith("@"):
            raise UsageError(f"Name a version, such as {self.model}:VERSION. The alias {self} can move.")
        return self.selector

    def __str__(self) -> str:
        return f"{self.model}{self.selector}" if self.selector.startswith("@") else f"{self.model}:{self.selector}"


def _pattern(separator: str) -> re.Pattern[str]:
    return _ALIAS if separator == "@" else _LABEL


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class File(_Value):
    """A file of a version. `sha256` is `sha256:<hex>`. `url` is set if you asked for it; it expires at `expires_at`."""

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
    """Pass it as `if_match`. `None` in lists."""

    @property
    def ref(self) -> Ref:
        return Ref(self.model_name, self.version)


class Alias(_Value):
    """A name that points at a version. `generation` changes with each move."""

    alias: str
    version: str
    generation: int
    updated_at: AwareDatetime
    updated_by: str


class AliasMove(_Value):
    """The version that an alias pointed at from `at` on. `version` is `None` if the alias was removed."""

    version: str | None
    generation: int
    at: AwareDatetime
    by: str


class Model(_Value):
    """A model. `aliases` is empty in lists."""

    name: str
    description: str | None
    tags: dict[str, Any]
    created_at: AwareDatetime
    updated_at: AwareDatetime
    latest_version: str | None
    version_count: int
    aliases: tuple[Alias, ...] = ()
    etag: str | None = None
    """Pass it as `if_match`. `None` in lists."""


class Event(_Value):
    """An entry of the event log."""

    id: int
    time: AwareDatetime
    actor: str
    action: str
    model: str
    version: str | None
    details: dict[str, Any]
    resume_after: str | None = None
    """Pass it as `after` to continue after this event. Only the last event of each page has it."""


class Upload(_Value):
    """How to send one file of a push."""

    path: str
    sha256: str
    size_bytes: int
    already_stored: bool
    method: str | None = None
    """`put`, `multipart` or `proxy`; `None` if the file is stored already."""
    url: str | None = None
    headers: dict[str, str] | None = None
    expires_at: AwareDatetime | None = None
    upload_id: str | None = None
    part_size: int | None = None


class DownloadUrl(File):
    """A URL that downloads a file with GET and without credentials, until `expires_at`."""

    model_name: str
    version: str
    url: str
    expires_at: AwareDatetime


class Pushed(_Value):
    """The result of a push. `was_ready`: the version was published before."""

    version: Version
    sent_bytes: int
    saved_bytes: int
    sent_files: int
    was_ready: bool


class Pulled(_Value):
    """The result of a pull. `was_complete`: all files were in the folder already."""

    version: Version
    path: Path
    downloaded_bytes: int
    cached_bytes: int
    was_complete: bool
