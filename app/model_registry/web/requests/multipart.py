"""Reads `multipart/form-data` as a stream of parts (RFC 7578), so that a file is processed as it arrives.

Consume each part before you ask for the next one.
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
    parse_options_header,
)

from model_registry.domain.naming_rules import MAX_FILES
from model_registry.errors import InvalidField, InvalidForm, shown

MAX_HEADER_BYTES = 8 * 1024
_MAX_PARTS = MAX_FILES + 100
_MAX_OVERHEAD_BYTES = 128 * 1024
_TOO_MUCH_OVERHEAD = f"The body has more than {_MAX_OVERHEAD_BYTES} bytes that do not belong to a part."
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
_PARAMETER = re.compile(r';[ \t]*([!#$%&\'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*("(?:\\.|[^"\\])*"|[^\s";]*)[ \t]*')
_IDENTITY = frozenset({"", "7bit", "8bit", "binary", "identity"})
_Events = AsyncGenerator[MultipartSegment | bytes | None, None]


class FormPart:
    """A field, or a file if `filename` is not `None`. The names are exactly as the client sent them."""

    def __init__(self, segment: MultipartSegment, events: _Events) -> None:
        headers = _part_headers(segment)
        kind, options = _disposition(headers.get("content-disposition", ""))
        if kind != "form-data" or "name" not in options:
            raise InvalidForm("Every part needs a Content-Disposition: form-data with a name.")
        self.name = options["name"]
        self.filename = options.get("filename*", options.get("filename"))
        for header in ("content-transfer-encoding", "content-encoding"):
            if headers.get(header, "").lower() not in _IDENTITY:
                raise InvalidField(self.name, f"a part must not have a {header.title()}", headers[header])
        declared = headers.get("content-type", "").partition(";")[0].strip()
        self.media_type = declared.lower() if _MEDIA_TYPE.fullmatch(declared) else "application/octet-stream"
        self._events = events
        self._is_consumed = False

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body of the part, once."""
        while not self._is_consumed:
            event = await anext(self._events)
            if isinstance(event, bytes):
                yield event
            else:
                self._is_consumed = True

    async def text(self, max_bytes: int) -> str:
        """Return the body of a field, which is UTF-8."""
        value = bytearray()
        async for chunk in self.chunks():
            value += chunk
            if len(value) > max_bytes:
                raise InvalidField(self.name, f"at most {max_bytes} bytes", f"{len(value)} bytes or more")
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InvalidField(self.name, f"text is UTF-8; byte {error.start} is not", None) from None


def _part_headers(segment: MultipartSegment) -> dict[str, str]:
    if sum(len(name) + len(value) for name, value in segment.headerlist) > MAX_HEADER_BYTES:
        raise InvalidForm(f"The headers of a part can have at most {MAX_HEADER_BYTES} bytes.")
    if any("\n" in value for _, value in segment.headerlist):
        raise InvalidForm("A header of a part must end with CRLF and have no other line break.")
    headers = {name.lower(): value.strip() for name, value in segment.headerlist}
    if len(headers) < len(segment.headerlist):
        raise InvalidForm("A part must have each header at most once.")
    return headers


def _disposition(header: str) -> tuple[str, dict[str, str]]:
    """Return the kind and the parameters, exactly as sent. Each parameter is allowed once.

    The parser of the form library is not used: it reads `C:\\x` as `x`, which an old browser needed, and the last of
    several names.
    """
    kind, semicolon, rest = header.partition(";")
    parameters = (semicolon + rest).rstrip("; \t")
    options: dict[str, str] = {}
    position = 0
    while position < len(parameters):
        found = _PARAMETER.match(parameters, position)
        if found is None or found[1].lower() in options:
            raise InvalidForm(f"Content-Disposition: it is not well-formed or repeats a parameter: {shown(header)}")
        options[found[1].lower()] = _unquoted(found[1].lower(), found[2])
        position = found.end()
    return kind.strip().lower(), options


def _unquoted(name: str, value: str) -> str:
    if name.endswith("*"):
        charset, _, encoded = value.partition("'")
        try:
            if charset.lower() == "utf-8":
                return unquote_to_bytes(encoded.partition("'")[2]).decode()
        except UnicodeDecodeError:
            pass
        raise InvalidForm(f"{name}: percent-encoded UTF-8 is expected (RFC 8187), not {shown(value)}")
    if not value.startswith('"'):
        return value
    # The escapes of browsers (WHATWG HTML, "multipart/form-data encoding algorithm"), and an older form.
    literal = value[1:-1].replace('\\"', '"')
    return literal.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def boundary_of(content_type: str) -> str:
    """Return the boundary in a Content-Type. Raises `InvalidForm` if it has none."""
    _, options = parse_options_header(content_type)
    boundary: str = options.get("boundary", "")
    # RFC 2046, section 5.1.1: 1 to 70 characters.
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise InvalidForm("Content-Type: multipart/form-data needs a boundary of 1 to 70 characters.")
    return boundary


async def form_parts(body: AsyncIterator[bytes], content_type: str) -> AsyncIterator[FormPart]:
    """Yield the parts of a form in the order in which they arrive. Raises `InvalidForm` if the body is not a form."""
    events = _events(body, boundary_of(content_type))
    async with aclosing(events):
        async for event in events:
            if isinstance(event, MultipartSegment):  # and not bytes that the consumer did not read
                yield FormPart(event, events)


async def _events(body: AsyncIterator[bytes], boundary: str) -> _Events:
    parser = PushMultipartParser(boundary, max_header_size=MAX_HEADER_BYTES, max_segment_count=_MAX_PARTS)
    overhead_bytes = 0
    try:
        async for chunk in _from_first_boundary(body, boundary):
            overhead_bytes += len(chunk)
            for event in parser.parse(chunk):
                overhead_bytes = 0
                yield event
            if overhead_bytes > _MAX_OVERHEAD_BYTES:
                raise InvalidForm(_TOO_MUCH_OVERHEAD)
        parser.close()
    except ParserLimitReached as error:
        raise InvalidForm(f"The form exceeds a limit: {_words(error)}.") from None
    except MultipartError as error:
        raise InvalidForm(f"The body is not well-formed multipart/form-data: {_words(error)}.") from None


async def _from_first_boundary(body: AsyncIterator[bytes], boundary: str) -> AsyncIterator[bytes]:
    """Yield the body without its preamble, which ends with a line break.

    The form library is not used for this, because whether it finds the first boundary depends on how the body is split
    into chunks.
    """
    delimiter = f"--{boundary}".encode()
    head = bytearray()
    async for chunk in body:
        unseen = max(0, len(head) - len(delimiter))
        head += chunk
        start = head.find(delimiter, unseen)
        if start > 0 and head[max(0, start - 2) : start] != b"\r\n":
            raise InvalidForm(
                "The body is not well-formed multipart/form-data: its first boundary does not begin a line."
            )
        if start >= 0:
            yield bytes(head[start:])
            break
        if len(head) > _MAX_OVERHEAD_BYTES:
            raise InvalidForm(_TOO_MUCH_OVERHEAD)
    async for chunk in body:
        yield chunk


def _words(error: MultipartError) -> str:
    words = str(error.args[0]).rstrip(".")
    return "it ends before its last boundary" if "Unexpected end" in words else str(shown(words))
