"""The description of the audit log."""

from typing import Annotated

from fastapi import Query

from model_registry.errors import InvalidPageToken, Unavailable, UnknownPosition
from model_registry.web.openapi.operation import operation, response
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME
from model_registry.web.responses.events import EventPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

OfModel = Annotated[str | None, Query(description="List only events of this model. An unknown model has no events.")]
After = Annotated[
    str | None, Query(description="The `next_page_token` of the previous page. Default: the beginning of the log.")
]

_EVENT = {
    "id": 42,
    "time": TIME_EXAMPLE,
    "actor": "anonymous",
    "action": "alias.moved",
    "model": "fraud-detector",
    "version": "2.4.0",
    "details": {"alias": "champion", "from": "2.3.1", "to": "2.4.0", "generation": 17},
}
_EVENTS = {"items": [_EVENT], "next_page_token": "W1siZXZlbnRzIixudWxsXSw3NTMsNDJd"}

LIST_EVENTS = operation(
    "Read the audit log",
    {200: response("Events in the order of the log.", EventPageOut, _EVENTS)},
    BAD_LIMIT,
    InvalidPageToken("after"),
    UnknownPosition,
    BAD_NAME,
    Unavailable,
    description="""\
Read the audit log from the beginning, and continue with new events.

`next_page_token` is never null. An empty page means that there are no newer events yet; use its token to continue from
there. If you follow the tokens, you get every event exactly once. To make this possible, an event appears only
after all changes that began before it have ended, and the order of the log follows `time` only roughly.

Each change has one event, which is committed with it. Events stay after their subject is deleted.""",
)
