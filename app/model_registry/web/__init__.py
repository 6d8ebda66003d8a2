"""HTTP: translates requests to calls of the use cases, and results to responses. No SQL and no S3.

May import `wiring` and everything below it.
"""
