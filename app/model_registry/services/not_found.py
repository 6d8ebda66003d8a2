"""Which error to raise when a model or a version is not there."""

from typing import TypeVar

from model_registry.database.engine import Transaction
from model_registry.domain.entities import VersionSelector
from model_registry.errors import AliasNotFound, ModelNotFound, NotFound, VersionNotFound

T = TypeVar("T")


async def found(tx: Transaction, selector: VersionSelector, result: T | None) -> T:
    """Return the result, or raise the error for the part of the selector that does not exist."""
    if result is None:
        raise await missing(tx, selector)
    return result


async def missing(tx: Transaction, selector: VersionSelector) -> NotFound:
    """The error for the part of the selector that does not exist: the model, the alias or the version."""
    if not await tx.versions.has_ready(selector.model_name):
        existing = await tx.models.existing_name(selector.model_name)
        return ModelNotFound(selector.model_name, existing if existing != selector.model_name else None)
    if selector.alias is not None:
        return AliasNotFound(selector.model_name, selector.alias)
    return VersionNotFound(selector.model_name, selector.version)
