"""S3-compatible storage: the protocol that the use cases see, its implementation on S3, and signed URLs.

Start in `blob_store`. May import `domain`, `utils` and `errors`. Only `wiring` imports `s3`.
"""
