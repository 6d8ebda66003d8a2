"""Parsers of external input, for a fuzzer that runs without an end. This is not a test, and no test run includes it.

`python -m tests.properties.fuzz_targets NAME --seconds N`, with `app` on PYTHONPATH. If atheris is installed, it looks
for inputs that reach new code; otherwise inputs are changed at random. A crash is a bug, and its input is printed.
"""

import argparse
import contextlib
import importlib
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

try:
    atheris: Any = importlib.import_module("atheris")
except ModuleNotFoundError:
    atheris = None

with (
    atheris.instrument_imports(include=["model_registry", "multipart", "lark"]) if atheris else contextlib.nullcontext()
):
    from multipart import PushMultipartParser  # noqa: F401 - so that the fuzzer sees its branches

    from model_registry.domain.entities import ListPosition
    from model_registry.domain.filter_parser import parse_filter
    from model_registry.domain.naming_rules import validate_alias, validate_model_name, validate_path
    from model_registry.domain.search_filter import InvalidFilter
    from model_registry.domain.search_order import parse_order
    from model_registry.domain.version_labels import precedence, validate_version
    from model_registry.errors import InvalidField, PreconditionFailed, RegistryError
    from model_registry.utils import canonical_json, exact_json, parse_json_object, to_json_text
    from model_registry.web.http_errors import RangeNotSatisfiable
    from model_registry.web.requests.conditional import Conditions, Precondition, RequestedRange
    from model_registry.web.requests.multipart import boundary_of, form_parts
    from model_registry.web.requests.paging import bigint, list_position, page_position, page_token

_Target = Callable[[bytes], None]


def fuzz_names(data: bytes) -> None:
    text = data.decode(errors="replace")
    for check in (validate_path, validate_model_name, validate_alias, validate_version):
        with contextlib.suppress(InvalidField):
            assert check(text) == text
            if check is validate_version:
                precedence(text)


def fuzz_filter(data: bytes) -> None:
    text = data.decode(errors="replace")
    began = time.process_time()
    try:
        parse_filter(text)
    except InvalidFilter as error:
        column = error.members["column"]
        assert isinstance(column, int)
        assert 1 <= column <= len(text) + 1
    assert time.process_time() - began < 1
    with contextlib.suppress(InvalidField):
        parse_order(text)


def fuzz_form(data: bytes) -> None:
    """Parse a form; the first bytes say where the rest is cut."""
    places, body = data[:6], data[6:]
    cuts = [0, *sorted(place % (len(body) + 1) for place in places), len(body)]
    pieces = [body[start:end] for start, end in pairwise(cuts) if start < end]
    assert _done(_read_form(pieces)) == _done(_read_form([body]))


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    """Return the result of a coroutine that never waits; a loop for each input would take longer than the input."""
    try:
        work.send(None)
    except StopIteration as ended:
        return ended.value
    raise AssertionError("it waits")


async def _read_form(pieces: Sequence[bytes]) -> list[tuple[str, str | None, bytes]] | None:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    parts = []
    try:
        async for part in form_parts(body(), "multipart/form-data; boundary=x"):
            content = b"".join([chunk async for chunk in part.chunks()])
            parts += [(part.name, part.filename, content)]
    except RegistryError:
        return None
    return parts


def fuzz_boundary(data: bytes) -> None:
    with contextlib.suppress(RegistryError):
        assert 1 <= len(boundary_of(data.decode("latin-1"))) <= 70


def fuzz_json(data: bytes) -> None:
    try:
        parsed = parse_json_object(data, ("f",), max_bytes=2**20)
    except InvalidField:
        return
    text = to_json_text(parsed)
    assert exact_json(text) == parsed
    assert canonical_json({"f": parsed}) == canonical_json({"f": text})


