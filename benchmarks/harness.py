"""Compares contenders in turns, in one run, by the ratio of each turn.

Machines differ and are never idle, so no figure here stands by itself. A contest runs its contenders one after the
other, repeatedly in an order that rotates, and divides the figures of the same turn.
"""

import json
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

OURS = "ours"


class LeftOut(RuntimeError):
    """Raised by a group that cannot run on this machine; the others can."""


@dataclass(frozen=True)
class Row:
    """One line of the table. `ratio` is of the medians of the turns; a larger one is always better for us."""

    group: str
    what: str
    against: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    target: float | None = None

    @property
    def is_missed(self) -> bool:
        return self.target is not None and self.ratio < self.target


@dataclass
class Report:
    rounds: int = 5
    rows: list[Row] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    running: str = ""
    """The running group, under which figures are kept."""

    def contest(
        self,
        group: str,
        what: str,
        contenders: Mapping[str, Callable[[], float]],
        *,
        unit: str,
        more_is_better: bool = False,
        targets: Mapping[str, float] | None = None,
        rounds: int | None = None,
    ) -> None:
        """Measure all contenders in turns, and add a row for `ours` against each of the others.

        Parameters
        ----------
        contenders
            By name, one of them `ours`. Each does its work once and returns its figure.
        more_is_better
            True for figures such as requests per second, false for figures such as seconds.
        targets
            By the name of another contender: the lowest ratio that we want.
        """
        names = list(contenders)
        figures: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(rounds or self.rounds):
            for at in range(len(names)):
                name = names[(turn + at) % len(names)]
                figures[name].append(contenders[name]())
        for name in names:
            if name != OURS:
                pairs = list(zip(figures[OURS], figures[name], strict=True))
                ratios = [ours / theirs if more_is_better else theirs / ours for ours, theirs in pairs]
                self.add(
                    Row(
                        group,
                        what,
                        name,
                        unit,
                        statistics.median(figures[OURS]),
                        statistics.median(figures[name]),
                        statistics.median(ratios),
                        min(ratios),
                        max(ratios),
                        (targets or {}).get(name),
                    )
                )

    def bound(self, group: str, what: str, ours: float, at_most: float, *, unit: str) -> None:
        """Add a figure that has a limit instead of a rival; a ratio of 1 or more keeps it."""
        ratio = at_most / ours
        self.add(Row(group, what, "the limit", unit, ours, at_most, ratio, ratio, ratio, 1))

    def add(self, row: Row) -> None:
        self.rows.append(row)
        sys.stdout.write(f"{_line(row)}\n")
        sys.stdout.flush()

    def fact(self, name: str, text: str) -> None:
        """Add an observation that is not compared."""
        self.facts[name] = text
        sys.stdout.write(f"{name}: {text}\n")
        sys.stdout.flush()

    def peak(self, name: str, figure: float) -> None:
        """Keep the highest figure of this name in the group."""
        name = f"{self.running}, {name}"
        self.peaks[name] = max(figure, self.peaks.get(name, figure))

    def write(self, folder: Path) -> None:
        """Write `results.json` and `results.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        data = {"rows": [asdict(row) for row in self.rows], "facts": self.facts, "peaks": self.peaks}
        (folder / "results.json").write_text(json.dumps(data, indent=2) + "\n")
        (folder / "results.md").write_text(self.markdown())

    def markdown(self) -> str:
        lines = [
            "| group | what | against | ours | theirs | ratio | from | to | target |",
            "|---|---|---|---:|---:|---:|---:|---:|---:|",
            *(_line(row) for row in self.rows),
            "",
            *(f"* {name}: {text}" for name, text in self.facts.items()),
            *(f"* {name}: {figure:.0f}" for name, figure in self.peaks.items()),
        ]
        return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    target = "" if row.target is None else f"{row.target:g}{' missed' if row.is_missed else ''}"
    ours, theirs = (f"{figure:.3g} {row.unit}" for figure in (row.ours, row.theirs))
    ratios = f"**{row.ratio:.3g}** | {row.lowest:.3g} | {row.highest:.3g}"
    return f"| {row.group} | {row.what} | {row.against} | {ours} | {theirs} | {ratios} | {target} |"
