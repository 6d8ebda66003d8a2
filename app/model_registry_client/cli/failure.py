"""The end of a command that failed: one or two lines for people, and an exit code for scripts."""

from typing import TYPE_CHECKING

from model_registry_client.cli.output import visible

if TYPE_CHECKING:
    from model_registry_client.errors import ServerError

_ADVICE = {
    "alias-not-found": "`model-registry alias ls NAME` lists the aliases.",
    "file-damaged": "Push the same bytes again, in any version, to repair it.",
    "file-not-found": "`model-registry ls NAME:VERSION` lists the files.",
    "model-not-found": "`model-registry ls` lists the models.",
    "precondition-failed": "`model-registry alias ls NAME` shows the present version.",
    "version-aliased": "`model-registry rm NAME:VERSION --force` removes the aliases too.",
    "version-not-found": "`model-registry ls NAME` lists the versions.",
}
"""The next step as a command. The service describes it in terms of its API."""


def failure(error: Exception) -> tuple[str, int] | None:
    """Return the message and the exit code of an error of the client. `None` for any other error, which is a bug.

    Exit codes: 1 failure, 2 wrong usage, 3 not found, 4 conflict, 5 no response.
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
    """The values that break a rule, if the detail does not name them."""
    said = str(error)
    found = (f"{'.'.join(map(str, each.loc[1:]))}: {each.msg}" for each in error.problem.errors if each.msg not in said)
    return visible("; ".join(found))
