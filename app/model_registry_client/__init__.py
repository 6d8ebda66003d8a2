"""The client of the model registry. One line pushes a model, one line pulls it.

    from model_registry_client import Registry

    with Registry() as registry:
        registry.push("folder", "fraud-detector:2.0.0")
        registry.pull("fraud-detector@champion", "folder")

`AsyncRegistry` has the same methods as coroutines.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model_registry_client.async_registry import AsyncRegistry
    from model_registry_client.errors import (
        Busy,
        Conflict,
        Damaged,
        FieldError,
        Invalid,
        NotFound,
        PreconditionFailed,
        Problem,
        RegistryError,
        ServerError,
        Unreachable,
        UnsafePath,
        UsageError,
    )
    from model_registry_client.local_files import FileChanged
    from model_registry_client.progress import Progress, Silent
    from model_registry_client.registry import Registry
    from model_registry_client.retries import RetryPolicy
    from model_registry_client.settings import Settings
    from model_registry_client.types import (
        Alias,
        AliasMove,
        DownloadUrl,
        Event,
        File,
        Model,
        Pulled,
        Pushed,
        Ref,
        Upload,
        Version,
    )

__all__ = [
    "Alias",
    "AliasMove",
    "AsyncRegistry",
    "Busy",
    "Conflict",
    "Damaged",
    "DownloadUrl",
    "Event",
    "FieldError",
    "File",
    "FileChanged",
    "Invalid",
    "Model",
    "NotFound",
    "PreconditionFailed",
    "Problem",
    "Progress",
    "Pulled",
    "Pushed",
    "Ref",
    "Registry",
    "RegistryError",
    "RetryPolicy",
    "ServerError",
    "Settings",
    "Silent",
    "Unreachable",
    "UnsafePath",
    "Upload",
    "UsageError",
    "Version",
]

_MODULES = ("errors", "types", "local_files", "progress", "settings", "retries", "async_registry", "registry")


def __getattr__(name: str) -> object:
    """Import a name when it is first used. Shell completion, and pytest with our plugin, do not need HTTP."""
    if name in __all__:
        for module in _MODULES:
            found = getattr(import_module(f"{__name__}.{module}"), name, None)
            if found is not None:
                globals()[name] = found
                return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
