"""Every parser of external input accepts it with its right meaning, or refuses it with the registry's own errors."""

import base64
import contextlib
import io
import json
import ntpath
import string
import tarfile
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from packaging.version import InvalidVersion, Version

from model_registry.domain.entities import Digest, StoredBlob, StoredFile
from model_registry.domain.filter_parser import parse_filter
from model_registry.domain.naming_rules import validate_alias, validate_model_name, validate_path
from model_registry.domain.search_filter import MAX_CHARACTERS, InvalidFilter
from model_registry.domain.version_labels import precedence, validate_version
from model_registry.errors import InvalidField, InvalidForm, PreconditionFailed, RegistryError
from model_registry.services.tar_archive import TarLayout
from model_registry.utils import canonical_json, exact_json, parse_json_object, to_json_text
from model_registry.web.http_errors import RangeNotSatisfiable
from model_registry.web.requests.conditional import ByteRange, Conditions, Precondition, RequestedRange
from model_registry.web.requests.multipart import boundary_of, form_parts
from model_registry.web.requests.paging import page_token
from tests.properties.budget import examples
from tests.support.filters import filter_text
from tests.support.service import RunningService

MIB = 1024**2
BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"


class Part(NamedTuple):
    name: str
    filename: str | None
    content: bytes


def form(parts: Sequence[Part]) -> bytes:
    """Write a form. Filenames are sent by RFC 8187, which can express every one."""
    body = b""
    for part in parts:
        filename = "" if part.filename is None else f"; filename*=UTF-8''{quote(part.filename, safe='')}"
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{part.name}"{filename}\r\n\r\n'.encode()
        body += part.content + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


# Names


def is_name(text: str, chars: str, at_most: int) -> bool:
    ends = set(chars) & set(string.ascii_letters + string.digits)
    return 1 <= len(text) <= at_most and set(text) <= set(chars) and text[0] in ends and text[-1] in ends


