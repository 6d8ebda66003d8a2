"""Swagger UI and ReDoc. The service serves their assets itself, because clusters often have no internet access."""

import hashlib
from functools import cache
from pathlib import Path

import fastapi_offline
from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles

from model_registry.web.requests.conditional import ReadConditions

_ASSETS = "/docs-assets"
_FOLDER = Path(fastapi_offline.__file__).parent / "static"
_REDOC = f"{_ASSETS}/redoc.standalone.js"
# ReDoc loads this image from its vendor's host, and no option prevents that. If that fails, it shows no image.
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
# The scripts of the pages are inline. The pages must not contact any other host.
_CSP = (
    "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; worker-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {"Content-Security-Policy": _CSP, "X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"}
_SWAGGER_UI = {"displayRequestDuration": True, "validatorUrl": None}


router = APIRouter(include_in_schema=False)


@router.get("/")
async def front_door(request: Request) -> RedirectResponse:
    return RedirectResponse(f"{_root(request)}/docs")


@router.get("/docs")
async def swagger_ui(request: Request) -> HTMLResponse:
    root = _root(request)
    page = get_swagger_ui_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=f"{request.app.title} - Swagger UI",
        swagger_js_url=f"{root}{_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{_ASSETS}/favicon.png",
        swagger_ui_parameters=_SWAGGER_UI,
    )
    page.headers.update(_HEADERS)
    return page


@router.get("/redoc")
async def redoc(request: Request) -> HTMLResponse:
    root = _root(request)
    page = get_redoc_html(
        openapi_url=f"{root}{request.app.openapi_url}",
        title=f"{request.app.title} - ReDoc",
        redoc_js_url=f"{root}{_REDOC}",
        redoc_favicon_url=f"{root}{_ASSETS}/favicon.png",
        with_google_fonts=False,
    )
    page.headers.update(_HEADERS)
    return page


@router.api_route(_REDOC, methods=["GET", "HEAD"])
async def redoc_script(conditions: ReadConditions) -> Response:
    script, etag = _redoc_script()
    headers = {"ETag": f'"{etag}"', "Cache-Control": "no-cache"}
    if conditions.not_modified(etag):
        return Response(status_code=304, headers=headers)
    return Response(script, headers=headers, media_type="text/javascript")


def install(app: FastAPI) -> None:
    """Add `/docs`, `/redoc` and their assets. The application must be created with `docs_url=None`."""
    app.include_router(router)
    # The files come after the router, which serves one of them itself.
    app.mount(_ASSETS, StaticFiles(directory=_FOLDER), name="docs-assets")


def _root(request: Request) -> str:
    root: str = request.scope.get("root_path", "")
    return root


@cache
def _redoc_script() -> tuple[bytes, str]:
    """Return ReDoc without the address of another host that it would fetch, and an ETag."""
    script = (_FOLDER / "redoc.standalone.js").read_bytes().replace(_REDOC_LOGO, b"data:,")
    return script, hashlib.sha256(script).hexdigest()
