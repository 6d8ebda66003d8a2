"""What the document says of pushes."""

from typing import Annotated, Any, Literal

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field

from model_registry.domain.naming_rules import validate_path
from model_registry.errors import (
    BodyTooLarge,
    CommitInProgress,
    DigestMismatch,
    FileNotFound,
    InvalidField,
    LeaseLost,
    ModelNameTaken,
    ModelNotFound,
    PartsChanged,
    SizeMismatch,
    TooManyPending,
    Unavailable,
    UploadIncomplete,
    UploadTooLarge,
    UploadUnknown,
    VersionExists,
    VersionNotAvailable,
    VersionNotFound,
)
from model_registry.web.http_errors import UnsupportedMediaType
from model_registry.web.openapi.operation import Body, header, json_body, operation, refusal, response
from model_registry.web.openapi.shared import BAD_NAME, FILE_EXAMPLE, INFO_EXAMPLE, OCTETS
from model_registry.web.requests.body import ENCODED_BODY
from model_registry.web.responses.file import OCTET_STREAM
from model_registry.web.responses.pushes import PushOut, SignedPartsOut, UploadStatusOut
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, TIME_EXAMPLE, FileOut, ModelInfoOut

_UPLOAD_ID = "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"

UploadId = Annotated[
    str,
    Path(description="The `upload_id` of a file that is sent in parts.", json_schema_extra={"example": _UPLOAD_ID}),
]
ContentLength = Annotated[
    int | None, Header(alias="Content-Length", ge=0, description="Must be the declared size, where it is sent.")
]


class FileIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    size_bytes: int
    sha256: str = Field(description="`sha256:<64 hex digits>`")
    media_type: str = "application/octet-stream"


class PushIn(BaseModel):
    """A version to be; its files follow."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = Field(None, description="Left out: the next number.")
    standardization_params: dict[str, Any] = {}
    model_params: dict[str, Any] = {}
    additional_metadata: dict[str, Any] = {}
    description: str | None = None
    tags: dict[str, str | float | bool] = {}
    files: list[FileIn] = Field(description="All of them, up to 100,000.")
    transfer: Literal["direct", "proxied"] | None = Field(
        "direct", description="proxied: through this service, for clients that cannot reach storage."
    )


class PartTagIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    part_number: int
    etag: str = Field(description="The ETag that storage answered, with or without its quotes.")


class CommitIn(BaseModel):
    """Which parts were sent; may be left out, because storage knows, unless a part was sent again with other bytes."""

    model_config = ConfigDict(extra="forbid")

    parts: dict[str, list[PartTagIn]] = Field({}, description="By `upload_id`.")


class PartsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    part_numbers: list[int] = Field(description="1 to 1,000 of them, each once.")


_PUSH = {
    "version": "2.4.0",
    "standardization_params": {"mean": [5.8, 3.1], "scale": [0.8, 0.4]},
    "model_params": {"C": 1.0, "penalty": "l2"},
    "additional_metadata": {"metrics": {"auc": 0.97}},
    "description": "Trained on the January data.",
    "tags": {"team": "risk"},
    "files": [
        {
            "path": "model.joblib",
            "size_bytes": 1024,
            "sha256": DIGEST_EXAMPLE,
            "media_type": "application/octet-stream",
        }
    ],
    "transfer": "direct",
}
_UPLOAD = {
    "path": "model.joblib",
    "sha256": DIGEST_EXAMPLE,
    "size_bytes": 1024,
    "already_stored": False,
    "method": "put",
    "url": "https://s3.example.org/models/blobs/0d9c2b5e?X-Amz-…",
    "headers": {"Content-Length": "1024", "If-None-Match": "*", "x-amz-checksum-sha256": "n4bQ…gg="},
    "expires_at": TIME_EXAMPLE,
    "upload_id": None,
    "part_size": None,
}
_PENDING = INFO_EXAMPLE | {
    "state": "pending",
    "file_path": None,
    "description": "Trained on the January data.",
    "tags": {"team": "risk"},
    "aliases": [],
    "ready_at": None,
    "download_url": None,
}
_PUSHED = _PENDING | {"uploads": [_UPLOAD]}
_COMMIT = {"parts": {_UPLOAD_ID: [{"part_number": 1, "etag": "9b2cf535f27731c974343645a3985328"}]}}
_PARTS = {"part_numbers": [1, 2]}
_SIGNED = {
    "parts": [
        {
            "part_number": 1,
            "url": "https://s3.example.org/models/blobs/0d9c2b5e?partNumber=1&X-Amz-…",
            "headers": {"Content-Length": "16777216"},
            "expires_at": TIME_EXAMPLE,
        }
    ]
}
_STATUS = {
    "upload_id": _UPLOAD_ID,
    "model_name": "fraud-detector",
    "version": "2.4.0",
    "path": "model.joblib",
    "sha256": DIGEST_EXAMPLE,
    "size_bytes": 104857600,
    "part_size": 16777216,
    "part_count": 7,
    "is_complete": False,
    "parts": [{"part_number": 1, "size_bytes": 16777216, "etag": '"9b2cf535f27731c974343645a3985328"'}],
}

_LOCATION = {"Location": header("Where to read it.", "/v1/models/fraud-detector/versions/2.4.0")}
_VERIFYING = VersionNotAvailable("fraud-detector", "2.4.0", "verifying")

PUSH_VERSION = operation(
    "Push a version: reserve it",
    {
        201: response("Reserved, and what is to be sent.", PushOut, _PUSHED, _LOCATION),
        200: response(
            "Reserved before, and this is what is still missing; or ready, with these very files.",
            PushOut,
            _PUSHED,
            _LOCATION,
        ),
    },
    VersionExists,
    ModelNameTaken,
    UploadTooLarge,
    BodyTooLarge,
    TooManyPending,
    BAD_NAME,
    Unavailable,
    body=json_body(PushIn, _PUSH),
    description="""\
