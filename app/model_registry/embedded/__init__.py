"""PostgreSQL and an S3 server of our own, for developers and test-suites: the real ones, from PyPI wheels."""

from model_registry.embedded.errors import DataDirInUse, EmbeddedNotInstalled, EmbeddedStackError
from model_registry.embedded.stack import EmbeddedStack, StackAddresses

__all__ = ["DataDirInUse", "EmbeddedNotInstalled", "EmbeddedStack", "EmbeddedStackError", "StackAddresses"]