def is_pep440(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


WORD = string.ascii_letters + string.digits + "._-"
near_names = st.text("aZ09._-+", max_size=9) | st.text(max_size=5) | st.text("a-", min_size=120, max_size=130)
tricky_names = st.sampled_from(
    ["latest", "Latest", "a" * 40, "A1" * 20, "a" * 41, "1.0", "v1", "1rc1", "a\n", "\u0661", "\uff41"]
)


@pytest.mark.parametrize(
    ("check", "is_right"),
    [
        (validate_model_name, lambda text: is_name(text, WORD, 128) and ".." not in text and "--" not in text),
        (
            validate_version,
            lambda text: (
                is_name(text, WORD + "+", 128)
                and ".." not in text
                and text.lower() != "latest"
                and not (len(text) == 40 and set(text) <= set(string.hexdigits))
            ),
        ),
        (
            validate_alias,
            lambda text: (
                is_name(text, string.ascii_lowercase + string.digits + "._-", 64)
                and text != "latest"
                and not is_pep440(text)
            ),
        ),
    ],
    ids=["model", "version", "alias"],
)
@given(text=near_names | tricky_names | st.builds("{}{}".format, tricky_names, near_names))
@examples(400)
def test_a_name_is_taken_exactly_where_the_rule_says(
    check: Callable[[str], str], is_right: Callable[[str], bool], text: str
) -> None:
    try:
        taken = check(text)
    except InvalidField:
        assert not is_right(text)
    else:
        assert taken == text
        assert is_right(text)
        precedence(text)


# Paths

path_pieces = st.sampled_from(
    [
        *("a", "B", "/", "//", ".", "..", "...", "\\", ":", "C:", "1:", " ", "%2e", "%2F", "%00", "~", "*", "?", "#"),
        *(
            "é",
            "e\u0301",
            "\x00",
            "\x1f",
            "\x7f",
            "\x85",
            "\u202e",
            "\u2028",
            "\ud800",
            "\uff0e\uff0e",
            "\u2215",
            "\ufeff",
        ),
        *("🙂", "ß", "\u1e9e", "\u0130", "\u212a", "con", "nul.txt", "-rf", "'", '"', ";", "&", "=", "+", "é" * 300),
        "a/" * 300,
    ]
)
any_paths = st.lists(path_pieces | st.characters(), max_size=8).map("".join)


@given(any_paths)
@examples(1000)
def test_an_accepted_path_is_safe_on_every_disk(path: str) -> None:
    try:
        taken = validate_path(path)
    except InvalidField:
        return

    assert taken == path == validate_path(taken)
    assert 1 <= len(path.encode()) <= 1024
    assert unicodedata.normalize("NFC", path) == path
    assert not any(unicodedata.category(char) in {"Cc", "Cs"} for char in path)
    for flavour in (PurePosixPath(path), PureWindowsPath(path)):
        assert not flavour.is_absolute()
        assert flavour.anchor == ""
        assert "/".join(flavour.parts) == path
        assert not {"", ".", ".."} & set(flavour.parts)
    assert ntpath.splitdrive(path)[0] == ""


def accepted(path: str) -> bool:
    try:
        validate_path(path)
    except InvalidField:
        return False
    return True


good_paths = st.lists(
    st.lists(path_pieces | st.characters(), max_size=6).map("".join).filter(accepted),
    min_size=1,
    max_size=25,
    unique_by=lambda path: path.casefold(),
).filter(lambda paths: not any(a.casefold().startswith(f"{b.casefold()}/") for a in paths for b in paths))


@given(paths=good_paths)
@examples(10)
async def test_an_accepted_path_is_sent_listed_and_read_to_the_letter(
    service: RunningService, fresh: None, paths: list[str]
) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        label = f"{time.monotonic_ns()}"
        parts = [Part("model_name", None, b"paths"), Part("version", None, label.encode())]
        parts += [Part("model_file", path, path.encode()) for path in paths]
        sent = await client.post("/register_model", content=form(parts), headers={"Content-Type": FORM})
        assert sent.status_code == 201, sent.text
        base = f"/v1/models/paths/versions/{label}"

        manifest = (await client.get(f"{base}/files", params={"limit": 1000})).json()["items"]
        assert [item["path"] for item in manifest] == sorted(paths, key=str.encode)

        for path in paths:
            every_byte = "".join("/" if byte == 47 else f"%{byte:02x}" for byte in path.encode())
            for target in (every_byte, quote(path, safe="/!$&'()*+,;=:@~")):
                read = await client.get(httpx.URL(f"{service.url}{base}/files/{target}"))
                assert (read.status_code, read.content) == (200, path.encode()), target
        archive = await client.get(f"{base}/archive.tar")
        with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
            assert sorted(tar.getnames()) == sorted(paths)


# Filters

keywords = ["and", "OR", "Not", "in", "LIKE", "iLike", "true", "FALSE"]
bare_keys = st.sampled_from([*keywords, "a", "0", "_x-1", "2fa"])
quoted_keys = st.sampled_from(["`a b`", '"x.y"', "````", '""', "`and`", '"é"'])
paths_to = st.lists(bare_keys | quoted_keys, min_size=1, max_size=3).map(".".join)
numbers_written = st.from_regex(r"[+-]?([0-9]{1,20}(\.[0-9]{0,9})?|\.[0-9]{1,9})([eE][+-]?[0-9]{1,2})?", fullmatch=True)
texts_written = st.sampled_from(["''", "'a'", '"b"', "'it''s'", '"q""q"', "'%_'", "'\\\\'", "'AND'", "'(,)'", "'\n'"])
spaces = st.sampled_from([" ", "  ", "\n", "\t "])
signs = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def either_case(words: str) -> st.SearchStrategy[str]:
    return st.sampled_from([words, words.lower(), words.title()])


json_fields = st.builds(
    "{}.{}".format,
    st.sampled_from(["model_params", "standardization_params", "additional_metadata"]),
    paths_to,
) | st.builds("tags.{}".format, bare_keys | quoted_keys)
literals = texts_written | numbers_written
comparisons_written = st.one_of(
    st.builds("{}{}{}".format, json_fields, signs, literals),
    st.builds("{} {}\n{}".format, json_fields, either_case("NOT LIKE") | either_case("ILIKE"), texts_written),
    st.builds("{} {}( {} , {} )".format, json_fields, either_case("NOT IN"), numbers_written, numbers_written),
    st.builds("{} {} {}".format, st.sampled_from(["number", "size_bytes"]), signs, st.integers(0, 2**63 - 1)),
    st.builds("model_name {} {}".format, signs, texts_written),
    st.builds("state IN ({})".format, st.sampled_from(["'ready'", "'pending','removed'"])),
    st.builds("created_at {} '{}'".format, signs, st.datetimes().map(lambda at: at.isoformat())),
)
filters_written: st.SearchStrategy[str] = st.recursive(
    comparisons_written,
    lambda inner: st.one_of(
        st.builds("({})".format, inner),
        st.builds("{}{}{}".format, either_case("NOT"), spaces, inner),
        st.builds("{0}{1}{2}{1}{3}".format, inner, spaces, either_case("AND") | either_case("OR"), inner),
    ),
    max_leaves=8,
)


@given(filters_written)
@examples(200)
def test_what_the_grammar_makes_is_read_and_says_the_same_when_it_is_printed(text: str) -> None:
    tree = parse_filter(text)

    assert parse_filter(filter_text(tree)) == tree


def mutations(valid: st.SearchStrategy[Any], parts: Sequence[Any]) -> st.SearchStrategy[Any]:
    """Return valid data with a few pieces removed, inserted or doubled."""

    @st.composite
    def mutate(draw: st.DrawFn) -> Any:
        text = draw(valid)
        for _ in range(draw(st.integers(1, 4))):
            at, end = sorted((draw(st.integers(0, len(text))), draw(st.integers(0, len(text)))))
            end = min(end, at + 12)
            kind = draw(st.integers(0, 3))
            piece = text[at:end] if kind == 0 else draw(st.sampled_from(parts)) if kind < 3 else text[:0]
            text = text[: end if kind == 0 else at] + piece + text[at if kind == 1 else end :]
        return text

    return mutate()


@given(mutations(filters_written, ["'", '"', "`", "(", ")", ",", ".", "\\", "NOT ", "é", "\x00", "1e99999", "--", ""]))
@examples(400)
def test_what_is_nearly_a_filter_is_one_or_broken_at_a_place_in_it(text: str) -> None:
    broken: InvalidFilter | None = None
    try:
        tree = parse_filter(text)
    except InvalidFilter as error:
        broken = error

    if broken is None:
        assert parse_filter(filter_text(tree)) == tree
    else:
        column = broken.members["column"]
        assert isinstance(column, int)
        assert 1 <= column <= len(text) + 1
        assert broken.detail.encode().startswith(f"filter: column {column}: ".encode())


@given(
    st.text(" \n'\"`(),.=!<>~%_\\0123456789eE+-aANDORNOTINLIKE", min_size=1, max_size=8)
    | st.sampled_from(["NOT ", "(", "tags.a='x' AND ", "''", "``", '""', "1.1e1", "tags.", "a.", "'a''", "0e", "IN("]),
    st.sampled_from(["", "tags.a = '", "tags.`", "tags.a IN (", "number = ", "tags.a = 1e-", "NOT (", "tags.a=0."]),
    st.sampled_from(["", "'", "`", ")", " x", "'x"]),
)
@examples(120)
def test_the_longest_filter_is_read_in_no_time(piece: str, start: str, end: str) -> None:
    text = (start + piece * MAX_CHARACTERS)[: MAX_CHARACTERS - len(end)] + end
    began = time.thread_time()
    with contextlib.suppress(InvalidFilter):
        parse_filter(text)

    assert time.thread_time() - began < 1


# Forms


Read = list[tuple[str, str | None, str, bytes]]


async def read_form(chunks: Sequence[bytes], content_type: str = FORM) -> tuple[Read, str]:
    """Return the parts that were read, and the error that ended the reading, if there was one."""

    async def body() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    read: Read = []
    try:
        async for part in form_parts(body(), content_type):
            read.append((part.name, part.filename, part.media_type, b""))
            async for chunk in part.chunks():
                read[-1] = (*read[-1][:3], read[-1][3] + chunk)
    except RegistryError as error:
        error.detail.encode()
        return read, error.detail
    return read, ""


def is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def cut(body: bytes, places: Sequence[int]) -> list[bytes]:
    ends = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    return [body[start:end] for start, end in pairwise(ends) if start < end]


cuts = st.lists(st.integers(0, 10**6), max_size=12)
tricky_bytes = st.sampled_from(
    [
        *(b"", b"\r\n", b"\r", b"\n", b"-", b"--", b"\r\n--", b"\r\n\r\n", b"--frontier", b"\r\n--frontier"),
        *(b"\r\n--frontie", b"\r\n--frontierr", b"\n--frontier\r\n", b"\x00\xff"),
    ]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
part_contents = st.lists(tricky_bytes | st.binary(max_size=20), max_size=5).map(b"".join)
parts_of_forms = st.builds(
    Part,
    st.text("abc_-. é%", min_size=1, max_size=6),
    st.none() | texts,
    part_contents.filter(lambda content: b"\r\n--frontier" not in content),
)
forms = st.lists(parts_of_forms, max_size=5).filter(lambda parts: not any(p.content.startswith(b"--fr") for p in parts))
headers_of_parts = st.sampled_from(
    [
        *(b'Content-Disposition: form-data; name="a"', b"Content-Disposition: form-data", b'; name="b"', b":", b" "),
        *(b"; filename*=utf-8''%ff", b'; filename="\\"\\\\"', b'; filename="%22\xc3\xa9"', b"; filename=\xff", b"\x00"),
        *(b"Content-Type: text/plain\r\n", b"Content-Transfer-Encoding: base64\r\n", b"Content-Length: 1\r\n"),
        *(b"--frontier--", b"--frontier\r\n", b"x" * 9000),
    ]
)


@given(forms, cuts)
@examples(150)
async def test_a_form_is_read_to_the_letter_however_it_arrives(parts: list[Part], places: list[int]) -> None:
    read, wrong = await read_form(cut(form(parts), places))

    assert wrong == ""
    assert [(name, filename, content) for name, filename, _, content in read] == parts


@given(
    mutations(
        forms.map(form),
        [
            b"\r",
            b"-",
            b";",
            b'"',
            b"=",
            b"\\",
            b"\xff",
            b"\r\n",
            b"--frontier",
            b"; filename*=utf-8''%ff",
            b'; name="b"',
        ],
    )
    | st.lists(headers_of_parts | tricky_bytes, max_size=9).map(b"".join),
    cuts,
)
@examples(400)
async def test_what_is_nearly_a_form_is_the_same_in_one_piece_and_in_many(body: bytes, places: list[int]) -> None:
    whole = await read_form([body])

    for pieces in (cut(body, places), [body[at : at + 1] for at in range(len(body))]):
        parts, wrong = await read_form(pieces)
        assert bool(wrong) == bool(whole[1]), (wrong, whole[1])
        assert wrong or parts == whole[0]


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from(["multipart/form-data", ";", "boundary", "=", '"', "\\", "x" * 70, "é", " ", "'"])).map(
        "".join
    ),
    part_contents,
)
@examples(300)
async def test_any_content_type_has_a_boundary_or_none(content_type: str, body: bytes) -> None:
    try:
        boundary = boundary_of(content_type)
    except InvalidForm:
        return

    assert 1 <= len(boundary) <= 70
    await read_form([body, f"--{boundary}--\r\n".encode()], content_type)


