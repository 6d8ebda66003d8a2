"""Named places where a test can end the process, to see what a crash leaves behind. In production they do nothing.

The environment variable `REGISTRY_FAULTS=name:probability,…` arms them. It is for tests, so it is not a setting.
"""

import os
import random
from typing import Literal, get_args

VARIABLE = "REGISTRY_FAULTS"
EXIT_CODE = 9

Point = Literal[
    # Any transaction of `Database.run`.
    "tx-before-commit",
    "tx-after-commit",
    # Bytes on their way to the store.
    "u-intent",
    "u-mpu-created",
    "u-part",
    "u-put",
    "u-mpu-complete",
    # A version that is being published.
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
            raise ValueError(f"{VARIABLE} names {name!r}; the failpoints are {', '.join(get_args(Point))}.")
        probabilities[name] = float(probability or 1)
    return probabilities


_PROBABILITIES = _parsed(os.environ.get(VARIABLE, ""))

if _PROBABILITIES:

    def failpoint(point: Point) -> None:
        """End the process here with the probability that is set, as SIGKILL does: nothing is flushed or closed."""
        if random.random() < _PROBABILITIES.get(point, 0):  # noqa: S311 - no secret
            os._exit(EXIT_CODE)

else:

    def failpoint(point: Point) -> None:
        """Do nothing."""
