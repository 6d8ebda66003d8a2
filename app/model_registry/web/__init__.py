"""HTTP in, HTTP out: translates between REST and the use cases, and does nothing else."""
