"""The service handles all requests that Schemathesis derives from the OpenAPI document as the document says."""

import asyncio
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, CheckFunction, GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.security.conftest import Watch
from tests.security.routes import DESCRIBED, DOCUMENT, Route
from tests.support.forms import field, file, register_form
from tests.support.service import RunningService

SCHEMA = schemathesis.openapi.from_dict(DOCUMENT, config=schemathesis.Config())
MODES = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
SOME = settings(max_examples=8, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
# The service may refuse what a schema allows: a version that exists already, an ETag of an older state, two paths that
# clash. Such a refusal is a 4xx that the document names, and that is checked.
SKIPPED: list[CheckFunction] = [positive_data_acceptance]


async def arranged(client: httpx.AsyncClient) -> None:
    """Create what the examples in the document refer to."""
    await register_form(client, field("model_name", "fraud-detector"), field("version", "2.4.0"), file())
    alias = await client.put("/v1/models/fraud-detector/aliases/champion", json={"version": "2.4.0"})
    assert alias.status_code == 201


@pytest.mark.parametrize("route", DESCRIBED, ids=lambda route: route.id)
async def test_every_answer_is_as_it_is_described(
    service: RunningService, client: httpx.AsyncClient, watch: Watch, route: Route
) -> None:
    """Every status, header, media type and body is in the document, and none is a 5xx; invalid requests are refused.

    First the bounds of every parameter and field, one by one, then all of them at random.
    """
    await arranged(client)
    operation = SCHEMA.find_operation_by_label(route.name)
    assert operation is not None
    config = SCHEMA.config.generation
    is_known = {"name": "fraud-detector", "model_name": "fraud-detector", "version": "2.4.0"}
    known = {name: value for name, value in is_known.items() if name in route.parameters("path")}

    def check_all() -> None:
        with requests.Session() as session:

            def check(case: Case[Any]) -> None:
                response = case.call(base_url=service.url, session=session, timeout=20)
                case.validate_response(response, excluded_checks=SKIPPED)

            for case in SCHEMA.iter_coverage_cases(operation, generation_modes=MODES, generation_config=config):
                check(case)
            SOME(given(operation.as_strategy(path_parameters=known))(check))()
            if route.content or route.parameters("query"):
                SOME(given(operation.as_strategy(GenerationMode.NEGATIVE))(check))()

    await asyncio.to_thread(check_all)
    await watch.arranged()
