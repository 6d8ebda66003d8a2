"""Conditional requests and ranges (RFC 9110, sections 13 and 14).

The dependencies at the end of this module declare the headers: they document them and give their values.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from typing import Annotated

from fastapi import Depends, Header, Request

from model_registry.errors import EtagMismatch, InvalidField, PreconditionFailed
from model_registry.web.http_errors import RangeNotSatisfiable

_ENTITY_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e\x80-\xff]*)"')
_RANGE = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Bytes `start` to `stop` (exclusive)."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Conditions:
    """The conditions of a GET or HEAD."""

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: str | None = None
    if_unmodified_since: str | None = None

    def not_modified(self, etag: str, last_modified: datetime | None = None) -> bool:
        """Return whether the response is 304. Raises `PreconditionFailed` if it is 412.

        `etag` is an opaque strong tag without quotes. The order of the checks is that of RFC 9110, section 13.2.2.
        """
        if self.if_match is not None:
            if not _matches(self.if_match, etag, strongly=True):
                raise EtagMismatch(etag)
        elif _is_later(last_modified, self.if_unmodified_since):
            raise PreconditionFailed("If-Unmodified-Since: it was modified after this time.", etag=f'"{etag}"')
        if self.if_none_match is not None:
            return _matches(self.if_none_match, etag, strongly=False)
        moment = _date(self.if_modified_since)
        return bool(moment and last_modified and _whole_seconds(last_modified) <= moment)


class Precondition:
    """The condition of a change. Call it with the current ETag, or with `None` if nothing exists.

    Raises `InvalidField` if a header is neither `*` nor a list of entity tags (RFC 9110, sections 13.1.1 and 13.1.2):
    a change that should be conditional must not happen without its condition.
    """

    def __init__(self, if_match: str | None = None, if_none_match: str | None = None) -> None:
        self._if_match = _entity_tags("If-Match", if_match)
        self._if_none_match = _entity_tags("If-None-Match", if_none_match)

    def __call__(self, etag: str | None) -> bool:
        here = set() if etag is None else {"*", f'"{etag}"'}
        # The service sends no weak tags, so If-Match, which compares strongly, fails with a weak tag.
        if self._if_match is not None and not self._if_match & here:
            return False
        return self._if_none_match is None or not {tag.removeprefix("W/") for tag in self._if_none_match} & here


@dataclass(frozen=True, slots=True)
class RequestedRange:
    """The range that a GET asks for."""

    range: str | None = None
    if_range: str | None = None

    def within(self, etag: str, size_bytes: int) -> ByteRange | None:
        """Return the range to send with 206, or `None` to send the whole.

        Several ranges, other units and invalid ranges get the whole, which the RFC allows. An If-Range that does not
        match also gets the whole. Raises `RangeNotSatisfiable` for 416.
        """
        if self.range is None or (parsed := _RANGE.fullmatch(self.range)) is None:
            return None
        # If-Range is one tag, compared strongly. A date has steps of one second, so it is too weak and never matches.
        if self.if_range is not None and self.if_range.strip(" \t") != f'"{etag}"':
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
            return None  # an invalid range, which is ignored
        if start >= size_bytes:
            raise RangeNotSatisfiable(size_bytes)
        return ByteRange(start, min(int(last) + 1, size_bytes) if last else size_bytes)


def http_date(moment: datetime) -> str:
    return format_datetime(_whole_seconds(moment), usegmt=True)


def _entity_tags(name: str, value: str | None) -> set[str] | None:
    if value is None:
        return None
    tags = {tag for part in value.split(",") if (tag := part.strip(" \t"))}
    if tags != {"*"} and not (tags and all(_ENTITY_TAG.fullmatch(tag) for tag in tags)):
        rule = 'an ETag with its quotes, such as "17", a list of ETags, or *'
        raise InvalidField(("header", name), rule, value)
    return tags


def _matches(tags: str, etag: str, *, strongly: bool) -> bool:
    if tags.strip() == "*":
        return True
    return any(value == etag and not (strongly and weak) for weak, value in _ENTITY_TAG.findall(tags))


def _is_later(moment: datetime | None, date: str | None) -> bool:
    limit = _date(date)
    return bool(limit and moment and _whole_seconds(moment) > limit)


def _date(value: str | None) -> datetime | None:
    if value is None:
        return None
    try:
        parsed = parsedate_to_datetime(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValueError, IndexError, OverflowError):
        return None  # an invalid date is ignored


def _whole_seconds(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


def _joined(lines: list[str] | None) -> str | None:
    """Join a header that comes several times into one list (RFC 9110, section 5.3)."""
    return ", ".join(lines) if lines else None


_Lines = list[str] | None
_IfMatch = Annotated[
    _Lines,
    Header(alias="If-Match", description="An ETag that you read. You get 412 if the resource changed since then."),
]
_IfNoneMatch = Annotated[
    _Lines, Header(alias="If-None-Match", description="An ETag that you read. You get 304 if it is still current.")
]
_IfAbsent = Annotated[
    _Lines,
    Header(alias="If-None-Match", description="`*`: create it. You get 412 if it exists."),
]
_Range = Annotated[_Lines, Header(alias="Range", description="One range, such as `bytes=0-99`. You get 206.")]


# Headers that the document does not mention are read from the request: a parameter of FastAPI costs some microseconds.


async def _conditions(request: Request, if_none_match: _IfNoneMatch = None) -> Conditions:
    headers = request.headers
    return Conditions(
        if_match=_joined(headers.getlist("If-Match")),
        if_none_match=_joined(if_none_match),
        if_modified_since=headers.get("If-Modified-Since"),
        if_unmodified_since=headers.get("If-Unmodified-Since"),
    )


async def _change(request: Request, if_match: _IfMatch = None) -> Precondition:
    return Precondition(_joined(if_match), _joined(request.headers.getlist("If-None-Match")))


async def _change_or_creation(if_match: _IfMatch = None, if_none_match: _IfAbsent = None) -> Precondition:
    return Precondition(_joined(if_match), _joined(if_none_match))


async def _range(request: Request, range_: _Range = None) -> RequestedRange:
    return RequestedRange(_joined(range_), request.headers.get("If-Range"))


ReadConditions = Annotated[Conditions, Depends(_conditions)]
"""For reads: 304 if the client has the current state, 412 if the state is not what the client expects."""
IfUnchanged = Annotated[Precondition, Depends(_change)]
"""For changes: 412 if the state changed since the client read it."""
IfUnchangedOrAbsent = Annotated[Precondition, Depends(_change_or_creation)]
"""For changes that can also create."""
WantedRange = Annotated[RequestedRange, Depends(_range)]
"""For downloads."""
