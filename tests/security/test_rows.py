"""Every threat of the list has its test, or a reason why not."""

import ast
from pathlib import Path

from tests.security.rows import ROWS

_ROOT = Path(__file__).parents[2]


def _tests_of(file: str) -> set[str]:
    tree = ast.parse((_ROOT / file).read_text())
    return {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


def test_every_threat_is_in_the_table() -> None:
    assert sorted(ROWS) == [f"T{number:02}" for number in range(1, 90)]
    assert [name for name, row in ROWS.items() if not row.threat or not (row.tests or row.reason)] == []


def test_every_test_that_the_table_names_is_there() -> None:
    named = {test for row in ROWS.values() for test in row.tests}
    there = {f"{file}::{name}" for file in {test.partition("::")[0] for test in named} for name in _tests_of(file)}

    assert named - there == set()


def test_every_test_of_this_folder_is_in_the_table() -> None:
    files = {path.name for path in Path(__file__).parent.glob("test_*.py")} - {"test_rows.py", "test_schemathesis.py"}
    there = {f"tests/security/{file}::{name}" for file in files for name in _tests_of(f"tests/security/{file}")}

    assert there - {test for row in ROWS.values() for test in row.tests} == set()
