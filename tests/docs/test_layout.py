"""The layout of the tests: helpers live in `tests/support`, and a test module exports nothing."""

import ast

from tests.support.checkout import ROOT


def test_no_module_imports_from_a_test_module() -> None:
    found = {
        f"{path.relative_to(ROOT)}: {node.module}"
        for folder in ("tests", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom)
        and any(
            part.startswith("test_") for name in node.names for part in [*(node.module or "").split("."), name.name]
        )
    }

    assert found == set()
