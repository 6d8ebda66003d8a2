"""What models, aliases and files may be called.

Every check returns the name itself, or raises `InvalidField` with the rule and the value.
"""

import bisect
import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal

from packaging.version import InvalidVersion, Version

from model_registry.errors import InvalidField

MAX_FILES = 100_000
MAX_PATH_BYTES = 1024
MAX_TAGS = 1000
MAX_TAG_KEY = 256
MAX_TAG_VALUE = 4096
MAX_TAGS_CHARS = 65_536

_MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_MODEL_RULE = (
    "a model name is 1 to 128 of letters, digits, '.', '_' and '-', begins and ends with a letter or digit, "
    "and has no '..' and no '--'"
)
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_ALIAS_RULE = (
    "an alias is 1 to 64 of lower-case letters, digits, '.', '_' and '-', begins and ends with a letter or digit, "
    "and is neither 'latest' nor a version nor a number"
)
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:;[\x20-\x7e]*)?", re.ASCII)
# Of Windows' own drives only letters have names, but its libraries take any character before a colon for one.
_DRIVE = re.compile(".:", re.DOTALL)
# Invisible characters that reorder or split what a person reads (Unicode UAX #9, and line and paragraph separators).
_MISLEADING = frozenset("\u200e\u200f\u061c\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def validate_model_name(name: str, loc: tuple[str | int, ...] | str = "model_name") -> str:
    if len(name) > 128 or not _MODEL_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidField(loc, _MODEL_RULE, name)
    return name


def validate_alias(alias: str, field: tuple[str | int, ...] | str = "alias") -> str:
    if len(alias) > 64 or not _ALIAS.fullmatch(alias) or alias == "latest" or _is_version(alias):
        raise InvalidField(field, _ALIAS_RULE, alias)
    return alias


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def validate_path(path: str, loc: tuple[str | int, ...] | str = "path") -> str:
    """A file's path inside a version: relative, `/`-separated, safe to lay out on any disk."""
    if not path:
        raise InvalidField(loc, "a path has at least one character", path)
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidField(loc, "a path is UTF-8, without lone surrogates", path) from None
    if size_bytes > MAX_PATH_BYTES:
        raise InvalidField(loc, f"a path has at most {MAX_PATH_BYTES} bytes", path)
    if any(unicodedata.category(char) == "Cc" or char in _MISLEADING for char in path):
        raise InvalidField(loc, "a path has no control characters, nor any that reorder text", path)
    if "\\" in path:
        raise InvalidField(loc, "a path has no backslash; folders are separated by '/'", path)
    segments = path.split("/")
    if path.startswith("/") or any(_DRIVE.match(segment) for segment in segments):
        raise InvalidField(loc, "a path is relative: no leading '/' and no drive letter", path)
    if any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidField(loc, "a path has no empty, '.' or '..' segment", path)
    if not unicodedata.is_normalized("NFC", path):
        raise InvalidField(loc, "a path is in Unicode normal form C", path)
    return path


def validate_tags(tags: Mapping[str, object], loc: tuple[str | int, ...]) -> None:
    """Tags are labels to find things by: short keys, and texts, numbers or truth values."""
    if len(tags) > MAX_TAGS:
        raise InvalidField(loc, f"there are at most {MAX_TAGS} tags", f"{len(tags)} tags")
    for key, value in tags.items():
        if not 0 < len(key) <= MAX_TAG_KEY:
            raise InvalidField(loc, f"a tag's key has 1 to {MAX_TAG_KEY} characters", key)
        if not isinstance(value, str | int | float | Decimal):
            raise InvalidField((*loc, key), "a tag is a text, a number, true or false", value)
        if isinstance(value, str) and len(value) > MAX_TAG_VALUE:
            raise InvalidField((*loc, key), f"a tag has at most {MAX_TAG_VALUE} characters", value)
    if (total := sum(len(key) + len(str(value)) for key, value in tags.items())) > MAX_TAGS_CHARS:
        raise InvalidField(loc, f"tags have at most {MAX_TAGS_CHARS} characters in all", f"{total} characters")


def validate_media_type(media_type: str, loc: tuple[str | int, ...]) -> str:
    """RFC 9110, section 8.3.1, without going into the parameters."""
    if len(media_type) > 255 or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidField(loc, "a media type is expected, such as application/octet-stream", media_type)
    return media_type


class DistinctPaths:
    """Paths that can all be laid out in one folder, on a disk that ignores case too."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._sorted: list[str] = []

    def add(self, path: str, loc: tuple[str | int, ...] | str = "path") -> str:
        """Check a path by itself and against those added before; returns it."""
        validate_path(path, loc)
        if len(self._files) >= MAX_FILES:
            raise InvalidField(loc, f"a version has at most {MAX_FILES} files", path)
        folded = path.casefold()
        if twin := self._files.get(folded):
            raise InvalidField(loc, f"no two paths are equal regardless of case, as {twin!r} is", path)
        if clash := self._inside(folded) or self._above(folded):
            raise InvalidField(loc, f"no path is both a file and a folder, as with {clash!r}", path)
        self._files[folded] = path
        bisect.insort(self._sorted, folded)
        return path

    def _inside(self, folded: str) -> str | None:
        """A file that has this path as a folder: the first one at or after it and a slash, if any."""
        index = bisect.bisect_left(self._sorted, f"{folded}/")
        if index < len(self._sorted) and self._sorted[index].startswith(f"{folded}/"):
            return self._files[self._sorted[index]]
        return None

    def _above(self, folded: str) -> str | None:
        """A file that is a folder of this path."""
        while folded := folded.rpartition("/")[0]:
            if folded in self._files:
                return self._files[folded]
        return None
