"""What the routes' descriptions share: parameters, headers, examples, and the problems of more than one route.

All of it goes into the OpenAPI document, where a test holds it against real answers.
"""

from typing import Annotated, Any, cast

from fastapi import Header, Path, Query

from model_registry.domain.naming_rules import MODEL_NAME_RULE
from model_registry.errors import (
    AliasNotFound,
    InvalidField,
    InvalidPageToken,
    ModelNotFound,
    PreconditionFailed,
    Stalled,
    Unavailable,
    VersionNotFound,
)
from model_registry.web.problems import InvalidRequest, UnsupportedMediaType
from model_registry.web.requests.body import JSON, MERGE_PATCH
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, ModelInfoOut

# The `example` of a schema fills the form of Swagger UI; its `examples` do not.
ModelName = Annotated[
    str, Path(description="A model's name, in its exact case.", json_schema_extra={"example": "fraud-detector"})
]
Label = Annotated[str, Path(description="A version label.", json_schema_extra={"example": "2.4.0"})]
FilePath = Annotated[
    str, Path(description="A file's path in the version.", json_schema_extra={"example": "model.joblib"})
]
ReadVersion = Annotated[
    str,
    Path(
        description="A version label, `latest`, or `@` and an alias, such as `@champion`.",
        json_schema_extra={"example": "2.4.0"},
    ),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="An ETag that you hold: 304 while it is still right."),
]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag of what you mean to change: 412 when it is not that any more."),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Rows per page.")]
PageToken = Annotated[str | None, Query(description="The `next_page_token` of the page before.")]
Redirect = Annotated[
    bool | None,
    Query(
        description="true: 307 to storage. false: streamed by the service. Left out: as the service is set.",
        # Swagger UI's page may not follow a redirect to another host.
        json_schema_extra={"example": False},
    ),
]
Range = Annotated[str | None, Header(alias="Range", description="One range, such as `bytes=0-99`: the answer is 206.")]

BAD_NAME = InvalidField(
    "model_name",
    MODEL_NAME_RULE,
    "fraud detector",
)
BAD_LIMIT = InvalidRequest(
    [{"loc": ["query", "limit"], "msg": "Input should be less than or equal to 1000", "value": "5000"}]
)
BAD_TOKEN = InvalidPageToken()


def bad_flag(name: str) -> InvalidRequest:
    """A query parameter that is neither true nor false."""
    rule = "Input should be a valid boolean, unable to interpret input"
    return InvalidRequest([{"loc": ["query", name], "msg": rule, "value": "perhaps"}])


BAD_BODY_TYPE = UnsupportedMediaType(f"Content-Type: the body is {JSON}.", accepted=[JSON])
BAD_PATCH_TYPE = UnsupportedMediaType(
    f"Content-Type: the body is {MERGE_PATCH} or {JSON}.", accepted=[MERGE_PATCH, JSON]
)
NO_MODEL = ModelNotFound("fraud-detector")
NO_VERSION = VersionNotFound("fraud-detector", "2.4.0")
NO_ALIAS = AliasNotFound("fraud-detector", "champion")
NO_MATCH = PreconditionFailed("If-Match: this is another version than the one you hold.", etag='"1.1"')
STALLED = Stalled(30)
UNAVAILABLE = Unavailable("PostgreSQL")


def header(description: str, example: str | int) -> dict[str, Any]:
    schema = {"type": "integer" if isinstance(example, int) else "string"}
    return {"description": description, "schema": schema, "example": example}


def example(value: object) -> dict[str, Any]:
    return {JSON: {"example": value}}


def described_body(model: type, value: object, media_types: tuple[str, ...] = (JSON,), *, required: bool = True) -> Any:
    """`openapi_extra` for a handler that reads its body itself; list the model in the router's `REQUEST_MODELS`."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    content = {media_type: {"schema": schema, "example": value} for media_type in media_types}
    return {"requestBody": {"required": required, "content": content}}


ETAG = {"ETag": header("Strong.", '"1.1"')}
MODEL_VERSION = {"X-Model-Version": header("The label that the answer is about.", "2.4.0")}
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {
    304: {"description": "What you hold is still right.", "headers": ETAG | MODEL_VERSION}
}
INFO_EXAMPLE = cast(dict[str, Any], ModelInfoOut.model_config["json_schema_extra"])["example"]
REMOVED_EXAMPLE = INFO_EXAMPLE | {
    "aliases": [],
    "state": "removed",
    "removed_at": "2026-02-28T12:00:00.000000Z",
    "purge_after": "2026-03-07T12:00:00.000000Z",
    "download_url": None,
}
MODEL_INFO = {
    "description": "The version.",
    "model": ModelInfoOut,
    "content": example(INFO_EXAMPLE),
    "headers": ETAG | MODEL_VERSION,
}

_BINARY = {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
VALIDATORS = MODEL_VERSION | {
    "ETag": header("Strong; of a single file its sha256.", f'"{DIGEST_EXAMPLE.removeprefix("sha256:")}"'),
    "Last-Modified": header(
        "When the version was registered; only where a label was asked for.", "Sat, 31 Jan 2026 12:00:00 GMT"
    ),
}
REPR_DIGEST = {
    "Repr-Digest": header("RFC 9530; of a single file.", "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:")
}
REDIRECTED = {
    "description": "Only with `redirect`: to a presigned URL, which needs no credentials.",
    "headers": {"Location": header("Where the bytes are.", "https://s3.example.org/models/blobs/0d9c2b5e?…")},
}


def bytes_answers(
    description: str, media_types: tuple[str, ...], headers: dict[str, Any], filename: str
) -> dict[int | str, dict[str, Any]]:
    """200, 206 and 304 of a route that answers with bytes."""
    whole = {
        "description": description,
        "content": dict.fromkeys(media_types, _BINARY),
        "headers": VALIDATORS
        | {
            "Content-Length": header("Known beforehand, of archives too.", 1024),
            "Content-Disposition": header("RFC 6266.", f'attachment; filename="{filename}"'),
            "Accept-Ranges": header("Ranges are taken.", "bytes"),
        }
        | headers,
    }
    part = whole | {
        "description": "The range that was asked for.",
        "headers": cast(dict[str, Any], whole["headers"])
        | {"Content-Range": header("Which part this is.", "bytes 0-99/1024")},
    }
    return {200: whole, 206: part, 304: {"description": "What you hold is still right.", "headers": VALIDATORS}}


def without_bodies(answers: dict[int | str, dict[str, Any]]) -> dict[int | str, dict[str, Any]]:
    """The same answers to HEAD: none has a body, whatever its status."""
    return {
        status: {key: value for key, value in answer.items() if key not in {"content", "model"}}
        for status, answer in answers.items()
        if status not in {206, 307, 416}
    }
