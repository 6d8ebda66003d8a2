"""The commands of the client, as people and scripts run them, against a real service."""

import asyncio
import contextlib
import io
import json
import os
import pty
import re
import shlex
import signal
import stat
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer
from rich.console import Console

from model_registry.cli import app, main
from model_registry_client import async_registry
from model_registry_client.cli.output import size
from model_registry_client.cli.progress_bars import Bars
from tests.support.checkout import ROOT
from tests.support.processes import COMMAND, environment, free_port, run, started
from tests.support.proxy import Proxy, Rate
from tests.support.service import RunningService

DOCS = (ROOT / "docs" / "cli.md").read_text()
OF_THE_SERVICE = {"dev", "serve", "migrate", "init-bucket", "gc", "verify", "healthcheck", "openapi"}
IN_ALL = {"--url", "--json", "--quiet", "--help"}


@dataclass(frozen=True)
class Ran:
    """The result of a command."""

    exit_code: int
    output: str
    errors: str

    @property
    def document(self) -> Any:
        return json.loads(self.output)

    @property
    def fields(self) -> list[list[str]]:
        """Its tab-separated lines."""
        return [line.split("\t") for line in self.output.splitlines()]


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the commands."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def mr(service: RunningService, fresh: None, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `model-registry …` with the service as its registry, and checks the `exit_code`."""
    monkeypatch.setenv("MODEL_REGISTRY_URL", service.url)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("MODEL_REGISTRY_RETRY_SECONDS", "0.5")
    of_settings = async_registry._policy  # which would wait 5 s for a registry that has never responded
    monkeypatch.setattr(async_registry, "_policy", lambda its: replace(of_settings(its), first_contact_seconds=0.5))
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)  # which the command sets

    async def run_it(*arguments: str, exit_code: int = 0, stdin: str = "") -> Ran:
        # In a thread, because the service runs in this event loop.
        ran = await asyncio.to_thread(_in_this_process, arguments, stdin)
        assert ran.exit_code == exit_code, ran
        assert "Traceback" not in ran.errors
        assert ran.errors.count("\n") <= 2
        return ran

    return run_it


def _in_this_process(arguments: tuple[str, ...], stdin: str) -> Ran:
    output, errors = io.StringIO(), io.StringIO()
    redirected = contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors)
    with redirected[0], redirected[1], _stdin(stdin), pytest.raises(SystemExit) as end:
        main(arguments)
    assert isinstance(end.value.code, int)
    return Ran(end.value.code, output.getvalue(), errors.getvalue())


@contextlib.contextmanager
def _stdin(text: str) -> Iterator[None]:
    before, sys.stdin = sys.stdin, io.StringIO(text)
    try:
        yield
    finally:
        sys.stdin = before


@pytest.fixture
async def two_versions(mr: Run, here: Path) -> None:
    """`fraud-detector` 1.0.0 is a file and the champion. 2.0.0 is a folder with the same file and another one."""
    make_files(here)
    await mr("push", "model.bin", "fraud-detector:1.0.0", "--alias", "champion", "--metadata", "metrics=1")
    await mr("push", "folder", "fraud-detector:2.0.0", "--metadata", "@metrics.json", "--tag", "stage=test")


def make_files(folder: Path) -> None:
    (folder / "folder").mkdir()
    (folder / "folder" / "model.bin").write_text("weights")
    (folder / "folder" / "model.onnx").write_text("graph")
    (folder / "model.bin").write_text("weights")
    (folder / "metrics.json").write_text('{"metrics": {"auc": 0.97}}')


