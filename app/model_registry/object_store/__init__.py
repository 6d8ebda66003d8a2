"""S3-compatible storage: the protocol that services ask, its S3 implementation, signed URLs."""
