"""Version labels: which are valid, which is newer, which are pre-releases."""

import re
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from model_registry.errors import InvalidField

_LABEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+-]{0,126}[A-Za-z0-9])?")
_RULE = (
    "a version is 1 to 128 of letters, digits, '.', '_', '+' and '-', begins and ends with a letter or digit, "
    "and has no '..'"
)
_COMMIT = re.compile(r"[0-9a-fA-F]{40}")

_END = b"\x00"
_LOWEST = b"\x00"
_HIGHEST = b"\xff"
_PRE_LETTERS = {"a": b"\x01", "b": b"\x02", "rc": b"\x03"}


def validate_version(label: str, field: tuple[str | int, ...] | str = "version") -> str:
    """The label itself, or `InvalidField` with the rule it breaks."""
    if len(label) > 128 or not _LABEL.fullmatch(label) or ".." in label:
        raise InvalidField(field, _RULE, label)
    if label.lower() == "latest":
        raise InvalidField(field, "'latest' always means the newest version and cannot be a label", label)
    if _COMMIT.fullmatch(label):
        raise InvalidField(field, "40 hex digits are kept for commit ids; add a prefix", label)
    return label


@dataclass(frozen=True, slots=True)
class Precedence:
    """Where a label stands among the versions of its model.

    `key` compares bytewise as the versions compare (PEP 440, an optional leading ``v``); a label that does not
    parse has the empty key and so stands below all that do. Ties are broken by registration number.
    """

    key: bytes
    is_prerelease: bool


def precedence(label: str) -> Precedence:
    """
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
