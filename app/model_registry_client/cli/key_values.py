"""Parses `key=value` arguments and durations."""

import json
import re
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

_DURATION = re.compile(r"(\d+)([smhd]?)")
_UNIT_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parameters(option: str, given: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value`. The value is JSON, or else text. The last of equal keys counts.

    `@file.json` reads a JSON object from a file, and `@-` from standard input.

    Raises
    ------
    UsageError
        An argument is neither of these, or the file is not a JSON object.
    """
    found: dict[str, Any] = {}
    for text in given:
        if text.startswith("@"):
            found |= _object(option, text[1:])
        else:
            key, value = _assignment(option, text)
            found[key] = _value(value)
    return found


def tags(option: str, given: Sequence[str]) -> dict[str, str]:
    """Parse tags as `key=value`. The value is always text."""
    return dict(_assignment(option, text) for text in given)


def tag_changes(given: Sequence[str]) -> dict[str, str | None]:
    """Parse changes of tags: `key=value` sets a tag, `key-` removes it (`None`)."""
    return dict(
        (text[:-1], None) if "=" not in text and len(text) > 1 and text.endswith("-") else _assignment("A tag", text)
        for text in given
    )


def seconds(option: str, text: str) -> int:
    """Parse `90`, `90s`, `15m`, `2h` or `7d` to seconds."""
    match = _DURATION.fullmatch(text)
    if match is None:
        _refuse(f"{option} takes a time such as 90s, 15m, 2h or 7d, not {text!r}.")
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def _assignment(option: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        _refuse(f"{option} must be KEY=VALUE, not {text!r}.")
    return key, value


def _value(text: str) -> Any:
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _object(option: str, name: str) -> dict[str, Any]:
    from model_registry_client.cli.command import interruptible

    try:
        with interruptible():
            text = sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
        tree = _parse(text.removeprefix("\ufeff"))
    except OSError as error:
        _refuse(f"{option} cannot read {name}: {error.strerror}.")
    except (ValueError, RecursionError) as error:
        _refuse(f"{option}: {name} is not JSON: {error}.")
    if not isinstance(tree, dict):
        _refuse(f"{option}: {name} must be a JSON object, with a member for each key.")
    return tree


def _parse(text: str) -> Any:
    # Decimal keeps every digit. NaN and Infinity are not JSON.
    return json.loads(text, parse_float=Decimal, parse_constant=_no_constant)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _refuse(message: str) -> NoReturn:
    from model_registry_client.errors import UsageError

    raise UsageError(message)