@given(part_contents, st.integers(0, 60), cuts)
@examples(100)
async def test_a_field_has_at_most_so_many_bytes(content: bytes, limit: int, places: list[int]) -> None:
    assume(b"--frontier" not in content)

    async def body() -> AsyncIterator[bytes]:
        for chunk in cut(form([Part("a", None, content)]), places):
            yield chunk

    async for part in form_parts(body(), FORM):
        if len(content) <= limit and is_utf8(content):
            assert (await part.text(limit)).encode() == content
        else:
            with pytest.raises(InvalidField):
                await part.text(limit)


# Conditions and ranges

ETAG = "ab12"
tags_written = st.sampled_from([f'"{ETAG}"', f'W/"{ETAG}"', '"other"', 'W/"x"', '""', '"a,b"', '"\xff"'])
garbage = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\x00"), max_size=20) | st.lists(
    st.sampled_from(["bytes", "=", "-", ",", " ", "\t", "0", "9" * 25, '"', "W/", ETAG, "*", "GMT", "Mon, 01 Jan 2001"])
).map("".join)
header_names = st.sampled_from(
    ["Range", "If-Range", "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"]
)


@given(
    st.integers(0, 30),
    st.none() | st.integers(0, 40),
    st.none() | st.integers(0, 40) | st.just(10**18),
    st.sampled_from(["bytes=", "BYTES = ", "bytes\t="]),
    st.none() | tags_written | st.sampled_from(["*", f'"other", "{ETAG}"', f"{ETAG}", "Fri, 01 Jan 2100 00:00:00 GMT"]),
)
@example(5, 0, None, "bytes=", "*")
@examples(400)
def test_a_range_is_that_of_a_plain_reading_of_the_rfc(
    size: int, first: int | None, last: int | None, unit: str, if_range: str | None
) -> None:
    wanted = f"{unit}{'' if first is None else first}-{'' if last is None else last}"
    everything = range(size)
    if first is None:
        expected = None if last is None else everything[max(0, size - last) :]
    else:
        expected = None if last is not None and last < first else everything[first : size if last is None else last + 1]
    if if_range is not None and if_range != f'"{ETAG}"':
        expected = None  # the whole: the client may hold parts of something else

    try:
        found = RequestedRange(wanted, if_range).within(ETAG, size)
    except RangeNotSatisfiable:
        assert expected is not None
        assert not expected
    else:
        assert found == (None if expected is None else ByteRange(expected.start, expected.stop))


