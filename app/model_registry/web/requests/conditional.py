"""Conditional requests and ranges, as RFC 9110 (sections 13 and 14) has them. Pure: headers in, decisions out."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.datastructures import Headers

from model_registry.errors import InvalidField, PreconditionFailed
from model_registry.web.problems import RangeNotSatisfiable

_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop` (exclusive)."""

    start: int
    stop: int


def is_not_modified(headers: Headers, etag: str, last_modified: datetime | None = None) -> bool:
    """Whether a GET or HEAD is answered 304; raises `PreconditionFailed` where the answer is 412.

    `etag` is an opaque strong tag, without quotes. The order is that of RFC 9110, section 13.2.2.
    """
    if (if_match := _joined(headers, "if-match")) is not None:
        if not _matches(if_match, etag, strongly=True):
            raise PreconditionFailed("If-Match: this is another version than the one you hold.", etag=f'"{etag}"')
    elif (moment := _date(headers, "if-unmodified-since")) and last_modified and _whole_seconds(last_modified) > moment:
        raise PreconditionFailed("If-Unmodified-Since: it was modified later.", etag=f'"{etag}"')
    if (if_none_match := _joined(headers, "if-none-match")) is not None:
        return _matches(if_none_match, etag, strongly=False)
    moment = _date(headers, "if-modified-since")
    return bool(moment and last_modified and _whole_seconds(last_modified) <= moment)


def precondition(headers: Headers) -> Callable[[str | None], bool]:
    """Whether If-Match and If-None-Match let a change be made, by the ETag of what is there, `None` for nothing.

    Raises `InvalidField` for a header that is neither `*` nor a list of entity tags (RFC 9110, sections 13.1.1 and
    13.1.2): a change that was meant to be conditional must not be made without its condition.
    """
    if_match, if_none_match = _entity_tags(headers, "if-match"), _entity_tags(headers, "if-none-match")

    def holds(etag: str | None) -> bool:
        here = set() if etag is None else {"*", f'"{etag}"'}
        # A weak tag is none of ours, so If-Match, which compares strongly, fails with it.
        is_matched = if_match is None or bool(if_match & here)
        return is_matched and (if_none_match is None or not {tag.removeprefix("W/") for tag in if_none_match} & here)

    return holds


def _entity_tags(headers: Headers, name: str) -> set[str] | None:
    value = _joined(headers, name)
    if value is None:
        return None
    tags = {tag for part in value.split(",") if (tag := part.strip(" \t"))}
    if tags != {"*"} and not (tags and all(_ENTITY_TAG.fullmatch(tag) for tag in tags)):
        rule = 'an ETag with its quotes, such as "17", several of them, or *'
        raise InvalidField(("header", name.title()), rule, value)
    return tags


def requested_range(headers: Headers, etag: str, size_bytes: int) -> ByteRange | None:
    """The single range to answer with 206, or `None` for the whole.

    Several ranges, other units and nonsense are answered with the whole, which the RFC allows; so is an If-Range
    that names another state. Raises `RangeNotSatisfiable` for 416.
    """
    wanted = _joined(headers, "range")
    if wanted is None or (parsed := _RANGE.fullmatch(wanted)) is None:
        return None
    if_range = headers.get("if-range")
    # One tag, compared strongly. A date is no strong validator here (one-second steps), so it never matches.
    if if_range is not None and if_range.strip(" \t") != f'"{etag}"':
        return None
    first, last = parsed.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size_bytes)
        if length == 0:
            raise RangeNotSatisfiable(size_bytes)
        return ByteRange(size_bytes - length, size_bytes)
    start = int(first)
    if last and int(last) < start:
        return None  # not a valid range at all, and those are ignored
    if start >= size_bytes:
        raise RangeNotSatisfiable(size_bytes)
    return ByteRange(start, min(int(last) + 1, size_bytes) if last else size_bytes)


def http_date(moment: datetime) -> str:
    return format_datetime(_whole_seconds(moment), usegmt=True)


def _joined(headers: Headers, name: str) -> str | None:
    """Repeated list headers are one list."""
    values = headers.getlist(name)
    return ", ".join(values) if values else None


def _matches(tags: str, etag: str, *, strongly: bool) -> bool:
    if tags.strip() == "*":
        return True
    return any(value == etag and not (strongly and weak) for weak, value in _ENTITY_TAG.findall(tags))


def _date(headers: Headers, name: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(headers[name])
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (KeyError, ValueError, IndexError, OverflowError):
        return None  # a date that is none is ignored


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
