"""Models: names that group versions."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_registry.domain.naming_rules import MAX_TAG_KEY, MAX_TAG_VALUE, validate_model_name
from model_registry.errors import InvalidField
from model_registry.services.models import DescribedModel
from model_registry.web.context import Context
from model_registry.web.openapi.models import (
    CREATE_MODEL,
    DELETE_MODEL,
    FIND_MODELS,
    GET_MODEL,
    MAX_SEARCH,
    SEARCH_RULE,
    UPDATE_MODEL,
    NamePart,
)
from model_registry.web.openapi.shared import Limit, ModelName, PageToken
from model_registry.web.requests.annotations import annotations_of, check_patch
from model_registry.web.requests.body import JSON, MERGE_PATCH, json_body
from model_registry.web.requests.conditional import IfUnchanged, ReadConditions
from model_registry.web.requests.json_fields import Fields
from model_registry.web.requests.paging import page_position, page_token
from model_registry.web.responses.models import described_model_json, model_page_json

router = APIRouter(prefix="/v1/models", tags=["models"])

_MAX_TAGS_ASKED = 32
_TAG = "tag."


@router.get("", **FIND_MODELS)
async def find_models(
    request: Request, context: Context, search: NamePart = None, limit: Limit = 100, token: PageToken = None
) -> Response:
    """Find models, page by page. Add `tag.<key>=<value>`, once or several times, to find models with these tags."""
    if search is not None and (len(search) > MAX_SEARCH or "\x00" in search):
        raise InvalidField(("query", "search"), SEARCH_RULE, search)
    tags = _tags(request)
    query = ["models", search, sorted(tags.items())]
    after = page_position(token or None, query, lambda name: validate_model_name(name))
    page = await context.models.page(search=search, tags=tags, after=after, limit=limit, actor=context.actor)
    next_token = page_token(query, page.items[-1].name) if page.has_more else None
    return Response(model_page_json(page.items, next_token), media_type=JSON)


@router.post("", **CREATE_MODEL)
async def create_model(request: Request, context: Context) -> Response:
    """Create a model without a version. The first registration or push of a version also creates its model."""
    body = Fields(await json_body(request, context.settings), ("name", "description", "tags"))
    described = await context.models.create(body.text("name"), annotations_of(body), actor=context.actor)
    return _model_response(described, 201, {"Location": f"/v1/models/{described.model.name}"})


@router.get("/{name}", **GET_MODEL)
async def get_model_resource(context: Context, name: ModelName, conditions: ReadConditions) -> Response:
    """Get the description, tags, latest version and aliases of a model."""
    described = await context.models.get(name, actor=context.actor)
    headers = {"ETag": f'"{described.etag}"', "Cache-Control": "no-cache"}
    if conditions.not_modified(described.etag):
        return Response(status_code=304, headers=headers)
    return _model_response(described, 200, headers)


@router.patch("/{name}", **UPDATE_MODEL)
async def update_model(request: Request, context: Context, name: ModelName, precondition: IfUnchanged) -> Response:
    """Change `description` and `tags` with a merge patch: omitted members stay, null removes a member."""
    patch = await json_body(request, context.settings, accepted=(MERGE_PATCH, JSON))
    check_patch(patch, ("description", "tags"))
    described = await context.models.update(name, patch, precondition=precondition, actor=context.actor)
    return _model_response(described)


@router.delete("/{name}", **DELETE_MODEL)
async def delete_model(context: Context, name: ModelName, precondition: IfUnchanged) -> Response:
    """Delete a model that never had a version. After a version, a label could otherwise name other bytes."""
    await context.models.delete(name, precondition=precondition, actor=context.actor)
    return Response(status_code=204)


def _tags(request: Request) -> dict[str, str]:
    tags: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if not name.startswith(_TAG):
            continue
        key = name.removeprefix(_TAG)
        if not 0 < len(key) <= MAX_TAG_KEY or len(value) > MAX_TAG_VALUE or "\x00" in key + value:
            rule = f"a tag key has at most {MAX_TAG_KEY}, a value at most {MAX_TAG_VALUE} characters, without NUL"
            raise InvalidField(("query", name), rule, value)
        if tags.setdefault(key, value) != value:
            raise InvalidField(("query", name), "a tag has one value, so no model matches both", value)
        if len(tags) > _MAX_TAGS_ASKED:
            raise InvalidField(("query", name), f"a query has at most {_MAX_TAGS_ASKED} tags", value)
    return tags


def _model_response(
    described: DescribedModel, status_code: int = 200, headers: dict[str, str] | None = None
) -> Response:
    headers = (headers or {}) | {"ETag": f'"{described.etag}"'}
    return Response(described_model_json(described), status_code, headers, JSON)
