"""Search over the versions of all models."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from model_registry.domain.search_filter import NEWEST_FIRST, InvalidFilter, SearchPosition, parse_filter, parse_order
from model_registry.errors import InvalidField
from model_registry.utils import rfc3339
from model_registry.web.context import Context
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_TOKEN, UNAVAILABLE, Limit, PageToken
from model_registry.web.problems import ANY_ROUTE, problem_responses
from model_registry.web.requests import paging
from model_registry.web.requests.body import JSON
from model_registry.web.responses.schemas import listed_json
from model_registry.web.v1.versions import INFO_PAGE

router = APIRouter(prefix="/v1", tags=["versions"], responses=ANY_ROUTE)
REQUEST_MODELS = ()


def _refused(text: str) -> InvalidFilter | InvalidField:
    """What the parser itself says."""
    try:
        parse_filter(text)
    except InvalidFilter as error:
        return error
    raise AssertionError(text)


@router.get(
    "/versions",
    summary="Search versions of all models",
    responses={
        200: {"description": "In the order that was asked for.", **INFO_PAGE},
        **problem_responses(
            _refused("model_nam = 'fraud'"), BAD_LIMIT, BAD_TOKEN, UNAVAILABLE, instance="/v1/versions"
        ),
    },
)
async def search_versions(
    context: Context,
    filter: Annotated[  # noqa: A002 - the parameter's name on the wire
        str | None,
        Query(
            description="Comparisons (`= != < <= > >= LIKE ILIKE IN`) joined by AND, OR, NOT and parentheses, over "
            "`model_name`, `version`, `number`, `state`, `size_bytes`, `created_at`, `created_by`, `tags.<key>`, "
            "`model_params.<path>`, `standardization_params.<path>` and `additional_metadata.<path>`.",
            json_schema_extra={"example": "additional_metadata.metrics.auc >= 0.9 AND tags.team = 'risk'"},
        ),
    ] = None,
    order_by: Annotated[
        str | None,
        Query(
            description="One of `created_at`, `model_name`, `number` and `size_bytes`, with `ASC` or `DESC`.",
            json_schema_extra={"example": "created_at DESC"},
        ),
    ] = None,
    limit: Limit = 100,
    page_token: PageToken = None,
) -> Response:
    """Versions that a filter is for, newest first unless you say otherwise. Only ready ones, unless the filter mentions
    `state`. A comparison with what a version does not have, or has as another type, is false."""
    condition = parse_filter(filter) if filter else None
    order = parse_order(order_by) if order_by else NEWEST_FIRST
    query = ["search", filter, order.field, order.is_descending]
    page = await context.search.page(
        condition,
        order=order,
        after=paging.page_position(page_token or None, query, order.position),
        limit=limit,
        actor=context.actor,
    )
    token = paging.page_token(query, *_fields(order.position_of(page.items[-1]))) if page.has_more else None
    return Response(listed_json(page.items, token), media_type=JSON)


def _fields(position: SearchPosition) -> tuple[str | int, int]:
    value = position.value
    return rfc3339(value) if isinstance(value, datetime) else value, position.tie
