"""What the descriptions of several operations share: parameters, headers, examples, responses and problems.

All of it goes into the OpenAPI document, where a test holds it against real responses.
"""

from typing import Annotated, Any, cast

from fastapi import Path, Query

from model_registry.domain.naming_rules import validate_model_name
from model_registry.web.http_errors import InvalidRequest
from model_registry.web.openapi.operation import Responses, header, refusal, response
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
Limit = Annotated[int, Query(ge=1, le=1000, description="Rows per page.")]
PageToken = Annotated[str | None, Query(alias="page_token", description="The `next_page_token` of the page before.")]
Redirect = Annotated[
    bool | None,
    Query(
        description="true: 307 to storage. false: streamed by the service. Left out: as the service is set.",
        # Swagger UI's page may not follow a redirect to another host.
        json_schema_extra={"example": False},
    ),
]

BAD_NAME = refusal(validate_model_name, "fraud detector")
BAD_LIMIT = InvalidRequest(
    [{"loc": ["query", "limit"], "msg": "Input should be less than or equal to 1000", "value": "5000"}]
)


def bad_flag(name: str) -> InvalidRequest:
    """A query parameter that is neither true nor false."""
    rule = "Input should be a valid boolean, unable to interpret input"
    return InvalidRequest([{"loc": ["query", name], "msg": rule, "value": "perhaps"}])


ETAG = {"ETag": header("Strong.", '"1.1"')}
MODEL_VERSION = {"X-Model-Version": header("The label that the answer is about.", "2.4.0")}
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
    "ETag": header("Strong; of a single file its sha256.", f'"{DIGEST_EXAMPLE.removeprefix("sha256:")}"'),
    "Last-Modified": header(
        "When the version was registered; only where a label was asked for.", "Sat, 31 Jan 2026 12:00:00 GMT"
    ),
}
REPR_DIGEST = {
    "Repr-Digest": header("RFC 9530; of a single file.", "sha-256=:n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=:")
}
REDIRECTED = response(
    "Only with `redirect`: to a presigned URL, which needs no credentials.",
    headers={"Location": header("Where the bytes are.", "https://s3.example.org/models/blobs/0d9c2b5e?…")},
)


def not_modified(headers: dict[str, Any]) -> dict[str, Any]:
    return response("What you hold is still right.", headers=headers)


def bytes_responses(
    description: str, media_types: tuple[str, ...], headers: dict[str, Any], filename: str
) -> Responses:
    """200, 206 and 304 of a route that sends bytes."""
    headers = (
        VALIDATORS
        | {
            "Content-Length": header("Known beforehand, of archives too.", 1024),
            "Content-Disposition": header("RFC 6266.", f'attachment; filename="{filename}"'),
            "Accept-Ranges": header("Ranges are taken.", "bytes"),
        }
        | headers
    )
    content = {"content": dict.fromkeys(media_types, OCTETS)}
    of_part = headers | {"Content-Range": header("Which part this is.", "bytes 0-99/1024")}
    return {
        200: response(description, headers=headers) | content,
        206: response("The range that was asked for.", headers=of_part) | content,
        304: not_modified(VALIDATORS),
    }
