"""Clients whose dependencies differ from ours, each in a virtual environment that a test creates on demand."""

import os
import sys
from pathlib import Path

import pytest

from tests.third_party.commands import run

_LOCKS = Path(__file__).parent


async def client_venv(folder: Path, client: str) -> Path:
    """Return the folder of the programs of a new environment with the packages that `<client>.txt` locks.

    Skips the test if there is no package index to install from.
    """
    pip = (sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "install", "--quiet", "--no-compile")
    locked = ("--no-deps", "--require-hashes", "--retries", "1", "-r", _LOCKS / f"{client}.txt")
    made = await run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder.parent)
    assert made.code == 0, made
    # The developer's environment says where pip finds packages.
    installed = await run(*pip, *locked, cwd=folder.parent, **os.environ)
    if "(from versions: none)" in installed.errors:
        pytest.skip(f"{client} cannot be installed, because no package index answers")
    assert installed.code == 0, installed.errors
    return folder / "bin"
