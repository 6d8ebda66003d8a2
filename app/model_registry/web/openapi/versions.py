"""What the document says of versions."""

from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    AliasNotFound,
    InvalidField,
    InvalidPageToken,
    ModelNotFound,
    PreconditionFailed,
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
    Query(description="Versions in this state; removed ones can be restored until they are purged."),
]
InOrder = Annotated[
    Literal["precedence", "created"],
    Query(description="precedence: newest version first. created: last registered first."),
]
Force = Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")]
Purge = Annotated[
    bool, Query(description="Give up its bytes for good, now; also of a version that was removed before.")
]


class VersionPatch(BaseModel):
    """A merge patch (RFC 7396): what is left out stays, null takes away."""

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
    "In the order that was asked for.", ModelInfoPageOut, {"items": [INFO_EXAMPLE], "next_page_token": None}
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
    "Everything about one version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    PreconditionFailed,
    BAD_NAME,
    Unavailable,
)
UPDATE_VERSION = operation(
    "Describe a version otherwise",
    {200: _changed("As it is now.", INFO_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    _PENDING,
    VersionChanged,
    InvalidField(("body", "model_params"), "this is frozen: it never changes", {}),
    Unavailable,
    body=json_body(VersionPatch, _PATCH, (MERGE_PATCH, JSON)),
)
REMOVE_VERSION = operation(
    "Remove a version",
    {200: _changed("Removed; until `purge_after` it can be restored, unless it was purged.", REMOVED_EXAMPLE)},
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
    {200: _changed("Ready again, without the aliases that it had.", INFO_EXAMPLE | {"aliases": []})},
    ModelNotFound,
    VersionNotFound,
    VersionPurged,
    _PENDING,
    VersionChanged,
    BAD_NAME,
    Unavailable,
)
YANK_VERSION = operation(
    "Warn of a version",
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
    "Take the warning back",
    {200: _changed("Not yanked.", INFO_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    _PENDING,
    VersionChanged,
    BAD_NAME,
    Unavailable,
)
