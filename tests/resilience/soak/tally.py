"""The counts of a soak, and its final table."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

_SAMPLES = 20


@dataclass
class Tally:
    """`complaints` are the mistakes of the running service. The checker reports those in the data."""

    operations: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    problems: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    crash_points_hit: int = 0
    downloads: int = 0
    broken_downloads: int = 0
    downloaded_bytes: int = 0
    events_followed: int = 0
    complaints: list[str] = field(default_factory=list)
    memory: list[str] = field(default_factory=list)

    def count(self, operation: str, status: int | None) -> None:
        kind = "cut" if status is None else "503" if status == 503 else f"{status // 100}xx"
        self.operations[operation][kind] += 1

    def complain(self, measure: str, what: str) -> None:
        self.complaints.append(f"{measure}: {what}")

    def table(self) -> str:
        columns = ["2xx", "3xx", "4xx", "503", "5xx", "cut"]
        lines = [f"{'operation':<18}" + "".join(f"{column:>8}" for column in columns)]
        for operation, kinds in sorted(self.operations.items()):
            lines.append(f"{operation:<18}" + "".join(f"{kinds[column] or '':>8}" for column in columns))
        total = sum((kinds for kinds in self.operations.values()), Counter[str]())
        lines.append(f"{'all':<18}" + "".join(f"{total[column]:>8}" for column in columns))
        lines += ["", "problems   " + _listed(self.problems), "kills      " + _listed(self.kills)]
        lines.append(f"crash points hit {self.crash_points_hit}")
        lines.append(
            f"downloads  {self.downloads} whole and hashed ({self.downloaded_bytes / 1024**2:.0f} MiB), "
            f"{self.broken_downloads} cut; {self.events_followed} events followed"
        )
        lines += [f"memory     {line}" for line in self.memory]
        return "\n".join(lines)

    def samples(self) -> str:
        more = len(self.complaints) - _SAMPLES
        shown = self.complaints[:_SAMPLES] + ([f"and {more} more"] if more > 0 else [])
        return "\n".join(f"  {line}" for line in shown)


def _listed(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"
