"""What the document says of the audit log."""

from typing import Annotated

from fastapi import Query

from model_registry.errors import InvalidPageToken, Unavailable, UnknownPosition
from model_registry.web.openapi.operation import operation, response
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME
from model_registry.web.responses.events import EventPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

OfModel = Annotated[str | None, Query(description="Only what happened to this model; an unknown one has no events.")]
After = Annotated[
    str | None, Query(description="The `next_page_token` of the page before. Left out: from the beginning.")
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
    "What happened",
    {200: response("In the order in which to go on reading.", EventPageOut, _EVENTS)},
    BAD_LIMIT,
    InvalidPageToken("after"),
    UnknownPosition,
    BAD_NAME,
    Unavailable,
    description="""\
The audit log, from the beginning, and then on for ever.

`next_page_token` is never null: an empty page means that you have caught up, and its token goes on from there.
Whoever follows the tokens sees every event exactly once. For that, an event comes only when all changes that
began before it are over, and the order is that of the log, which `time` follows but roughly.

There is one event for each change, committed with it; events outlive what they are about.""",
)
