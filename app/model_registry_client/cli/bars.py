"""Progress of a transfer on a terminal: bytes, speed, time left, files, and what did not have to be sent."""

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from model_registry_client.cli.output import count, size, visible


class Bars:
    """The `Progress` of the client of one transfer: a bar for it, and one for the hashing before."""

    def __init__(self, console: Console) -> None:
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self._total_bytes = 0
        self._files = 0
        self._files_done = 0
        self._saved_bytes = 0
        self._hashing: TaskID | None = None
        self._moving: TaskID | None = None

    def begin(self, label: str, total_bytes: int, files: int) -> None:
        self._total_bytes, self._files = total_bytes, files
        self._moving = self._bars.add_task(visible(label), total=total_bytes, note=self._note())
        self._bars.start()

    def hashed(self, size_bytes: int) -> None:
        if self._hashing is None:
            self._hashing = self._bars.add_task("hashing", total=self._total_bytes, note="")
        self._bars.advance(self._hashing, size_bytes)

    def sent(self, size_bytes: int) -> None:
        self._advance(size_bytes)

    def received(self, size_bytes: int) -> None:
        self._advance(size_bytes)

    def saved(self, size_bytes: int) -> None:
        self._saved_bytes += size_bytes
        self._advance(size_bytes)

    def file_done(self, path: str) -> None:
        self._files_done += 1
        self._advance(0)

    def say(self, text: str) -> None:
        self._bars.console.print(visible(text))

    def end(self) -> None:
        self._bars.stop()

    def _advance(self, size_bytes: int) -> None:
        if self._moving is not None:
            self._bars.update(self._moving, advance=size_bytes, note=self._note())

    def _note(self) -> str:
        files = f"{self._files_done}/{count(self._files, 'file')}"
        return f"{files}, {size(self._saved_bytes)} saved" if self._saved_bytes else files
