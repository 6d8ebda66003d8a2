"""Search over the versions of all models."""

from datetime import datetime

from fastapi import APIRouter
from starlette.responses import Response

from model_registry.domain.filter_parser import parse_filter
from model_registry.domain.search_order import NEWEST_FIRST, SearchPosition, parse_order
from model_registry.utils import rfc3339
from model_registry.web.context import Context
from model_registry.web.openapi.search import SEARCH_VERSIONS, FilterText, OrderBy
from model_registry.web.openapi.shared import Limit, PageToken
from model_registry.web.requests.paging import page_position, page_token
from model_registry.web.responses.version import listed_response

router = APIRouter(prefix="/v1", tags=["versions"])


@router.get("/versions", **SEARCH_VERSIONS)
async def search_versions(
    context: Context,
    filter: FilterText = None,  # noqa: A002 - the parameter's name on the wire
    order_by: OrderBy = None,
    limit: Limit = 100,
    token: PageToken = None,
) -> Response:
    """Find versions that match a filter, newest first unless you give another order.

    You get only ready versions, unless the filter mentions `state`. A comparison is false if the version does not have
    the value, or has it with another type.
    """
    condition = parse_filter(filter) if filter else None
    order = parse_order(order_by) if order_by else NEWEST_FIRST
    query = ["search", filter, order.field, order.is_descending]
    after = page_position(token or None, query, order.position)
    page = await context.search.page(condition, order=order, after=after, limit=limit, actor=context.actor)
    next_token = page_token(query, *_fields(order.position_of(page.items[-1]))) if page.has_more else None
    return listed_response(page, next_token)


def _fields(position: SearchPosition) -> tuple[str | int, int]:
    value = position.value
    return rfc3339(value) if isinstance(value, datetime) else value, position.tie
