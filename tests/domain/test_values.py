"""Names, labels and metadata: pure rules, tested with generated input."""

import hashlib
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from packaging.version import Version

from model_registry.domain.entities import Digest, FileEntry, StoredBlob, StoredFile, manifest_digest
from model_registry.domain.naming_rules import DistinctPaths, validate_alias, validate_model_name, validate_path
from model_registry.domain.version_labels import precedence, validate_version
from model_registry.errors import InvalidField
from model_registry.services.tar_archive import TarLayout
from model_registry.utils import (
    EMPTY_OBJECT,
    JsonText,
    canonical_json,
    clean_json_object,
    parse_json_object,
    rfc3339,
    to_json_text,
)

MIB = 1024**2

# Versions

pep440 = st.builds(
    lambda epoch, release, pre, post, dev, local: "".join(
        [
            f"{epoch}!" if epoch else "",
            ".".join(map(str, release)),
            f"{pre[0]}{pre[1]}" if pre else "",
            f".post{post}" if post is not None else "",
            f".dev{dev}" if dev is not None else "",
            f"+{'.'.join(map(str, local))}" if local else "",
        ]
    ),
    st.integers(0, 2),
    st.lists(st.integers(0, 12) | st.integers(0, 10**20), min_size=1, max_size=4),
    st.none() | st.tuples(st.sampled_from(["a", "b", "rc"]), st.integers(0, 11)),
    st.none() | st.integers(0, 11),
    st.none() | st.integers(0, 11),
    st.lists(st.integers(0, 20) | st.sampled_from(["a", "ab", "b", "z9"]), max_size=3),
)


@given(pep440, pep440)
@example("1.10.0", "1.9.0")
@example("1.0", "1.0.0")
@example("1.0.dev1", "1.0a1")
@example("1.0+ab", "1.0+ab.1")
@settings(max_examples=500, deadline=None)
def test_keys_sort_as_the_versions_do(one: str, two: str) -> None:
    keys = precedence(one).key, precedence(two).key
    versions = Version(one), Version(two)

    assert (keys[0] < keys[1], keys[0] == keys[1]) == (versions[0] < versions[1], versions[0] == versions[1])


@pytest.mark.parametrize(
    ("label", "is_prerelease"),
    [("1.0", False), ("v1.0", False), ("1.0rc1", True), ("2.0.0-beta.1", True), ("1.0.dev3", True), ("nightly", False)],
)
def test_a_prerelease_is_known_by_its_label(label: str, is_prerelease: bool) -> None:
    assert precedence(label).is_prerelease is is_prerelease


def test_a_label_that_is_no_version_stands_below_all_that_are() -> None:
    assert precedence("nightly").key == precedence("a-b").key < precedence("0.dev0").key
    assert precedence("v1.0").key == precedence("1.0").key


@pytest.mark.parametrize("label", ["1", "1.0", "v2.0.0-rc.1+cu128", "a" * 128, "0", "A_b-c+d.e", "f" * 39])
def test_good_labels(label: str) -> None:
    assert validate_version(label) == label


@pytest.mark.parametrize(
    "label",
    ["", " ", "a b", "latest", "LATEST", "a..b", "-1", "1-", ".1", "a/b", "é", "1\n", "a" * 129, "0" * 40, "@x"],
)
def test_bad_labels(label: str) -> None:
    with pytest.raises(InvalidField, match=r"version: "):
        validate_version(label)


# Names and paths


@pytest.mark.parametrize("name", ["a", "A.b_c-d", "a" * 128, "0", "bert-base-uncased"])
def test_good_model_names(name: str) -> None:
    assert validate_model_name(name) == name


@pytest.mark.parametrize("name", ["", "a..b", "a--b", ".a", "a.", "_a", "a/b", "a b", "ä", "a\n", "a\x00", "a" * 129])
def test_bad_model_names(name: str) -> None:
    with pytest.raises(InvalidField, match=r"model_name: a model name has"):
        validate_model_name(name)