Declare a version with all of its files, then send what `uploads` asks for, then commit.

What storage has already, of whatever model, need not be sent again. Ask again, with the same files and frozen
parameters, after a lost answer or when URLs have expired: the answer is 200 with what is still missing. A version
that nobody commits is given up when its lease ends; every request about it renews the lease.""",
)
COMMIT_VERSION = operation(
    "Push a version: commit it",
    {
        200: response(
            "Verified and ready. The same answer again, however often it is committed.", ModelInfoOut, INFO_EXAMPLE
        ),
        202: response(
            "Verification takes longer: poll `Location` until the state is `ready`. Should it be `pending` again, "
            "commit once more to hear why. To commit once more is always safe: it joins what is running, and takes "
            "over what a process left behind.",
            ModelInfoOut,
            _PENDING | {"state": "verifying"},
            _LOCATION | {"Retry-After": header("Seconds to wait.", 1)},
        ),
    },
    ModelNotFound,
    VersionNotFound,
    UploadUnknown,
    UploadIncomplete,
    VersionExists("fraud-detector", "2.4.0", state="pending", digest=DIGEST_EXAMPLE),
    VersionNotAvailable,
    CommitInProgress,
    LeaseLost,
    SizeMismatch,
    DigestMismatch,
    InvalidField(("body", "parts", _UPLOAD_ID, 0, "part_number"), "an integer from 1 to 10000 is expected", 0),
    BodyTooLarge,
    Unavailable,
    PartsChanged,
    body=json_body(CommitIn, _COMMIT, is_required=False),
)
PUT_FILE = operation(
    "Push a version: send a file through the service",
    {201: response("Stored, with the digest that was declared.", FileOut, FILE_EXAMPLE)},
    ModelNotFound,
    VersionNotFound,
    FileNotFound,
    VersionExists,
    _VERIFYING,
    LeaseLost,
    SizeMismatch,
    DigestMismatch,
    refusal(validate_path, "../model.joblib"),
    Unavailable,
    body=Body({OCTET_STREAM: OCTETS}, UnsupportedMediaType(ENCODED_BODY)),
)
SIGN_PARTS = operation(
    "Push a version: URLs for parts of a file",
    {200: response("One for each.", SignedPartsOut, _SIGNED)},
    UploadUnknown,
    _VERIFYING,
    InvalidField(("body", "part_numbers", 0), "this upload has parts 1 to 7", 8),
    Unavailable,
    body=json_body(PartsIn, _PARTS),
)
UPLOAD_STATUS = operation(
    "Push a version: what storage has of a file in parts",
    {200: response("As storage has it now.", UploadStatusOut, _STATUS)},
    UploadUnknown,
    Unavailable,
)
