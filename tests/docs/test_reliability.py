"""The tests that docs/reliability.md names as the guards of its promises exist."""

import ast
import re

from tests.support.checkout import ROOT


def test_every_guard_is_a_test() -> None:
    guards = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "reliability.md").read_text())

    assert len(guards) > 20
    for file, name in guards:
        names = {node.name for node in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(node, "name")}
        assert not name or name in names, f"{file}::{name}"
