"""`python -m tests.soak.serve_mutant NAME serve …`: the command line of a service that is wrong on purpose."""

import sys

from model_registry.cli import main
from tests.soak.mutants import MUTANTS

if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)].install()
    main()
