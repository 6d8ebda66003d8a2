"""The processes behind the command line: serve, shut down, maintain, ask for health."""