@pytest.mark.parametrize("alias", ["champion", "prod.eu-1", "a"])
def test_good_aliases(alias: str) -> None:
    assert validate_alias(alias) == alias


@pytest.mark.parametrize("alias", ["latest", "1", "1.0", "v2", "Prod", "", "-a", "a" * 65])
def test_bad_aliases(alias: str) -> None:
    with pytest.raises(InvalidField):
        validate_alias(alias)


@pytest.mark.parametrize("path", ["a", "a/b/c.bin", "größe.txt", "a b", "a;b#c%d", "." + "a", "é" * 512, "…"])
def test_good_paths(path: str) -> None:
    assert validate_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        *("", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "../a", "a\\b", "C:\\x", "C:x", "c:/x", "\\\\h\\x"),
        *("a\x00b", "a\nb", "a\x7f", "e\u0301", "a\u202eb", "a\u2028b", "\ud800", "x" * 1025, "é" * 513, "file:///x"),
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidField):
        validate_path(path)


@given(st.text(max_size=40))
@settings(max_examples=500)
def test_an_accepted_path_stays_inside_its_folder(path: str) -> None:
    try:
        validate_path(path)
    except InvalidField:
        return
    assert not path.startswith("/")
    assert not {"", ".", ".."} & set(path.split("/"))


@pytest.mark.parametrize(
    "paths", [["a", "A"], ["a", "a/b"], ["a/b", "a"], ["A/b", "a"], ["x/y/z", "X/Y"], ["ß", "SS"], ["a", "a"]]
)
def test_paths_that_cannot_lie_in_one_folder(paths: list[str]) -> None:
    distinct = DistinctPaths()
    *first, last = paths
    for path in first:
        distinct.add(path)

    with pytest.raises(InvalidField):
        distinct.add(last)


def test_paths_that_can() -> None:
    distinct = DistinctPaths()

    for path in ("a/b", "a/c", "b", "ab", "a b", "a/d/e"):
        assert distinct.add(path) == path


def test_the_digest_is_that_of_the_sorted_manifest() -> None:
    files = [
        FileEntry(path, size, Digest(bytes([size]) * 32), "x/y") for path, size in (("b", 1), ("B", 2), ("a/z", 3))
    ]

    manifest = f"{'02' * 32}  2  B\n{'03' * 32}  3  a/z\n{'01' * 32}  1  b\n"
    assert manifest_digest(files).raw == hashlib.sha256(manifest.encode()).digest()


# Metadata

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5))
@settings(max_examples=300, deadline=None)
def test_metadata_comes_back_as_it_was_or_is_refused(value: dict[str, Any]) -> None:
    text = json.dumps(value)
    try:
        parsed = parse_json_object(text, ("f",), max_bytes=MIB)
    except InvalidField:
        assert "\\u0000" in text or "\\ud" in text.lower()
        return
    assert json.loads(to_json_text(parsed)) == value


@given(st.text(max_size=60) | st.text(alphabet='{}[]",:0123456789.eE+-\\u \n', max_size=60))
@settings(max_examples=500, deadline=None)
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = parse_json_object(text, ("f",), max_bytes=MIB)
    except InvalidField:
        return
    assert isinstance(parsed, dict)


