"""Every route of the service, with requests for it."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

import httpx
import orjson
from fastapi.routing import iter_route_contexts

from model_registry.api import create_app
from tests.support.forms import field, file, form
from tests.support.pushing import entry
from tests.support.rawhttp import message

APP = create_app()
DOCUMENT = APP.openapi()
HOST = "Host: registry"
JSON = "application/json"
FORM = "multipart/form-data; boundary=frontier"

# `arrange` creates these, so that the attack is the only reason to refuse a request.
GOOD = {
    "name": "fraud",
    "model_name": "fraud",
    "version": "1.0",
    "alias": "champion",
    "path": "model.bin",
    "upload_id": "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52",
}
_BODIES: dict[str, dict[str, Any]] = {
    "push_version": {"version": "3.0", "files": [entry("a", b"a")]},
    "put_alias": {"version": "1.0"},
    "swap_aliases": {"moves": [{"alias": "champion", "version": "1.0"}]},
    "sign_parts": {"part_numbers": [1]},
}


@dataclass(frozen=True)
class Route:
    """A method at a path. A route that is not in the OpenAPI document has no operation."""

    method: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @cached_property
    def operation(self) -> dict[str, Any]:
        found: dict[str, Any] = DOCUMENT["paths"].get(self.path, {}).get(self.method.lower(), {})
        return found

    @property
    def id(self) -> str:
        return str(self.operation.get("operationId", ""))

    def parameters(self, where: str) -> list[str]:
        return [each["name"] for each in self.operation.get("parameters", ()) if each["in"] == where]

    @property
    def content(self) -> dict[str, Any]:
        """The media types of the request body, with their schemas and examples."""
        found: dict[str, Any] = self.operation.get("requestBody", {}).get("content", {})
        return found

    @property
    def answers(self) -> set[str]:
        """The media types of a successful response."""
        return set(self.operation["responses"].get("200", {}).get("content", {})) if self.operation else set()

    def target(self, **segments: str) -> str:
        """Return the path with good segments, except for the given ones, which are inserted unchanged."""
        path = self.path
        for name, value in (GOOD | segments).items():
            path = path.replace(f"{{{name}}}", value)
        return path

    @property
    def example(self) -> dict[str, Any]:
        """A JSON body that the route accepts."""
        if self.id in _BODIES:
            return copy.deepcopy(_BODIES[self.id])
        media = self.content[JSON]
        if "example" in media:
            return copy.deepcopy(dict(media["example"]))
        schema = DOCUMENT["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
        return copy.deepcopy(dict(schema["example"]))

    @property
    def body(self) -> tuple[bytes, str]:
        """A body that the route accepts, and its type; two empty values if it takes no body."""
        if self.id == "register_model":
            return form(field("model_name", "fraud"), field("version", "2.0"), file()), FORM
        if JSON in self.content:
            return orjson.dumps(self.example), JSON
        return (b"weights", "application/octet-stream") if self.content else (b"", "")

    def message(self, target: str | None = None, *headers: str, body: tuple[bytes, str] | None = None) -> bytes:
        """Return an HTTP/1.1 request, exactly as given."""
        content, content_type = self.body if body is None else body
        lines = [HOST, *headers]
        if content or content_type:
            lines += [f"Content-Type: {content_type}", f"Content-Length: {len(content)}"]
        return message(self.method, self.target() if target is None else target, lines, content)


def _all() -> Iterator[Route]:
    for context in iter_route_contexts(APP.routes):
        path = (context.path or "").replace(":path}", "}")
        if context.methods is None:  # a folder of files
            yield Route("GET", f"{path}/{{path}}" if "{path}" not in path else path)
        for method in sorted(context.methods or ()):
            yield Route(method, path)


ROUTES = list(dict.fromkeys(_all()))
DESCRIBED = [route for route in ROUTES if route.operation]
WITH_JSON = [route for route in DESCRIBED if JSON in route.content]
WITH_BODY = [route for route in DESCRIBED if route.content]
WITH_BYTES = [route for route in DESCRIBED if route.answers & {"application/octet-stream", "application/x-tar"}]


async def arrange(client: httpx.AsyncClient) -> None:
    """Create a version of one file with an alias, and one whose file is to be sent through the service."""
    registered = await client.post(
        "/register_model",
        content=form(field("model_name", "fraud"), field("version", "1.0"), file()),
        headers={"Content-Type": FORM},
    )
    assert registered.status_code == 201, registered.text
    aliased = await client.put("/v1/models/fraud/aliases/champion", json={"version": "1.0"})
    assert aliased.status_code == 201, aliased.text


def leaves(tree: Any, way: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths to all texts in a document."""
    match tree:
        case str():
            yield way
        case dict():
            for key, value in tree.items():
                yield from leaves(value, (*way, key))
        case list():
            for index, value in enumerate(tree):
                yield from leaves(value, (*way, index))


def replaced(tree: Any, way: tuple[str | int, ...], value: object) -> Any:
    """Return a copy of the document with another value at this path."""
    if not way:
        return value
    copied = copy.copy(tree)
    copied[way[0]] = replaced(tree[way[0]], way[1:], value)
    return copied


def quoted(text: str) -> str:
    return quote(text, safe="")
