"""Version labels: which labels are valid, which is newer, and which are pre-releases."""

import re
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from model_registry.errors import InvalidField

VERSION_RULE = (
    "a version has 1 to 128 characters: letters, digits, '.', '_', '+' and '-'; it starts and ends with a letter or "
    "digit, and does not contain '..'"
)
LATEST_RULE = "'latest' always means the newest version; choose another version label"
COMMIT_RULE = "labels of 40 hexadecimal digits are reserved for commit IDs; add a prefix"

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,126}[A-Za-z0-9])?")
_COMMIT = re.compile(r"[0-9a-fA-F]{40}")

_END = b"\x00"
_LOWEST = b"\x00"
_HIGHEST = b"\xff"
_PRE_LETTERS = {"a": b"\x01", "b": b"\x02", "rc": b"\x03"}


def validate_version(label: str, field: tuple[str | int, ...] | str = "version") -> str:
    """Return the label, or raise `InvalidField` with the rule that it breaks."""
    if len(label) > 128 or not _LABEL.fullmatch(label) or ".." in label:
        raise InvalidField(field, VERSION_RULE, label)
    if label.lower() == "latest":
        raise InvalidField(field, LATEST_RULE, label)
    if _COMMIT.fullmatch(label):
        raise InvalidField(field, COMMIT_RULE, label)
    return label


@dataclass(frozen=True, slots=True)
class Precedence:
    """The position of a label in the order of versions.

    Comparing keys as bytes compares the versions (PEP 440, with an optional leading ``v``). A label that is not a
    PEP 440 version has an empty key and sorts below all that are. The registration number breaks ties.
    """

    key: bytes
    is_prerelease: bool


def precedence(label: str) -> Precedence:
    """Return the precedence of a label.

    References
    ----------
    PEP 440, "Summary of permitted suffixes and relative ordering".
    """
    try:
        version = Version(label)
    except InvalidVersion:
        return Precedence(b"", False)
    return Precedence(_key(version), version.is_prerelease)


def _key(version: Version) -> bytes:
    release = list(version.release)
    while len(release) > 1 and release[-1] == 0:
        release.pop()
    if version.pre is not None:
        pre = _PRE_LETTERS[version.pre[0]] + _integer(version.pre[1])
    elif version.post is None and version.dev is not None:
        pre = _LOWEST  # 1.0.dev1 comes before 1.0a1
    else:
        pre = _HIGHEST
    post = _LOWEST if version.post is None else b"\x01" + _integer(version.post)
    dev = _HIGHEST if version.dev is None else b"\x01" + _integer(version.dev)
    return b"".join(
        [_integer(version.epoch), *map(_integer, release), _END, pre, post, dev, *_local(version.local), _END]
    )


def _integer(number: int) -> bytes:
    digits = str(number).encode()
    return bytes([len(digits)]) + digits


def _local(local: str | None) -> list[bytes]:
    segments = local.split(".") if local else []
    return [b"\x02" + _integer(int(part)) if part.isdigit() else b"\x01" + part.encode() + _END for part in segments]