@pytest.mark.parametrize(
    ("text", "place", "rule"),
    [
        ("[]", ["f"], "a JSON object is required"),
        ('"x"', ["f"], "a JSON object is required"),
        ("", ["f"], "invalid JSON"),
        ('{"a": NaN}', ["f", "a"], "no NaN"),
        ('{"a": [1, -Infinity]}', ["f", "a", 1], "no NaN and no Infinity"),
        ('{"a": {"b": 1, "b": 2}}', ["f", "a", "b"], "twice"),
        ('{"a": "x\\u0000y"}', ["f", "a"], "NUL"),
        ('{"a\\u0000": 1}', ["f"], "NUL"),
        ('{"a": "\\ud800"}', ["f", "a"], "surrogate"),
        ('{"a": 1e400000}', ["f", "a"], "1000 digits"),
        ('{"a": 1e99999999999999999999}', ["f", "a"], "exponent"),
        ('{"a": ' + "9" * 100_000 + "}", ["f", "a"], "1000 digits"),
        ('{"a":' * 65 + "1" + "}" * 65, ["f"] + ["a"] * 64, "64 levels"),
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", ["f"], "64 levels"),
        ('{"a": "' + "x" * MIB + '"}', ["f"], "at most 1048576 bytes"),
        ('{"a": 1} x', ["f"], "line 1 column 10"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_refusal_names_the_place_and_the_rule(text: str, place: list[str | int], rule: str) -> None:
    with pytest.raises(InvalidField) as caught:
        parse_json_object(text, ("f",), max_bytes=MIB)

    errors: Any = caught.value.members["errors"]
    (error,) = errors
    assert error["loc"] == place
    assert rule in error["msg"]


def test_sixty_four_levels_are_fine() -> None:
    parse_json_object('{"a":' * 64 + "1" + "}" * 64, ("f",), max_bytes=MIB)


def test_small_numbers_cannot_be_written_out_into_gigabytes() -> None:
    with pytest.raises(InvalidField):
        parse_json_object('{"a": [' + ",".join(["1e1000"] * 2000) + "]}", ("f",), max_bytes=MIB)


def test_python_values_are_cleaned() -> None:
    cleaned = clean_json_object(
        {
            "array": np.array([[1, 2], [3, 4]]),
            "scalar": np.float32(0.5),
            "flag": np.bool_(True),
            "nan": float("nan"),
            "inf": np.float64("inf"),
            "when": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "day": date(2026, 1, 31),
            "big": 2**70,
            "exact": Decimal("0.10"),
            3: (1, {"x"}),
        },
        ("f",),
    )

    assert to_json_text(cleaned) == (
        '{"array":[[1,2],[3,4]],"scalar":0.5,"flag":true,"nan":null,"inf":null,'
        '"when":"2026-01-31T12:00:00.000000Z","day":"2026-01-31","big":1180591620717411303424,"exact":0.10,"3":[1,["x"]]}'
    )
    with pytest.raises(InvalidField, match=r"f\.x: a function cannot be written as JSON"):
        clean_json_object({"x": test_python_values_are_cleaned}, ("f",))


def test_one_meaning_has_one_text() -> None:
    one = {"b": JsonText('{"x": 1.50, "a": [1e2]}'), "a": 1}
    two = {"a": Decimal("1.0"), "b": JsonText('{"a": [100], "x": 15e-1}')}

    assert canonical_json(one) == canonical_json(two) == b'{"a":1,"b":{"a":[100],"x":1.5}}'
    assert EMPTY_OBJECT.parsed == {}


def test_times_are_utc_and_end_in_z() -> None:
    assert rfc3339(datetime(2026, 1, 31, 12, 0, 0, 5)) == "2026-01-31T12:00:00.000005Z"  # noqa: DTZ001


@given(
    st.lists(
        st.tuples(st.text("ab/ü", min_size=1, max_size=200), st.integers(0, 10**12)),
        max_size=6,
        unique_by=lambda f: f[0],
    ),
    st.data(),
)
@settings(max_examples=200, deadline=None)
def test_an_archive_has_the_length_that_it_announces(files: list[tuple[str, int]], data: st.DataObject) -> None:
    layout = TarLayout([StoredFile(path, "", StoredBlob(Digest(b""), size, path)) for path, size in files])
    start = data.draw(st.integers(0, layout.size_bytes))
    stop = data.draw(st.integers(start, layout.size_bytes))
    lengths = [len(p) if isinstance(p, bytes) else p.stop - p.start for p in layout.read(start, stop)]

    assert sum(lengths) == stop - start
