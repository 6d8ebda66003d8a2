"""Fixtures for tests that need a registry: `model_registry` is a client, `model_registry_url` the URL.

The registry is a real one with its own PostgreSQL and S3. The first test that uses it starts it empty, and it stops
after the last test. Each process of pytest-xdist has its own registry. Without the `server` and `embedded` extras,
these tests are skipped.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from model_registry_client import Registry

_START_SECONDS = 120
_END_SECONDS = 30


@pytest.fixture(scope="session")
def model_registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a registry for this test run."""
    with _registry(tmp_path_factory.mktemp("model-registry")) as url:
        yield url


@pytest.fixture(scope="session")
def model_registry(model_registry_url: str) -> "Iterator[Registry]":
    """A client of a registry for this test run."""
    from model_registry_client import Registry

    with Registry(model_registry_url) as registry:
        yield registry


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    # Runs in a folder without a .env, and without the settings of the developer.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODEL_REGISTRY_")}
    command = [sys.executable, "-m", "model_registry.cli", "dev", "--port", "0", "--data-dir", str(folder / "data")]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own command
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        yield _address(process, folder / "data" / "address", log)
    finally:
        process.terminate()
        try:
            process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _address(process: "subprocess.Popen[bytes]", announced: Path, log: Path) -> str:
    """Wait for the registry that `process` runs, and return its URL. Skips the test if the server is not installed."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            _give_up(log.read_text(errors="replace").strip())
        if announced.exists() and (url := announced.read_text()).endswith("\n"):
            return url.strip()
        time.sleep(0.05)
    pytest.fail(f"The registry did not start within {_START_SECONDS} s:\n{log.read_text(errors='replace')}", False)


def _give_up(said: str) -> None:
    last = said.rpartition("\n")[2]
    if "is not installed" in last:
        pytest.skip(f"These tests start a registry: {last.removeprefix('error: ')}")
    pytest.fail(f"The registry did not start:\n{said}", pytrace=False)
