"""The length of the search for counterexamples: the same few examples in every run, or a hunt.

`PROPERTY_TIMES=100 pytest tests/properties` tries a hundred times as many examples, different ones in each run, and
sequences of twice as many steps.
"""

import os

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("PROPERTY_TIMES", "0"))


def examples(count: int, steps: int = 50) -> settings:
    """Return the settings of a property, of which a plain run tries `count` examples."""
    return settings(
        max_examples=count * max(_TIMES, 1),
        stateful_step_count=steps * (2 if _TIMES else 1),
        derandomize=not _TIMES,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
        report_multiple_bugs=False,
    )
