"""Versions of a model: read, edit, yank, remove and restore them."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_registry.domain.entities import VersionRef, VersionSelector, VersionState
from model_registry.web.context import Context
from model_registry.web.openapi.shared import Force, Label, Limit, ModelName, PageToken, ReadVersion
from model_registry.web.openapi.versions import (
    GET_VERSION,
    LIST_VERSIONS,
    REMOVE_VERSION,
    RESTORE_VERSION,
    UNYANK_VERSION,
    UPDATE_VERSION,
    YANK_VERSION,
    InOrder,
    InState,
    Purge,
)
from model_registry.web.requests.annotations import check_patch
from model_registry.web.requests.body import JSON, MERGE_PATCH, json_body
from model_registry.web.requests.conditional import IfUnchanged, ReadConditions
from model_registry.web.requests.json_fields import Fields
from model_registry.web.requests.paging import list_position, list_token
from model_registry.web.responses.version import changed_response, listed_response, model_info_response

router = APIRouter(prefix="/v1/models/{name}/versions", tags=["versions"])

_MAX_REASON = 4096


@router.get("", **LIST_VERSIONS)
async def list_versions(
    context: Context,
    name: ModelName,
    state: InState = "ready",
    order: InOrder = "precedence",
    limit: Limit = 100,
    token: PageToken = None,
) -> Response:
    """List the versions of one model, page by page.

    Pages stay consistent while versions are added. A page has fewer than `limit` versions if their metadata is large.
    """
    query = ["versions", name, state, order]
    page = await context.versions.page_of_model(
        name,
        state=VersionState(state),
        by_precedence=order == "precedence",
        after=list_position(token or None, query),
        limit=limit,
        actor=context.actor,
    )
    return listed_response(page, list_token(query, page.items[-1].position) if page.has_more else None)


@router.get("/{version}", **GET_VERSION)
async def get_version(context: Context, name: ModelName, version: ReadVersion, conditions: ReadConditions) -> Response:
    """Get one version. By its label, you also get a version that is still being pushed; see its `state`."""
    info = await context.versions.get(VersionSelector(name, version), or_unfinished=True, actor=context.actor)
    return model_info_response(info, conditions)


@router.patch("/{version}", **UPDATE_VERSION)
async def update_version(
    request: Request, context: Context, name: ModelName, version: Label, precondition: IfUnchanged
) -> Response:
    """Change `description`, `tags` and `additional_metadata` with a merge patch. Everything else never changes."""
    ref = VersionRef(name, version)
    patch = await json_body(request, context.settings, accepted=(MERGE_PATCH, JSON))
    check_patch(patch, ("description", "tags", "additional_metadata"))
    info = await context.lifecycle.update(ref, patch, precondition=precondition, actor=context.actor)
    return changed_response(info)


@router.delete("/{version}", **REMOVE_VERSION)
async def remove_version(
    context: Context,
    name: ModelName,
    version: Label,
    precondition: IfUnchanged,
    force: Force = False,
    purge: Purge = False,
) -> Response:
    """Hide a version. Its label stays taken. A version that is still being pushed is given up and frees its label."""
    info = await context.lifecycle.remove(
        VersionRef(name, version),
        force=force,
        with_bytes=purge,
        may_be_pending=True,
        precondition=precondition,
        actor=context.actor,
    )
    return changed_response(info)


@router.post("/{version}/restore", **RESTORE_VERSION)
async def restore_version(context: Context, name: ModelName, version: Label, precondition: IfUnchanged) -> Response:
    """Show a removed version again. This is possible until it is purged, and does not change a ready version."""
    ref = VersionRef(name, version)
    return changed_response(await context.lifecycle.restore(ref, precondition=precondition, actor=context.actor))


@router.post("/{version}/yank", **YANK_VERSION)
async def yank_version(
    request: Request, context: Context, name: ModelName, version: Label, precondition: IfUnchanged
) -> Response:
    """Mark a version as not recommended. It is never the latest, but you can still read it by its label.

    `yank_reason` says why. To change the reason, yank the version again.
    """
    body = Fields(await json_body(request, context.settings), ("reason",))
    reason = body.optional_text("reason", max_chars=_MAX_REASON)
    info = await context.lifecycle.yank(
        VersionRef(name, version), reason, precondition=precondition, actor=context.actor
    )
    return changed_response(info)


@router.post("/{version}/unyank", **UNYANK_VERSION)
async def unyank_version(context: Context, name: ModelName, version: Label, precondition: IfUnchanged) -> Response:
    """Undo a yank, so that the version can be the latest again. This does not change a version that is not yanked."""
    ref = VersionRef(name, version)
    return changed_response(await context.lifecycle.unyank(ref, precondition=precondition, actor=context.actor))
