"""The OpenAPI document, and Swagger UI and ReDoc with assets of our own: clusters have no internet."""

import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from model_registry.web.requests.body import JSON
from model_registry.web.requests.conditional import is_not_modified

_SCHEMAS = "#/components/schemas/"
_ASSETS = "/docs-assets"
_FOLDER = Path(fastapi_offline.__file__).parent / "static"
_REDOC = f"{_ASSETS}/redoc.standalone.js"
# ReDoc loads this picture from its maker's host, and no option keeps it from that. It shows none where this fails.
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
# The pages' own scripts are inline. Nothing may be fetched from, or sent to, another host.
_CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
_SWAGGER_UI = {"displayRequestDuration": True, "validatorUrl": None}


def operation_id(route: APIRoute) -> str:
    """The handler's name: what generated clients call the method, and what links into the pages end with."""
    return route.name


def openapi(app: FastAPI, models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """The document. `models` are the bodies that handlers read or write themselves, so that FastAPI cannot see them."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, tags=app.openapi_tags, routes=app.routes
    )
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema(
        [(model, "validation") for model in models], ref_template=f"{_SCHEMAS}{{model}}"
    )
    schemas |= definitions["$defs"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for schema in schemas.values():
        if "example" in schema:
            schema["example"] = _with_nulls(schema["example"], schema, schemas)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        if JSON in operation["responses"].get("422", {}).get("content", {}):
            # FastAPI's own, for any route with a parameter; those that can refuse one describe the problem.
            del operation["responses"]["422"]
        for parameter in operation.get("parameters", []):
            parameter["schema"] = _without_null(parameter["schema"])
        for response in operation["responses"].values():
            for media in response.get("content", {}).values():
                if "example" in media:
                    media["example"] = _with_nulls(media["example"], media["schema"], schemas)
                for example in media.get("examples", {}).values():
                    example["value"] = _with_nulls(example["value"], media["schema"], schemas)
    app.openapi_schema = document
    return document


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter can be left out, and that is what `str | None` means of one: on the wire it is never null."""
    match schema:
        case {"anyOf": [dict(stated), {"type": "null"}], **others}:
            return stated | others
        case _:
            return schema


def _with_nulls(example: Any, schema: dict[str, Any], schemas: dict[str, Any]) -> Any:
    """FastAPI takes the nulls out of examples: what is required and is not there was one."""
    match schema, example:
        case {"$ref": str(reference)}, _:
            return _with_nulls(example, schemas[reference.removeprefix(_SCHEMAS)], schemas)
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


def install(app: FastAPI) -> None:
    """Adds `/docs`, `/redoc` and their assets; the app itself must have been made with `docs_url=None`."""

    @app.get("/", include_in_schema=False)
    async def front_door(request: Request) -> RedirectResponse:
        return RedirectResponse(f"{request.scope.get('root_path', '')}/docs")

    @app.get("/docs", include_in_schema=False)
    async def swagger_ui(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        page = get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
            swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
            swagger_ui_parameters=_SWAGGER_UI,
        )
        page.headers.update(_HEADERS)
        return page

    @app.get("/redoc", include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        page = get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{root}{_REDOC}",
            redoc_favicon_url=f"{root}{_ASSETS}/favicon.png",
            with_google_fonts=False,
        )
        page.headers.update(_HEADERS)
        return page

    @app.api_route(_REDOC, methods=["GET", "HEAD"], include_in_schema=False)
    async def redoc_script(request: Request) -> Response:
        script, etag = _redoc_script()
        headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
        if is_not_modified(request.headers, etag):
            return Response(status_code=304, headers=headers)
        return Response(script, headers=headers, media_type="text/javascript")

    # After the route above, which takes one of its files.
    app.mount(_ASSETS, StaticFiles(directory=_FOLDER), name="docs-assets")


@cache
def _redoc_script() -> tuple[bytes, str]:
    """ReDoc without the one address of another host that it fetches, and an ETag."""
    script = (_FOLDER / "redoc.standalone.js").read_bytes().replace(_REDOC_LOGO, b"data:,")
    return script, hashlib.sha256(script).hexdigest()
