"""PostgreSQL and an S3 server of our own, for developers and test-suites: the real ones, from PyPI wheels."""

from model_registry_devstack.errors import DataDirInUse, EmbeddedNotInstalled, EmbeddedStackError
from model_registry_devstack.stack import EmbeddedStack, StackAddresses

__all__ = ["DataDirInUse", "EmbeddedNotInstalled", "EmbeddedStack", "EmbeddedStackError", "StackAddresses"]
