"""The descriptions of the operations on aliases."""

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field

from model_registry.domain.naming_rules import validate_alias
from model_registry.errors import (
    AliasChanged,
    AliasElsewhere,
    AliasNotFound,
    AliasPointedNowhere,
    EtagMismatch,
    InvalidPageToken,
    ModelNotFound,
    NoPreviousTarget,
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
    Query(description="Where the alias pointed at this time (RFC 3339; UTC if it has no zone)."),
]


class AliasIn(BaseModel):
    """The version at which an alias should point."""

    model_config = ConfigDict(extra="forbid")

    version: str = Field(description="A label, not `latest` and not another alias.")


class PlannedMoveIn(BaseModel):
    """One move of a swap."""

    model_config = ConfigDict(extra="forbid")

    alias: str
    version: str
    expected_version: str | None = Field(
        None,
        description="Where the alias must point now; null: it must not exist. Default: anywhere.",
    )


class SwapIn(BaseModel):
    """Moves that happen together, or not at all."""

    model_config = ConfigDict(extra="forbid")

    moves: list[PlannedMoveIn] = Field(min_length=1, max_length=100, description="Each alias at most once.")


_ETAG = {"ETag": header("The generation of the alias.", '"17"')}
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
    {200: response("Sorted by name.", AliasPageOut, _ALIASES)},
    ModelNotFound,
    BAD_LIMIT,
    BAD_NAME,
    InvalidPageToken,
    Unavailable,
)
GET_ALIAS = operation(
    "Get an alias",
    {200: _alias("The alias, now or at the given time."), 304: not_modified(_ETAG)},
    ModelNotFound,
    AliasNotFound,
    AliasPointedNowhere,
    EtagMismatch,
    _BAD_ALIAS,
    Unavailable,
    description="""\
Get the version at which the alias points, or pointed `at` a given time.

For a time in the past, the response comes from the history, even if the alias or the version was removed since then.
You may be unable to read such a version; use `GET …/versions/{version}` to find out. For a time in the future, the
response is the same as for now.""",
)
PUT_ALIAS = operation(
    "Point an alias at a version",
    {200: _alias("Moved."), 201: _alias("Created.")},
    ModelNotFound,
    VersionNotFound,
    VersionNotAvailable,
    AliasChanged,
    _BAD_ALIAS,
    Unavailable,
    body=json_body(AliasIn, {"version": "2.4.0"}),
    description="""\
Create an alias or move it, in one atomic step: a reader sees the old version or the new version.

With `If-Match: "<generation>"`, the alias moves only if it did not change since you read it. With `If-None-Match: *`,
the alias is only created, never moved. Otherwise, the response is 412 and tells where the alias points now. Without
either header, the last writer wins. The history keeps every move.

Each call creates a new generation, even if the version stays the same. The target must be a ready version; it can be
yanked.""",
)
DELETE_ALIAS = operation(
    "Drop an alias",
    {204: response("Dropped.")},
    ModelNotFound,
    AliasNotFound,
    AliasChanged,
    _BAD_ALIAS,
    Unavailable,
)
GET_ALIAS_HISTORY = operation(
    "Get the history of an alias",
    {200: response("The newest move first.", AliasHistoryOut, _MOVES)},
    ModelNotFound,
    AliasNotFound,
    BAD_LIMIT,
    _BAD_ALIAS,
    InvalidPageToken,
    Unavailable,
)
ROLL_BACK_ALIAS = operation(
    "Move an alias back to its previous version",
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
    {200: response("All aliases moved. They are in the order of the moves.", AliasPageOut, _ALIASES)},
    ModelNotFound,
    VersionNotFound,
    VersionNotAvailable,
    AliasElsewhere,
    BAD_NAME,
    Unavailable,
    body=json_body(SwapIn, _SWAP),
    description="""\
Move 1 to 100 aliases of a model in one atomic step: all of them, or none.

If a move has an `expected_version`, the alias must point at it now; null means that the alias must not exist.
Otherwise, the response is 412 and no alias moves. An alias that does not exist is created.""",
)
