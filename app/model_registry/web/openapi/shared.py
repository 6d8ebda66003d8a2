"""Parameters, headers, examples, responses and problems that several operations share.

Tests compare the OpenAPI document with real responses.
"""

from typing import Annotated, Any, cast

from fastapi import Path, Query

from model_registry.domain.naming_rules import validate_model_name
from model_registry.web.http_errors import InvalidRequest
from model_registry.web.openapi.operation import Responses, header, refusal, response
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, ModelInfoOut

# Swagger UI fills its form from the `example` of a schema, not from `examples`.
ModelName = Annotated[
    str, Path(description="The name of a model, in its exact case.", json_schema_extra={"example": "fraud-detector"})
]
Label = Annotated[str, Path(description="A version label.", json_schema_extra={"example": "2.4.0"})]
FilePath = Annotated[
    str, Path(description="The path of a file in the version.", json_schema_extra={"example": "model.joblib"})
]
ReadVersion = Annotated[
    str,
    Path(
        description="A version label, `latest`, or `@` and an alias, for example `@champion`.",
        json_schema_extra={"example": "2.4.0"},
    ),
]
Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number of items on a page.")]
PageToken = Annotated[str | None, Query(alias="page_token", description="The `next_page_token` of the previous page.")]
Redirect = Annotated[
    bool | None,
    Query(
        description="true: redirect to storage (307). false: stream through the service. Default: as configured.",
        # The page of Swagger UI cannot follow a redirect to another host.
        json_schema_extra={"example": False},
    ),
]
Force = Annotated[bool, Query(description="Remove the version even if aliases point at it, and drop the aliases.")]

BAD_NAME = refusal(validate_model_name, "fraud detector")
BAD_LIMIT = InvalidRequest(
    [{"loc": ["query", "limit"], "msg": "Input should be less than or equal to 1000", "value": "5000"}]
)


def bad_flag(name: str) -> InvalidRequest:
    """Return the problem of a query parameter that is neither true nor false."""
    rule = "Input should be a valid boolean, unable to interpret input"
    return InvalidRequest([{"loc": ["query", name], "msg": rule, "value": "perhaps"}])


ETAG = {"ETag": header("A strong ETag.", '"1.1"')}
MODEL_VERSION = {"X-Model-Version": header("The label of the version in the response.", "2.4.0")}
INFO_EXAMPLE = cast(dict[str, Any], ModelInfoOut.model_config["json_schema_extra"])["example"]
REMOVED_EXAMPLE = INFO_EXAMPLE | {
    "aliases": [],
    "state": "removed",
    "removed_at": "2026-02-28T12:00:00.000000Z",
    "purge_after": "2026-03-07T12:00:00.000000Z",
    "download_url": None,
}
FILE_EXAMPLE = INFO_EXAMPLE["files"][0]
MODEL_INFO = response("The version.", ModelInfoOut, INFO_EXAMPLE, ETAG | MODEL_VERSION)
OCTETS = {"schema": {"type": "string", "format": "binary"}, "example": "(bytes)"}
VALIDATORS = MODEL_VERSION | {
    "ETag": header(
        "A strong ETag. For a single file, it is its sha256.", f'"{DIGEST_EXAMPLE.removeprefix("sha256:")}"'
    ),
    "Last-Modified": header(
        "When the version was registered. Only if you asked for a label.", "Sat, 31 Jan 2026 12:00:00 GMT"
    ),
}
REPR_DIGEST = {
    "Repr-Digest": header(
        "The digest of a single file (RFC 9530).", "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:"
    )
}
REDIRECTED = response(
    "With `redirect`: a redirect to a presigned URL, which needs no credentials.",
    headers={"Location": header("A URL of the bytes.", "https://s3.example.org/models/blobs/0d9c2b5e?…")},
)


def not_modified(headers: dict[str, Any]) -> dict[str, Any]:
    return response("Not modified: what you have is current.", headers=headers)


def bytes_responses(
    description: str, media_types: tuple[str, ...], headers: dict[str, Any], filename: str
) -> Responses:
    """Return the responses 200, 206 and 304 of a route that sends bytes."""
    headers = (
        VALIDATORS
        | {
            "Content-Length": header("The size in bytes. It is known in advance, also for archives.", 1024),
            "Content-Disposition": header("The name of the file (RFC 6266).", f'attachment; filename="{filename}"'),
            "Accept-Ranges": header("The route supports ranges.", "bytes"),
        }
        | headers
    )
    content = {"content": dict.fromkeys(media_types, OCTETS)}
    of_part = headers | {"Content-Range": header("The position of this range in the whole.", "bytes 0-99/1024")}
    return {
        200: response(description, headers=headers) | content,
        206: response("The requested range.", headers=of_part) | content,
        304: not_modified(VALIDATORS),
    }
