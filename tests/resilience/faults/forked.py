"""A process that has imported the whole service, and forks copies that serve: see `tests.resilience.faults.nursery`.

Questions come as lines of JSON on standard input, and each gets a line in return. When the input ends, all copies end.
"""

import contextlib
import json
import os
import random
import signal
import sys
from typing import Any

import model_registry.api
from model_registry.runtime import failpoints
from model_registry.server import serve


class OnTime(dict[str, float]):
    """The probabilities of `faults`: all zero until the process has passed `point` the given number of times."""

    def __init__(self, point: str, passed: int) -> None:
        super().__init__()
        self._point = point
        self._left = passed

    def get(self, point: str, _default: object = None) -> float:
        if point != self._point:
            return 0
        self._left -= 1
        return 1 if self._left < 0 else 0


def fork(env: dict[str, str], log: str, point: str, passed: int) -> int:
    """Fork a copy that serves, and writes its log and address to the file `log`."""
    if pid := os.fork():
        return pid
    try:
        os.environ.clear()
        os.environ.update(env)
        nothing = os.open(os.devnull, os.O_RDONLY)
        output = os.open(log, os.O_WRONLY | os.O_APPEND)
        for number, replacement in ((0, nothing), (1, output), (2, output)):
            os.dup2(replacement, number)
        random.seed()
        failpoints._PROBABILITIES = OnTime(point, passed)
        serve.serve("127.0.0.1", 0, 1)
    finally:
        os._exit(1)


def exit_code(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def end(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def answer(question: dict[str, Any], children: set[int]) -> int | None:
    if "poll" in question:
        code = exit_code(question["poll"])
        if code is not None:
            children.discard(question["poll"])
        return code
    if "end" in question:
        if question["end"] in children:
            children.discard(question["end"])
            end(question["end"])
        return None
    pid = fork(**question)
    children.add(pid)
    return pid


if __name__ == "__main__":
    assert model_registry.api.app is not None
    children: set[int] = set()
    try:
        while line := sys.stdin.readline():
            print(json.dumps(answer(json.loads(line), children)), flush=True)  # noqa: T201 - this is the protocol
    finally:
        for child in children:
            end(child)
