"""The documents name files and folders that exist."""

import re
from pathlib import Path

import pytest

from tests.support.checkout import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.md")])
# docs/architecture.md names modules from their package or room.
_BASES = (ROOT, ROOT / "app", ROOT / "app" / "model_registry", ROOT / "app" / "model_registry" / "web")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)")
_PATH = re.compile(r"`((?:[\w.-]+/)+(?:[\w.-]+\.(?:py|md|yml|sh))?)`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_every_link_leads_to_a_file(document: Path) -> None:
    links = _LINK.findall(document.read_text())

    assert [link for link in links if not (document.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/architecture.md"])
def test_every_path_in_backticks_exists(name: str) -> None:
    paths = _PATH.findall((ROOT / name).read_text())

    assert paths
    assert [path for path in paths if not any((base / path).exists() for base in _BASES)] == []
