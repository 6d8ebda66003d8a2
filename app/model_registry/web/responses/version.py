"""Answers that several routes give."""

from starlette.requests import Request
from starlette.responses import Response

from model_registry.domain.entities import ModelInfo
from model_registry.web.requests.body import JSON
from model_registry.web.requests.conditional import is_not_modified
from model_registry.web.responses.schemas import model_info_json


def model_info(request: Request, info: ModelInfo) -> Response:
    """A version that was read: 200, or 304 and 412 by the request's conditions."""
    headers = {"ETag": f'"{info.etag}"', "X-Model-Version": info.version, "Cache-Control": "no-cache"}
    if is_not_modified(request.headers, info.etag):
        return Response(status_code=304, headers=headers)
    return Response(model_info_json(info), headers=headers, media_type=JSON)


def changed_model_info(info: ModelInfo) -> Response:
    """A version that was changed, with the ETag that it has now."""
    return Response(model_info_json(info), headers={"ETag": f'"{info.etag}"'}, media_type=JSON)
