"""HTTP: translates requests to calls of the use cases, and results to responses.

May import wiring, services, domain and errors. No SQL and no S3.
"""