def fuzz_headers(data: bytes) -> None:
    names = ("range", "if_range", "if_match", "if_none_match", "if_modified_since", "if_unmodified_since")
    lines = {names[line[0] % 6]: line[1:].decode("latin-1") for line in data.split(b"\n") if line}
    ranges = {name: lines.pop(name) for name in names[:2] if name in lines}
    with contextlib.suppress(RangeNotSatisfiable, PreconditionFailed):
        found = RequestedRange(**ranges).within("ab12", 100)
        assert found is None or 0 <= found.start < found.stop <= 100
        Conditions(**lines).not_modified("ab12")
    with contextlib.suppress(InvalidField):
        Precondition(lines.get("if_match"), lines.get("if_none_match"))(None)


def fuzz_tokens(data: bytes) -> None:
    token = data.decode("latin-1")
    with contextlib.suppress(RegistryError):
        position = list_position(token, ["m"])
        assert isinstance(position, ListPosition)
        bigint(position.number)
    with contextlib.suppress(RegistryError):
        page_position(token, ["m"], parse_order("created_at").position)


TARGETS: dict[str, tuple[_Target, list[bytes]]] = {
    "names": (fuzz_names, [b"a/b.bin", b"1.0rc1+cpu", b"champion", "e\u0301/C:".encode(), b"v1.0.post1.dev2"]),
    "filter": (fuzz_filter, [b"tags.x = 'a' AND NOT (number IN (1, 2) OR created_at > '2026-01-01T00:00:00Z')"]),
    "form": (
        fuzz_form,
        [
            b'abcdef--x\r\nContent-Disposition: form-data; name="model_file"; filename="a"\r\n\r\nb\r\n--x--\r\n',
            b"abcdefgh\r\n--x\r\nContent-Disposition: form-data; name=\"a\"; filename*=UTF-8''%c3%a9\r\n"
            b"Content-Type: text/plain\r\nContent-Length: 1\r\n\r\nb\r\n--x\r\n\r\n--x--",
        ],
    ),
    "boundary": (fuzz_boundary, [b'multipart/form-data; boundary="a;b"; charset=utf-8']),
    "json": (fuzz_json, [b'{"a": [1, -0.0, 1e16, 0.1, "\\u00e9\\ud83d\\ude42", null, true, {"b": {}}]}']),
    "headers": (fuzz_headers, [b'\x00bytes=0-5\n\x01"ab12"', b'\x02"a", W/"b"\n\x04Mon, 01 Jan 2001 00:00:00 +0100']),
    "tokens": (fuzz_tokens, [page_token(["m"], "m", "01ff", 7).encode(), page_token(["m"], "2026-01-31", 7).encode()]),
}


def changed(data: bytes, choose: random.Random) -> bytes:
    """Return the same data with a few pieces removed, inserted, doubled or replaced."""
    for _ in range(choose.randint(1, 5)):
        at = choose.randrange(len(data) + 1)
        end = min(len(data), at + choose.randrange(9))
        piece = choose.choice(
            [b"", data[at:end] * 2, choose.randbytes(choose.randrange(4)), b"\r\n", b"'", b'"', b"--x"]
        )
        data = data[:at] + piece + data[end:]
    return data


def at_random(target: _Target, corpus: list[bytes], seconds: float) -> int:
    choose = random.Random()
    ends_at = time.monotonic() + seconds
    count = 0
    while time.monotonic() < ends_at:
        data = changed(choose.choice(corpus), choose)
        try:
            target(data)
        except BaseException:
            sys.stderr.write(f"{data!r}\n")
            raise
        count += 1
        if len(corpus) < 1000 and len(data) < 2000 and choose.random() < 0.01:
            corpus.append(data)
    return count


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("name", choices=TARGETS)
    arguments.add_argument("--seconds", type=int, default=120)
    asked = arguments.parse_args()
    target, corpus = TARGETS[asked.name]
    if atheris is None:
        sys.stdout.write(f"{at_random(target, corpus, asked.seconds)} inputs, no crash\n")
        return
    with tempfile.TemporaryDirectory() as folder:
        for index, seed in enumerate(corpus):
            (Path(folder) / str(index)).write_bytes(seed)
        options = [f"-max_total_time={asked.seconds}", "-max_len=500", f"-artifact_prefix={folder}/"]
        atheris.Setup([sys.argv[0], *options, folder], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
