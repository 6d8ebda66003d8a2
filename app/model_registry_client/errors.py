"""What can go wrong, one class for each thing that a caller would do differently about."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

_TYPE_PREFIX = "urn:model-registry:problem:"
_PERHAPS_DONE = " An earlier attempt had no answer and may have done it: look before you ask again."


class FieldError(BaseModel):
    """One value that breaks a rule, and where it stands in the request."""

    model_config = ConfigDict(frozen=True, extra="allow")

    loc: tuple[str | int, ...]
    msg: str
    value: Any = None


class Problem(BaseModel):
    """What a server said went wrong (RFC 9457); members beyond these name the thing, such as `digest` or `version`."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = "about:blank"
    title: str = ""
    status: int
    detail: str = ""
    instance: str = ""
    request_id: str = ""
    errors: tuple[FieldError, ...] = ()

    @property
    def slug(self) -> str:
        """The stable name of the problem, such as `version-exists`; empty where it is none of the registry's."""
        return self.type.removeprefix(_TYPE_PREFIX) if self.type.startswith(_TYPE_PREFIX) else ""


class RegistryError(Exception):
    """Something failed; the message says what, and what to do."""

    exit_code: ClassVar[int] = 1


class UsageError(RegistryError):
    """What was asked for can never work as written."""

    exit_code = 2


class Unreachable(RegistryError):
    """Nobody answered, however often it was asked. A change may have been made all the same."""

    exit_code = 5


class Damaged(RegistryError):
    """Bytes do not hash to the digest that was declared for them."""


class UnsafePath(RegistryError):
    """A path would lead out of the folder that it belongs in."""


class ServerError(RegistryError):
    """A server answered, and the answer is no."""

    def __init__(self, problem: Problem, *, after_lost_answer: bool = False) -> None:
        self.problem = problem
        self.after_lost_answer = after_lost_answer
        """An earlier attempt at the same request had no answer, so it may have done what this one could not."""
        super().__init__(_message(problem) + (_PERHAPS_DONE if after_lost_answer and problem.status < 500 else ""))

    @property
    def slug(self) -> str:
        return self.problem.slug

    @property
    def status(self) -> int:
        return self.problem.status

    @classmethod
    def of(cls, problem: Problem, *, after_lost_answer: bool = False) -> "ServerError":
        """As the class that goes with the problem's status."""
        return _CLASSES.get(problem.status, ServerError)(problem, after_lost_answer=after_lost_answer)


class NotFound(ServerError):
    """There is no such thing, or not any more."""

    exit_code = 3


class Conflict(ServerError):
    """It could be done, but not in the present state."""

    exit_code = 4


class PreconditionFailed(Conflict):
    """Somebody else was faster: what is there is not what was expected."""


class Invalid(ServerError):
    """What was sent breaks a rule; `problem.errors` says which, and where."""

    exit_code = 2


class Busy(ServerError):
    """The service, or what it needs, is overloaded or away, and was so for as long as we retried."""

    exit_code = 5


_CLASSES: dict[int, type[ServerError]] = {
    400: Invalid,
    404: NotFound,
    409: Conflict,
    412: PreconditionFailed,
    413: Invalid,
    415: Invalid,
    422: Invalid,
    408: Busy,
    429: Busy,
    502: Busy,
    503: Busy,
    504: Busy,
}


def _message(problem: Problem) -> str:
    said = problem.detail or problem.title or f"The answer was {problem.status}."
    return f"{said} (request {problem.request_id})" if problem.status >= 500 and problem.request_id else said
