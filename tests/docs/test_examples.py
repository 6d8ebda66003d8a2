"""The README and the examples work, followed as a reader would."""

import hashlib
import json
import re
import shutil
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.checkout import ROOT
from tests.support.processes import environment, started
from tests.support.service import RunningService

README = (ROOT / "README.md").read_text()
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


async def run(*command: str, cwd: Path, **variables: str) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error."""
    # Not a blocking call: the service answers from this event loop.
    async with started(env=environment() | variables, cwd=cwd, command=list(command)) as process:
        output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


async def run_example(url: str, cwd: Path) -> tuple[int, str, str]:
    return await run(sys.executable, str(ROOT / "examples" / "sklearn_iris.py"), cwd=cwd, MODEL_REGISTRY_URL=url)


def section(title: str) -> str:
    """Return a section of the README, without its heading."""
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def agrees(shown: Any, real: Any) -> bool:
    """Return whether `real` matches `shown`, which may leave keys out and has `…` for any text."""
    if isinstance(shown, dict) and isinstance(real, dict):
        return all(key in real and agrees(value, real[key]) for key, value in shown.items())
    if isinstance(shown, list) and isinstance(real, list):
        return len(shown) == len(real) and all(map(agrees, shown, real))
    if isinstance(shown, str) and isinstance(real, str):
        return re.fullmatch(".*".join(map(re.escape, shown.split("…"))), real) is not None
    return bool(shown == real)


@contextmanager
def nobody_listens() -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


async def test_the_example_registers_its_model_once_however_often_it_runs(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    first = await run_example(service.url, tmp_path)
    second = await run_example(service.url, tmp_path)

    assert first[0] == 0, first
    assert "predicted  30 species, the same as the trained pipeline" in first[1]
    assert second == first
    [row] = (await client.get("/list_models")).json()
    info = (await client.get("/get_latest_model_info/iris-classifier")).json()
    assert row["version"] == info["version"]
    assert {name: len(values) for name, values in info["standardization_params"].items()} == {"mean": 4, "scale": 4}
    assert info["model_params"]["max_iter"] == 200
    assert 0.9 < info["additional_metadata"]["metrics"]["accuracy"] <= 1
    content = (await client.get(info["download_url"])).content
    assert info["files"][0]["sha256"] == f"sha256:{hashlib.sha256(content).hexdigest()}"


async def test_the_example_knows_its_model_when_its_key_is_forgotten(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await run_example(service.url, tmp_path)
    async with service.services.database.transaction() as tx:
        assert await tx.idempotency.forget_older_than(0) == 1

    code, output, errors = await run_example(service.url, tmp_path)

    assert (code, errors) == (0, "")
    assert "some time ago" in output
    assert len((await client.get("/list_models")).json()) == 1


async def test_the_example_says_in_one_line_that_nobody_answers(tmp_path: Path) -> None:
    with nobody_listens() as url:
        code, _, errors = await run_example(url, tmp_path)

    assert code == 1
    assert errors.count("\n") == 1
    assert errors.startswith(f"error: no response from {url} (")


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("sha256sum")), reason="needs curl and sha256sum")
async def test_the_first_model_of_the_readme_works_as_it_stands(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    # A reader would see an error that a script would miss: a status of 400 or above is a failure.
    (tmp_path / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    fences = _FENCE.findall(section("First model in a minute"))
    done = 0

    for (language, text), (answer_language, answer) in pairwise([*fences, ("", "")]):
        if language != "sh":
            continue
        shown = json.loads(answer) if answer_language == "json" else {}
        script = text.replace("http://localhost:8000", service.url)
        code, output, errors = await run("bash", "-eu", "-c", script, cwd=folder, CURL_HOME=str(tmp_path))
        assert code == (22 if "status" in shown else 0), (text, output, errors)
        assert not shown or agrees(shown, json.loads(output)), (shown, output)
        done += 1

    assert done == 7
    registered = (folder / "model.bin").read_bytes()
    assert (folder / "fetched.bin").read_bytes() == registered
    assert (folder / "direct.bin").read_bytes() == registered
    assert (await client.get("/get_model/fraud-detector/1.0.0")).content == registered


def test_what_the_readme_names_is_there() -> None:
    [(_, tree)] = _FENCE.findall(section("What is where"))
    named = [ROOT / link for link in re.findall(r"\]\(([^)#:]+)\)", README)]
    folder = ROOT
    for line in tree.splitlines():
        is_inside = line.startswith(" ")
        named.append((folder if is_inside else ROOT) / line.split()[0])
        folder = folder if is_inside else named[-1]
    targets = set(re.findall(r"^make ([\w-]+)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()

    assert [path for path in named if not path.exists()] == []
    assert targets == {"dev", "test", "test-all", "check", "soak", "bench"}
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
