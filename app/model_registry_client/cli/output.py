"""What commands print: tables for people, tab-separated values for a pipe, one JSON document for programs.

Only the result goes to standard output. Bars, remarks and errors go to standard error.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class Size(int):
    """A number of bytes: with a unit for people, plain for programs."""


class Words(tuple[str | int, ...]):
    """Several values in one cell."""


Cell = str | int | bool | datetime | None | Words | Sequence[str]


@dataclass(frozen=True)
class Listing:
    """Rows under headings. The first column names what the row describes."""

    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    empty: str = ""  # shown to people if there are no rows

    def as_lines(self) -> list[str]:
        return ["\t".join(plain(cell) for cell in row) for row in self.rows]

    def as_names(self) -> list[str]:
        return [plain(row[0]) for row in self.rows]

    def as_table(self) -> "RenderableType":
        from rich import box
        from rich.table import Table

        if not self.rows:
            return self.empty
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
        for index, heading in enumerate(self.headings):
            is_number = all(type(row[index]) in {int, Size} for row in self.rows)
            table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
        for row in self.rows:
            table.add_row(*(_literal(readable(cell)) for cell in row))
        return table


class Output:
    """Prints the result of one command."""

    def __init__(self, *, as_json: bool = False, is_quiet: bool = False) -> None:
        self.as_json = as_json
        self.is_quiet = is_quiet

    @property
    def wants_bars(self) -> bool:
        return not (self.as_json or self.is_quiet) and sys.stderr.isatty()

    def document(self, document: Any) -> None:
        """Print a JSON document. Its numbers keep every digit."""
        from model_registry_client.json_values import dumps

        typer.echo(dumps(_members(document)))

    def listing(self, document: Any, listing: Listing) -> None:
        if self.as_json:
            self.document(document)
        elif self.is_quiet:
            self._lines(listing.as_names())
        elif sys.stdout.isatty():
            self.console().print(listing.as_table())
        else:
            self._lines(listing.as_lines())

    def done(self, document: Any, sentence: str, *, quiet: str = "") -> None:
        """Print the result of a command: a sentence, or with --quiet only the value that a script needs."""
        if self.as_json:
            self.document(document)
        elif not self.is_quiet:
            typer.echo(visible(sentence))
        elif quiet:
            typer.echo(quiet)

    def remark(self, text: str) -> None:
        """Print a message that is not part of the result."""
        if not (self.as_json or self.is_quiet):
            typer.echo(visible(text), err=True)

    def console(self, *, is_error: bool = False) -> "Console":
        from rich.console import Console

        return Console(stderr=is_error, highlight=False, markup=False, emoji=False)

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            typer.echo(line)


def readable(cell: Cell) -> str:
    """For people."""
    match cell:
        case None:
            return "-"
        case bool():
            return "yes" if cell else "no"
        case Size():
            return size(cell)
        case datetime():
            return moment(cell)
        case str() | int():
            return visible(str(cell))
        case Words():
            return "  ".join(readable(word) for word in cell)
        case _:
            return visible(", ".join(cell)) or "-"


def plain(cell: Cell) -> str:
    """For programs: one field of a line."""
    match cell:
        case None:
            return ""
        case bool():
            return "true" if cell else "false"
        case datetime():
            return cell.isoformat().replace("+00:00", "Z")
        case str() | int():
            return visible(str(cell))
        case Words():
            return " ".join(plain(word) for word in cell)
        case _:
            return visible(",".join(cell))


def moment(time: datetime) -> str:
    """Format a time in the zone of this machine, with its name."""
    return f"{time.astimezone():%Y-%m-%d %H:%M %Z}"


def size(size_bytes: int) -> str:
    """Format a number of bytes in decimal units, as storage is sold and billed."""
    if size_bytes < 1000:
        return f"{size_bytes} B"
    value = float(size_bytes)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.95 or unit == "PB":
            break
    return f"{value:.1f} {unit}"


def visible(text: str) -> str:
    """Escape line breaks and control sequences. Text from the registry must not control a terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _members(document: Any) -> Any:
    """Convert values of the client to the JSON of the service."""
    match document:
        case dict():
            return {key: _members(value) for key, value in document.items()}
        case list() | tuple():
            return [_members(item) for item in document]
        case _ if hasattr(document, "model_dump"):
            return _members(document.model_dump(exclude_unset=True))
        case _:
            return document


def _literal(text: str) -> "RenderableType":
    from rich.text import Text

    return Text(text)