@given(
    st.lists(tags_written, min_size=1, max_size=4),
    st.sampled_from([",", ", ", "\t,  ", " , ,"]),
    st.sampled_from([ETAG, "x", "none"]),
)
@examples(300)
def test_a_list_of_tags_is_that_of_a_plain_reading_of_the_rfc(tags: list[str], comma: str, etag: str) -> None:
    value = comma.join(tags)
    is_listed = f'"{etag}"' in tags

    assert Conditions(if_none_match=value).not_modified(etag) == (is_listed or f'W/"{etag}"' in tags)
    try:
        Conditions(if_match=value).not_modified(etag)
        assert is_listed
    except PreconditionFailed:
        assert not is_listed
    if '"a,b"' not in tags:
        assert Precondition(if_match=value)(etag) == is_listed


@given(st.lists(garbage, min_size=6, max_size=6), st.integers(0, 20))
@examples(500)
def test_no_header_breaks_a_read_or_a_change(values: list[str], size: int) -> None:
    wanted, if_range, *conditions = values
    try:
        found = RequestedRange(wanted, if_range).within(ETAG, size)
        assert found is None or 0 <= found.start < found.stop <= size
        Conditions(*conditions).not_modified(ETAG)
    except (RangeNotSatisfiable, PreconditionFailed):
        pass
    try:
        holds = Precondition(*conditions[:2])
    except InvalidField:
        return
    assert holds(ETAG) in {True, False}
    assert holds(None) in {True, False}


