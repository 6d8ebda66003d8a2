"""The errors of the registry. They know no protocol.

The classes directly below `RegistryError` are kinds, and each protocol has a code for each kind. The other classes say
what happened to what. `slug` is the stable name that clients match on. `members` are facts that a protocol adds to its
response.
"""

import reprlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Self


def shown(value: object) -> object:
    """Return a value in the form in which errors repeat it: short and printable."""
    if value is None or isinstance(value, bool | int | float):
        return value
    match value:
        case str():
            text = value
        case Decimal():
            text = str(value)
        case dict() | list():
            text = "an object" if isinstance(value, dict) else "a list"
        case _:
            text = reprlib.repr(value)
    clipped = text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"
    return clipped.encode("utf-8", "backslashreplace").decode()


_VERSION = {"model_name": "fraud-detector", "version": "2.4.0"}
_ALIAS = {"model_name": "fraud-detector", "alias": "champion"}
_DIGEST = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_OTHER_DIGEST = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"


class RegistryError(Exception):
    """Something that the registry refuses or cannot do."""

    slug: ClassVar[str] = "error"
    example: ClassVar[Mapping[str, Any]] = {}
    """Arguments of an instance for the API documentation."""
    retry_after_seconds: int | None = None

    def __init__(self, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members

    @classmethod
    def as_example(cls) -> Self:
        return cls(**cls.example)


class Invalid(RegistryError):
    """The request can never succeed as it is."""

    slug = "invalid"


class Unauthenticated(RegistryError):
    """The credential is missing or unknown."""

    slug = "unauthenticated"


class Forbidden(RegistryError):
    """The caller is known but does not have the permission."""

    slug = "forbidden"

    def __init__(self, actor: str, permission: str) -> None:
        super().__init__(f"{actor!r} may not {permission} here.", actor=actor, permission=permission)


class NotFound(RegistryError):
    """It does not exist, or this caller cannot see it."""

    slug = "not-found"


class Conflict(RegistryError):
    """The request is valid, but not in the present state."""

    slug = "conflict"


class PreconditionFailed(RegistryError):
    """A condition of the request, such as If-Match, does not hold."""

    slug = "precondition-failed"


class EtagMismatch(PreconditionFailed):
    example: ClassVar = {"etag": "1.1"}

    def __init__(self, etag: str) -> None:
        super().__init__("If-Match: this is not the current ETag; read again and retry.", etag=f'"{etag}"')


class TooLarge(RegistryError):
    """It exceeds a configured limit."""

    slug = "too-large"


class Stalled(RegistryError):
    """The client stopped sending in the middle of a body."""

    slug = "request-timeout"
    example: ClassVar = {"idle_seconds": 30}

    def __init__(self, idle_seconds: float) -> None:
        super().__init__(f"No byte of the body arrived for {idle_seconds:g} seconds; send the request again.")


class TooSlow(Stalled):
    """The client sends so slowly that it keeps others from sending."""

    example: ClassVar = {"bytes_per_second": 1024, "seconds": 60}

    def __init__(self, bytes_per_second: float, seconds: float) -> None:
        RegistryError.__init__(
            self,
            f"The body arrived at less than {bytes_per_second:g} bytes per second for {seconds:g} seconds; "
            "send the request again over a faster connection.",
        )


class TooMany(RegistryError):
    """The caller has reached a limit of its own."""

    slug = "too-many"
    retry_after_seconds = 5


class TooManyPending(TooMany):
    slug = "too-many-pending"
    example: ClassVar = {"actor": "anonymous", "limit": 1000}

    def __init__(self, actor: str, limit: int) -> None:
        super().__init__(
            f"{actor!r} has {limit} pending versions, which is the limit; commit or delete some of them, or wait until "
            "their leases expire.",
            limit=limit,
        )


class Unavailable(RegistryError):
    """PostgreSQL or the object store is unavailable. A retry may help."""

    slug = "unavailable"
    example: ClassVar = {"what": "PostgreSQL"}

    def __init__(self, what: str, *, detail: str | None = None, retry_after_seconds: int = 2) -> None:
        super().__init__(detail or f"{what} cannot be used at the moment; try again.", unavailable=what)
        self.retry_after_seconds = retry_after_seconds


class Overloaded(Unavailable):
    """This process has reached a limit. Another process may have capacity."""

    slug = "overloaded"
    example: ClassVar = {"burden": "is handling 1000 requests"}

    def __init__(self, burden: str) -> None:
        super().__init__(
            "This process", detail=f"This process {burden}, which is its limit; try again.", retry_after_seconds=1
        )


class InvalidField(Invalid):
    """A value breaks a rule. `loc` is the path to the value, from the outside in."""

    slug = "invalid-field"

    def __init__(self, loc: tuple[str | int, ...] | str, rule: str, value: object = None) -> None:
        steps = [shown(step) for step in ((loc,) if isinstance(loc, str) else loc)]
        where = ".".join(str(step) for step in steps)
        super().__init__(f"{where}: {rule}", errors=[{"loc": steps, "msg": rule, "value": shown(value)}])


class InvalidForm(Invalid):
    """A multipart body that is not a well-formed form."""

    slug = "invalid-form"
    example: ClassVar = {"detail": "The body is not well-formed multipart/form-data: it ends before its last boundary."}


class IdempotencyKeyReused(Invalid):
    slug = "idempotency-key-reused"
    example: ClassVar = {"key": "3f0c8a52-6f0e-4a51-9b6e-0a4f3a1f7c11"}

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key {shown(key)!r} was used before for a different registration; "
            "use a new key for each registration.",
            idempotency_key=shown(key),
        )


