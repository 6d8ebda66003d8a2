"""S3-compatible storage: the protocol that the use cases see, its implementation on S3, and signed URLs.

Start in `blob_store`. The room imports `domain`, `utils` and `errors`; only `wiring` imports `s3`.
"""
