"""`multipart/form-data` as a stream of parts (RFC 7578): a file part is handed on while it arrives.

Each part must be consumed before the next one is asked for.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from urllib.parse import unquote_to_bytes

from multipart import (
    MultipartError,
    MultipartSegment,
    ParserLimitReached,
    PushMultipartParser,
    content_disposition_unquote,
    parse_options_header,
)

from model_registry.errors import InvalidField, InvalidForm, shown
from model_registry.names import MAX_FILES

MAX_HEADER_BYTES = 8 * 1024
_MAX_PARTS = MAX_FILES + 100
_MAX_PREAMBLE_BYTES = 64 * 1024
_Events = AsyncGenerator[MultipartSegment | bytes | None, None]
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_EXTENDED_FILENAME = re.compile(r";[ \t]*filename\*[ \t]*=[ \t]*utf-8'[^']*'([^;\s]+)", re.IGNORECASE)


class FormPart:
    """A field, or a file where `filename` is not `None`; the name is as the client sent it, to the letter."""

    def __init__(self, segment: MultipartSegment, events: _Events) -> None:
        disposition = segment.header("Content-Disposition") or ""
        kind, options = parse_options_header(disposition, unquote=_literal)
        if kind != "form-data" or "name" not in options:
            raise InvalidForm("Every part needs a Content-Disposition: form-data with a name.")
        if sum(len(name) + len(value) for name, value in segment.headerlist) > MAX_HEADER_BYTES:
            raise InvalidForm(f"The headers of a part have at most {MAX_HEADER_BYTES} bytes.")
        self.name: str = options["name"]
        self.filename: str | None = options.get("filename")
        if extended := _EXTENDED_FILENAME.search(disposition):
            try:
                self.filename = unquote_to_bytes(extended[1]).decode()
            except UnicodeDecodeError:
                raise InvalidForm("filename*: the percent-encoded bytes are not UTF-8.") from None
        declared = (segment.header("Content-Type") or "").partition(";")[0].strip()
        self.media_type = declared.lower() if _MEDIA_TYPE.fullmatch(declared) else "application/octet-stream"
        self._events = events
        self._is_consumed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body of the part, once."""
        while not self._is_consumed:
            event = await anext(self._events)
            if isinstance(event, bytes):
                yield event
            else:
                self._is_consumed = True

    async def text(self, max_bytes: int) -> str:
        """The body of a field, UTF-8."""
        value = bytearray()
        async for chunk in self.chunks():
            value += chunk
            if len(value) > max_bytes:
                raise InvalidField(self.name, f"at most {max_bytes} bytes", f"{len(value)} bytes or more")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidField(self.name, f"text is UTF-8; byte {error.start} is not", None) from None


def _literal(value: str, _is_filename: bool) -> str:
    # Without the part of the library that takes C:\x for x, as one browser long ago wanted it.
    literal: str = content_disposition_unquote(value)
    return literal


def boundary_of(content_type: str) -> str:
    """Raises `InvalidForm` when the header names none."""
    _, options = parse_options_header(content_type)
    boundary: str = options.get("boundary", "")
    # RFC 2046, section 5.1.1: 1 to 70 characters.
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise InvalidForm("Content-Type: multipart/form-data needs a boundary of 1 to 70 characters.")
    return boundary


async def form_parts(body: AsyncIterator[bytes], content_type: str) -> AsyncIterator[FormPart]:
    """The parts of a form in the order in which they arrive. Raises `InvalidForm` for what is no form."""
    events = _events(body, boundary_of(content_type))
    async with aclosing(events):
        async for event in events:
            if isinstance(event, MultipartSegment):  # and not what a consumer left unread
                yield FormPart(event, events)


async def _events(body: AsyncIterator[bytes], boundary: str) -> _Events:
    parser = PushMultipartParser(boundary, max_header_size=MAX_HEADER_BYTES, max_segment_count=_MAX_PARTS)
    preamble_bytes: int | None = 0
    try:
        async for chunk in body:
            for event in parser.parse(chunk):
                preamble_bytes = None
                yield event
            if preamble_bytes is not None and (preamble_bytes := preamble_bytes + len(chunk)) > _MAX_PREAMBLE_BYTES:
                raise InvalidForm("The body does not begin with the boundary that the Content-Type names.")
        parser.close()
    except ParserLimitReached as error:
        raise InvalidForm(f"The form goes beyond a limit: {_words(error)}.") from None
    except MultipartError as error:
        raise InvalidForm(f"The body is no well-formed multipart/form-data: {_words(error)}.") from None


def _words(error: MultipartError) -> str:
    return str(shown(str(error.args[0]))).rstrip(".")
