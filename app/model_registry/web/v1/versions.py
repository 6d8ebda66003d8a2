"""Versions of a model: read, described, yanked, removed, restored."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from model_registry.domain.entities import VersionRef, VersionSelector, VersionState
from model_registry.errors import (
    InvalidField,
    VersionAliased,
    VersionChanged,
    VersionNotAvailable,
    VersionPurged,
)
from model_registry.web.context import Context
from model_registry.web.openapi.shared import (
    BAD_BODY_TYPE,
    BAD_LIMIT,
    BAD_NAME,
    BAD_PATCH_TYPE,
    BAD_TOKEN,
    ETAG,
    INFO_EXAMPLE,
    MODEL_INFO,
    NO_ALIAS,
    NO_MATCH,
    NO_MODEL,
    NO_VERSION,
    NOT_MODIFIED,
    REMOVED_EXAMPLE,
    STALLED,
    UNAVAILABLE,
    IfMatch,
    IfNoneMatch,
    Label,
    Limit,
    ModelName,
    PageToken,
    ReadVersion,
    bad_flag,
    described_body,
    example,
)
from model_registry.web.problems import ANY_ROUTE, problem_responses
from model_registry.web.requests import paging
from model_registry.web.requests.body import JSON, MERGE_PATCH, json_body
from model_registry.web.requests.conditional import precondition
from model_registry.web.requests.json_fields import Fields
from model_registry.web.responses.schemas import ModelInfoOut, listed_json
from model_registry.web.responses.version import changed_model_info, model_info
from model_registry.web.v1.bodies import check_patch

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["versions"], responses=ANY_ROUTE)

_INSTANCE = "/v1/models/fraud-detector/versions/2.4.0"
_PENDING = VersionNotAvailable("fraud-detector", "2.4.0", "pending")
_CHANGED = VersionChanged("fraud-detector", "2.4.0", "1.1")


class ModelInfoPageOut(BaseModel):
    items: list[ModelInfoOut]
    next_page_token: str | None


class VersionPatch(BaseModel):
    """A merge patch (RFC 7396): what is left out stays, null takes away."""

    model_config = ConfigDict(extra="forbid")

    description: str | None = None
    tags: dict[str, str | float | bool | None] | None = None
    additional_metadata: dict[str, Any] | None = None


class YankIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: str | None = None


REQUEST_MODELS = (VersionPatch, YankIn)
MAX_REASON = 4096
INFO_PAGE = {
    "model": ModelInfoPageOut,
    "content": example({"items": [INFO_EXAMPLE], "next_page_token": None}),
}
_PATCH_EXAMPLE = {
    "description": "Trained on the January data.",
    "tags": {"team": None, "owner": "ada"},
    "additional_metadata": {"metrics": {"auc_march": 0.96}},
}
_YANKED_EXAMPLE = INFO_EXAMPLE | {"yanked": True, "yank_reason": "Wrong labels in the training data."}


def _changed(description: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "model": ModelInfoOut, "content": example(value), "headers": ETAG}


@router.get(
    "",
    summary="List the versions of a model",
    responses={
        200: {"description": "In the order that was asked for.", **INFO_PAGE},
        **problem_responses(
            NO_MODEL, BAD_LIMIT, BAD_NAME, BAD_TOKEN, UNAVAILABLE, instance="/v1/models/fraud-detector/versions"
        ),
    },
)
async def list_versions(
    context: Context,
    name: ModelName,
    state: Annotated[
        Literal["pending", "verifying", "ready", "removed"],
        Query(description="Versions in this state; removed ones can be restored until they are purged."),
    ] = "ready",
    order: Annotated[
        Literal["precedence", "created"],
        Query(description="precedence: newest version first. created: last registered first."),
    ] = "precedence",
    limit: Limit = 100,
    page_token: PageToken = None,
) -> Response:
    """The versions of one model, page by page; pages stay right while versions are added, and are shorter than `limit`
    where metadata is large."""
    query = ["versions", name, state, order]
    page = await context.versions.page_of_model(
        name,
        state=VersionState(state),
        by_precedence=order == "precedence",
        after=paging.list_position(page_token or None, query),
        limit=limit,
        actor=context.actor,
    )
    token = paging.list_token(query, page.items[-1].position) if page.has_more else None
    return Response(listed_json(page.items, token), media_type=JSON)


@router.get(
    "/{version}",
    summary="Everything about one version",
    responses={
        200: MODEL_INFO,
        **NOT_MODIFIED,
        **problem_responses(NO_MODEL, NO_VERSION, NO_ALIAS, NO_MATCH, BAD_NAME, UNAVAILABLE, instance=_INSTANCE),
    },
)
async def get_version(
    request: Request, context: Context, name: ModelName, version: ReadVersion, if_none_match: IfNoneMatch = None
) -> Response:
    """One version; by its label also one that is still being pushed, whose `state` says how far it is."""
    info = await context.versions.get(VersionSelector(name, version), or_unfinished=True, actor=context.actor)
    return model_info(request, info)


@router.patch(
    "/{version}",
    summary="Describe a version otherwise",
    openapi_extra=described_body(VersionPatch, _PATCH_EXAMPLE, (MERGE_PATCH, JSON)),
    responses={
        200: _changed("As it is now.", INFO_EXAMPLE),
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            _PENDING,
            _CHANGED,
            BAD_PATCH_TYPE,
            InvalidField(("body", "model_params"), "this is frozen: it never changes", {}),
            STALLED,
            UNAVAILABLE,
            instance=_INSTANCE,
        ),
    },
)
async def update_version(
    request: Request, context: Context, name: ModelName, version: Label, if_match: IfMatch = None
) -> Response:
    """Change `description`, `tags` and `additional_metadata` by a merge patch; everything else is frozen."""
    patch = await json_body(request, context.settings, accepted=(MERGE_PATCH, JSON))
    check_patch(patch, ("description", "tags", "additional_metadata"))
    info = await context.lifecycle.update(
        VersionRef(name, version), patch, precondition=precondition(request.headers), actor=context.actor
    )
    return changed_model_info(info)


@router.delete(
    "/{version}",
    summary="Remove a version",
    responses={
        200: _changed("Removed; until `purge_after` it can be restored, unless it was purged.", REMOVED_EXAMPLE),
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            VersionAliased("fraud-detector", "2.4.0", ["champion"]),
            _CHANGED,
            BAD_NAME,
            bad_flag("force"),
            UNAVAILABLE,
            instance=_INSTANCE,
        ),
    },
)
async def remove_version(
    request: Request,
    context: Context,
    name: ModelName,
    version: Label,
    force: Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")] = False,
    purge: Annotated[
        bool, Query(description="Give up its bytes for good, now; also of a version that was removed before.")
    ] = False,
    if_match: IfMatch = None,
) -> Response:
    """Hide a version; its label stays taken for ever. One that is still being pushed is given up: its label is free."""
    info = await context.lifecycle.remove(
        VersionRef(name, version),
        force=force,
        with_bytes=purge,
        may_be_pending=True,
        precondition=precondition(request.headers),
        actor=context.actor,
    )
    return changed_model_info(info)


@router.post(
    "/{version}/restore",
    summary="Restore a removed version",
    responses={
        200: _changed("Ready again, without the aliases that it had.", INFO_EXAMPLE | {"aliases": []}),
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            VersionPurged("fraud-detector", "2.4.0"),
            _PENDING,
            _CHANGED,
            BAD_NAME,
            UNAVAILABLE,
            instance=f"{_INSTANCE}/restore",
        ),
    },
)
async def restore_version(
    request: Request, context: Context, name: ModelName, version: Label, if_match: IfMatch = None
) -> Response:
    """Show it again; possible until it is purged. Nothing happens to a version that is ready."""
    info = await context.lifecycle.restore(
        VersionRef(name, version), precondition=precondition(request.headers), actor=context.actor
    )
    return changed_model_info(info)


@router.post(
    "/{version}/yank",
    summary="Warn of a version",
    openapi_extra=described_body(YankIn, {"reason": "Wrong labels in the training data."}, required=False),
    responses={
        200: _changed("Yanked.", _YANKED_EXAMPLE),
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            _PENDING,
            _CHANGED,
            BAD_BODY_TYPE,
            InvalidField(("body", "reason"), "text is expected", 7),
            STALLED,
            UNAVAILABLE,
            instance=f"{_INSTANCE}/yank",
        ),
    },
)
async def yank_version(
    request: Request, context: Context, name: ModelName, version: Label, if_match: IfMatch = None
) -> Response:
    """It is never the latest any more, but stays there for whoever names it; `yank_reason` says why. Again changes the
    reason."""
    body = Fields(await json_body(request, context.settings), ("reason",))
    reason = body.optional_text("reason", max_chars=MAX_REASON)
    info = await context.lifecycle.yank(
        VersionRef(name, version), reason, precondition=precondition(request.headers), actor=context.actor
    )
    return changed_model_info(info)


@router.post(
    "/{version}/unyank",
    summary="Take the warning back",
    responses={
        200: _changed("Not yanked.", INFO_EXAMPLE),
        **problem_responses(
            NO_MODEL, NO_VERSION, _PENDING, _CHANGED, BAD_NAME, UNAVAILABLE, instance=f"{_INSTANCE}/unyank"
        ),
    },
)
async def unyank_version(
    request: Request, context: Context, name: ModelName, version: Label, if_match: IfMatch = None
) -> Response:
    """It can be the latest again. Nothing happens to a version that was not yanked."""
    info = await context.lifecycle.unyank(
        VersionRef(name, version), precondition=precondition(request.headers), actor=context.actor
    )
    return changed_model_info(info)
