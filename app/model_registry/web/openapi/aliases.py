"""What the document says of aliases."""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from model_registry.domain.naming_rules import validate_alias
from model_registry.errors import (
    AliasChanged,
    AliasElsewhere,
    AliasNotFound,
    AliasPointedNowhere,
    InvalidPageToken,
    ModelNotFound,
    NoPreviousTarget,
    PreconditionFailed,
    Unavailable,
    VersionNotAvailable,
    VersionNotFound,
)
from model_registry.web.openapi.operation import header, json_body, operation, refusal, response
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME, not_modified
from model_registry.web.responses.aliases import AliasHistoryOut, AliasOut, AliasPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

AliasName = Annotated[str, Path(description="An alias.", json_schema_extra={"example": "champion"})]
At = Annotated[
    str | None,
    Query(description="An RFC 3339 time, UTC where it names no zone: where the alias pointed then."),
]


class AliasIn(BaseModel):
    """Where an alias is to point."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(description="A label; neither `latest` nor another alias.")


class PlannedMoveIn(BaseModel):
    """One move of a swap."""

    model_config = ConfigDict(extra="forbid")

    alias: str
    version: str
    expected_version: str | None = Field(
        None,
        description="Where it must point now; null: nowhere, as a new alias does. Left out: wherever it may point.",
    )


class SwapIn(BaseModel):
    """Moves that are made together, or not at all."""

    model_config = ConfigDict(extra="forbid")

    moves: list[PlannedMoveIn] = Field(min_length=1, max_length=100, description="No alias twice.")


_ETAG = {"ETag": header("The generation.", '"17"')}
_ALIAS = {
    "alias": "champion",
    "version": "2.4.0",
    "generation": 17,
    "updated_at": TIME_EXAMPLE,
    "updated_by": "anonymous",
}
_ALIASES = {"items": [_ALIAS], "next_page_token": None}
_MOVES = {
    "items": [{"version": "2.4.0", "generation": 17, "at": TIME_EXAMPLE, "by": "anonymous"}],
    "next_page_token": None,
}
_SWAP = {
    "moves": [
        {"alias": "champion", "version": "2.4.0", "expected_version": "2.3.1"},
        {"alias": "previous", "version": "2.3.1"},
    ]
}
_BAD_ALIAS = refusal(validate_alias, "2.0")


def _alias(description: str) -> dict[str, Any]:
    return response(description, AliasOut, _ALIAS, _ETAG)


LIST_ALIASES = operation(
    "List the aliases of a model",
    {200: response("By name.", AliasPageOut, _ALIASES)},
    ModelNotFound,
    BAD_LIMIT,
    BAD_NAME,
    InvalidPageToken,
    Unavailable,
)
GET_ALIAS = operation(
    "Where an alias points",
    {200: _alias("The alias, as it is or as it was."), 304: not_modified(_ETAG)},
    ModelNotFound,
    AliasNotFound,
    AliasPointedNowhere,
    PreconditionFailed,
    _BAD_ALIAS,
    Unavailable,
    description="""\
The version that the alias points at, or pointed `at` a time.

The past does not change: a time is answered from the history, also when the alias or the version that it pointed
at is gone since. Such a version may not be there to read any more; `GET …/versions/{version}` says so. A time that
is still to come is answered as now.""",
)
PUT_ALIAS = operation(
    "Point an alias at a version",
    {200: _alias("Moved."), 201: _alias("Made.")},
    ModelNotFound,
    VersionNotFound,
    VersionNotAvailable,
    AliasChanged,
    _BAD_ALIAS,
    Unavailable,
    body=json_body(AliasIn, {"version": "2.4.0"}),
    description="""\
Make an alias, or move it, in one step: who reads sees the old version or the new one.

With `If-Match: "<generation>"` it is moved only if nobody else did so meanwhile, with `If-None-Match: *` only
made; otherwise the answer is 412 and says where it points now. Without either the last writer wins. The history
keeps every move.

Each call makes a new generation, also one to the same version. Only a version that is ready can be the target; a
yanked one can.""",
)
DELETE_ALIAS = operation(
    "Drop an alias",
    {204: response("There is no such alias any more.")},
    ModelNotFound,
    AliasNotFound,
    AliasChanged,
    _BAD_ALIAS,
    Unavailable,
)
GET_ALIAS_HISTORY = operation(
    "Where an alias pointed",
    {200: response("The newest first.", AliasHistoryOut, _MOVES)},
    ModelNotFound,
    AliasNotFound,
    BAD_LIMIT,
    _BAD_ALIAS,
    InvalidPageToken,
    Unavailable,
)
ROLL_BACK_ALIAS = operation(
    "Move an alias back",
    {200: _alias("Moved back.")},
    ModelNotFound,
    AliasNotFound,
    NoPreviousTarget,
    VersionNotAvailable,
    AliasChanged,
    _BAD_ALIAS,
    Unavailable,
)
SWAP_ALIASES = operation(
    "Move several aliases together",
    {200: response("All were moved; in the order of the moves.", AliasPageOut, _ALIASES)},
    ModelNotFound,
    VersionNotFound,
    VersionNotAvailable,
    AliasElsewhere,
    BAD_NAME,
    Unavailable,
    body=json_body(SwapIn, _SWAP),
    description="""\
Move 1 to 100 aliases of a model at one time: all of them, or none.

A move with `expected_version` is made only if the alias points there now, null standing for an alias that does
not exist; otherwise the answer is 412 and nothing was moved. An alias that does not exist is made.""",
)