sendable = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=12)


@given(st.lists(st.tuples(header_names, sendable | garbage.filter(str.isprintable)), min_size=1, max_size=4))
@examples(80)
async def test_no_header_breaks_a_download(listed: httpx.AsyncClient, pairs: list[tuple[str, str]]) -> None:
    headers = [(name.encode(), value.strip().encode("latin-1")) for name, value in pairs]

    answer = await listed.get("/get_model/m/1.0?path=b", headers=headers)

    assert answer.status_code in {200, 206, 304, 412, 416}
    if answer.status_code == 200:
        assert answer.content == b"bb"


# Pages

LISTS: list[tuple[str, dict[str, str], str]] = [
    ("/v1/models", {}, "page_token"),
    ("/v1/models", {"search": "m"}, "page_token"),
    ("/v1/models/m/versions", {}, "page_token"),
    ("/v1/models/m/versions", {"order": "created"}, "page_token"),
    ("/v1/versions", {}, "page_token"),
    ("/v1/versions", {"order_by": "model_name", "filter": "number > 0"}, "page_token"),
    ("/v1/versions", {"order_by": "size_bytes DESC"}, "page_token"),
    ("/v1/models/m/versions/1.0/files", {}, "page_token"),
    ("/v1/models/m/aliases", {}, "page_token"),
    ("/v1/models/m/aliases/b/history", {}, "page_token"),
    ("/v1/events", {}, "after"),
    ("/v1/events", {"model": "m"}, "after"),
    ("/list_models", {}, "page_token"),
    ("/list_models", {"model_name": "m"}, "page_token"),
]


