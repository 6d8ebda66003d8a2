"""The descriptions of the operations of a push."""

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
    int | None, Header(alias="Content-Length", ge=0, description="If you send it, it must be the declared size.")
]


class FileIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str
    size_bytes: int
    sha256: str = Field(description="`sha256:<64 hex digits>`")
    media_type: str = "application/octet-stream"


class PushIn(BaseModel):
    """A version to reserve. Its files follow."""

    model_config = ConfigDict(extra="forbid")

    version: str | None = Field(None, description="Default: the next number.")
    standardization_params: dict[str, Any] = {}
    model_params: dict[str, Any] = {}
    additional_metadata: dict[str, Any] = {}
    description: str | None = None
    tags: dict[str, str | float | bool] = {}
    files: list[FileIn] = Field(description="All files of the version, at most 100,000.")
    transfer: Literal["direct", "proxied"] | None = Field(
        "direct",
        description="direct: send files to storage. proxied: send them to this service, if you cannot reach storage.",
    )


class PartTagIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    part_number: int
    etag: str = Field(description="The ETag that storage returned, with or without its quotes.")


class CommitIn(BaseModel):
    """The parts that you sent. Optional, because storage knows them, unless you sent a part again with other bytes."""

    model_config = ConfigDict(extra="forbid")

    parts: dict[str, list[PartTagIn]] = Field({}, description="By `upload_id`.")


class PartsIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    part_numbers: list[int] = Field(description="1 to 1,000 numbers, each at most once.")


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

_LOCATION = {"Location": header("The URL of the version.", "/v1/models/fraud-detector/versions/2.4.0")}
_VERIFYING = VersionNotAvailable("fraud-detector", "2.4.0", "verifying")

PUSH_VERSION = operation(
    "Push a version: reserve it",
    {
        201: response("Reserved. `uploads` tells what to send.", PushOut, _PUSHED, _LOCATION),
        200: response(
            "Reserved before: `uploads` tells what is still missing. Or ready, with exactly these files.",
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
Declare a version with all of its files. Then send the files that `uploads` asks for, and commit.

You do not send bytes that storage already has, for any model. If you lost the response or the URLs expired, send the
same request again, with the same files and frozen parameters: you get 200 with the files that are still missing. A
version that you do not commit is given up when its lease expires. Every request about the version renews its lease.""",
)
COMMIT_VERSION = operation(
    "Push a version: commit it",
    {
        200: response(
            "Verified and ready. If you commit again, you get the same response.", ModelInfoOut, INFO_EXAMPLE
        ),
        202: response(
            "Verification takes longer. Poll `Location` until the state is `ready`. If the state is `pending` again, "
            "commit again to get the reason. You can always commit again: you join a running commit, or continue a "
            "commit that a process left unfinished.",
            ModelInfoOut,
            _PENDING | {"state": "verifying"},
            _LOCATION | {"Retry-After": header("Seconds to wait before a retry.", 1)},
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
    {201: response("Stored with the declared digest.", FileOut, FILE_EXAMPLE)},
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
    "Push a version: get URLs for parts of a file",
    {200: response("One URL for each part.", SignedPartsOut, _SIGNED)},
    UploadUnknown,
    _VERIFYING,
    InvalidField(("body", "part_numbers", 0), "this upload has parts 1 to 7", 8),
    Unavailable,
    body=json_body(PartsIn, _PARTS),
)
UPLOAD_STATUS = operation(
    "Push a version: get the stored parts of a file",
    {200: response("The parts that storage has now.", UploadStatusOut, _STATUS)},
    UploadUnknown,
    Unavailable,
)
