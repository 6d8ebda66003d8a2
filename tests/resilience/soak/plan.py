"""What a soak does, and for how long."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

EVERYTHING = {
    "register": 14,
    "push": 14,
    "resume": 3,
    "corrupt": 2,
    "flash": 14,
    "remove": 4,
    "purge": 3,
    "restore": 4,
    "yank": 2,
    "unyank": 2,
    "patch": 3,
    "alias": 5,
    "swap": 2,
    "rollback": 2,
    "unalias": 1,
    "read": 14,
    "download": 12,
    "archive": 3,
}
ALL_BLOWS = {"kill": 4.0, "terminate": 2.0, "freeze": 2.0, "postgres": 1.0, "store": 1.0}


@dataclass(frozen=True)
class Plan:
    """What a soak does, and when it ends.

    `blows` are what the monkey does, by weight; without any it does nothing. The soak ends after a number of seconds,
    or after a number of operations if the plan has one.
    """

    seconds: float
    seed: int
    operations: int | None = None
    clients: int = 8
    replicas: int = 2
    lease_seconds: float = 3
    grace_seconds: float = 0
    weights: Mapping[str, float] = field(default_factory=lambda: EVERYTHING)
    blows: Mapping[str, float] = field(default_factory=lambda: ALL_BLOWS)
    pause_seconds: tuple[float, float] = (1.5, 5)
    faults: bool = True
    mutant: str | None = None

    def in_peace(self) -> "Plan":
        return replace(self, blows={}, faults=False)
