"""`model-registry …` as people start and stop it."""

import asyncio
import json
import signal
import sys
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from model_registry import __version__
from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.processes import (
    alive,
    descendants,
    environment,
    free_port,
    line_with,
    run,
    started,
    until_ready,
)
from tests.support.registering import WEIGHTS, register
from tests.support.service import RunningService


async def announced_url(process: asyncio.subprocess.Process) -> str:
    return (await line_with(process.stdout, "/docs")).split()[-1].removesuffix("/docs")


async def gone(pids: set[int], timeout_seconds: float = 15) -> bool:
    for _ in range(int(timeout_seconds / 0.1)):
        if not alive(pids):
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.slow
async def test_dev_serves_keeps_its_data_and_leaves_nothing_behind(tmp_path: Path) -> None:
    arguments = ("dev", "--port", "0", "--data-dir", str(tmp_path / "data"))
    info = {"model_name": "m", "version": "1"}

    # Ctrl-C
    async with started(*arguments, env=environment(), cwd=tmp_path) as dev:
        url = await announced_url(dev)
        assert (tmp_path / "data" / "address").read_text() == f"{url}\n"
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/readyz")).json()["ready"]
            assert (await register(client, info)).status_code == 201
        second = await run(*arguments, env=environment(), cwd=tmp_path)
        children = descendants(dev.pid)
        dev.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(dev.wait(), 60) == 0
        assert len(children) >= 2
        assert await gone(children)
        assert not (tmp_path / "data" / "address").exists()

    assert second[0] == 1
    assert "error: " in second[2]
    assert "Traceback" not in second[2]
    assert "model-registry dev" in second[2]

    # after kill -9 and SIGTERM, the data are still there
    for how, code in ((signal.SIGKILL, -9), (signal.SIGTERM, 0)):
        async with started(*arguments, env=environment(), cwd=tmp_path) as dev:
            url = await announced_url(dev)
            async with httpx.AsyncClient(base_url=url) as client:
                assert (await client.get("/get_model/m/1")).content == WEIGHTS
                redirect = await client.get("/get_model/m/1", params={"redirect": "1"}, follow_redirects=True)
                assert redirect.content == WEIGHTS
            children = descendants(dev.pid)
            dev.send_signal(how)
            assert await asyncio.wait_for(dev.wait(), 60) == code
            assert await gone(children)


@pytest.mark.slow
async def test_dev_with_reload_serves_too(tmp_path: Path) -> None:
    arguments = ("dev", "--port", "0", "--data-dir", str(tmp_path / "data"), "--reload")

    async with started(*arguments, env=environment(), cwd=tmp_path) as dev:
        url = await announced_url(dev)
        await until_ready(url)
        children = descendants(dev.pid)
        dev.send_signal(signal.SIGTERM)
        await asyncio.wait_for(dev.wait(), 60)

    assert await gone(children)


async def test_dev_on_a_taken_port_says_so_before_it_starts_anything(tmp_path: Path, service: RunningService) -> None:
    port = service.address[1]

    code, _, errors = await run("dev", "--port", str(port), "--data-dir", "data", env=environment(), cwd=tmp_path)

    assert code == 1
    assert f"127.0.0.1:{port}" in errors
    assert "--port" in errors
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("workers", [1, 2])
async def test_serve_answers_and_ends_within_its_grace(
    stack: StackAddresses, settings: Settings, tmp_path: Path, workers: int
) -> None:
    port = free_port()
    env = environment(stack, LOG_FORMAT="json", SHUTDOWN_GRACE_SECONDS="5")
    async with started("serve", "--port", str(port), "--workers", str(workers), env=env, cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        children = descendants(process.pid)

        process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(process.wait(), 60)
        writer.close()

        assert process.stderr is not None
        lines = [json.loads(line) for line in (await process.stderr.read()).decode().splitlines()]
    assert code == 0
    assert await gone(children)
    assert all({"event", "level", "timestamp"} <= line.keys() for line in lines)


async def test_serve_refuses_a_schema_that_is_out_of_date_and_migrate_mends_it(
    stack: StackAddresses, settings: Settings, tmp_path: Path
) -> None:
    engine = create_async_engine(stack.database_url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text("DROP DATABASE IF EXISTS empty"))
        await connection.execute(text("CREATE DATABASE empty"))
    await engine.dispose()
    env = environment(stack, DATABASE_URL=stack.database_url.rpartition("/")[0] + "/empty")

    refused = await run("serve", "--port", "0", env=env, cwd=tmp_path)
    migrated = await run("migrate", env=env, cwd=tmp_path)
    again = await run("migrate", env=env, cwd=tmp_path)

    assert refused[0] == 1
    assert refused[2].strip().splitlines()[-1] == (
        "error: The database schema is at nothing and this version needs 0004: run `model-registry migrate` first."
    )
    assert (migrated[0], again[0]) == (0, 0)
    assert migrated[1].strip() == "The schema is at 0004."


async def test_without_configuration_it_stops_with_one_sentence(tmp_path: Path) -> None:
    for command in (None, [sys.executable, "-m", "uvicorn", "model_registry.api:app"]):
        arguments = ("serve",) if command is None else ("--port", "0")
        async with started(*arguments, env=environment(), cwd=tmp_path, command=command) as process:
            _, errors = await asyncio.wait_for(process.communicate(), 60)

        assert process.returncode not in (0, None)
        complaint = errors.decode()
        assert "MODEL_REGISTRY_DATABASE_URL is not set" in complaint
        assert "model-registry dev" in complaint
        assert "Traceback" not in complaint


async def test_uvicorn_takes_its_configuration_from_a_file(
    stack: StackAddresses, settings: Settings, tmp_path: Path
) -> None:
    port = free_port()
    told = {name: value for name, value in environment(stack).items() if name not in environment()}
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in told.items()))
    command = [sys.executable, "-m", "uvicorn", "model_registry.api:app", "--reload", "--port", str(port)]

    async with started(env=environment(), cwd=tmp_path, command=command) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        children = descendants(process.pid)
        process.send_signal(signal.SIGINT)
        await asyncio.wait_for(process.wait(), 60)

    assert await gone(children)


