"""The time to the first response, and an idle worker's memory, beside a Python that imports our dependencies.

Files are in the page cache, and modules are compiled. Then one connection sends one request after the other, to a
service with one worker and to one with two: they differ if a delayed acknowledgement costs every response 40 ms.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import OURS, Report
from benchmarks.load import Request, load
from benchmarks.processes import Server, environment, free_port, registry, started
from model_registry_devstack import StackAddresses

GROUP = "start-up"
_IMPORTS = "import fastapi, sqlalchemy, aioboto3"
_RIVAL = f"python -c '{_IMPORTS}'"
_MEMORY = "; print(open('/proc/self/status').read().partition('VmRSS:')[2].split()[0])"
_HEALTH: Request = ("GET", "/healthz", b"")


def run(report: Report, stack: StackAddresses) -> None:
    answered: list[float] = []

    def serve() -> float:
        answered.append(_seconds_to_answer(stack))
        return answered[-1]

    def imports() -> float:
        return _seconds([sys.executable, "-c", _IMPORTS])

    report.contest(GROUP, "serve, to the first answer of /healthz", {OURS: serve, _RIVAL: imports}, unit="s")
    report.bound(GROUP, "serve, to the first answer of /healthz", sorted(answered)[len(answered) // 2], 5, unit="s")
    help_command = [str(Path(sys.executable).with_name("model-registry")), "--help"]
    report.contest(GROUP, "model-registry --help", {OURS: lambda: _seconds(help_command), _RIVAL: imports}, unit="s")
    with registry(stack, report) as one, registry(stack, report, workers=2) as two:
        load(one, _HEALTH)
        load(two, _HEALTH)
        workers = _children(two)
        idle = [worker.resident_mib() for worker in workers]
        report.contest(
            GROUP, "memory of an idle worker", {OURS: one.resident_mib, _RIVAL: _imports_mib}, unit="MiB", rounds=1
        )
        report.bound(GROUP, "memory of an idle worker", one.resident_mib(), 150, unit="MiB")
        each = ", ".join(f"{mib:.0f} MiB" for mib in idle)
        report.fact(
            f"{GROUP}, two workers", f"{each}, and {two.resident_mib():.0f} MiB of the process that started them"
        )
        report.contest(
            GROUP,
            "one connection, two workers",
            {OURS: lambda: _sequential(two), "one worker": lambda: _sequential(one)},
            unit="/s",
            more_is_better=True,
            targets={"one worker": 0.8},
        )


def _seconds_to_answer(stack: StackAddresses) -> float:
    """Return the seconds until the service responds, polled every 20 ms.

    They include the connection to PostgreSQL that checks the schema.
    """
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "model_registry.cli", "serve", "--port", str(port)]
    began = time.perf_counter()
    with started(command, url, ready_path="/healthz", environment=environment(stack)):
        return time.perf_counter() - began


def _seconds(command: list[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    return time.perf_counter() - began


def _imports_mib() -> float:
    done = subprocess.run([sys.executable, "-c", _IMPORTS + _MEMORY], check=True, stdout=subprocess.PIPE)  # noqa: S603
    return int(done.stdout) / 1024


def _children(server: Server) -> list[Server]:
    """Return the workers. multiprocessing's resource tracker is not a worker, and is small."""
    pids = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    children = [Server(server.url, int(pid)) for pid in pids]
    return sorted(children, key=Server.resident_mib)[-2:]


def _sequential(server: Server) -> float:
    return load(server, _HEALTH, connections=1).per_second
