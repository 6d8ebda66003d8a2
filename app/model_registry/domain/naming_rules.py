"""The rules for names of models, aliases, files, tags and media types.

Each rule is a sentence in a constant, so that errors and API documentation quote the same words. Each function returns
the valid value, or raises `InvalidField` with the rule and the value.
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

MODEL_NAME_RULE = (
    "a model name has 1 to 128 characters: letters, digits, '.', '_' and '-'; it starts and ends with a letter "
    "or digit, and does not contain '..' or '--'"
)
ALIAS_RULE = (
    "an alias has 1 to 64 characters: lower-case letters, digits, '.', '_' and '-'; it starts and ends with a letter "
    "or digit, and is not 'latest', a version or a number"
)
PATH_NOT_EMPTY_RULE = "a path has at least one character"
PATH_ENCODING_RULE = "a path is UTF-8 without lone surrogates"
PATH_LENGTH_RULE = f"a path has at most {MAX_PATH_BYTES} bytes"
PATH_CHARACTERS_RULE = "a path has no control characters and no characters that reorder text"
PATH_SEPARATOR_RULE = "a path has no backslash; use '/' to separate folders"
PATH_RELATIVE_RULE = "a path is relative: it has no leading '/' and no drive letter"
PATH_SEGMENTS_RULE = "a path has no empty, '.' or '..' segment"
PATH_NORMAL_FORM_RULE = "a path is in Unicode normal form C"
FILE_COUNT_RULE = f"a version has at most {MAX_FILES} files"
TAG_COUNT_RULE = f"at most {MAX_TAGS} tags are allowed"
TAG_KEY_RULE = f"a tag key has 1 to {MAX_TAG_KEY} characters"
TAG_TYPE_RULE = "a tag value is text, a number, true or false"
TAG_VALUE_RULE = f"a tag value has at most {MAX_TAG_VALUE} characters"
TAGS_SIZE_RULE = f"all tags together have at most {MAX_TAGS_CHARS} characters"
MEDIA_TYPE_RULE = "a media type is required, such as application/octet-stream"

_MODEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,126}[A-Za-z0-9])?")
_ALIAS = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:;[\x20-\x7e]*)?", re.ASCII)
# Windows names drives by letters only, but its libraries treat any character before a colon as a drive.
_DRIVE = re.compile(".:", re.DOTALL)
# Invisible characters that reorder or split visible text (Unicode UAX #9, and line and paragraph separators).
_MISLEADING = frozenset("\u200e\u200f\u061c\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def validate_model_name(name: str, loc: tuple[str | int, ...] | str = "model_name") -> str:
    if len(name) > 128 or not _MODEL_NAME.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidField(loc, MODEL_NAME_RULE, name)
    return name


def validate_alias(alias: str, field: tuple[str | int, ...] | str = "alias") -> str:
    if len(alias) > 64 or not _ALIAS.fullmatch(alias) or alias == "latest" or _is_version(alias):
        raise InvalidField(field, ALIAS_RULE, alias)
    return alias


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def validate_path(path: str, loc: tuple[str | int, ...] | str = "path") -> str:
    """Accept a path of a file in a version: relative, separated by `/`, and safe to create on any file system."""
    if not path:
        raise InvalidField(loc, PATH_NOT_EMPTY_RULE, path)
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidField(loc, PATH_ENCODING_RULE, path) from None
    if size_bytes > MAX_PATH_BYTES:
        raise InvalidField(loc, PATH_LENGTH_RULE, path)
    if any(unicodedata.category(char) == "Cc" or char in _MISLEADING for char in path):
        raise InvalidField(loc, PATH_CHARACTERS_RULE, path)
    if "\\" in path:
        raise InvalidField(loc, PATH_SEPARATOR_RULE, path)
    segments = path.split("/")
    if path.startswith("/") or any(_DRIVE.match(segment) for segment in segments):
        raise InvalidField(loc, PATH_RELATIVE_RULE, path)
    if any(segment in {"", ".", ".."} for segment in segments):
        raise InvalidField(loc, PATH_SEGMENTS_RULE, path)
    if not unicodedata.is_normalized("NFC", path):
        raise InvalidField(loc, PATH_NORMAL_FORM_RULE, path)
    return path


def validate_tags(tags: Mapping[str, object], loc: tuple[str | int, ...]) -> None:
    """Accept tags: short keys with text, numbers or booleans as values."""
    if len(tags) > MAX_TAGS:
        raise InvalidField(loc, TAG_COUNT_RULE, f"{len(tags)} tags")
    for key, value in tags.items():
        if not 0 < len(key) <= MAX_TAG_KEY:
            raise InvalidField(loc, TAG_KEY_RULE, key)
        if not isinstance(value, str | int | float | Decimal):
            raise InvalidField((*loc, key), TAG_TYPE_RULE, value)
        if isinstance(value, str) and len(value) > MAX_TAG_VALUE:
            raise InvalidField((*loc, key), TAG_VALUE_RULE, value)
    if (total := sum(len(key) + len(str(value)) for key, value in tags.items())) > MAX_TAGS_CHARS:
        raise InvalidField(loc, TAGS_SIZE_RULE, f"{total} characters")


def validate_media_type(media_type: str, loc: tuple[str | int, ...]) -> str:
    """Accept a media type as RFC 9110, section 8.3.1 defines it. Parameters are not validated."""
    if len(media_type) > 255 or not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidField(loc, MEDIA_TYPE_RULE, media_type)
    return media_type


class DistinctPaths:
    """Paths that fit into one folder, even on a file system that ignores case."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._sorted: list[str] = []

    def add(self, path: str, loc: tuple[str | int, ...] | str = "path") -> str:
        """Validate a path by itself and against the paths added before; return it."""
        validate_path(path, loc)
        if len(self._files) >= MAX_FILES:
            raise InvalidField(loc, FILE_COUNT_RULE, path)
        folded = path.casefold()
        if twin := self._files.get(folded):
            raise InvalidField(loc, f"paths must differ in more than case; {twin!r} is already a path", path)
        if clash := self._inside(folded) or self._above(folded):
            raise InvalidField(loc, f"a path cannot be both a file and a folder; the other path is {clash!r}", path)
        self._files[folded] = path
        bisect.insort(self._sorted, folded)
        return path

    def _inside(self, folded: str) -> str | None:
        """Return a file inside the folder of this path, if there is one."""
        index = bisect.bisect_left(self._sorted, f"{folded}/")
        if index < len(self._sorted) and self._sorted[index].startswith(f"{folded}/"):
            return self._files[self._sorted[index]]
        return None

    def _above(self, folded: str) -> str | None:
        """Return a file whose path is a parent folder of this path, if there is one."""
        while folded := folded.rpartition("/")[0]:
            if folded in self._files:
                return self._files[folded]
        return None
