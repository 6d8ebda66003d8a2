"""Who makes a request, and what they may do.

Every use case first calls `require`. There are no credentials yet: the only actor is `ANONYMOUS`, and it may do
everything. Credentials will change the answers given here, but not the use cases that ask.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from enum import Enum, StrEnum

from model_registry.errors import Forbidden


class Permission(StrEnum):
    READ = "read"
    WRITE = "write"
    REMOVE = "remove"
    ALIAS = "alias"


class AnyModel(Enum):
    ANY_MODEL = "any model"


ANY_MODEL = AnyModel.ANY_MODEL
"""In place of a model name: at least one model, whichever it is.

Use it for lists, searches and events of the whole registry, and until a request has named its model.
"""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who makes a request. Rows and events store the name."""

    name: str
    permissions: frozenset[Permission]

    def may(self, permission: Permission, model_name: str | AnyModel) -> bool:
        """Return whether the actor has a permission on a model. Today a permission covers every model."""
        return permission in self.permissions

    def owns(self, created_by: str) -> bool:
        """Return whether the actor may continue an unfinished version, given who created it."""
        return created_by == self.name

    @property
    def visibility(self) -> Hashable:
        """What the actor can see, as part of the key of a shared read.

        Two actors share the result of a read only if this value is equal for both.
        """
        return self.permissions


ANONYMOUS = Actor("anonymous", frozenset(Permission))
SYSTEM = Actor("system", frozenset(Permission))
"""The service itself. The collector and the scrubber use this name in events."""


def require(actor: Actor, permission: Permission, model_name: str | AnyModel) -> None:
    """Return if the actor has the permission on the model, and raise `Forbidden` otherwise.

    Call it first, with the model name of the request. If the request does not name a model, or has not named it yet,
    pass `ANY_MODEL`, and call it again once you know the name.
    """
    if not actor.may(permission, model_name):
        raise Forbidden(actor.name, permission)
