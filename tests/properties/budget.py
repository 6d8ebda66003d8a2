"""How long the search for counterexamples goes on: the same few examples in every run, or a hunt.

`PROPERTY_TIMES=100 pytest tests/properties` looks at a hundred times as many examples, others in each run, and at
sequences of twice as many steps.
"""

import os

from hypothesis import HealthCheck, settings

_TIMES = int(os.environ.get("PROPERTY_TIMES", "0"))


def examples(count: int, steps: int = 50) -> settings:
    """Settings of a property that a plain run tries `count` examples of."""
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
