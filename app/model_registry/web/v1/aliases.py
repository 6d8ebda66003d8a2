"""Aliases of a model: read them, move them, and read their history."""

import re
from datetime import UTC, datetime

from fastapi import APIRouter, Request
from starlette.responses import Response

from model_registry.domain.entities import Alias, AliasRef
from model_registry.domain.naming_rules import validate_alias
from model_registry.errors import InvalidField
from model_registry.services.aliases import PlannedMove
from model_registry.web.context import Context
from model_registry.web.openapi.aliases import (
    DELETE_ALIAS,
    GET_ALIAS,
    GET_ALIAS_HISTORY,
    LIST_ALIASES,
    PUT_ALIAS,
    ROLL_BACK_ALIAS,
    SWAP_ALIASES,
    AliasName,
    At,
)
from model_registry.web.openapi.shared import Limit, ModelName, PageToken
from model_registry.web.requests.body import JSON, json_body
from model_registry.web.requests.conditional import IfUnchanged, IfUnchangedOrAbsent, ReadConditions
from model_registry.web.requests.json_fields import Fields
from model_registry.web.requests.paging import bigint, page_position, page_token
from model_registry.web.responses.aliases import alias_history_json, alias_json, alias_page_json

router = APIRouter(prefix="/v1/models/{name}", tags=["aliases"])

_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?)"
    r"(?:[Zz]|([+ -])([0-9]{2}:[0-5][0-9]))?"
)


@router.get("/aliases", **LIST_ALIASES)
async def list_aliases(context: Context, name: ModelName, limit: Limit = 100, token: PageToken = None) -> Response:
    """List the aliases of the model, with the version at which each points."""
    query = ["aliases", name]
    after = page_position(token or None, query, validate_alias)
    page = await context.aliases.page(name, after=after, limit=limit, actor=context.actor)
    next_token = page_token(query, page.items[-1].alias) if page.has_more else None
    return Response(alias_page_json(page.items, next_token), media_type=JSON)


@router.get("/aliases/{alias}", **GET_ALIAS)
async def get_alias(
    context: Context, name: ModelName, alias: AliasName, conditions: ReadConditions, at: At = None
) -> Response:
    """Get the version at which the alias points, or pointed `at` a given time."""
    moment = None if at is None else _moment(at)
    found = await context.aliases.get(AliasRef(name, alias), at=moment, actor=context.actor)
    headers = {"ETag": f'"{found.generation}"', "Cache-Control": "no-cache"}
    if conditions.not_modified(str(found.generation)):
        return Response(status_code=304, headers=headers)
    return Response(alias_json(found), headers=headers, media_type=JSON)


@router.put("/aliases/{alias}", **PUT_ALIAS)
async def put_alias(
    request: Request, context: Context, name: ModelName, alias: AliasName, precondition: IfUnchangedOrAbsent
) -> Response:
    """Create an alias or move it, in one atomic step."""
    ref = AliasRef(name, alias)
    body = Fields(await json_body(request, context.settings), ("version",))
    put, is_new = await context.aliases.put(ref, body.text("version"), precondition=precondition, actor=context.actor)
    return _alias_response(put, 201 if is_new else 200)


@router.delete("/aliases/{alias}", **DELETE_ALIAS)
async def delete_alias(context: Context, name: ModelName, alias: AliasName, precondition: IfUnchanged) -> Response:
    """Drop an alias. Its version and its history stay."""
    await context.aliases.drop(AliasRef(name, alias), precondition=precondition, actor=context.actor)
    return Response(status_code=204)


@router.get("/aliases/{alias}/history", **GET_ALIAS_HISTORY)
async def get_alias_history(
    context: Context, name: ModelName, alias: AliasName, limit: Limit = 100, token: PageToken = None
) -> Response:
    """List every move of an alias, even if it was dropped. A drop has the `version` null."""
    ref = AliasRef(name, alias)
    query = ["history", name, alias]
    before = page_position(token or None, query, bigint)
    page = await context.aliases.history(ref, before=before, limit=limit, actor=context.actor)
    next_token = page_token(query, page.items[-1].generation) if page.has_more else None
    return Response(alias_history_json(page.items, next_token), media_type=JSON)


@router.post("/aliases/{alias}/rollback", **ROLL_BACK_ALIAS)
async def roll_back_alias(context: Context, name: ModelName, alias: AliasName, precondition: IfUnchanged) -> Response:
    """Move an alias back to the version at which it pointed before, according to its history.

    This is a move like any other, so a second rollback undoes the first. The request has no body.
    """
    alias_now = await context.aliases.rollback(AliasRef(name, alias), precondition=precondition, actor=context.actor)
    return _alias_response(alias_now)


@router.post("/aliases:swap", **SWAP_ALIASES)
async def swap_aliases(request: Request, context: Context, name: ModelName) -> Response:
    """Move 1 to 100 aliases of a model in one atomic step: all of them, or none."""
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


def _alias_response(alias: Alias, status_code: int = 200) -> Response:
    return Response(alias_json(alias), status_code, {"ETag": f'"{alias.generation}"'}, JSON)


def _moment(written: str) -> datetime:
    match = _TIME.fullmatch(written)
    try:
        if match is None:
            raise ValueError(written)
        date, time, sign, offset = match.groups()
        # If the query was not encoded, the plus sign of a zone arrives as a space.
        zone = f"{sign.replace(' ', '+')}{offset}" if offset else "+00:00"
        return datetime.fromisoformat(f"{date}T{time}{zone}").astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidField(
            ("query", "at"), "an RFC 3339 time from the years 1 to 9999, such as 2026-01-31T12:00:00Z", written
        ) from None