def commands(group: Any = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The commands of the client by name, such as `alias set`."""
    group = group or typer.main.get_command(app)
    for name, each in group.commands.items():
        if hasattr(each, "commands"):
            yield from commands(each, f"{prefix}{name} ")
        elif name not in OF_THE_SERVICE:
            yield f"{prefix}{name}", each


def section(command: str) -> str:
    """The section of the page about a command."""
    [text] = [
        text
        for heading, text in re.findall(r"^## ([\w, ]+)\n(.*?)(?=^## |\Z)", DOCS, re.MULTILINE | re.DOTALL)
        if command.split()[0] in heading.split(", ")
    ]
    return str(text)


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_has_its_example_and_its_options_on_the_page(name: str) -> None:
    command = dict(commands())[name]
    text = section(name)

    [example] = re.findall(r"^Example: (.*)", command.help, re.MULTILINE)
    assert f"\n{example}\n" in text
    options = {option for each in command.params for option in each.opts if option.startswith("--")}
    assert options >= IN_ALL - {"--url", "--help"}
    assert {option for option in options - IN_ALL if f"`{option}" not in text} == set()


async def test_the_examples_of_the_page_work_in_its_order(mr: Run, here: Path, service: RunningService) -> None:
    make_files(here)
    examples = re.findall(
        r"^model-registry (.*)", "\n".join(re.findall(r"```sh\n(.*?)```", DOCS, re.DOTALL)), re.MULTILINE
    )

    for example in examples:
        await mr(*shlex.split(example.replace("http://localhost:8000", service.url)))

    assert len(examples) >= len(list(commands()))
    assert (here / "models/fraud/model.onnx").read_text() == "graph"


async def test_a_push_reports_what_it_saved_and_does_nothing_twice(
    mr: Run, here: Path, client: httpx.AsyncClient
) -> None:
    make_files(here)
    params = '{"big": 123456789012345678901234567890, "C": 1, "lr": 0.1}'
    (here / "params.json").write_text(params, encoding="utf-8-sig")
    arguments = ["push", "folder", "m:1", "--param", "@params.json", "--param", "C=2.50", "--param", "solver=lbfgs"]
    arguments += ["--param", "NaN=NaN", "--std-params", "mean=[1, 2]", "--tag", "n=1", "--description", "a model"]
    await mr("push", "model.bin", "other")

    first = await mr(*arguments, "--metadata", "@-", "--json", stdin='{"auc": 0.9}')
    second = await mr(*arguments, "--json")
    for_people = await mr(*arguments)
    for_scripts = await mr(*arguments, "-q")
    other = await mr("push", "folder", "m:1", exit_code=4)

    info = (await client.get("/get_model_info/m/1")).json()
    assert info["model_params"] == {
        "big": 123456789012345678901234567890,
        "C": 2.5,
        "lr": 0.1,
        "solver": "lbfgs",
        "NaN": "NaN",
    }
    assert (info["standardization_params"], info["additional_metadata"]) == ({"mean": [1, 2]}, {"auc": 0.9})
    assert (info["tags"], info["description"]) == ({"n": "1"}, "a model")
    shared = len("weights")
    assert {name: first.document[name] for name in ("sent_bytes", "saved_bytes", "sent_files", "was_ready")} == {
        "sent_bytes": len("graph"),
        "saved_bytes": shared,
        "sent_files": 1,
        "was_ready": False,
    }
    assert second.document["was_ready"]
    assert second.document["version"]["digest"] == info["digest"]
    assert for_people.output == "m:1 is ready: 2 files, 12 B, stored already.\n"
    assert for_scripts.output == "m:1\n"
    assert "a version never changes" in other.errors


async def test_a_push_without_a_label_tells_scripts_which_number_it_got(mr: Run, here: Path) -> None:
    make_files(here)

    assert (await mr("push", "model.bin", "m", "-q")).output == "m:1\n"
    assert (await mr("push", "folder", "m", "-q")).output == "m:2\n"


async def test_json_carries_every_digit(mr: Run, here: Path) -> None:
    make_files(here)
    digits = "0.1234567890123456789"
    await mr("push", "model.bin", "m:1", "--param", f"x={digits}", "--param", "y=123456789012345678901234567890")

    output = (await mr("info", "m", "--json")).output

    assert f'"x":{digits}' in output
    assert '"y":123456789012345678901234567890' in output


async def test_a_pull_downloads_the_requested_files_once(mr: Run, here: Path, two_versions: None) -> None:
    first = await mr("pull", "fraud-detector", "--no-cache", "--json")
    again = await mr("pull", "fraud-detector:2.0.0")
    part = await mr("pull", "fraud-detector:2.0.0", "part", "--include", "*.onnx", "-q")

    assert first.document["downloaded_bytes"] == len("weights" + "graph")
    assert {path.name for path in (here / "fraud-detector").iterdir()} == {"model.bin", "model.onnx"}
    assert again.output == "fraud-detector:2.0.0 is in fraud-detector already.\n"
    assert part.output.strip().endswith("part")
    assert [path.name for path in (here / "part").iterdir()] == ["model.onnx"]


async def test_lists_are_fields_in_a_pipe_names_with_quiet_and_arrays_in_json(mr: Run, two_versions: None) -> None:
    models, versions, files = [await mr("ls", *each) for each in ((), ("fraud-detector",), ("fraud-detector:2.0.0",))]

    assert [row[:3] for row in models.fields] == [["fraud-detector", "2.0.0", "2"]]
    assert [row[:5] for row in versions.fields] == [
        ["fraud-detector:2.0.0", "", "stage=test", "2", "12"],
        ["fraud-detector:1.0.0", "champion", "", "1", "7"],
    ]
    assert [row[:2] for row in files.fields] == [["model.bin", "7"], ["model.onnx", "5"]]
    assert (await mr("ls", "fraud-detector", "-q")).output.split() == ["fraud-detector:2.0.0", "fraud-detector:1.0.0"]
    assert [each["version"] for each in (await mr("ls", "fraud-detector", "--json")).document] == ["2.0.0", "1.0.0"]
    assert len((await mr("ls", "fraud-detector", "--limit", "1")).fields) == 1
    assert (await mr("ls", "--search", "nothing")).output == ""
    assert (await mr("ls", "--search", "nothing", "--json")).document == []
    assert (await mr("ls", "fraud-detector@champion", "-q")).output == "model.bin\n"


async def test_info_shows_what_the_service_returns(mr: Run, two_versions: None, client: httpx.AsyncClient) -> None:
    real = (await client.get("/get_model_info/fraud-detector/1.0.0")).json()

    document = (await mr("info", "fraud-detector@champion", "--json")).document
    rows = dict((await mr("info", "fraud-detector@champion")).fields)

    assert {name: document[name] for name in real} == real
    assert rows["ref"] == "fraud-detector:1.0.0"
    assert rows["additional_metadata.metrics"] == "1"
    assert rows["files/model.bin"] == f"7 {real['files'][0]['sha256']}"
    assert rows["created"].endswith("Z")


async def test_search_finds_versions_by_a_condition(mr: Run, two_versions: None) -> None:
    found = await mr("search", "additional_metadata.metrics.auc >= 0.9", "-q")
    ordered = await mr("search", "model_name = 'fraud-detector'", "--order-by", "number ASC", "-q")
    broken = await mr("search", "number =", exit_code=2)

    assert found.output == "fraud-detector:2.0.0\n"
    assert ordered.output.split() == ["fraud-detector:1.0.0", "fraud-detector:2.0.0"]
    assert "column 9" in broken.errors


async def test_diff_shows_files_by_digest_and_values_side_by_side(mr: Run, here: Path, two_versions: None) -> None:
    (here / "model.bin").write_text("other weights")
    await mr("push", "model.bin", "fraud-detector:3.0.0", "--param", "C=1", "--param", "flag=1")
    await mr("push", "model.bin", "fraud-detector:4.0.0", "--param", "C=1.0", "--param", "flag=true")
    refs = ("fraud-detector@champion", "fraud-detector:2.0.0")

    rows = (await mr("diff", *refs)).fields
    document = (await mr("diff", *refs, "--json")).document
    changed = (await mr("diff", "fraud-detector:2.0.0", "fraud-detector:3.0.0", "--json")).document
    values = await mr("diff", "fraud-detector:3.0.0", "fraud-detector:4.0.0", "--json", "--exit-code", exit_code=1)

    assert [field.split()[-1] for field in rows[1][1:3]] == ["7", "7"]
    assert [(row[0], row[-1]) for row in rows] == [
        ("model.onnx", "added"),
        ("model.bin", "same"),
        ("additional_metadata.metrics", "removed"),
        ("additional_metadata.metrics.auc", "added"),
    ]
    assert {kind: len(files) for kind, files in document["files"].items()} == {
        "added": 1,
        "removed": 0,
        "changed": 0,
        "same": 1,
    }
    assert document["additional_metadata"] == {"metrics": {"a": 1}, "metrics.auc": {"b": 0.97}}
    assert [file["path"] for file in changed["files"]["changed"]] == ["model.bin"]
    assert values.document["same_bytes"]
    assert values.document["model_params"]["flag"] == {"a": 1, "b": True}
    await mr("diff", "fraud-detector:1.0.0", "fraud-detector@champion", "--exit-code")


async def test_tags_of_versions_and_models_are_set_and_removed(
    mr: Run, two_versions: None, client: httpx.AsyncClient
) -> None:
    version = await mr("tag", "fraud-detector:2.0.0", "stage-", "reviewed=yes", "formula=a=b", "--json")
    model = await mr("tag", "fraud-detector", "owner=me")

    assert version.document["tags"] == {"reviewed": "yes", "formula": "a=b"}
    assert model.output == "fraud-detector: owner=me\n"
    assert (await client.get("/v1/models/fraud-detector")).json()["tags"] == {"owner": "me"}
    assert (await mr("ls", "--tag", "owner=me", "-q")).output == "fraud-detector\n"
    for wrong in ("word", "=value"):
        assert "KEY=VALUE" in (await mr("tag", "fraud-detector:2.0.0", wrong, exit_code=2)).errors
    await mr("tag", "fraud-detector@champion", "a=b", exit_code=2)


async def test_aliases_move_by_compare_and_swap_on_request(mr: Run, here: Path, two_versions: None) -> None:
    generation = (await mr("alias", "ls", "fraud-detector", "--json")).document[0]["generation"]
    moved = await mr("alias", "set", "fraud-detector@champion", "latest", "--if-generation", str(generation))
    late = ("alias", "set", "fraud-detector@champion", "1.0.0", "--if-generation", str(generation))

    assert moved.output == "fraud-detector@champion points at 2.0.0.\n"
    assert "alias ls" in (await mr(*late, exit_code=4)).errors
    taken = await mr("alias", "set", "fraud-detector@champion", "1.0.0", "--create-only", exit_code=4)
    assert "fraud-detector@champion exists already. It points at 2.0.0.\n`model-registry alias ls fraud" in taken.errors
    by_ref = await mr("alias", "set", "fraud-detector@other", "fraud-detector:2.0.0")
    assert by_ref.output == "fraud-detector@other points at 2.0.0.\n"
    await mr("alias", "set", "fraud-detector@other", "another:2.0.0", exit_code=2)
    assert (await mr("alias", "rollback", "fraud-detector@champion", "-q")).output == "1.0.0\n"
    await mr("alias", "rm", "fraud-detector@champion")
    await mr("alias", "rm", "fraud-detector@champion", exit_code=3)
    history = (await mr("alias", "history", "fraud-detector@champion")).fields
    assert [row[0] for row in history] == ["", "1.0.0", "2.0.0", "1.0.0"]
    await mr("alias", "set", "fraud-detector", "1.0.0", exit_code=2)


async def test_a_version_is_yanked_removed_restored_and_purged(
    mr: Run, two_versions: None, client: httpx.AsyncClient
) -> None:
    await mr("yank", "fraud-detector:2.0.0", "--reason", "wrong\nlabels\x1b[2J")
    shown = (await mr("info", "fraud-detector:2.0.0")).output
    assert "yanked: wrong\\nlabels\\x1b[2J" in shown
    await mr("unyank", "fraud-detector:2.0.0")

    aliased = await mr("rm", "fraud-detector:1.0.0", exit_code=4)
    removed = await mr("rm", "fraud-detector:1.0.0", "--force")
    assert "--force" in aliased.errors
    assert "model-registry restore fraud-detector:1.0.0" in removed.output
    assert (await mr("ls", "fraud-detector", "--state", "removed", "-q")).output == "fraud-detector:1.0.0\n"
    await mr("restore", "fraud-detector:1.0.0")

    await mr("rm", "fraud-detector:9", "--purge", exit_code=3)
    asked = await mr("rm", "fraud-detector:1.0.0", "--purge", exit_code=2)
    assert "--yes" in asked.errors
    assert (await client.get("/get_model_info/fraud-detector/1.0.0")).status_code == 200
    await mr("rm", "fraud-detector:1.0.0", "--purge", "--yes")
    await mr("restore", "fraud-detector:1.0.0", exit_code=4)


async def test_a_url_downloads_a_file_without_credentials(mr: Run, two_versions: None) -> None:
    url = (await mr("url", "fraud-detector:2.0.0", "model.onnx", "--expires", "2h")).output.strip()

    async with httpx.AsyncClient() as stranger:
        assert (await stranger.get(url)).text == "graph"
    assert "X-Amz-Expires=7200" in url
    assert "url fraud-detector:2.0.0 PATH" in (await mr("url", "fraud-detector:2.0.0", exit_code=2)).errors
    for wrong in ("soon", "8d"):
        refused = await mr("url", "fraud-detector:2.0.0", "model.onnx", "--expires", wrong, exit_code=2)
        assert refused.errors.startswith("error: --expires ")


async def test_login_is_saved_and_has_the_lowest_precedence(
    mr: Run, service: RunningService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MODEL_REGISTRY_URL")
    written = tmp_path / "config" / "model-registry" / "config.json"

    nobody = await mr("login", f"http://127.0.0.1:{free_port()}", exit_code=5)
    assert "Check that the registry is running" in nobody.errors
    assert not written.exists()
    written.parent.mkdir(parents=True)
    written.write_text("not JSON")
    assert "model-registry login URL" in (await mr("ls", exit_code=2)).errors
    document = (await mr("login", f"{service.url}/", "--json")).document

    assert (document["url"], document["config"]) == (service.url, str(written))
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert (await mr("open")).output == f"{service.url}/docs\n"
    monkeypatch.setenv("MODEL_REGISTRY_URL", "http://of.the.environment")
    assert (await mr("open", "--json")).document == {"url": "http://of.the.environment/docs"}
    assert (await mr("open", "--url", "http://of.the.option")).output == "http://of.the.option/docs\n"


@pytest.mark.parametrize(
    ("arguments", "exit_code", "said"),
    [
        (("info", "nothing"), 3, "model-registry ls"),
        (("info", "a:b:c"), 2, "NAME:VERSION"),
        (("push", "nowhere", "m:1"), 2, "nowhere"),
        (("push", ".", "m:1"), 2, "no files"),
        (("push", "file", "../m:1"), 2, "NAME"),
        (("push", "file", "m:1", "--param", "@nowhere.json"), 2, "nowhere.json"),
        (("push", "file", "m:1", "--param", "@file"), 2, "not JSON"),
        (("push", "file", "m:1", "--param", "@list.json"), 2, "object"),
        (("push", "file", "m:1", "--param", "word"), 2, "KEY=VALUE"),
        (("push", "file", "m:1", "--alias", "1.0.0"), 2, "alias"),
        (("push", "file", "m:latest"), 2, "Use NAME:VERSION"),
        (("pull", "nothing", "file"), 2, "file is a file. Name a folder"),
        (("ls", "--state", "removed"), 2, "ls NAME --state removed"),
        (("ls", "m", "--search", "x"), 2, "--search filters models"),
        (("yank", "m"), 2, "Name a version, such as m:VERSION"),
        (("alias", "ls", "nothing"), 3, "model-registry ls"),
        (("info", "nothing@champion"), 3, "nothing"),
        (("pull", "nothing", "somewhere"), 3, "nothing"),
        (("ls", "--url", "localhost"), 2, "localhost"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
async def test_an_error_is_one_or_two_lines_and_an_exit_code(
    mr: Run, here: Path, arguments: tuple[str, ...], exit_code: int, said: str
) -> None:
    if arguments[1] != ".":
        (here / "file").write_text("not JSON")
        (here / "list.json").write_text("[]")

    ran = await mr(*arguments, exit_code=exit_code)

    assert ran.output == ""
    assert ran.errors.startswith("error: ")
    assert said in ran.errors


@pytest.mark.parametrize(
    ("size_bytes", "shown"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"), (10**18, "1000.0 PB")],
)
def test_sizes_are_shown_in_the_unit_that_fits(size_bytes: int, shown: str) -> None:
    assert size(size_bytes) == shown


async def test_a_folder_that_cannot_be_written_is_an_error_with_its_path(
    mr: Run, here: Path, two_versions: None
) -> None:
    (here / "taken").write_text("a file")

    ran = await mr("pull", "fraud-detector:2.0.0", "taken/below", exit_code=1)

    assert "taken" in ran.errors


async def test_the_commands_import_nothing_heavy_until_they_run(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "import model_registry.cli, model_registry_client.pytest_plugin\n"
        "heavy = {'httpx', 'pydantic', 'rich.progress', 'fastapi'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    async with started(env=environment(), cwd=tmp_path, command=[sys.executable, "-c", code]) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 30)

    assert process.returncode == 0, errors.decode()


async def test_the_shell_completes_commands(tmp_path: Path) -> None:
    env = environment() | {
        "_MODEL_REGISTRY_COMPLETE": "complete_bash",
        "COMP_WORDS": "model-registry pu",
        "COMP_CWORD": "1",
    }
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv = ['model-registry']; from model_registry.cli import main; main()",
    ]

    async with started(env=env, cwd=tmp_path, command=command) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 30)

    assert output.decode().split() == ["push", "pull"], errors.decode()


async def on_a_terminal(*arguments: str, env: dict[str, str], cwd: Path, typed: str = "") -> tuple[int, str]:
    """Run a command on a terminal. Returns the exit code and the text on the screen."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=env | {"COLUMNS": "120"}, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, typed.encode())
    seen = b""
    with contextlib.suppress(OSError):  # a closed terminal raises it
        while piece := await asyncio.to_thread(os.read, ours, 65536):
            seen += piece
    os.close(ours)
    return await asyncio.wait_for(process.wait(), 30), seen.decode()


async def test_people_get_bars_and_tables_and_a_pipe_gets_neither(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    env = environment(URL=service.url) | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    (tmp_path / "model.bin").write_bytes(bytes(2_000_000))

    pushed = await on_a_terminal("push", "model.bin", "m:1", env=env, cwd=tmp_path)
    again = await run("push", "model.bin", "m:2", env=env, cwd=tmp_path)
    silent = await on_a_terminal("pull", "m:1", "there", "--quiet", env=env, cwd=tmp_path)
    listed = await on_a_terminal("ls", "m", env=env, cwd=tmp_path)

    assert pushed[0] == 0, pushed
    assert "2.0/2.0 MB" in pushed[1]
    assert "1/1 file" in pushed[1]
    assert "m:1 is ready: 1 file, 2.0 MB, 2.0 MB sent.\r\n" in pushed[1]
    assert again == (0, "m:2 is ready: 1 file, 2.0 MB, 0 B sent, 2.0 MB stored already.\n", "")
    assert silent[0] == 0
    assert silent[1].splitlines() == ["there"]
    assert "aliases" in listed[1]
    assert "2.0 MB" in listed[1]


async def test_a_purge_asks_for_confirmation_and_open_shows_the_docs_in_the_browser(
    mr: Run, two_versions: None, service: RunningService, tmp_path: Path
) -> None:
    env = environment(URL=service.url) | {"BROWSER": "sh -c 'echo $0 > shown' %s"}
    purge = ("rm", "fraud-detector:2.0.0", "--purge")

    refused = await on_a_terminal(*purge, env=env, cwd=tmp_path, typed="n\n")
    assert (await mr("ls", "fraud-detector", "-q")).output.split() == ["fraud-detector:2.0.0", "fraud-detector:1.0.0"]
    agreed = await on_a_terminal(*purge, env=env, cwd=tmp_path, typed="y\n")
    opened = await on_a_terminal("open", env=env, cwd=tmp_path)

    assert (refused[0], agreed[0]) == (1, 0)
    assert "will be permanently deleted" in refused[1]
    assert (await mr("ls", "fraud-detector", "-q")).output.split() == ["fraud-detector:1.0.0"]
    assert "is open in your browser" in opened[1]
    assert (tmp_path / "shown").read_text() == f"{service.url}/docs\n"


def until_it_sleeps(pid: int) -> None:
    """Wait until the process is in the system call that blocks. A signal just before it would be noticed after it."""
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        time.sleep(0.01)


@pytest.mark.parametrize("is_asked", [True, False], ids=["a question", "a file that does not end"])
async def test_ctrl_c_ends_a_command_that_waits_for_input_at_once(
    mr: Run, two_versions: None, service: RunningService, tmp_path: Path, is_asked: bool
) -> None:
    env = environment(URL=service.url)
    (tmp_path / "file").write_text("weights")
    os.mkfifo(tmp_path / "values")
    asked = ("rm", "fraud-detector:1.0.0", "--purge", "--force")
    arguments = asked if is_asked else ("push", "file", "m:1", "--param", "@values")
    ours, theirs = pty.openpty()
    opened = [ours, theirs]
    process = await asyncio.create_subprocess_exec(
        *COMMAND, *arguments, env=env, cwd=tmp_path, stdin=theirs, stdout=theirs, stderr=theirs
    )
    try:
        async with asyncio.timeout(30):
            if is_asked:
                seen = b""
                while b"Continue?" not in seen:
                    seen += await asyncio.to_thread(os.read, ours, 65536)
            else:
                # Returns when the other side reads.
                opened.append(await asyncio.to_thread(os.open, tmp_path / "values", os.O_WRONLY))
            await asyncio.to_thread(until_it_sleeps, process.pid)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        for descriptor in opened:
            os.close(descriptor)

    assert (await mr("ls", "fraud-detector", "-q")).output.split() == ["fraud-detector:2.0.0", "fraud-detector:1.0.0"]


async def test_an_unfinished_push_is_permanently_deleted(mr: Run, client: httpx.AsyncClient) -> None:
    file = {"path": "f", "size_bytes": 1, "sha256": f"sha256:{'0' * 64}"}
    assert (await client.post("/v1/models/m/versions", json={"version": "1", "files": [file]})).status_code == 201

    assert (await mr("rm", "m:1")).output == "The unfinished m:1 is deleted. Its label is free again.\n"


@pytest.mark.parametrize(
    ("width", "fits"),
    [
        (120, "━ 20.0/40.0 MB ? -:--:-- 0/2 files, 20.0 MB saved"),
        (40, "fraud-detector:2.0.0 20.0/40.0 MB"),
        (16, "20.0/40.0 MB"),
    ],
)
def test_a_bar_omits_what_does_not_fit_and_saved_bytes_do_not_count_as_speed(width: int, fits: str) -> None:
    screen = io.StringIO()
    bars = Bars(Console(file=screen, force_terminal=True, width=width, color_system=None))

    bars.begin("fraud-detector:2.0.0", 40_000_000, 2)
    for _ in range(2):
        bars.saved(10_000_000)
    bars.end()

    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", screen.getvalue()).split()
    assert " ".join(last).endswith(fits)


async def until_reserved(client: httpx.AsyncClient, version: str) -> None:
    for _ in range(1000):
        if (await client.get(version)).status_code == 200:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("nothing was reserved")


async def test_after_ctrl_c_nothing_is_visible_and_the_same_command_continues(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async with Proxy.to(*service.address) as proxy:
        env = environment(URL=f"http://127.0.0.1:{proxy.port}") | {"XDG_CONFIG_HOME": str(tmp_path)}
        (tmp_path / "model.bin").write_bytes(bytes(40_000_000))
        arguments = ("push", "model.bin", "m:1", "--transfer", "proxied")
        proxy.misbehave(Rate(bytes_per_second=2_000_000))
        async with started(*arguments, env=env, cwd=tmp_path) as process:
            await until_reserved(client, "/v1/models/m/versions/1")
            process.send_signal(signal.SIGINT)
            output, errors = await asyncio.wait_for(process.communicate(), 30)
        visible = (await client.get("/list_models")).json()
        proxy.behave()
        again = await run(*arguments, env=env, cwd=tmp_path)

    assert (process.returncode, output.decode()) == (130, "")
    assert errors.decode() == "Interrupted. The same command continues from here.\n"
    assert visible == []
    assert again[:2] == (0, "m:1 is ready: 1 file, 40.0 MB, 40.0 MB sent.\n")
