"""What a command ends with that did not do what it was asked: one or two lines, and an exit code for scripts."""

from typing import TYPE_CHECKING

from model_registry_client.cli.output import visible

if TYPE_CHECKING:
    from model_registry_client.errors import ServerError

_ADVICE = {
    "alias-not-found": "`model-registry alias ls NAME` lists the aliases.",
    "file-damaged": "Push the same bytes again, in any version: that heals it.",
    "file-not-found": "`model-registry ls NAME:VERSION` lists the files.",
    "model-not-found": "`model-registry ls` lists the models.",
    "precondition-failed": "`model-registry alias ls NAME` shows what it is now.",
    "version-aliased": "`model-registry rm NAME:VERSION --force` does that.",
    "version-not-found": "`model-registry ls NAME` lists the versions.",
}
"""What to do next, where the service can only say it in words of its own; with the names that it says."""


def failure(error: Exception) -> tuple[str, int] | None:
    """The message and the exit code of an error of the client; `None` for any other, which is a bug.

    Exit codes: 1 failure, 2 wrong usage, 3 not found, 4 conflict, 5 nobody answers.
    """
    from model_registry_client.errors import RegistryError, ServerError

    if not isinstance(error, RegistryError):
        return None
    lines = [visible(line) for line in str(error).splitlines() if line.strip()]
    if isinstance(error, ServerError) and (more := _rules(error) or _advice(error)):
        lines = [*lines[:1], more]
    return "\n".join(lines[:2]), error.exit_code


def _advice(error: "ServerError") -> str:
    advice = _ADVICE.get(error.slug, "")
    for placeholder, member in (("NAME", "model_name"), ("VERSION", "version")):
        if name := getattr(error.problem, member, None):
            advice = advice.replace(placeholder, visible(str(name)))
    return advice


def _rules(error: "ServerError") -> str:
    """Which values break which rules, as far as the detail has not said it."""
    said = str(error)
    found = (f"{'.'.join(map(str, each.loc[1:]))}: {each.msg}" for each in error.problem.errors if each.msg not in said)
    return visible("; ".join(found))
