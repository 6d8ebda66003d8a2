"""The use cases.

They open short transactions and never wait for S3 inside one. They know no HTTP, no SQL and no S3.
"""
