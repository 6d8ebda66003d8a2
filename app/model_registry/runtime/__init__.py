"""What every part of a process can use: threads, tasks, shared reads, logs and metrics, failpoints.

It knows nothing of the registry. May import `errors` only.
"""
