"""Progress of a transfer on a terminal: bytes, speed, time left, files, and the bytes that were not transferred."""

from collections.abc import Iterable

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from model_registry_client.cli.output import count, size, visible


class Bars:
    """Shows a `Progress`: one bar for the transfer, and one for the hashing before it."""

    def __init__(self, console: Console) -> None:
        self._bars = _Fitting(console)
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
        if self._moving is not None:
            # Not with `advance`, because these bytes must not count for the speed and the time left.
            next(task for task in self._bars.tasks if task.id == self._moving).completed += size_bytes
        self._advance(0)

    def file_done(self, path: str) -> None:
        self._files_done += 1
        self._advance(0)

    def publishing(self) -> None:
        if self._moving is not None:
            self._bars.update(self._moving, note=f"{self._note()}, publishing…")

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


class _Fitting(Progress):
    """Omits columns if the terminal is too narrow for all of them."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, transient=True)
        name, done, note = TextColumn("{task.description}"), DownloadColumn(), TextColumn("{task.fields[note]}")
        bar, speed, left = BarColumn(bar_width=24), TransferSpeedColumn(), TimeRemainingColumn()
        self._choices: list[tuple[ProgressColumn, ...]] = [
            (name, bar, done, speed, left, note),
            (name, bar, done, speed, note),
            (name, bar, done, note),
            (name, done, note),
            (name, done),
            (done,),
        ]

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        shown = list(tasks)
        if not shown:
            return super().make_tasks_table(shown)
        wide = self.console.options.update_width(1000)
        for columns in self._choices:
            self.columns = columns
            table = super().make_tasks_table(shown)
            if self.console.measure(table, options=wide).maximum <= self.console.width:
                break
        return table
