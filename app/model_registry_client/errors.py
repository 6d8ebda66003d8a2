"""The errors of the client: one class for each kind that a caller handles differently."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

_TYPE_PREFIX = "urn:model-registry:problem:"
_PERHAPS_DONE = " An earlier attempt got no response and may have done it. Check before you retry."


class FieldError(BaseModel):
    """A value that breaks a rule, and its location in the request."""

    model_config = ConfigDict(frozen=True, extra="allow")

    loc: tuple[str | int, ...]
    msg: str
    value: Any = None


class Problem(BaseModel):
    """The problem in a response (RFC 9457). More members name what it is about, such as `digest` or `version`."""

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
        """The stable name of the problem, such as `version-exists`. Empty if it is not from a registry."""
        return self.type.removeprefix(_TYPE_PREFIX) if self.type.startswith(_TYPE_PREFIX) else ""


class RegistryError(Exception):
    """Something failed. The message says what, and what you can do."""

    exit_code: ClassVar[int] = 1


class UsageError(RegistryError):
    """The request cannot work as written."""

    exit_code = 2


class Unreachable(RegistryError):
    """There was no response to any attempt. A change may have been made nevertheless."""

    exit_code = 5


class Damaged(RegistryError):
    """Bytes do not have the declared digest."""


class UnsafePath(RegistryError):
    """A path leads out of its folder."""


class ServerError(RegistryError):
    """The response of a server is an error."""

    def __init__(self, problem: Problem, *, after_lost_answer: bool = False) -> None:
        self.problem = problem
        self.after_lost_answer = after_lost_answer
        """An earlier attempt at the same request got no response. It may have done what this one could not."""
        super().__init__(_message(problem) + (_PERHAPS_DONE if after_lost_answer and problem.status < 500 else ""))

    @property
    def slug(self) -> str:
        return self.problem.slug

    @property
    def status(self) -> int:
        return self.problem.status

    @classmethod
    def of(cls, problem: Problem, *, after_lost_answer: bool = False) -> "ServerError":
        """Return an error of the class for the status of the problem."""
        return _CLASSES.get(problem.status, ServerError)(problem, after_lost_answer=after_lost_answer)


class NotFound(ServerError):
    """It does not exist, or no longer exists."""

    exit_code = 3


class Conflict(ServerError):
    """It is not possible in the present state."""

    exit_code = 4


class PreconditionFailed(Conflict):
    """It has changed since you read it."""


class Invalid(ServerError):
    """The request breaks a rule. `problem.errors` says which one, and where."""

    exit_code = 2


class Busy(ServerError):
    """The service is overloaded or unavailable, and all retries failed."""

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
    said = problem.detail or problem.title or f"The response was {problem.status}."
    return f"{said} (request {problem.request_id})" if problem.status >= 500 and problem.request_id else said
