"""The descriptions of the operations on versions."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    AliasNotFound,
    EtagMismatch,
    InvalidField,
    InvalidPageToken,
    ModelNotFound,
    Unavailable,
    VersionAliased,
    VersionChanged,
    VersionNotAvailable,
    VersionNotFound,
    VersionPurged,
)
from model_registry.web.openapi.operation import json_body, operation, response
from model_registry.web.openapi.shared import (
    BAD_LIMIT,
    BAD_NAME,
    ETAG,
    INFO_EXAMPLE,
    MODEL_INFO,
    MODEL_VERSION,
    REMOVED_EXAMPLE,
    bad_flag,
    not_modified,
)
from model_registry.web.requests.body import JSON, MERGE_PATCH
from model_registry.web.responses.schemas import ModelInfoOut, ModelInfoPageOut

InState = Annotated[
    Literal["pending", "verifying", "ready", "removed"],
    Query(description="List versions in this state. Removed versions can be restored until they are purged."),
]
InOrder = Annotated[
    Literal["precedence", "created"],
    Query(description="precedence: the highest version first. created: the last registered version first."),
]
Purge = Annotated[
    bool, Query(description="Delete its bytes permanently and at once, also if the version was removed before.")
]


class VersionPatch(BaseModel):
    """A merge patch (RFC 7396): omitted members stay, null removes a member."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = None
    tags: dict[str, str | float | bool | None] | None = None
    additional_metadata: dict[str, Any] | None = None


class YankIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str | None = None


_PATCH = {
    "description": "Trained on the January data.",
    "tags": {"team": None, "owner": "ada"},
    "additional_metadata": {"metrics": {"auc_march": 0.96}},
}
_REASON = "Wrong labels in the training data."
_PENDING = VersionNotAvailable("fraud-detector", "2.4.0", "pending")
VERSION_PAGE = response(
    "Sorted in the requested order.", ModelInfoPageOut, {"items": [INFO_EXAMPLE], "next_page_token": None}
)


def _changed(description: str, example: dict[str, Any]) -> dict[str, Any]:
    return response(description, ModelInfoOut, example, ETAG)


LIST_VERSIONS = operation(
    "List the versions of a model",
    {200: VERSION_PAGE},
    ModelNotFound,
    BAD_LIMIT,
    BAD_NAME,
    InvalidPageToken,
    Unavailable,
)
GET_VERSION = operation(
    "Get a version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    EtagMismatch,
    BAD_NAME,
    Unavailable,
)
UPDATE_VERSION = operation(
    "Edit a version",
    {200: _changed("The edited version.", INFO_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    _PENDING,
    VersionChanged,
    InvalidField(("body", "model_params"), "this member never changes", {}),
    Unavailable,
    body=json_body(VersionPatch, _PATCH, (MERGE_PATCH, JSON)),
)
REMOVE_VERSION = operation(
    "Remove a version",
    {200: _changed("Removed. You can restore it until `purge_after`, unless it was purged.", REMOVED_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    VersionAliased,
    VersionChanged,
    BAD_NAME,
    bad_flag("force"),
    Unavailable,
)
RESTORE_VERSION = operation(
    "Restore a removed version",
    {200: _changed("Ready again, without its former aliases.", INFO_EXAMPLE | {"aliases": []})},
    ModelNotFound,
    VersionNotFound,
    VersionPurged,
    _PENDING,
    VersionChanged,
    BAD_NAME,
    Unavailable,
)
YANK_VERSION = operation(
    "Yank a version",
    {200: _changed("Yanked.", INFO_EXAMPLE | {"yanked": True, "yank_reason": _REASON})},
    ModelNotFound,
    VersionNotFound,
    _PENDING,
    VersionChanged,
    InvalidField(("body", "reason"), "text is expected", 7),
    Unavailable,
    body=json_body(YankIn, {"reason": _REASON}, is_required=False),
)
UNYANK_VERSION = operation(
    "Unyank a version",
    {200: _changed("No longer yanked.", INFO_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    _PENDING,
    VersionChanged,
    BAD_NAME,
    Unavailable,
)
