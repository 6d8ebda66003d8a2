"""Who asks, and whether they may: the one question that every use case puts first.

There are no tokens yet, so the only actor is `ANONYMOUS` and it may do everything; what changes with tokens is
what `require` looks up, not who calls it.
"""

from dataclasses import dataclass
from enum import StrEnum

from model_registry.errors import Forbidden


class Permission(StrEnum):
    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    ALIAS = "alias"


@dataclass(frozen=True, slots=True)
class Actor:
    name: str
    permissions: frozenset[Permission]


ANONYMOUS = Actor("anonymous", frozenset(Permission))
SYSTEM = Actor("system", frozenset(Permission))
"""The service itself: the collector acts under this name in the events."""


def require(actor: Actor, permission: Permission) -> None:
    """Return, or raise `Forbidden`."""
    if permission not in actor.permissions:
        raise Forbidden(actor.name, permission)