@pytest.fixture
async def listed(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a registry where every list has several items."""
    for name, labels in (("m", ["1.0", "2.0rc1", "nightly"]), ("m-2", ["1.0"]), ("B", ["1"])):
        for label in labels:
            parts = [Part("model_name", None, name.encode()), Part("version", None, label.encode())]
            parts += [Part("model_file", path, path.encode() * 2) for path in ("a", "b", "c/é")]
            answer = await client.post("/register_model", content=form(parts), headers={"Content-Type": FORM})
            assert answer.status_code == 201, answer.text
    for alias, label in (("a", "1.0"), ("b", "1.0"), ("b", "nightly"), ("b", "1.0"), ("c", "2.0rc1")):
        assert (await client.put(f"/v1/models/m/aliases/{alias}", json={"version": label})).is_success
    return client


def items_of(answer: httpx.Response) -> list[Any]:
    body = answer.json()
    items: list[Any] = body if isinstance(body, list) else body["items"]
    return items


def opened(token: str) -> list[Any]:
    content: list[Any] = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    return content


def token_of(answer: httpx.Response) -> str:
    """Return the token of the next page."""
    if isinstance(answer.json(), dict):
        token: str = answer.json()["next_page_token"]
        return token
    return httpx.URL(answer.links["next"]["url"]).params["page_token"]


json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(
        [0, 1, 2, 3, -1, 2**31, 2**63 - 1, 2**63, 0.5, 1e300, "", "m", "a", "1.0", "\x00", "é", "00", "ff" * 99]
    ),
    st.sampled_from(
        ["2026-01-31T12:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-12:00", [], {}, [1], "M"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
)


@dataclass(frozen=True)
class Listing:
    """One list as it is: all items, and the query and position of a token in it."""

    path: str
    query: dict[str, str]
    parameter: str
    items: list[Any]
    token: list[Any]


@pytest.fixture
async def listings(listed: httpx.AsyncClient) -> list[Listing]:
    found = []
    for path, query, parameter in LISTS:
        items = items_of(await listed.get(path, params=query | {"limit": "1000"}))
        token = opened(token_of(await listed.get(path, params=query | {"limit": "1"})))
        assert len(items) > 1
        found.append(Listing(path, query, parameter, items, token))
    return found


def forged(token: list[Any], how: int, at: int, piece: str, scalars: list[Any]) -> str:
    """Return a token that is not, or only just, one of this query and position."""
    query, *position = token
    written_out = page_token(query, *position)
    match how:
        case 0:
            return piece
        case 1:
            at %= len(written_out) + 1
            return written_out[:at] + piece + written_out[at + len(scalars) :]
        case 2:
            return page_token(query, *scalars)
        case 3:
            return page_token([*query[: at % 4], *scalars], *position)
        case _:
            position[at % len(position)] = scalars[0] if scalars else None
            return page_token(query, *position)


@given(
    which=st.integers(0, len(LISTS) - 1),
    how=st.integers(0, 4),
    at=st.integers(0, 200),
    piece=st.text("AW_-=.1é\x00", max_size=5),
    scalars=st.lists(json_scalars, max_size=4),
)
@examples(200)
async def test_a_token_that_somebody_made_up_is_refused_or_shows_the_rest_of_the_same_list(
    listed: httpx.AsyncClient, listings: list[Listing], which: int, how: int, at: int, piece: str, scalars: list[Any]
) -> None:
    there = listings[which]
    token = forged(there.token, how, at, piece, scalars)

    answer = await listed.get(there.path, params=there.query | {"limit": "1000", there.parameter: token})

    if answer.status_code == 200:
        shown = items_of(answer)
        assert shown == there.items[len(there.items) - len(shown) :]
    else:
        assert answer.status_code == 422, answer.text
        assert answer.json()["type"] == "urn:model-registry:problem:invalid-page-token"


# Metadata

json_numbers = st.from_regex(r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,30})?([eE][+-]?[1-8]?[0-9]{1,2})?", fullmatch=True)


@given(st.lists(json_numbers, max_size=8))
@example(
    ["-0.0", "1e16", "9223372036854775808", "-9223372036854775809", "0.1000000000000000055511151231257827", "1E-999"]
)
@examples(150)
def test_a_number_is_exactly_what_was_written(numbers: list[str]) -> None:
    text = '{"n": [' + ", ".join(numbers) + "]}"
    exact = [Decimal(number) for number in numbers]

    parsed = parse_json_object(text, ("f",), max_bytes=MIB)

    assert parsed["n"] == exact
    assert exact_json(to_json_text(parsed))["n"] == exact
    assert canonical_json(parsed) == canonical_json({"n": [Decimal(f"{number:f}") for number in exact]})


@given(st.lists(st.lists(json_numbers, min_size=1, max_size=30), min_size=1, max_size=3))
@examples(15)
async def test_a_number_is_exactly_what_was_written_after_it_was_stored(
    service: RunningService, fresh: None, numbers: list[list[str]]
) -> None:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        label = f"{time.monotonic_ns()}"
        written_out = "[" + ", ".join("[" + ", ".join(row) + "]" for row in numbers) + "]"
        body = f'{{"model_name": "n", "version": "{label}", "additional_metadata": {{"n": {written_out}}}}}'
        made = await client.post("/register_model", content=body, headers={"Content-Type": "application/json"})
        assert made.status_code == 201, made.text

        read = await client.get(f"/get_model_info/n/{label}")

        for answer in (made, read):
            info = json.loads(answer.text, parse_float=Decimal, parse_int=Decimal)
            assert info["additional_metadata"]["n"] == [[Decimal(number) for number in row] for row in numbers]


@given(json_numbers, json_numbers)
@examples(150)
def test_two_numbers_have_one_canonical_text_exactly_where_they_are_equal(one: str, other: str) -> None:
    texts = [canonical_json(parse_json_object(f'{{"n": {n}}}', ("f",), max_bytes=MIB)) for n in (one, other)]

    assert (texts[0] == texts[1]) == (Decimal(one) == Decimal(other))


# Archives


@given(
    st.dictionaries(
        st.lists(st.sampled_from(["a", "b/c", "é", "x" * 99, "y" * 200]), min_size=1, max_size=3).map("".join),
        st.sampled_from([b"", b"a", b"b" * 511, b"c" * 512, b"d" * 513, b"e" * 2000]),
        max_size=5,
    ),
    st.data(),
)
@examples(60)
def test_any_range_of_an_archive_is_that_slice_of_the_whole(files: dict[str, bytes], data: st.DataObject) -> None:
    layout = TarLayout([StoredFile(path, "", StoredBlob(Digest(b""), len(files[path]), path)) for path in files])
    size = layout.size_bytes

    def read(start: int, stop: int) -> bytes:
        return b"".join(
            piece if isinstance(piece, bytes) else files[piece.blob.storage_key][piece.start : piece.stop]
            for piece in layout.read(start, stop)
        )

    whole = read(0, size)
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        assert tar.getnames() == sorted(files, key=str.encode)

    for _ in range(20):
        start = data.draw(st.integers(0, size))
        stop = data.draw(st.integers(start, size) | st.integers(start, min(size, start + 3)))
        assert read(start, stop) == whole[start:stop]
