"""How to describe an operation as data, for use as `@router.get("/path", **GET_THING)`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from starlette.responses import Response

from model_registry.errors import Overloaded, RegistryError, Stalled, Unavailable
from model_registry.web.http_errors import BadRequest, InternalError, UnsupportedMediaType, headers_of, status_of
from model_registry.web.problems import MEDIA_TYPE, Problem, problem_members, problem_title
from model_registry.web.requests.body import JSON

Responses = dict[int | str, dict[str, Any]]
Problems = Sequence[RegistryError | type[RegistryError]]

SCHEMAS = "#/components/schemas/"
referenced: set[type[BaseModel]] = set()
"""Models of bodies that handlers read or write themselves. FastAPI does not see these models."""

_HEADERS = {"Retry-After": "Seconds to wait before a retry.", "Content-Range": "The size in bytes of the whole."}


@dataclass(frozen=True)
class Body:
    """The body of a request, and the problem if the body has another media type."""

    content: dict[str, Any]
    other_type: UnsupportedMediaType
    is_required: bool = True


def operation(
    summary: str,
    responses: Responses,
    *problems: RegistryError | type[RegistryError],
    description: str | None = None,
    body: Body | None = None,
    samples: Sequence[dict[str, str]] = (),
) -> dict[str, Any]:
    """Return the arguments of FastAPI's route decorators.

    Put the usual response first. A problem is an error class, which knows its example, or an example. The problems of
    every route, and those of every route with a body, are added. Without a `description`, the docstring of the handler
    is the description.
    """
    extra: dict[str, Any] = {}
    if body is not None:
        problems = (*problems, body.other_type, Stalled)
        extra["requestBody"] = {"required": body.is_required, "content": body.content}
    if samples:
        extra["x-codeSamples"] = list(samples)
    return {
        "summary": summary,
        "description": description,
        "status_code": next(iter(responses)),
        # Handlers write the bodies of responses themselves.
        "response_class": Response,
        "responses": responses | problem_responses((*problems, BadRequest, InternalError)),
        "openapi_extra": extra or None,
    }


def head_of(get: dict[str, Any], summary: str) -> dict[str, Any]:
    """Return the description of HEAD: no response has a body, and none is a part or a redirect."""
    responses = {
        status: {key: value for key, value in response.items() if key not in {"content", "model"}}
        for status, response in get["responses"].items()
        if status not in {206, 307, 416}
    }
    return get | {"summary": summary, "description": None, "responses": responses}


def response(
    description: str, model: object = None, example: object = None, headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return one response. With a `model`, its body is JSON."""
    said: dict[str, Any] = {"description": description}
    if model is not None:
        said |= {"model": model, "content": {JSON: {"example": example}}}
    if headers is not None:
        said["headers"] = headers
    return said


def header(description: str, example: str | int) -> dict[str, Any]:
    schema = {"type": "integer" if isinstance(example, int) else "string"}
    return {"description": description, "schema": schema, "example": example}


def json_body(
    model: type[BaseModel], example: object, media_types: tuple[str, ...] = (JSON,), *, is_required: bool = True
) -> Body:
    """Return a JSON body that the handler reads itself. `model` only describes it."""
    content = {media_type: {"schema": reference(model), "example": example} for media_type in media_types}
    return Body(content, UnsupportedMediaType.instead_of(media_types), is_required)


def reference(model: type[BaseModel]) -> dict[str, str]:
    referenced.add(model)
    return {"$ref": f"{SCHEMAS}{model.__name__}"}


def refusal(check: Callable[[str], object], value: str) -> RegistryError:
    """Return the error that `check` raises for `value`."""
    try:
        check(value)
    except RegistryError as error:
        return error
    raise AssertionError(value)


def problem_responses(problems: Problems) -> Responses:
    """Return a response for each status, with an example for each error. The document adds `instance`."""
    if Unavailable in problems:
        # Every route that needs PostgreSQL or the object store is subject to the limits of the process.
        problems = (*problems, Overloaded)
    responses: Responses = {}
    for each in problems:
        error = each if isinstance(each, RegistryError) else each.as_example()
        content: dict[str, Any] = {"schema": reference(Problem), "examples": {}}
        entry = responses.setdefault(status_of(error), {"description": "", "content": {MEDIA_TYPE: content}})
        entry["description"] += (", " if entry["description"] else "") + f"`{error.slug}`"
        entry["content"][MEDIA_TYPE]["examples"][error.slug] = {
            "summary": problem_title(error),
            "value": problem_members(error, instance="", request_id="9f86d081884c7d65"),
        }
        if headers := headers_of(error):
            entry["headers"] = {name: header(_HEADERS[name], value) for name, value in headers.items()}
    return responses
