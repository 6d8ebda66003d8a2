"""The audit log."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from model_registry.domain.entities import EventPosition
from model_registry.errors import InvalidPageToken, UnknownPosition
from model_registry.services.events import BEGINNING
from model_registry.web.context import Context
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME, UNAVAILABLE, Limit, example
from model_registry.web.problems import ANY_ROUTE, problem_responses
from model_registry.web.requests.body import JSON
from model_registry.web.requests.paging import bigint, page_position, page_token
from model_registry.web.responses.schemas import TIME_EXAMPLE, EventPageOut, event_page_json

router = APIRouter(prefix="/v1/events", tags=["events"], responses=ANY_ROUTE)
REQUEST_MODELS = ()

_EXAMPLE = {
    "items": [
        {
            "id": 42,
            "time": TIME_EXAMPLE,
            "actor": "anonymous",
            "action": "alias.moved",
            "model": "fraud-detector",
            "version": "2.4.0",
            "details": {"alias": "champion", "from": "2.3.1", "to": "2.4.0", "generation": 17},
        }
    ],
    "next_page_token": "W1siZXZlbnRzIixudWxsXSw3NTMsNDJd",
}


@router.get(
    "",
    summary="What happened",
    responses={
        200: {
            "description": "In the order in which to go on reading.",
            "model": EventPageOut,
            "content": example(_EXAMPLE),
        },
        **problem_responses(
            BAD_LIMIT, InvalidPageToken("after"), UnknownPosition(), BAD_NAME, UNAVAILABLE, instance="/v1/events"
        ),
    },
)
async def list_events(
    context: Context,
    model: Annotated[
        str | None, Query(description="Only what happened to this model; an unknown one has no events.")
    ] = None,
    after: Annotated[
        str | None, Query(description="The `next_page_token` of the page before. Left out: from the beginning.")
    ] = None,
    limit: Limit = 100,
) -> Response:
    """The audit log, from the beginning, and then on for ever.

    `next_page_token` is never null: an empty page means that you have caught up, and its token goes on from there.
    Whoever follows the tokens sees every event exactly once. For that, an event comes only when all changes that
    began before it are over, and the order is that of the log, which `time` follows but roughly.

    There is one event for each change, committed with it; events outlive what they are about.
    """
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
