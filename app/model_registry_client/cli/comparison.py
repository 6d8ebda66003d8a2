"""Compares two versions."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model_registry_client.types import File, Version

VALUES = ("model_params", "standardization_params", "additional_metadata")


def compared(a: "Version", b: "Version", files_a: "Iterable[File]", files_b: "Iterable[File]") -> dict[str, Any]:
    """Compare files by digest, and every value of the two versions. `diff --json` prints the result.

    A value is `{"a": …, "b": …}` under its path, such as `metrics.auc`. A side that does not have it is missing.
    """
    return {
        "a": _named(a),
        "b": _named(b),
        "same_bytes": a.digest == b.digest,
        "files": _files(files_a, files_b),
        **{name: _side_by_side(getattr(a, name), getattr(b, name)) for name in VALUES},
    }


def is_same(comparison: Mapping[str, Any]) -> bool:
    files = comparison["files"]
    values = [pair for name in VALUES for pair in comparison[name].values()]
    return not (files["added"] or files["removed"] or files["changed"]) and all(agree(pair) for pair in values)


def agree(pair: Mapping[str, Any]) -> bool:
    # True == 1 in Python, but they are different values in JSON.
    return len(pair) == 2 and (pair["a"], type(pair["a"]) is bool) == (pair["b"], type(pair["b"]) is bool)


def _named(version: "Version") -> dict[str, Any]:
    return {
        "model_name": version.model_name,
        "version": version.version,
        "digest": version.digest,
        "size_bytes": version.size_bytes,
    }


def _files(a: "Iterable[File]", b: "Iterable[File]") -> dict[str, list[dict[str, Any]]]:
    before, after = ({file.path: file for file in files} for files in (a, b))
    both = sorted(before.keys() & after.keys())
    return {
        "added": [_entry(after[path]) for path in sorted(after.keys() - before.keys())],
        "removed": [_entry(before[path]) for path in sorted(before.keys() - after.keys())],
        "changed": [
            {"path": path, "a": _bytes(before[path]), "b": _bytes(after[path])}
            for path in both
            if before[path].sha256 != after[path].sha256
        ],
        "same": [_entry(after[path]) for path in both if before[path].sha256 == after[path].sha256],
    }


def _entry(file: "File") -> dict[str, Any]:
    return {"path": file.path, **_bytes(file)}


def _bytes(file: "File") -> dict[str, Any]:
    return {"size_bytes": file.size_bytes, "sha256": file.sha256}


def _side_by_side(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    before, after = dict(leaves(a)), dict(leaves(b))
    return {
        path: {side: values[path] for side, values in (("a", before), ("b", after)) if path in values}
        for path in sorted(before.keys() | after.keys())
    }


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
