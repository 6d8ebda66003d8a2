"""HTTP in, HTTP out: translates between HTTP and the use cases. Imports wiring, services, domain and errors; no SQL
and no S3.
"""
