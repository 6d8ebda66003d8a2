"""Named places where a process dies, so that tests see what a crash leaves behind. In production they do nothing.

`REGISTRY_FAULTS=name:probability,…` in the environment of a process arms them. It is no setting of the service: nobody
who runs one has a use for it.
"""

import os
import random
from typing import Literal, get_args

VARIABLE = "REGISTRY_FAULTS"
EXIT_CODE = 9

Point = Literal[
    # Any transaction of `Database.run`, whichever use case it serves.
    "tx-before-commit",
    "tx-after-commit",
    # Bytes on their way to the store.
    "u-intent",
    "u-mpu-created",
    "u-part",
    "u-put",
    "u-mpu-complete",
    # A version on its way to be ready.
    "v-locked",
    "v-blobs",
    "v-files",
    "v-before-commit",
    "v-after-commit",
    # The commit of a push.
    "c-began",
    "c-completed",
    "c-found",
    # The collector.
    "g-lease",
    "g-in-tx",
    "g-s3-deleted",
]


def _parsed(text: str) -> dict[str, float]:
    probabilities = {}
    for item in filter(None, text.split(",")):
        name, _, probability = item.partition(":")
        if name not in get_args(Point):
            raise ValueError(f"{VARIABLE} names {name!r}; there are {', '.join(get_args(Point))}.")
        probabilities[name] = float(probability or 1)
    return probabilities


_PROBABILITIES = _parsed(os.environ.get(VARIABLE, ""))

if _PROBABILITIES:

    def failpoint(point: Point) -> None:
        """Die here, as by SIGKILL: nothing is flushed, closed or answered."""
        if random.random() < _PROBABILITIES.get(point, 0):  # noqa: S311 - no secret
            os._exit(EXIT_CODE)

else:

    def failpoint(point: Point) -> None:
        """Nothing."""