class InvalidPageToken(Invalid):
    slug = "invalid-page-token"

    def __init__(self, parameter: str = "page_token") -> None:
        rule = "the token does not belong to this query"
        super().__init__(
            f"{parameter}: {rule}; start again without {parameter}.",
            errors=[{"loc": ["query", parameter], "msg": rule, "value": None}],
        )


class UnknownPosition(Invalid):
    """A position in the audit log that this database has not reached."""

    slug = "unknown-position"

    def __init__(self) -> None:
        rule = "this database has not reached this position, because it was restored from an older state"
        super().__init__(
            f"after: {rule}; start again without after.",
            errors=[{"loc": ["query", "after"], "msg": rule, "value": None}],
        )


class UploadTooLarge(TooLarge):
    slug = "upload-too-large"
    example: ClassVar = {"limit_bytes": 200 * 1024**3}

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The upload is larger than the limit of {limit_bytes} bytes.", limit_bytes=limit_bytes)


class BodyTooLarge(TooLarge):
    slug = "body-too-large"
    example: ClassVar = {"limit_bytes": 32 * 1024**2}

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The body is larger than the limit of {limit_bytes} bytes.", limit_bytes=limit_bytes)


class ModelNotFound(NotFound):
    slug = "model-not-found"
    example: ClassVar = {"model_name": "fraud-detector"}

    def __init__(self, model_name: str, existing: str | None = None) -> None:
        hint = f" There is {existing!r}; names must match in case." if existing else ""
        super().__init__(
            f"No model named {shown(model_name)!r} has a ready version.{hint}", model_name=shown(model_name)
        )


class AliasNotFound(NotFound):
    slug = "alias-not-found"
    example: ClassVar = _ALIAS

    def __init__(self, model_name: str, alias: str) -> None:
        super().__init__(
            f"Model {model_name!r} has no alias {alias!r} that points at a ready version.",
            model_name=model_name,
            alias=alias,
        )


class AliasPointedNowhere(NotFound):
    """The alias pointed at no version at a time in the past."""

    slug = "alias-pointed-nowhere"
    example: ClassVar = _ALIAS | {"at": "2020-01-31T12:00:00.000000Z"}

    def __init__(self, model_name: str, alias: str, at: str) -> None:
        super().__init__(
            f"Alias {alias!r} of {model_name!r} pointed at no version at {at}; see its history.",
            model_name=model_name,
            alias=alias,
            at=at,
        )


class VersionNotFound(NotFound):
    slug = "version-not-found"
    example: ClassVar = _VERSION

    def __init__(self, model_name: str, version: str) -> None:
        super().__init__(
            f"Model {shown(model_name)!r} has no version {shown(version)!r}.",
            model_name=shown(model_name),
            version=shown(version),
        )


class FileNotFound(NotFound):
    slug = "file-not-found"
    example: ClassVar = _VERSION | {"path": "model.onnx"}

    def __init__(self, model_name: str, version: str, path: str | None) -> None:
        what = "no file" if path is None else f"no file {shown(path)!r}"
        super().__init__(
            f"Version {version!r} of {model_name!r} has {what}.",
            model_name=model_name,
            version=version,
            **({} if path is None else {"path": shown(path)}),
        )


