"""Records what clients tried and which responses they got, line by line in files that survive a kill."""

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

NOT_CONNECTED = 499
"""The status of an attempt that never left the client: it was refused, so it cannot have happened."""


class Ledger:
    """One client's own file: an ATTEMPT before each request, an ACK after its response. A line is one write(2)."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._number = 0

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        os.close(self._file)

    def attempt(self, operation: str, model: str, version: str = "", **facts: Any) -> int:
        """Record an attempt before its request; returns the number to pass to `ack`.

        `files` are {path: sha256 in hex}.
        """
        self._number += 1
        self._write(
            {"is": "ATTEMPT", "n": self._number, "operation": operation, "model": model, "version": version, **facts}
        )
        return self._number

    def ack(self, number: int, status: int, **facts: Any) -> None:
        """Record the response, with any status. If no response came, do not call this."""
        self._write({"is": "ACK", "n": number, "status": status, **facts})

    def _write(self, line: dict[str, Any]) -> None:
        os.write(self._file, json.dumps(line | {"at": time.time()}).encode() + b"\n")


@dataclass
class Attempt:
    """`status` is `None` if no response came."""

    operation: str
    model: str
    version: str
    facts: Mapping[str, Any]
    status: int | None = None
    answer: Mapping[str, Any] = field(default_factory=dict)
    began_at: float = 0
    ended_at: float | None = None

    @property
    def is_acknowledged(self) -> bool:
        return self.status is not None and self.status < 300

    @property
    def is_refused(self) -> bool:
        """Whether the response says that it did not happen: any 4xx. After a 503 it may have happened."""
        return self.status is not None and 400 <= self.status < 500

    @property
    def is_open(self) -> bool:
        """Whether the outcome is unknown: no response came, or a 5xx."""
        return not self.is_acknowledged and not self.is_refused


def read_ledgers(paths: Iterable[Path]) -> list[Attempt]:
    attempts: list[Attempt] = []
    for path in paths:
        by_number: dict[int, Attempt] = {}
        for line in path.read_text().splitlines():
            said = json.loads(line)
            number, at = said.pop("n"), said.pop("at", 0.0)
            if said.pop("is") == "ATTEMPT":
                by_number[number] = Attempt(
                    said.pop("operation"), said.pop("model"), said.pop("version"), facts=said, began_at=at
                )
            else:
                by_number[number].status = said.pop("status")
                by_number[number].answer = said
                by_number[number].ended_at = at
        attempts += by_number.values()
    return attempts
