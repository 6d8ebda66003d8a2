"""PostgreSQL and an S3 server for development and tests: the real servers, from PyPI wheels.

The package imports the standard library only, and neither the service nor the client.
"""

from model_registry_devstack.errors import DataDirInUse, EmbeddedNotInstalled, EmbeddedStackError
from model_registry_devstack.stack import EmbeddedStack, StackAddresses

__all__ = ["DataDirInUse", "EmbeddedNotInstalled", "EmbeddedStack", "EmbeddedStackError", "StackAddresses"]