class UploadUnknown(NotFound):
    slug = "upload-unknown"
    example: ClassVar = {"upload_id": "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"}

    def __init__(self, upload_id: str) -> None:
        super().__init__(
            f"There is no open multipart upload {shown(upload_id)!r}; reserve the version again to get a new one.",
            upload_id=shown(upload_id),
        )


class SizeMismatch(Invalid):
    slug = "size-mismatch"
    example: ClassVar = {"path": "model.joblib", "declared_bytes": 1024, "found_bytes": 1000}

    def __init__(self, path: str, declared_bytes: int, found_bytes: int | None) -> None:
        found = "more" if found_bytes is None else str(found_bytes)
        super().__init__(
            f"File {shown(path)!r} was declared with {declared_bytes} bytes, but {found} were sent; "
            "none of them were kept.",
            path=shown(path),
            declared_bytes=declared_bytes,
            found_bytes=found_bytes,
        )


class DigestMismatch(Invalid):
    slug = "digest-mismatch"
    example: ClassVar = {"path": "model.joblib", "declared": _DIGEST, "found": _OTHER_DIGEST}

    def __init__(self, path: str, declared: str, found: str) -> None:
        super().__init__(
            f"File {shown(path)!r} was declared as {declared}, but the bytes that were sent are {found}; "
            "reserve the version again, because the URL may be a new one, and send the file again.",
            path=shown(path),
            declared=declared,
            found=found,
        )


