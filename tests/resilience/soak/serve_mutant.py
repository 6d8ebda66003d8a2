"""`python -m tests.resilience.soak.serve_mutant NAME serve …`: the command line of a service with a defect."""

import sys

from model_registry.cli import main
from tests.resilience.soak.mutants import MUTANTS

if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)].install()
    main()
