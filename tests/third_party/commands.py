"""Programs of other projects, in a clean environment: no settings, credentials or rc files of the developer."""

import os
from dataclasses import dataclass
from pathlib import Path

from tests.support.processes import started


@dataclass(frozen=True)
class Outcome:
    code: int
    output: str
    errors: str


async def run(*command: str | Path, cwd: Path, **variables: str) -> Outcome:
    """Run a command to its end, with these variables and the few that every program needs."""
    clean = {"PATH": os.environ["PATH"], "HOME": str(cwd), "LANG": "C.UTF-8"}
    # Not a blocking call: the service answers from this event loop.
    async with started(env=clean | variables, cwd=cwd, command=[str(word) for word in command]) as process:
        output, errors = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, output.decode(), errors.decode())
