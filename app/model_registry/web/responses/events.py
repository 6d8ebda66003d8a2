"""Events of the audit log."""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from model_registry.domain.entities import RecordedEvent
from model_registry.utils import rfc3339
from model_registry.web.responses.schemas import TIME_EXAMPLE


class EventOut(BaseModel):
    """Something that happened."""

    id: int
    time: str = Field(examples=[TIME_EXAMPLE])
    actor: str = Field(examples=["anonymous"])
    action: str = Field(description="What happened, such as `version.registered`.", examples=["alias.moved"])
    model: str = Field(examples=["fraud-detector"])
    version: str | None = Field(examples=["2.4.0"])
    details: dict[str, Any] = Field(description="More facts. Each action has its own members.")


class EventPageOut(BaseModel):
    items: list[EventOut] = Field(description="Empty if there are no newer events yet.")
    next_page_token: str = Field(description="The `after` of the next request; never null.")


def event_page_json(items: Sequence[RecordedEvent], next_page_token: str) -> bytes:
    events = [
        {
            "id": item.position.id,
            "time": rfc3339(item.at),
            "actor": item.event.actor,
            "action": item.event.action,
            "model": item.event.model_name,
            "version": item.event.version,
            "details": orjson.Fragment(item.event.details.encode()),
        }
        for item in items
    ]
    return orjson.dumps({"items": events, "next_page_token": next_page_token})
