"""F37: a link that loses every tenth packet and carries a megabit a second makes it all slower, and nothing wrong."""

import asyncio
import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import Backend, Client, Users, announced_url, service_environment, standing
from tests.support.processes import line_with, started
from tests.support.service import RunningService

pytestmark = pytest.mark.slow

_CLONE_NEWNET = 0x40000000
_LOSSES = """
table ip losses {
    chain incoming { type filter hook input priority 0; numgen random mod 100 < 10 counter drop; }
    chain outgoing { type filter hook output priority 0; numgen random mod 100 < 10 counter drop; }
}
"""


@dataclass(frozen=True)
class Link:
    """A bad link between this machine at `address` and a network namespace."""

    address: str
    namespace: str

    def lost_packets(self) -> int:
        rules = _run("ip", "netns", "exec", self.namespace, "nft", "list", "ruleset").split()
        return sum(int(after) for word, after in pairwise(rules) if word == "packets")


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


@pytest.fixture
def link() -> Iterator[Link]:
    missing = [tool for tool in ("ip", "tc", "nft") if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and ip, tc and nft; missing: {missing}")
    # Addresses of its own, because a run that was killed leaves its link behind.
    name, net = f"mr{os.getpid()}", f"10.231.{os.getpid() // 64 % 256}"
    ours, theirs = (f"{net}.{os.getpid() % 64 * 4 + host}" for host in (1, 2))
    inside = ("ip", "netns", "exec", name)
    try:
        _run("ip", "netns", "add", name)
        _run("ip", "link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        _run("ip", "address", "add", f"{ours}/30", "dev", f"{name}a")
        _run("ip", "link", "set", f"{name}a", "up")
        _run(*inside, "ip", "address", "add", f"{theirs}/30", "dev", f"{name}b")
        _run(*inside, "ip", "link", "set", f"{name}b", "up")
        slow = ("root", "tbf", "rate", "1mbit", "burst", "16kb", "latency", "200ms")
        _run("tc", "qdisc", "add", "dev", f"{name}a", *slow)
        _run(*inside, "tc", "qdisc", "add", "dev", f"{name}b", *slow)
        _run(*inside, "nft", "-f", "-", text=_LOSSES)
    except OSError as error:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
        pytest.skip(str(error))
    yield Link(ours, name)
    _run("ip", "netns", "delete", name)


async def inside(namespace: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work` in a namespace: the sockets that this thread opens belong to it."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            with Path(f"/var/run/netns/{namespace}").open() as file:
                if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            asyncio.run(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    await asyncio.to_thread(thread.join)
    if failures:
        raise failures[0]


async def test_a_bad_network_makes_everything_slower_and_nothing_wrong(
    link: Link, stack: StackAddresses, service: RunningService, backend: Backend, users: Users, tmp_path: Path
) -> None:
    env = service_environment(stack)
    async with started("serve", "--host", link.address, "--port", "0", env=env, cwd=tmp_path) as process:
        url = announced_url(await line_with(process.stderr, '"serving"'))

        async def use(client: Client, name: str) -> None:
            content = os.urandom(20_000)
            assert (await client.register(name, "1", {"f": content})).status_code == 201
            assert (await client.ask("GET", f"/get_model/{name}/1")).content == content
            assert (await client.push(name, "2", transfer="proxied")).status_code == 200

        async def work() -> None:
            async with (
                users.client(url, timeout_seconds=60) as one,
                users.client(url, timeout_seconds=60) as another,
                users.client(url, timeout_seconds=60) as third,
            ):
                await asyncio.gather(use(one, "a"), use(another, "b"), use(third, "c"))

        await inside(link.namespace, work)

        assert link.lost_packets() > 10
    await standing(users, backend, service.url)
