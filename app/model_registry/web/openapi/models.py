"""What the document says of models."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    InvalidField,
    InvalidPageToken,
    ModelChanged,
    ModelExists,
    ModelInUse,
    ModelNameTaken,
    ModelNotFound,
    PreconditionFailed,
    Unavailable,
)
from model_registry.web.openapi.operation import header, json_body, operation, response
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME, not_modified
from model_registry.web.requests.body import JSON, MERGE_PATCH
from model_registry.web.responses.models import DescribedModelOut, ModelPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

MAX_SEARCH = 256
SEARCH_RULE = f"at most {MAX_SEARCH} characters, and no NUL"

NamePart = Annotated[str | None, Query(description="Part of the name, in any case.")]


class ModelIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str | None = None
    tags: dict[str, str | float | bool] = {}


class ModelPatch(BaseModel):
    """A merge patch (RFC 7396): what is left out stays, null takes away."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = None
    tags: dict[str, str | float | bool | None] | None = None


_NEW = {"name": "fraud-detector", "description": "Card payments.", "tags": {"team": "risk"}}
_PATCH = {"description": "Card payments, since March.", "tags": {"team": None, "owner": "ada"}}
_LISTED = _NEW | {
    "created_at": TIME_EXAMPLE,
    "updated_at": TIME_EXAMPLE,
    "latest_version": "2.4.0",
    "version_count": 7,
}
_ALIAS = {
    "alias": "champion",
    "version": "2.4.0",
    "generation": 17,
    "updated_at": TIME_EXAMPLE,
    "updated_by": "anonymous",
}
_MODEL = _LISTED | {"aliases": [_ALIAS]}
_CREATED = _MODEL | {"latest_version": None, "version_count": 0, "aliases": []}
_ETAG = {"ETag": header("Of everything that is shown.", '"5f3c9a0e1b2d4c6f8a7b9c0d1e2f3a4b"')}
_LOCATION = {"Location": header("Where to read it.", "/v1/models/fraud-detector")}


def _model(description: str) -> dict[str, Any]:
    return response(description, DescribedModelOut, _MODEL, _ETAG)


FIND_MODELS = operation(
    "Find models",
    {200: response("By name.", ModelPageOut, {"items": [_LISTED], "next_page_token": None})},
    BAD_LIMIT,
    InvalidPageToken,
    InvalidField(("query", "search"), SEARCH_RULE, "a" * 300),
    Unavailable,
)
CREATE_MODEL = operation(
    "Make a model",
    {201: response("Made.", DescribedModelOut, _CREATED, _ETAG | _LOCATION)},
    ModelExists,
    ModelNameTaken,
    InvalidField(("body", "name"), "this field is required", None),
    Unavailable,
    body=json_body(ModelIn, _NEW),
)
GET_MODEL = operation(
    "Everything about one model",
    {200: _model("The model."), 304: not_modified(_ETAG)},
    ModelNotFound,
    PreconditionFailed,
    BAD_NAME,
    Unavailable,
)
UPDATE_MODEL = operation(
    "Describe a model otherwise",
    {200: _model("As it is now.")},
    ModelNotFound,
    ModelChanged,
    InvalidField(("body", "owner"), "no such field; there are description, tags", "ada"),
    Unavailable,
    body=json_body(ModelPatch, _PATCH, (MERGE_PATCH, JSON)),
)
DELETE_MODEL = operation(
    "Delete a model that never had a version",
    {204: response("Deleted.")},
    ModelNotFound,
    ModelInUse,
    ModelChanged,
    BAD_NAME,
    Unavailable,
)
