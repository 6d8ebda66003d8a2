"""Aliases of a model: where they point, where they pointed, and how they are moved."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request
from starlette.responses import Response

from model_registry.domain.entities import Alias, AliasRef
from model_registry.domain.naming_rules import ALIAS_RULE, validate_alias
from model_registry.errors import (
    AliasChanged,
    AliasElsewhere,
    AliasPointedNowhere,
    InvalidField,
    NoPreviousTarget,
    VersionNotAvailable,
)
from model_registry.services.aliases import PlannedMove
from model_registry.web.context import Context
from model_registry.web.openapi.shared import (
    BAD_BODY_TYPE,
    BAD_LIMIT,
    BAD_NAME,
    BAD_TOKEN,
    NO_ALIAS,
    NO_MATCH,
    NO_MODEL,
    NO_VERSION,
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
from model_registry.web.requests.body import JSON, json_body
from model_registry.web.requests.conditional import is_not_modified, precondition
from model_registry.web.requests.json_fields import Fields
from model_registry.web.responses.schemas import (
    TIME_EXAMPLE,
    AliasHistoryOut,
    AliasIn,
    AliasOut,
    AliasPageOut,
    SwapIn,
    alias_history_json,
    alias_json,
    alias_page_json,
)

router = APIRouter(prefix="/v1/models/{name}", tags=["aliases"], responses=ANY_ROUTE)

REQUEST_MODELS = (AliasIn, SwapIn)

AliasName = Annotated[str, Path(description="An alias.", json_schema_extra={"example": "champion"})]
IfAbsent = Annotated[
    str | None, Header(alias="If-None-Match", description="`*`: only if there is no such alias yet, and otherwise 412.")
]
At = Annotated[
    str | None,
    Query(description="An RFC 3339 time, UTC where it names no zone: where the alias pointed then."),
]

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)"
    r"(?:[Zz]|([+ -])([0-9]{2}:[0-5][0-9]))?"
)

_ETAG = {"ETag": header("The generation.", '"17"')}
_ALIAS_EXAMPLE = {
    "alias": "champion",
    "version": "2.4.0",
    "generation": 17,
    "updated_at": TIME_EXAMPLE,
    "updated_by": "anonymous",
}
_MOVE_EXAMPLE = {"version": "2.4.0", "generation": 17, "at": TIME_EXAMPLE, "by": "anonymous"}
_BAD_ALIAS = InvalidField(
    "alias",
    ALIAS_RULE,
    "2.0",
)
_REMOVED = VersionNotAvailable("fraud-detector", "2.4.0", "removed")
_CHANGED = AliasChanged("fraud-detector", "champion", generation=17, version="2.4.0")


def _alias_answer(description: str) -> dict[str, Any]:
    return {"description": description, "model": AliasOut, "content": example(_ALIAS_EXAMPLE), "headers": _ETAG}


@router.get(
    "/aliases",
    summary="List the aliases of a model",
    responses={
        200: {
            "description": "By name.",
            "model": AliasPageOut,
            "content": example({"items": [_ALIAS_EXAMPLE], "next_page_token": None}),
        },
        **problem_responses(
            NO_MODEL, BAD_LIMIT, BAD_NAME, BAD_TOKEN, UNAVAILABLE, instance="/v1/models/fraud-detector/aliases"
        ),
    },
)
async def list_aliases(context: Context, name: ModelName, limit: Limit = 100, page_token: PageToken = None) -> Response:
    """Every alias of the model, with the version that it points at."""
    query = ["aliases", name]
    after = paging.page_position(page_token or None, query, validate_alias)
    page = await context.aliases.page(name, after=after, limit=limit, actor=context.actor)
    token = paging.page_token(query, page.items[-1].alias) if page.has_more else None
    return Response(alias_page_json(page.items, token), media_type=JSON)


@router.get(
    "/aliases/{alias}",
    summary="Where an alias points",
    responses={
        200: _alias_answer("The alias, as it is or as it was."),
        304: {"description": "What you hold is still right.", "headers": _ETAG},
        **problem_responses(
            NO_MODEL,
            NO_ALIAS,
            AliasPointedNowhere("fraud-detector", "champion", "2020-01-31T12:00:00.000000Z"),
            NO_MATCH,
            _BAD_ALIAS,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases/champion",
        ),
    },
)
async def get_alias(
    request: Request,
    context: Context,
    name: ModelName,
    alias: AliasName,
    at: At = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """The version that the alias points at, or pointed `at` a time.

    The past does not change: a time is answered from the history, also when the alias or the version that it pointed
    at is gone since. Such a version may not be there to read any more; `GET …/versions/{version}` says so. A time that
    is still to come is answered as now.
    """
    moment = None if at is None else _moment(at)
    found = await context.aliases.get(AliasRef(name, alias), at=moment, actor=context.actor)
    headers = {"ETag": f'"{found.generation}"', "Cache-Control": "no-cache"}
    if is_not_modified(request.headers, str(found.generation)):
        return Response(status_code=304, headers=headers)
    return Response(alias_json(found), headers=headers, media_type=JSON)


@router.put(
    "/aliases/{alias}",
    summary="Point an alias at a version",
    openapi_extra=described_body(AliasIn, {"version": "2.4.0"}),
    responses={
        200: _alias_answer("Moved."),
        201: _alias_answer("Made."),
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            _REMOVED,
            _CHANGED,
            BAD_BODY_TYPE,
            _BAD_ALIAS,
            STALLED,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases/champion",
        ),
    },
)
async def put_alias(
    request: Request,
    context: Context,
    name: ModelName,
    alias: AliasName,
    if_match: IfMatch = None,
    if_none_match: IfAbsent = None,
) -> Response:
    """Make an alias, or move it, in one step: who reads sees the old version or the new one.

    With `If-Match: "<generation>"` it is moved only if nobody else did so meanwhile, with `If-None-Match: *` only
    made; otherwise the answer is 412 and says where it points now. Without either the last writer wins. The history
    keeps every move.

    Each call makes a new generation, also one to the same version. Only a version that is ready can be the target; a
    yanked one can.
    """
    ref = AliasRef(name, alias)
    holds = precondition(request.headers)
    body = Fields(await json_body(request, context.settings), ("version",))
    put, is_new = await context.aliases.put(ref, body.text("version"), precondition=holds, actor=context.actor)
    return _alias(put, 201 if is_new else 200)


@router.delete(
    "/aliases/{alias}",
    status_code=204,
    summary="Drop an alias",
    response_class=Response,
    responses={
        204: {"description": "There is no such alias any more."},
        **problem_responses(
            NO_MODEL,
            NO_ALIAS,
            _CHANGED,
            _BAD_ALIAS,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases/champion",
        ),
    },
)
async def delete_alias(
    request: Request, context: Context, name: ModelName, alias: AliasName, if_match: IfMatch = None
) -> Response:
    """Drop an alias; the version that it pointed at stays, and so does the history."""
    await context.aliases.drop(AliasRef(name, alias), precondition=precondition(request.headers), actor=context.actor)
    return Response(status_code=204)


@router.get(
    "/aliases/{alias}/history",
    summary="Where an alias pointed",
    responses={
        200: {
            "description": "The newest first.",
            "model": AliasHistoryOut,
            "content": example({"items": [_MOVE_EXAMPLE], "next_page_token": None}),
        },
        **problem_responses(
            NO_MODEL,
            NO_ALIAS,
            BAD_LIMIT,
            _BAD_ALIAS,
            BAD_TOKEN,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases/champion/history",
        ),
    },
)
async def get_alias_history(
    context: Context, name: ModelName, alias: AliasName, limit: Limit = 100, page_token: PageToken = None
) -> Response:
    """Every move of an alias, also of one that was dropped since; `version` is null where it was dropped."""
    ref = AliasRef(name, alias)
    query = ["history", name, alias]
    before = paging.page_position(page_token or None, query, paging.bigint)
    page = await context.aliases.history(ref, before=before, limit=limit, actor=context.actor)
    token = paging.page_token(query, page.items[-1].generation) if page.has_more else None
    return Response(alias_history_json(page.items, token), media_type=JSON)


@router.post(
    "/aliases/{alias}/rollback",
    summary="Move an alias back",
    responses={
        200: _alias_answer("Moved back."),
        **problem_responses(
            NO_MODEL,
            NO_ALIAS,
            NoPreviousTarget("fraud-detector", "champion", "2.4.0"),
            _REMOVED,
            _CHANGED,
            _BAD_ALIAS,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases/champion/rollback",
        ),
    },
)
async def roll_back_alias(
    request: Request, context: Context, name: ModelName, alias: AliasName, if_match: IfMatch = None
) -> Response:
    """Point an alias at the version that it pointed at before the current one, by its history.

    This is a move like any other, so a second rollback undoes the first. There is no body.
    """
    alias_now = await context.aliases.rollback(
        AliasRef(name, alias), precondition=precondition(request.headers), actor=context.actor
    )
    return _alias(alias_now)


@router.post(
    "/aliases:swap",
    summary="Move several aliases together",
    openapi_extra=described_body(
        SwapIn,
        {
            "moves": [
                {"alias": "champion", "version": "2.4.0", "expected_version": "2.3.1"},
                {"alias": "previous", "version": "2.3.1"},
            ]
        },
    ),
    responses={
        200: {
            "description": "All were moved; in the order of the moves.",
            "model": AliasPageOut,
            "content": example({"items": [_ALIAS_EXAMPLE], "next_page_token": None}),
        },
        **problem_responses(
            NO_MODEL,
            NO_VERSION,
            _REMOVED,
            AliasElsewhere("fraud-detector", "champion", expected="2.3.1", actual="2.4.0"),
            BAD_BODY_TYPE,
            BAD_NAME,
            STALLED,
            UNAVAILABLE,
            instance="/v1/models/fraud-detector/aliases:swap",
        ),
    },
)
async def swap_aliases(request: Request, context: Context, name: ModelName) -> Response:
    """Move 1 to 100 aliases of a model at one time: all of them, or none.

    A move with `expected_version` is made only if the alias points there now, null standing for an alias that does
    not exist; otherwise the answer is 412 and nothing was moved. An alias that does not exist is made.
    """
    body = Fields(await json_body(request, context.settings), ("moves",))
    moves = [
        _planned(Fields(item, ("alias", "version", "expected_version"), (*body.loc("moves"), index)))
        for index, item in enumerate(body.items("moves", at_most=100))
    ]
    aliases = await context.aliases.swap(name, moves, actor=context.actor)
    return Response(alias_page_json(aliases, None), media_type=JSON)


def _planned(move: Fields) -> PlannedMove:
    return PlannedMove(
        move.text("alias"),
        move.text("version"),
        is_conditional="expected_version" in move,
        expected_version=move.optional_text("expected_version"),
    )


def _alias(alias: Alias, status_code: int = 200) -> Response:
    return Response(alias_json(alias), status_code, {"ETag": f'"{alias.generation}"'}, JSON)


def _moment(written: str) -> datetime:
    match = _TIME.fullmatch(written)
    try:
        if match is None:
            raise ValueError(written)
        date, time, sign, offset = match.groups()
        # In a query that was not encoded, the plus of a zone arrives as a space.
        zone = f"{sign.replace(' ', '+')}{offset}" if offset else "+00:00"
        return datetime.fromisoformat(f"{date}T{time}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidField(
            ("query", "at"), "an RFC 3339 time from the years 1 to 9999, such as 2026-01-31T12:00:00Z", written
        ) from None
