"""Aliases and their history."""

from collections.abc import Sequence
from typing import Any

import orjson
from pydantic import BaseModel, Field

from model_registry.domain.entities import Alias, AliasMove
from model_registry.utils import rfc3339
from model_registry.web.responses.schemas import TIME_EXAMPLE


class AliasOut(BaseModel):
    """A name that points at a version."""

    alias: str = Field(examples=["champion"])
    version: str = Field(examples=["2.4.0"])
    generation: int = Field(description="Changes with each move and is never reused. It is also the ETag.")
    updated_at: str = Field(examples=[TIME_EXAMPLE])
    updated_by: str = Field(examples=["anonymous"])


class AliasPageOut(BaseModel):
    items: list[AliasOut]
    next_page_token: str | None = Field(description="null on the last page.")


class AliasMoveOut(BaseModel):
    """The version at which an alias pointed from the time `at`."""

    version: str | None = Field(description="null if the alias was dropped.", examples=["2.4.0"])
    generation: int
    at: str = Field(examples=[TIME_EXAMPLE])
    by: str = Field(examples=["anonymous"])


class AliasHistoryOut(BaseModel):
    items: list[AliasMoveOut]
    next_page_token: str | None = Field(description="null on the last page.")


def alias_json(alias: Alias) -> bytes:
    return orjson.dumps(alias_members(alias))


def alias_page_json(items: Sequence[Alias], next_page_token: str | None) -> bytes:
    return orjson.dumps({"items": [alias_members(alias) for alias in items], "next_page_token": next_page_token})


def alias_history_json(items: Sequence[AliasMove], next_page_token: str | None) -> bytes:
    moves = [
        {"version": move.version, "generation": move.generation, "at": rfc3339(move.at), "by": move.by}
        for move in items
    ]
    return orjson.dumps({"items": moves, "next_page_token": next_page_token})


def alias_members(alias: Alias) -> dict[str, Any]:
    return {
        "alias": alias.alias,
        "version": alias.version,
        "generation": alias.generation,
        "updated_at": rfc3339(alias.updated_at),
        "updated_by": alias.updated_by,
    }
