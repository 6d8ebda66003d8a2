"""Errors are rendered in the format of the requested route."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from model_registry.api import create_app
from model_registry.errors import ModelNotFound, RegistryError, Unavailable
from model_registry.web.http_errors import status_of
from model_registry.web.problems import MEDIA_TYPE
from tests.support.service import RunningService


def render_other(_scope: Scope, error: RegistryError) -> Response:
    return JSONResponse({"error_code": error.slug.upper(), "message": error.detail}, status_of(error))


class OtherRoute(APIRoute):
    render_error = staticmethod(render_other)


router = APIRouter(prefix="/other", route_class=OtherRoute)


@router.get("/missing")
async def missing() -> None:
    raise ModelNotFound("resnet")


@router.get("/unavailable")
async def unavailable() -> None:
    raise Unavailable("PostgreSQL")


@router.get("/number/{number}")
async def number(number: int) -> int:
    return number


@router.get("/bug")
async def bug() -> None:
    raise RuntimeError("a secret of the service")


@router.get("/unknown_error")
async def unknown_error() -> None:
    raise RegistryError("a secret of the service")


@pytest.fixture
async def client(service: RunningService, fresh: None) -> AsyncIterator[httpx.AsyncClient]:
    """The application with one more router, which has its own format for errors."""
    app = create_app()
    app.include_router(router)
    app.state.services = service.services
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://registry") as client:
        yield client


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/other/missing", 404, "MODEL-NOT-FOUND", id="an error of the registry"),
        pytest.param("/other/unavailable", 503, "UNAVAILABLE", id="a server out of reach"),
        pytest.param("/other/number/seven", 422, "INVALID-REQUEST", id="a parameter of the wrong type"),
        pytest.param("/other/bug", 500, "INTERNAL-ERROR", id="a bug"),
        pytest.param("/other/unknown_error", 500, "INTERNAL-ERROR", id="an error of no kind"),
    ],
)
async def test_a_router_renders_errors_in_its_own_format(
    client: httpx.AsyncClient, path: str, status: int, code: str
) -> None:
    response = await client.get(path)

    assert response.status_code == status
    assert response.json().keys() == {"error_code", "message"}
    assert response.json()["error_code"] == code
    assert "secret" not in response.text
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/get_model_info/alexnet/1", 404, id="an error of the registry"),
        pytest.param("/list_models?limit=5000", 422, id="a parameter out of range"),
        pytest.param("/nowhere", 404, id="a path without a route"),
    ],
)
async def test_the_routes_of_the_registry_keep_problem_details(
    client: httpx.AsyncClient, path: str, status: int
) -> None:
    response = await client.get(path)

    assert response.status_code == status
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.json()["status"] == status


async def test_a_method_that_no_route_supports_gets_the_list_of_methods(client: httpx.AsyncClient) -> None:
    response = await client.put("/list_models")

    assert response.status_code == 405
    assert response.headers["content-type"] == MEDIA_TYPE
    assert response.headers["allow"] == "GET, HEAD"
