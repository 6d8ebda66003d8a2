"""Models: the names that versions are kept under."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from model_registry.domain.entities import RegisteredModel
from model_registry.domain.naming_rules import MAX_TAG_KEY, MAX_TAG_VALUE, validate_model_name
from model_registry.errors import InvalidField, ModelChanged, ModelExists, ModelInUse, ModelNameTaken
from model_registry.services.models import DescribedModel
from model_registry.utils import rfc3339
from model_registry.web.context import Context
from model_registry.web.openapi.shared import (
    BAD_BODY_TYPE,
    BAD_LIMIT,
    BAD_NAME,
    BAD_PATCH_TYPE,
    BAD_TOKEN,
    NO_MATCH,
    NO_MODEL,
    STALLED,
    UNAVAILABLE,
    IfMatch,
    IfNoneMatch,
    Limit,
    ModelName,
    PageToken,
    described_body,
    example,
    header,
)
from model_registry.web.problems import ANY_ROUTE, problem_responses
from model_registry.web.requests import paging
from model_registry.web.requests.body import JSON, MERGE_PATCH, json_body
from model_registry.web.requests.conditional import is_not_modified, precondition
from model_registry.web.requests.json_fields import Fields
from model_registry.web.responses.schemas import TIME_EXAMPLE, AliasOut, alias_members
from model_registry.web.v1.bodies import annotations_of, check_patch

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ANY_ROUTE)

_MAX_SEARCH = 256
_MAX_TAGS_ASKED = 32
_TAG = "tag."


class ModelOut(BaseModel):
    """A name that versions are kept under."""

    name: str = Field(examples=["fraud-detector"])
    description: str | None
    tags: dict[str, str | float | bool]
    created_at: str = Field(examples=[TIME_EXAMPLE])
    updated_at: str = Field(examples=[TIME_EXAMPLE], description="When it was last described.")
    latest_version: str | None = Field(description="What `latest` means; null where there is no version to show.")
    version_count: int = Field(description="Of ready versions.")


class DescribedModelOut(ModelOut):
    """A model with its aliases."""

    aliases: list[AliasOut] = Field(description="The first 1,000, by name.")


class ModelPageOut(BaseModel):
    items: list[ModelOut]
    next_page_token: str | None


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


REQUEST_MODELS = (ModelIn, ModelPatch)

_NEW_EXAMPLE = {"name": "fraud-detector", "description": "Card payments.", "tags": {"team": "risk"}}
_PATCH_EXAMPLE = {"description": "Card payments, since March.", "tags": {"team": None, "owner": "ada"}}
_MODEL_EXAMPLE = _NEW_EXAMPLE | {
    "created_at": TIME_EXAMPLE,
    "updated_at": TIME_EXAMPLE,
    "latest_version": "2.4.0",
    "version_count": 7,
}
_DESCRIBED_EXAMPLE = _MODEL_EXAMPLE | {
    "aliases": [
        {
            "alias": "champion",
            "version": "2.4.0",
            "generation": 17,
            "updated_at": TIME_EXAMPLE,
            "updated_by": "anonymous",
        }
    ]
}
_ETAG = {"ETag": header("Of everything that is shown.", '"5f3c9a0e1b2d4c6f8a7b9c0d1e2f3a4b"')}
_NEW_MODEL_EXAMPLE = _DESCRIBED_EXAMPLE | {"latest_version": None, "version_count": 0, "aliases": []}
_CHANGED = ModelChanged("fraud-detector", "5f3c9a0e1b2d")
_INSTANCE = "/v1/models/fraud-detector"


def _described(description: str, **more: Any) -> dict[str, Any]:
    return {
        "description": description,
        "model": DescribedModelOut,
        "content": example(_DESCRIBED_EXAMPLE),
        "headers": _ETAG,
    } | more


@router.get(
    "",
    summary="Find models",
    responses={
        200: {
            "description": "By name.",
            "model": ModelPageOut,
            "content": example({"items": [_MODEL_EXAMPLE], "next_page_token": None}),
        },
        **problem_responses(
            BAD_LIMIT,
            BAD_TOKEN,
            InvalidField(("query", "search"), f"at most {_MAX_SEARCH} characters, and no NUL", "a" * 300),
            UNAVAILABLE,
            instance="/v1/models",
        ),
    },
)
async def find_models(
    request: Request,
    context: Context,
    search: Annotated[str | None, Query(description="Part of the name, in any case.")] = None,
    limit: Limit = 100,
    page_token: PageToken = None,
) -> Response:
    """Models by name, page by page. `tag.<key>=<value>`, as often as you like, asks for those with such tags."""
    if search is not None and (len(search) > _MAX_SEARCH or "\x00" in search):
        raise InvalidField(("query", "search"), f"at most {_MAX_SEARCH} characters, and no NUL", search)
    tags = _tags(request)
    query = ["models", search, sorted(tags.items())]
    page = await context.catalog.page(
        search=search,
        tags=tags,
        after=paging.page_position(page_token or None, query, lambda name: validate_model_name(name)),
        limit=limit,
        actor=context.actor,
    )
    token = paging.page_token(query, page.items[-1].name) if page.has_more else None
    items = [_members(model) for model in page.items]
    return Response(orjson.dumps({"items": items, "next_page_token": token}), media_type=JSON)


def _tags(request: Request) -> dict[str, str]:
    tags: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith(_TAG):
            continue
        key = name.removeprefix(_TAG)
        if not 0 < len(key) <= MAX_TAG_KEY or len(value) > MAX_TAG_VALUE or "\x00" in key + value:
            rule = f"a tag has a key of at most {MAX_TAG_KEY} and a value of at most {MAX_TAG_VALUE} characters, no NUL"
            raise InvalidField(("query", name), rule, value)
        if tags.setdefault(key, value) != value:
            raise InvalidField(("query", name), "a tag has one value, so no model has both", value)
        if len(tags) > _MAX_TAGS_ASKED:
            raise InvalidField(("query", name), f"a query asks for at most {_MAX_TAGS_ASKED} tags", value)
    return tags


@router.post(
    "",
    status_code=201,
    summary="Make a model",
    openapi_extra=described_body(ModelIn, _NEW_EXAMPLE),
    responses={
        201: _described(
            "Made.",
            content=example(_NEW_MODEL_EXAMPLE),
            headers=_ETAG | {"Location": header("Where to read it.", _INSTANCE)},
        ),
        **problem_responses(
            ModelExists("fraud-detector"),
            ModelNameTaken("Fraud-Detector", "fraud-detector"),
            BAD_BODY_TYPE,
            InvalidField(("body", "name"), "this field is required", None),
            STALLED,
            UNAVAILABLE,
            instance="/v1/models",
        ),
    },
)
async def create_model(request: Request, context: Context) -> Response:
    """A model of its own accord; registering or pushing a first version makes one too."""
    body = Fields(await json_body(request, context.settings), ("name", "description", "tags"))
    described = await context.catalog.create(body.text("name"), annotations_of(body), actor=context.actor)
    headers = {"Location": f"/v1/models/{described.model.name}", "ETag": f'"{described.etag}"'}
    return Response(_json(described), 201, headers, JSON)


@router.get(
    "/{name}",
    summary="Everything about one model",
    responses={
        200: _described("The model."),
        304: {"description": "What you hold is still right.", "headers": _ETAG},
        **problem_responses(NO_MODEL, NO_MATCH, BAD_NAME, UNAVAILABLE, instance=_INSTANCE),
    },
)
async def get_model_resource(
    request: Request, context: Context, name: ModelName, if_none_match: IfNoneMatch = None
) -> Response:
    """A model: how it is described, what its latest version is, and its aliases."""
    described = await context.catalog.get(name, actor=context.actor)
    headers = {"ETag": f'"{described.etag}"', "Cache-Control": "no-cache"}
    if is_not_modified(request.headers, described.etag):
        return Response(status_code=304, headers=headers)
    return Response(_json(described), headers=headers, media_type=JSON)


@router.patch(
    "/{name}",
    summary="Describe a model otherwise",
    openapi_extra=described_body(ModelPatch, _PATCH_EXAMPLE, (MERGE_PATCH, JSON)),
    responses={
        200: _described("As it is now."),
        **problem_responses(
            NO_MODEL,
            _CHANGED,
            BAD_PATCH_TYPE,
            InvalidField(("body", "owner"), "no such field; there are description, tags", "ada"),
            STALLED,
            UNAVAILABLE,
            instance=_INSTANCE,
        ),
    },
)
async def update_model(request: Request, context: Context, name: ModelName, if_match: IfMatch = None) -> Response:
    """Change `description` and `tags` by a merge patch: what is left out stays, null takes away."""
    patch = await json_body(request, context.settings, accepted=(MERGE_PATCH, JSON))
    check_patch(patch, ("description", "tags"))
    described = await context.catalog.update(
        name, patch, precondition=precondition(request.headers), actor=context.actor
    )
    return Response(_json(described), headers={"ETag": f'"{described.etag}"'}, media_type=JSON)


@router.delete(
    "/{name}",
    status_code=204,
    summary="Delete a model that never had a version",
    responses={
        204: {"description": "Deleted."},
        **problem_responses(
            NO_MODEL, ModelInUse("fraud-detector"), _CHANGED, BAD_NAME, UNAVAILABLE, instance=_INSTANCE
        ),
    },
)
async def delete_model(request: Request, context: Context, name: ModelName, if_match: IfMatch = None) -> Response:
    """Only what never had a version: otherwise a label could come to name other bytes."""
    await context.catalog.delete(name, precondition=precondition(request.headers), actor=context.actor)
    return Response(status_code=204)


def _members(model: RegisteredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "description": model.description,
        "tags": orjson.Fragment(model.tags.encode()),
        "created_at": rfc3339(model.created_at),
        "updated_at": rfc3339(model.updated_at),
        "latest_version": model.latest_version,
        "version_count": model.version_count,
    }


def _json(described: DescribedModel) -> bytes:
    aliases = [alias_members(alias) for alias in described.aliases]
    return orjson.dumps(_members(described.model) | {"aliases": aliases})