async def test_init_bucket_gc_healthcheck_and_openapi(
    stack: StackAddresses, settings: Settings, service: RunningService, tmp_path: Path
) -> None:
    env = environment(stack)

    bucket = await run("init-bucket", env=env, cwd=tmp_path)
    collected = await run("gc", "--once", env=env, cwd=tmp_path)
    healthy = await run("healthcheck", "--url", service.url, env=env, cwd=tmp_path)
    nobody = await run("healthcheck", "--url", "http://127.0.0.1:9", env=env, cwd=tmp_path)
    document = await run("openapi", env=environment(), cwd=tmp_path)

    assert (bucket[0], bucket[1].strip()) == (0, "Bucket models: exists.")
    assert collected[0] == 0
    assert "deleted objects: 0" in collected[1]
    assert (healthy[0], json.loads(healthy[1])["ready"]) == (0, True)
    assert nobody[0] == 1
    assert "no response from http://127.0.0.1:9" in nobody[1]
    assert json.loads(document[1])["info"]["version"] == __version__


async def test_help_is_quick_and_imports_no_server(tmp_path: Path) -> None:
    code = (
        "import sys; sys.argv = ['model-registry', '--help']\n"
        "from model_registry import cli\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'fastapi', 'sqlalchemy', 'aioboto3', 'uvicorn', 'pydantic'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    async with started("-c", code, env=environment(), cwd=tmp_path, command=[sys.executable]) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 0, errors.decode()
    server = {"dev", "serve", "migrate", "init-bucket", "gc", "verify", "healthcheck", "openapi"}
    client = {"push", "pull", "ls", "info", "search", "diff", "alias", "tag", "yank", "rm", "restore", "url", "login"}
    assert server | client <= set(output.decode().split())


async def test_the_version_is_told(tmp_path: Path) -> None:
    code, output, _ = await run("--version", env=environment(), cwd=tmp_path)

    assert (code, output.strip()) == (0, f"model-registry {__version__}")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
async def test_a_stream_that_is_closed_is_no_bug(tmp_path: Path, closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" -m model_registry.cli open --url http://registry {closed}', sys.executable]

    async with started(env=environment(), cwd=tmp_path, command=command) as process:
        output, errors = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, errors) == (0, b"")
    assert output == (b"" if closed == ">&-" else b"http://registry/docs\n")


@pytest.mark.parametrize("module", ["typing", "typer", "model_registry_client.cli.transfer"])
async def test_ctrl_c_before_anything_has_begun_ends_it_without_a_word(tmp_path: Path, module: str) -> None:
    code = (
        "import sys\n"
        "class Interrupts:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}: raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupts())\n"
        f"sys.modules.pop({module!r}, None)\n"
        "import model_registry.cli\n"
    )
    async with started("-c", code, env=environment(), cwd=tmp_path, command=[sys.executable]) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)

    assert (process.returncode, errors) == (130, b"")


async def test_without_the_server_s_packages_its_commands_say_where_they_are(tmp_path: Path) -> None:
    code = "import sys; sys.modules['structlog'] = None; from model_registry.cli import main; main(['gc', '--once'])"

    async with started("-c", code, env=environment(), cwd=tmp_path, command=[sys.executable]) as process:
        _, errors = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 1
    assert errors.decode() == (
        "error: `model-registry gc` needs the server, and structlog is not installed: in a checkout, run "
        "pip install '.[server,embedded]'.\n"
    )


async def test_postgresql_away_at_the_start_is_no_reason_to_die(stack: StackAddresses, tmp_path: Path) -> None:
    port = free_port()
    env = environment(stack, DATABASE_URL="postgresql://nobody:x@127.0.0.1:9/none")
    async with started("serve", "--port", str(port), env=env, cwd=tmp_path) as process:
        async with asyncio.timeout(90), httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            while True:
                try:
                    readiness = await client.get("/readyz")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.1)
            answer = await client.get("/list_models")
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0

    assert (readiness.status_code, readiness.json()["checks"]["postgresql"]["ok"]) == (503, False)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert "127.0.0.1:9" not in answer.text
