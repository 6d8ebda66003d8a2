"""`python -m tests.resilience.soak --minutes 2`: servers of its own, the service as processes, and every fault.

Ends with exit code 1 if any promise was broken.
"""

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from model_registry.migrations import migrate
from model_registry_devstack import EmbeddedStack
from tests.resilience.soak.mutants import MUTANTS, plan_of, prepare
from tests.resilience.soak.plan import Plan
from tests.resilience.soak.run import soak


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.resilience.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--data-dir", type=Path, help="Keep the data, the logs and the ledgers here; must be empty.")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="Break the service on purpose: this must end with 1.")
    parser.add_argument("--peace", action="store_true", help="No faults: clients alone.")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        directory: Path = chosen.data_dir or Path(temporary)
        plan = Plan(seconds=chosen.minutes * 60, seed=chosen.seed, clients=chosen.clients, replicas=chosen.replicas)
        if chosen.mutant:
            plan = plan_of(chosen.mutant, plan)
        if chosen.peace:
            plan = plan.in_peace()
        with EmbeddedStack(directory / "stack", durable=False) as addresses:
            migrate(addresses.database_url)
            if chosen.mutant:
                asyncio.run(prepare(chosen.mutant, addresses))
            outcome = asyncio.run(soak(plan, addresses, directory))
    sys.stdout.write(f"{outcome}\n")
    return 1 if outcome.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
