"""The use cases.

A use case opens short transactions, and never waits for the object store or a client inside one. It uses no HTTP, no
SQL and no S3. May import `transfer` and everything below it.
"""
