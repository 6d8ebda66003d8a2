"""The descriptions of the operations on models."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    EtagMismatch,
    InvalidField,
    InvalidPageToken,
    ModelChanged,
    ModelExists,
    ModelInUse,
    ModelNameTaken,
    ModelNotFound,
    Unavailable,
)
from model_registry.web.openapi.operation import header, json_body, operation, response
from model_registry.web.openapi.shared import BAD_LIMIT, BAD_NAME, not_modified
from model_registry.web.requests.body import JSON, MERGE_PATCH
from model_registry.web.responses.models import DescribedModelOut, ModelPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

MAX_SEARCH = 256
SEARCH_RULE = f"at most {MAX_SEARCH} characters, without NUL"

NamePart = Annotated[str | None, Query(description="A part of the name, regardless of case.")]


class ModelIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str | None = None
    tags: dict[str, str | float | bool] = {}


class ModelPatch(BaseModel):
    """A merge patch (RFC 7396): omitted members stay, null removes a member."""

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
_ETAG = {"ETag": header("Changes with any member of the response.", '"5f3c9a0e1b2d4c6f8a7b9c0d1e2f3a4b"')}
_LOCATION = {"Location": header("The URL of the model.", "/v1/models/fraud-detector")}


def _model(description: str) -> dict[str, Any]:
    return response(description, DescribedModelOut, _MODEL, _ETAG)


FIND_MODELS = operation(
    "Find models",
    {200: response("Sorted by name.", ModelPageOut, {"items": [_LISTED], "next_page_token": None})},
    BAD_LIMIT,
    InvalidPageToken,
    InvalidField(("query", "search"), SEARCH_RULE, "a" * 300),
    Unavailable,
)
CREATE_MODEL = operation(
    "Create a model",
    {201: response("Created.", DescribedModelOut, _CREATED, _ETAG | _LOCATION)},
    ModelExists,
    ModelNameTaken,
    InvalidField(("body", "name"), "this field is required", None),
    Unavailable,
    body=json_body(ModelIn, _NEW),
)
GET_MODEL = operation(
    "Get a model",
    {200: _model("The model."), 304: not_modified(_ETAG)},
    ModelNotFound,
    EtagMismatch,
    BAD_NAME,
    Unavailable,
)
UPDATE_MODEL = operation(
    "Edit a model",
    {200: _model("The edited model.")},
    ModelNotFound,
    ModelChanged,
    InvalidField(("body", "owner"), "no such field; the fields are description, tags", "ada"),
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
