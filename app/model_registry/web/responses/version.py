"""Responses with one version or a list of versions."""

from urllib.parse import urlencode

from starlette.responses import Response

from model_registry.domain.entities import ListedVersion, ModelInfo, ModelSummary, Page
from model_registry.services.registration import Registered
from model_registry.web.requests.body import JSON
from model_registry.web.requests.conditional import Conditions
from model_registry.web.requests.paging import list_token
from model_registry.web.responses.schemas import listed_json, model_info_json, model_summaries_json


def model_info_response(info: ModelInfo, conditions: Conditions) -> Response:
    """Return a version that was read: 200, or 304 or 412 according to the conditions of the request."""
    headers = {"ETag": f'"{info.etag}"', "X-Model-Version": info.version, "Cache-Control": "no-cache"}
    if conditions.not_modified(info.etag):
        return Response(status_code=304, headers=headers)
    return Response(model_info_json(info), headers=headers, media_type=JSON)


def changed_response(info: ModelInfo) -> Response:
    """Return a version that was changed, with its new ETag."""
    return Response(model_info_json(info), headers={"ETag": f'"{info.etag}"'}, media_type=JSON)


def removed_response(info: ModelInfo) -> Response:
    """Return a version that `DELETE /remove_model` removed. This response has no ETag."""
    return Response(model_info_json(info), media_type=JSON)


def registered_response(registered: Registered) -> Response:
    location = f"/get_model_info/{registered.ref.model_name}/{registered.ref.version}"
    return Response(registered.body, 201, {"Location": location}, JSON)


def summaries_response(page: Page[ModelSummary], model_name: str | None, limit: int) -> Response:
    """Return a page. A Link header names the next page."""
    headers = {}
    if page.has_more:
        parameters = {"limit": limit, "page_token": list_token([model_name], page.items[-1].position)}
        parameters |= {"model_name": model_name} if model_name else {}
        headers["Link"] = f'</list_models?{urlencode(parameters)}>; rel="next"'
    return Response(model_summaries_json(page.items), headers=headers, media_type=JSON)


def listed_response(page: Page[ListedVersion], next_page_token: str | None) -> Response:
    return Response(listed_json(page.items, next_page_token), media_type=JSON)
