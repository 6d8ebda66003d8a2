"""What a process needs whatever it does: threads, tasks, shared reads, logs and metrics, failpoints."""
