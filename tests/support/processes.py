"""The command line as separate processes, which never outlive their test."""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from model_registry.settings import PREFIX
from model_registry_devstack import StackAddresses
from tests.support.checkout import APP

COMMAND = [sys.executable, "-m", "model_registry.cli"]


def environment(stack: StackAddresses | None = None, **changes: str) -> dict[str, str]:
    """Return the environment of a process: the servers of this run and some changes, no settings of the developer's."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    inherited["PYTHONPATH"] = str(APP)
    told = {"SHUTDOWN_DELAY_SECONDS": "0"}
    if stack is not None:
        told |= {
            "DATABASE_URL": stack.database_url,
            "S3_ENDPOINT_URL": stack.s3_endpoint_url,
            "S3_BUCKET": stack.s3_bucket,
            "S3_ACCESS_KEY_ID": stack.s3_access_key_id,
            "S3_SECRET_ACCESS_KEY": stack.s3_secret_access_key,
        }
    return inherited | {PREFIX + name: value for name, value in (told | changes).items()}


async def run(*arguments: str, env: dict[str, str], cwd: Path, timeout_seconds: float = 60) -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of `model-registry …`."""
    async with started(*arguments, env=env, cwd=cwd) as process:
        output, errors = await asyncio.wait_for(process.communicate(), timeout_seconds)
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@asynccontextmanager
async def started(
    *arguments: str, env: dict[str, str], cwd: Path, command: list[str] | None = None
) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        *(command or COMMAND),
        *arguments,
        env=env,
        cwd=cwd,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=2**24,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def line_with(stream: asyncio.StreamReader | None, text: str, timeout_seconds: float = 90) -> str:
    """Return the next line that contains `text`."""
    assert stream is not None
    lines = []
    async with asyncio.timeout(timeout_seconds):
        while line := (await stream.readline()).decode():
            lines.append(line)
            if text in line:
                return line
    raise AssertionError(f"no line with {text!r} in: {''.join(lines)}")


def free_port() -> int:
    """Return a port on which no server listens, for a command that must be told one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def until_ready(url: str, timeout_seconds: float = 90) -> None:
    async with asyncio.timeout(timeout_seconds), httpx.AsyncClient() as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


def descendants(pid: int) -> set[int]:
    """Return the processes below `pid`, at any depth."""
    children: dict[int, set[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, set()).add(int(entry.name))
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        frontier = set().union(*(children.get(each, set()) for each in frontier)) - found
        found |= frontier
    return found


def alive(pids: set[int]) -> set[int]:
    def is_running(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False

    return {pid for pid in pids if is_running(pid)}


def resident_bytes(pid: int) -> int:
    """Return the resident set of one process in bytes: `VmRSS` of proc(5)."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


@dataclass(frozen=True)
class Moved:
    """The bytes that a process has moved since its start."""

    read: int
    """Bytes read through system calls, mostly from sockets: `rchar` of proc(5)."""
    written: int
    """Bytes written through system calls: `wchar` of proc(5)."""
    touched: int
    """Memory touched for the first time: minor faults (field 10 of `stat`), times the size of a page."""

    @classmethod
    def of(cls, pid: int) -> "Moved":
        io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
        faults = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[7])
        return cls(int(io["rchar"]), int(io["wchar"]), faults * os.sysconf("SC_PAGE_SIZE"))

    def __sub__(self, earlier: "Moved") -> "Moved":
        return Moved(self.read - earlier.read, self.written - earlier.written, self.touched - earlier.touched)


def written_bytes(pid: int) -> int:
    """Return the bytes that one process has sent to disk: `write_bytes` of proc(5)."""
    return int(Path(f"/proc/{pid}/io").read_text().partition("\nwrite_bytes:")[2].split()[0])
