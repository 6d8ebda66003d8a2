"""What the document says of the six endpoints."""

from typing import Annotated, Any

from fastapi import Header, Query
from pydantic import BaseModel, ConfigDict

from model_registry.errors import (
    AliasNotFound,
    FileDamaged,
    FileNotFound,
    IdempotencyKeyReused,
    InvalidForm,
    InvalidPageToken,
    LeaseLost,
    ModelNameTaken,
    ModelNotFound,
    PreconditionFailed,
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
            "Makes a retry safe: the same key with the same registration gives the first answer again. "
            "Take a new one, such as a UUID, for each registration."
        ),
    ),
]
OfModel = Annotated[str | None, Query(description="Only versions of this model.")]
LinkToken = Annotated[str | None, Query(description="From the `Link` of the page before.")]
OneFile = Annotated[
    str | None,
    Query(description="One of the version's files. Left out: the only file, or all of them as one tar."),
]
Force = Annotated[bool, Query(description="Also when aliases point at it; they are dropped.")]


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
    # Objects without contentMediaType: Swagger UI would take the field for a file.
    return {"type": "string", "description": description, "examples": [_FORM_EXAMPLE[name]], **schema}


_FORM = {
    "type": "object",
    "required": ["model_name", "version", "model_file"],
    "properties": {
        "model_name": _form_field("model_name", "Letters, digits, `.`, `_` and `-`. Unique regardless of case."),
        "version": _form_field(
            "version", "Letters, digits, `.`, `_`, `+` and `-`. Never used twice, and not `latest`."
        ),
        "standardization_params": _form_field(
            "standardization_params", "A JSON object: how inputs are prepared. Never changes.", default="{}"
        ),
        "model_params": _form_field("model_params", "A JSON object: the hyperparameters. Never changes.", default="{}"),
        "additional_metadata": _form_field(
            "additional_metadata", "A JSON object: whatever else there is.", default="{}"
        ),
        "model_file": {
            "type": "array",
            "minItems": 1,
            "items": {"type": "string", "format": "binary"},
            "description": (
                "The file. For several files, repeat this part: “Add string item” in Swagger UI, "
                "`-F model_file=@a -F model_file=@b` with curl. A part's filename is its path in the version."
            ),
        },
    },
}
# No `encoding` for model_file: with one, Swagger UI makes up a file called `blob` where none was chosen.
_BODY = Body(
    {
        FORM: {"schema": _FORM, "example": _FORM_EXAMPLE | {"model_file": ["(bytes)"]}},
        JSON: {"schema": reference(RegisterModelIn)},
    },
    UnsupportedMediaType(NOT_A_REGISTRATION, accepted=[FORM, JSON]),
)
# For ReDoc, which shows a form as if it were JSON.
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
_LOCATION = {"Location": header("Where to read it.", "/get_model_info/fraud-detector/2.4.0")}
_LINK = {"Link": header("The next page, while there is more.", '</list_models?page_token=W1…>; rel="next"')}

REGISTER_MODEL = operation(
    "Register a version of a model",
    {201: response("Registered, whole and for ever.", ModelInfoOut, INFO_EXAMPLE | {"aliases": []}, _LOCATION)},
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
Register one version, with its files or without.

As a **form**, `model_file` is streamed to storage while it arrives, whatever its size; put `model_name` and
`version` before it, so that a conflict is answered before the file is sent. Several `model_file` parts make a
version of several files. As **JSON** there is no file.

A version never changes: registering it again is 409, unless the same `Idempotency-Key` says that this is the
same registration once more.""",
)
GET_MODEL_INFO = operation(
    "Everything about one version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    PreconditionFailed,
    BAD_NAME,
    Unavailable,
)
GET_LATEST_MODEL_INFO = operation(
    "Everything about the latest version",
    {200: MODEL_INFO, 304: not_modified(ETAG | MODEL_VERSION)},
    ModelNotFound,
    PreconditionFailed,
    BAD_NAME,
    Unavailable,
)
LIST_MODELS = operation(
    "List models and their versions",
    {200: response("By name, then newest version first.", list[ModelSummaryOut], [_SUMMARY], _LINK)},
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
    PreconditionFailed,
    RangeNotSatisfiable,
    BAD_NAME,
    Unavailable,
    description="""\
The bytes of a version: its only file, the file at `path`, or all of them as a deterministic tar.

Resumable (`Range`, `If-Range`), conditional (`If-Match`, `If-None-Match`) and verifiable: the ETag of a file is
its sha256, and `Repr-Digest` says it too.""",
)
HEAD_MODEL = head_of(GET_MODEL, "What a download would be")
REMOVE_MODEL = operation(
    "Remove a version",
    {200: response("Removed; it can be restored until `purge_after`.", ModelInfoOut, REMOVED_EXAMPLE)},
    VersionNotFound,
    VersionAliased,
    BAD_NAME,
    Unavailable,
)
