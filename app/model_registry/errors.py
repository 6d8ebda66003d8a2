"""What can go wrong, in the registry's own words; knows no protocol.

Each kind below `RegistryError` says who can do what about it; each leaf names the thing. `slug` is the stable
name that clients match on, `members` are the facts that a protocol adds to its answer.
"""

import reprlib
from decimal import Decimal
from typing import ClassVar


def shown(value: object) -> object:
    """A value as an error repeats it: short and printable, whatever it was."""
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


class RegistryError(Exception):
    """Anything the registry refuses or cannot do."""

    slug: ClassVar[str] = "error"

    def __init__(self, detail: str, **members: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.members = members


class Invalid(RegistryError):
    """It can never succeed as written."""

    slug = "invalid"


class Unauthenticated(RegistryError):
    """No credential, or one we do not know."""

    slug = "unauthenticated"


class Forbidden(RegistryError):
    """A known caller without the permission."""

    slug = "forbidden"

    def __init__(self, actor: str, permission: str) -> None:
        super().__init__(f"{actor!r} may not {permission} here.", actor=actor, permission=permission)


class NotFound(RegistryError):
    """Absent, or hidden from this caller."""

    slug = "not-found"


class Conflict(RegistryError):
    """Legal, but not in the present state."""

    slug = "conflict"


class PreconditionFailed(RegistryError):
    """An If-Match or If-None-Match says no."""

    slug = "precondition-failed"


class TooLarge(RegistryError):
    """Beyond a configured limit."""

    slug = "too-large"


class Stalled(RegistryError):
    """The caller stopped sending in the middle of a body."""

    slug = "request-timeout"

    def __init__(self, idle_seconds: float) -> None:
        super().__init__(f"No byte of the body arrived for {idle_seconds:g} seconds; send the request again.")


class Unavailable(RegistryError):
    """Postgres or the object store is out of reach; a retry may help."""

    slug = "unavailable"

    def __init__(self, what: str, *, detail: str | None = None, retry_after_seconds: int = 2) -> None:
        super().__init__(detail or f"{what} cannot be used at the moment; try again.", unavailable=what)
        self.retry_after_seconds = retry_after_seconds


class InvalidField(Invalid):
    """One value breaks one rule. `loc` is the way to it, from the outside in."""

    slug = "invalid-field"

    def __init__(self, loc: tuple[str | int, ...] | str, rule: str, value: object = None) -> None:
        steps = [shown(step) for step in ((loc,) if isinstance(loc, str) else loc)]
        where = ".".join(str(step) for step in steps)
        super().__init__(f"{where}: {rule}", errors=[{"loc": steps, "msg": rule, "value": shown(value)}])


class InvalidForm(Invalid):
    """A multipart body that is not a well-formed form."""

    slug = "invalid-form"


class IdempotencyKeyReused(Invalid):
    slug = "idempotency-key-reused"

    def __init__(self, key: str) -> None:
        super().__init__(
            f"The Idempotency-Key {shown(key)!r} was used before for something else; "
            "use a new key for a new registration.",
            idempotency_key=shown(key),
        )


class InvalidPageToken(Invalid):
    slug = "invalid-page-token"

    def __init__(self) -> None:
        super().__init__(
            "page_token: not a token of this query; start again without page_token.",
            errors=[{"loc": ["query", "page_token"], "msg": "not a token of this query", "value": None}],
        )


class UploadTooLarge(TooLarge):
    slug = "upload-too-large"

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(f"The upload is larger than the limit of {limit_bytes} bytes.", limit_bytes=limit_bytes)


class ModelNotFound(NotFound):
    slug = "model-not-found"

    def __init__(self, model_name: str, existing: str | None = None) -> None:
        hint = f" There is {existing!r}: names are read with their exact case." if existing else ""
        super().__init__(
            f"There is no model {shown(model_name)!r} with a version to show.{hint}", model_name=shown(model_name)
        )


class AliasNotFound(NotFound):
    slug = "alias-not-found"

    def __init__(self, model_name: str, alias: str) -> None:
        super().__init__(
            f"Model {model_name!r} has no alias {alias!r} that points at a version to show.",
            model_name=model_name,
            alias=alias,
        )


class VersionNotFound(NotFound):
    slug = "version-not-found"

    def __init__(self, model_name: str, version: str) -> None:
        super().__init__(
            f"Model {shown(model_name)!r} has no version {shown(version)!r}.",
            model_name=shown(model_name),
            version=shown(version),
        )


class FileNotFound(NotFound):
    slug = "file-not-found"

    def __init__(self, model_name: str, version: str, path: str | None) -> None:
        what = "no file" if path is None else f"no file {shown(path)!r}"
        super().__init__(
            f"Version {version!r} of {model_name!r} has {what}.",
            model_name=model_name,
            version=version,
            **({} if path is None else {"path": shown(path)}),
        )


class ModelNameTaken(Conflict):
    slug = "model-name-taken"

    def __init__(self, model_name: str, existing: str) -> None:
        super().__init__(
            f"A model named {existing!r} exists, and names are unique regardless of case; use {existing!r}.",
            model_name=model_name,
            existing=existing,
        )


class VersionExists(Conflict):
    slug = "version-exists"

    def __init__(self, model_name: str, version: str, *, state: str, digest: str | None) -> None:
        held = {
            "removed": "was removed, and a label is never used twice; register another version",
            "pending": "is being registered by another request; wait for it, or register another version",
            "verifying": "is being registered by another request; wait for it, or register another version",
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

    def __init__(self, model_name: str, version: str, aliases: list[str]) -> None:
        super().__init__(
            f"Version {version!r} of {model_name!r} is what {', '.join(aliases)} points at; "
            "move the alias first, or remove with force=true, which drops it.",
            model_name=model_name,
            version=version,
            aliases=aliases,
        )


class LeaseLost(Conflict):
    slug = "lease-lost"

    def __init__(self) -> None:
        super().__init__("The registration lost its lease while nothing of it moved, and was given up; send it again.")
