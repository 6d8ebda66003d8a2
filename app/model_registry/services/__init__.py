"""The use cases.

A use case opens short transactions, and never waits for the object store or a client inside one. This room knows no
HTTP, no SQL and no S3. It may import `transfer` and everything below it.
"""
