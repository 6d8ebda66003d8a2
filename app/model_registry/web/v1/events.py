"""The audit log."""

from fastapi import APIRouter
from starlette.responses import Response

from model_registry.domain.entities import EventPosition
from model_registry.errors import InvalidPageToken
from model_registry.services.events import BEGINNING
from model_registry.web.context import Context
from model_registry.web.openapi.events import LIST_EVENTS, After, OfModel
from model_registry.web.openapi.shared import Limit
from model_registry.web.requests.body import JSON
from model_registry.web.requests.paging import bigint, page_position, page_token
from model_registry.web.responses.events import event_page_json

router = APIRouter(prefix="/v1/events", tags=["events"])


@router.get("", **LIST_EVENTS)
async def list_events(context: Context, model: OfModel = None, after: After = None, limit: Limit = 100) -> Response:
    """Read the audit log from the beginning, and continue with new events."""
    query = ["events", model]
    position = _position(after, query)
    events = await context.events.after(position, model_name=model, limit=limit, actor=context.actor)
    reached = events[-1].position if events else position
    return Response(event_page_json(events, page_token(query, reached.xid, reached.id)), media_type=JSON)


def _position(token: str | None, query: list[str | None]) -> EventPosition:
    try:
        position = page_position(token or None, query, _to_position)
    except InvalidPageToken:
        raise InvalidPageToken("after") from None
    return position or BEGINNING


def _to_position(xid: object, event_id: object) -> EventPosition:
    return EventPosition(bigint(xid, at_least=0), bigint(event_id, at_least=0))
