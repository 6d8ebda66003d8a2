"""The OpenAPI document: FastAPI's, completed."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic.json_schema import models_json_schema

from model_registry.web.openapi.operation import SCHEMAS, referenced
from model_registry.web.problems import MEDIA_TYPE as PROBLEM
from model_registry.web.requests.body import JSON

TITLE = "Model Registry Service"
DESCRIPTION = """\
Stores, versions and serves machine-learning models.

* **A version never changes**. Its label never names other bytes, not even after removal.
* **A visible version is complete**: it appears only after all of its bytes are stored and hashed.
* **Errors** are [RFC 9457](https://www.rfc-editor.org/rfc/rfc9457) problem details. Match on `type`, read `detail`.
* If a read takes a `{version}`, you can also use `latest` or `@alias`. `X-Model-Version` tells which version you got.
"""
TAGS = [
    {"name": "registry", "description": "Register, find, download and remove versions of models."},
    {"name": "models", "description": "Names that group versions."},
    {"name": "versions", "description": "Push, read, edit, yank, remove, restore and search versions."},
    {"name": "files", "description": "The bytes of a version: its manifest, single files, or all files as an archive."},
    {"name": "aliases", "description": "Names such as `champion` that move from version to version."},
    {"name": "events", "description": "The audit log."},
    {"name": "operations", "description": "Health, readiness and metrics."},
]


def operation_id(route: APIRoute) -> str:
    """The handler's name. Generated clients use it as the name of the method, and links into the pages end with it."""
    return route.name


def openapi(app: FastAPI) -> dict[str, Any]:
    """Return FastAPI's document, completed with what FastAPI cannot see in the routes."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    models = sorted(referenced, key=lambda model: model.__name__)
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=f"{SCHEMAS}{{model}}")
    schemas |= definitions["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for schema in schemas.values():
        if "example" in schema:
            schema["example"] = _with_nulls(schema["example"], schema, schemas)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _complete(operation, path, schemas)
    app.openapi_schema = document
    return document


def _complete(operation: dict[str, Any], path: str, schemas: dict[str, Any]) -> None:
    if JSON in operation["responses"].get("422", {}).get("content", {}):
        # FastAPI adds this to every route with a parameter. Routes that can refuse a parameter describe the problem.
        del operation["responses"]["422"]
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _as_sent(parameter["schema"])
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["example"])
    for response in operation["responses"].values():
        for media_type, media in response.get("content", {}).items():
            for holder, key in _examples(media):
                holder[key] = _with_nulls(holder[key], media["schema"], schemas)
                if media_type == PROBLEM:
                    holder[key]["instance"] = path


def _examples(media: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    named = [(example, "value") for example in media.get("examples", {}).values()]
    return [*named, (media, "example")] if "example" in media else named


def _as_sent(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter as it is on the wire.

    A parameter can be omitted but is never null. A header that can come several times is still one text.
    """
    match schema:
        case {"anyOf": [{"type": "array", "items": dict(stated)} | dict(stated), {"type": "null"}], **others}:
            return stated | others
        case _:
            return schema


def _with_nulls(example: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """Put back the nulls that FastAPI takes out of examples: a required member that is missing was null."""
    match schema, example:
        case {"$ref": str(reference)}, _:
            return _with_nulls(example, schemas[reference.removeprefix(SCHEMAS)], schemas)
        case {"items": dict(inner)}, list():
            return [_with_nulls(item, inner, schemas) for item in example]
        case {"properties": dict(properties)}, dict():
            shown = [name for name in properties if name in example or name in schema.get("required", ())]
            return {name: _with_nulls(example.get(name), properties[name], schemas) for name in shown} | {
                name: value for name, value in example.items() if name not in properties
            }
        case {"additionalProperties": dict(inner)}, dict():
            return {name: _with_nulls(value, inner, schemas) for name, value in example.items()}
        case _:
            return example