class UploadIncomplete(Conflict):
    """Declared files were not sent yet; `missing` also names the parts of files in parts."""

    slug = "upload-incomplete"
    example: ClassVar = _VERSION | {"missing": {"model.joblib": range(1, 8)}}

    def __init__(self, model_name: str, version: str, missing: Mapping[str, Sequence[int]]) -> None:
        names = ", ".join(repr(shown(path)) for path in list(missing)[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        super().__init__(
            f"Version {version!r} of {model_name!r} still lacks {names}{more}; send what is missing and commit again.",
            model_name=model_name,
            version=version,
            missing=[
                {"path": shown(path), "part_numbers": list(parts)[:100]} for path, parts in list(missing.items())[:100]
            ],
        )


class PartsChanged(Unavailable):
    """A part was sent again while the parts were joined."""

    slug = "parts-changed"
    example: ClassVar = {"path": "model.joblib"}

    def __init__(self, path: str) -> None:
        super().__init__(
            "The object store",
            detail=f"The parts of {shown(path)!r} changed while they were joined; commit again.",
        )


class CommitInProgress(Conflict):
    slug = "commit-in-progress"
    example: ClassVar = _VERSION

    def __init__(self, model_name: str, version: str) -> None:
        super().__init__(
            f"Version {version!r} of {model_name!r} is already being committed with other parts; wait until that ends.",
            model_name=model_name,
            version=version,
        )


class ModelNameTaken(Conflict):
    slug = "model-name-taken"
    example: ClassVar = {"model_name": "Fraud-Detector", "existing": "fraud-detector"}

    def __init__(self, model_name: str, existing: str) -> None:
        super().__init__(
            f"A model named {existing!r} exists, and names are unique regardless of case; use {existing!r}.",
            model_name=model_name,
            existing=existing,
        )


class FileDamaged(Conflict):
    slug = "file-damaged"
    example: ClassVar = {"path": "model.joblib", "sha256": _DIGEST}

    def __init__(self, path: str, sha256: str) -> None:
        super().__init__(
            f"The stored bytes of {path!r} no longer match the registered digest; to repair them, register or push the "
            "same file again, in any version.",
            path=path,
            sha256=sha256,
        )


class ModelExists(Conflict):
    slug = "model-exists"
    example: ClassVar = {"model_name": "fraud-detector"}

    def __init__(self, model_name: str) -> None:
        super().__init__(f"A model named {model_name!r} exists; use PATCH to edit it.", model_name=model_name)


class ModelInUse(Conflict):
    slug = "model-in-use"
    example: ClassVar = {"model_name": "fraud-detector"}

    def __init__(self, model_name: str) -> None:
        super().__init__(
            f"Model {model_name!r} has or had versions, so it cannot be deleted; remove its versions instead.",
            model_name=model_name,
        )


class VersionPurged(Conflict):
    slug = "version-purged"
    example: ClassVar = _VERSION

    def __init__(self, model_name: str, version: str) -> None:
        super().__init__(
            f"Version {version!r} of {model_name!r} was purged, and its bytes are deleted; register another version.",
            model_name=model_name,
            version=version,
        )


class VersionExists(Conflict):
    slug = "version-exists"
    example: ClassVar = _VERSION | {"state": "ready", "digest": _DIGEST}

    def __init__(self, model_name: str, version: str, *, state: str, digest: str | None) -> None:
        held = {
            "removed": "was removed, and a label is never used twice; register another version",
            "pending": "is being registered by another request; wait for that, or register another version",
            "verifying": "is being registered by another request; wait for that, or register another version",
        }.get(state, "exists, and a version never changes; register another version")
        super().__init__(
            f"Version {version!r} of {model_name!r} {held}.",
            model_name=model_name,
            version=version,
            state=state,
            digest=digest,
        )


class VersionAliased(Conflict):
    slug = "version-aliased"
    example: ClassVar = _VERSION | {"aliases": ["champion"]}

    def __init__(self, model_name: str, version: str, aliases: list[str]) -> None:
        super().__init__(
            f"Version {version!r} of {model_name!r} has aliases: {', '.join(aliases)}; "
            "move them first, or remove the version with force=true, which drops them.",
            model_name=model_name,
            version=version,
            aliases=aliases,
        )


class VersionNotAvailable(Conflict):
    """The version exists but is not ready, and the operation needs a ready version."""

    slug = "version-not-available"
    example: ClassVar = _VERSION | {"state": "removed"}

    def __init__(self, model_name: str, version: str, state: str) -> None:
        held = {
            "removed": "was removed; restore it, or choose another version",
        }.get(state, "is not complete yet; wait until it is ready, or choose another version")
        super().__init__(
            f"Version {version!r} of {model_name!r} {held}.", model_name=model_name, version=version, state=state
        )


class NoPreviousTarget(Conflict):
    slug = "no-previous-target"
    example: ClassVar = _ALIAS | {"version": "2.4.0"}

    def __init__(self, model_name: str, alias: str, version: str) -> None:
        super().__init__(
            f"Alias {alias!r} of {model_name!r} has never pointed at a version other than {version!r}; "
            "point it at the version that you want.",
            model_name=model_name,
            alias=alias,
            version=version,
        )


class AliasChanged(PreconditionFailed):
    """The alias is not what the precondition expects. Without a `generation` it does not exist."""

    example: ClassVar = _ALIAS | {"generation": 17, "version": "2.4.0"}

    def __init__(self, model_name: str, alias: str, *, generation: int | None, version: str | None) -> None:
        now = "does not exist" if version is None else f"is at generation {generation} and points at {version!r}"
        super().__init__(
            f"Alias {alias!r} of {model_name!r} {now} now; read it again before you retry.",
            model_name=model_name,
            alias=alias,
            generation=generation,
            version=version,
        )


class ModelChanged(PreconditionFailed):
    example: ClassVar = {"model_name": "fraud-detector", "etag": "5f3c9a0e1b2d"}

    def __init__(self, model_name: str, etag: str) -> None:
        super().__init__(
            f"Model {model_name!r} is not as the request expects; read it again before you retry.",
            model_name=model_name,
            etag=f'"{etag}"',
        )


class VersionChanged(PreconditionFailed):
    example: ClassVar = _VERSION | {"etag": "1.1"}

    def __init__(self, model_name: str, version: str, etag: str) -> None:
        super().__init__(
            f"Version {version!r} of {model_name!r} is not as the request expects; read it again before you retry.",
            model_name=model_name,
            version=version,
            etag=f'"{etag}"',
        )


class AliasElsewhere(PreconditionFailed):
    """An alias does not point at the version that the caller expects. No alias was moved."""

    example: ClassVar = _ALIAS | {"expected": "2.3.1", "actual": "2.4.0"}

    def __init__(self, model_name: str, alias: str, *, expected: str | None, actual: str | None) -> None:
        wanted, found = ("at no version" if version is None else f"at {version!r}" for version in (expected, actual))
        super().__init__(
            f"Alias {alias!r} of {model_name!r} points {found}, not {wanted}; no alias was moved.",
            model_name=model_name,
            alias=alias,
            expected=expected,
            actual=actual,
        )


class LeaseLost(Conflict):
    slug = "lease-lost"

    def __init__(self) -> None:
        super().__init__("The upload stood still for longer than its lease, and was given up; send it again.")
