"""The descriptions of the six endpoints."""

from typing import Annotated, Any

from fastapi import Header, Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    AliasNotFound,
    EtagMismatch,
    FileDamaged,
    FileNotFound,
    IdempotencyKeyReused,
    InvalidForm,
    InvalidPageToken,
    LeaseLost,
    ModelNameTaken,
    ModelNotFound,
    Unavailable,
    UploadTooLarge,
    VersionAliased,
    VersionExists,
    VersionNotFound,
)
from model_registry.web.http_errors import RangeNotSatisfiable, UnsupportedMediaType
from model_registry.web.openapi.operation import Body, head_of, header, operation, reference, response
from model_registry.web.openapi.shared import (
    BAD_LIMIT,
    BAD_NAME,
    ETAG,
    INFO_EXAMPLE,
    MODEL_INFO,
    MODEL_VERSION,
    REDIRECTED,
    REMOVED_EXAMPLE,
    REPR_DIGEST,
    bytes_responses,
    not_modified,
)
from model_registry.web.register_model import FORM, NOT_A_REGISTRATION
from model_registry.web.requests.body import JSON
from model_registry.web.responses.file import OCTET_STREAM, TAR
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, TIME_EXAMPLE, ModelInfoOut, ModelSummaryOut

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description=(
            "Makes a retry safe: a second request with the same key and the same registration gets the first response "
            "again. Use a new key, for example a UUID, for each registration."
        ),
    ),
]
OfModel = Annotated[str | None, Query(description="List only versions of this model.")]
LinkToken = Annotated[str | None, Query(description="The token in the `Link` header of the previous page.")]
OneFile = Annotated[
    str | None,
    Query(description="The path of one file. Default: the only file, or all files as a tar archive."),
]


class RegisterModelIn(BaseModel):
    """A version without a file."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "example": {
                "model_name": "fraud-detector",
                "version": "2.4.0",
                "standardization_params": {"mean": [5.8, 3.1], "scale": [0.8, 0.4]},
                "model_params": {"C": 1.0, "penalty": "l2"},
                "additional_metadata": {"metrics": {"auc": 0.97}},
            }
        },
    )

    model_name: str
    version: str
    standardization_params: dict[str, Any] = {}
    model_params: dict[str, Any] = {}
    additional_metadata: dict[str, Any] = {}


_FORM_EXAMPLE = {
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "standardization_params": '{"mean": [5.8, 3.1], "scale": [0.8, 0.4]}',
    "model_params": '{"C": 1.0, "penalty": "l2"}',
    "additional_metadata": '{"metrics": {"auc": 0.97}}',
}


def _form_field(name: str, description: str, **schema: Any) -> dict[str, Any]:
    # JSON objects have no contentMediaType here, because Swagger UI would show the field as a file.
    return {"type": "string", "description": description, "examples": [_FORM_EXAMPLE[name]], **schema}


_FORM = {
    "type": "object",
    "required": ["model_name", "version", "model_file"],
    "properties": {
        "model_name": _form_field("model_name", "Letters, digits, `.`, `_` and `-`. Unique regardless of case."),
        "version": _form_field(
            "version", "Letters, digits, `.`, `_`, `+` and `-`. A label is never used twice, and cannot be `latest`."
        ),
        "standardization_params": _form_field(
            "standardization_params", "A JSON object: how to prepare inputs. It never changes.", default="{}"
        ),
        "model_params": _form_field(
            "model_params", "A JSON object: the hyperparameters. It never changes.", default="{}"
        ),
        "additional_metadata": _form_field("additional_metadata", "A JSON object: any other metadata.", default="{}"),
        "model_file": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": (
                "The file. For several files, repeat this part: use “Add string item” in Swagger UI, or "
                "`-F model_file=@a -F model_file=@b` with curl. The filename of a part is its path in the version."
            ),
        },
    },
}
# No `encoding` for model_file: with it, Swagger UI sends a file named `blob` if you choose none.
_BODY = Body(
    {
        FORM: {"schema": _FORM, "example": _FORM_EXAMPLE | {"model_file": ["(bytes)"]}},
        JSON: {"schema": reference(RegisterModelIn)},
    },
    UnsupportedMediaType(NOT_A_REGISTRATION, accepted=[FORM, JSON]),
)
# For ReDoc, which shows a form as JSON.
_CURL = {
    "lang": "Shell",
    "label": "curl",
    "source": """\
curl http://localhost:8000/register_model \\
  -F model_name=fraud-detector \\
  -F version=2.4.0 \\
  -F 'model_params={"C": 1.0, "penalty": "l2"}' \\
  -F 'additional_metadata={"metrics": {"auc": 0.97}}' \\
  -F model_file=@model.joblib""",
}
_SUMMARY = {
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "is_latest": True,
    "size_bytes": 1024,
    "digest": DIGEST_EXAMPLE,
    "created_at": TIME_EXAMPLE,
}
_LOCATION = {"Location": header("The URL of the version.", "/get_model_info/fraud-detector/2.4.0")}
_LINK = {"Link": header("The next page, if there is one.", '</list_models?page_token=W1…>; rel="next"')}

REGISTER_MODEL = operation(
    "Register a version of a model",
    {
        201: response(
            "Registered. The version never changes.",
            ModelInfoOut,
            INFO_EXAMPLE | {"aliases": []},
            _LOCATION,
        )
    },
    VersionExists,
    ModelNameTaken,
    LeaseLost,
    UploadTooLarge,
    BAD_NAME,
    InvalidForm,
    IdempotencyKeyReused,
    Unavailable,
    body=_BODY,
    samples=[_CURL],
    description="""\
Register one version, with or without files.

If you send a **form**, `model_file` is streamed to storage as it arrives. Put `model_name` and `version` before it, so
that you get a conflict before you send the file. Repeat `model_file` for several files. If you send **JSON**, the
version has no files.

A version never changes. A second registration of the same label gets 409, unless it has the same `Idempotency-Key` and
the same content.""",
)
GET_MODEL_INFO = operation(
    "Get a version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    EtagMismatch,
    BAD_NAME,
    Unavailable,
)
GET_LATEST_MODEL_INFO = operation(
    "Get the latest version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    EtagMismatch,
    BAD_NAME,
    Unavailable,
)
LIST_MODELS = operation(
    "List models and their versions",
    {200: response("Sorted by name, then newest version first.", list[ModelSummaryOut], [_SUMMARY], _LINK)},
    BAD_LIMIT,
    InvalidPageToken,
    Unavailable,
)
GET_MODEL = operation(
    "Download a model",
    {
        **bytes_responses("The file, or all files as a tar archive.", (OCTET_STREAM, TAR), REPR_DIGEST, "model.joblib"),
        307: REDIRECTED,
    },
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileNotFound,
    FileDamaged,
    EtagMismatch,
    RangeNotSatisfiable,
    BAD_NAME,
    Unavailable,
    description="""\
Download the bytes of a version: its only file, the file at `path`, or all files as a deterministic tar archive.

You can resume a download (`Range`, `If-Range`), make it conditional (`If-Match`, `If-None-Match`) and verify it: the
ETag of a file is its sha256, and `Repr-Digest` has the same digest.""",
)
HEAD_MODEL = head_of(GET_MODEL, "Get the headers of a download")
REMOVE_MODEL = operation(
    "Remove a version",
    {200: response("Removed. You can restore it until `purge_after`.", ModelInfoOut, REMOVED_EXAMPLE)},
    VersionNotFound,
    VersionAliased,
    BAD_NAME,
    Unavailable,
)
