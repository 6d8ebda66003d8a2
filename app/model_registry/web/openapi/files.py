"""What the document says of the files of a version."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from model_registry.errors import (
    AliasNotFound,
    FileDamaged,
    FileNotFound,
    InvalidField,
    InvalidPageToken,
    ModelNotFound,
    PreconditionFailed,
    Unavailable,
    VersionNotFound,
)
from model_registry.web.http_errors import RangeNotSatisfiable
from model_registry.web.openapi.operation import head_of, json_body, operation, response
from model_registry.web.openapi.shared import (
    BAD_LIMIT,
    BAD_NAME,
    FILE_EXAMPLE,
    MODEL_VERSION,
    REDIRECTED,
    REPR_DIGEST,
    bad_flag,
    bytes_responses,
)
from model_registry.web.responses.file import OCTET_STREAM, TAR
from model_registry.web.responses.manifest import DownloadUrlOut, ManifestPageOut
from model_registry.web.responses.schemas import TIME_EXAMPLE

SEVERAL_FILES = "this version has several files; name one of them"

Presign = Annotated[bool, Query(description="With a URL for each file, to fetch them from storage.")]


class DownloadUrlIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(None, description="May be left out where there is only one file.")
    expires_in_seconds: int | None = Field(None, description="1 to 604,800; as the service is set where left out.")


_URL = {"url": "https://s3.example.org/models/blobs/0d9c2b5e?X-Amz-…", "expires_at": TIME_EXAMPLE}

LIST_FILES = operation(
    "The manifest of a version",
    {
        200: response(
            "By path.", ManifestPageOut, {"items": [FILE_EXAMPLE | _URL], "next_page_token": None}, MODEL_VERSION
        )
    },
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileDamaged,
    BAD_LIMIT,
    InvalidPageToken,
    BAD_NAME,
    Unavailable,
)
GET_FILE = operation(
    "Download a file",
    {**bytes_responses("The file.", (OCTET_STREAM,), REPR_DIGEST, "model.joblib"), 307: REDIRECTED},
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileNotFound,
    FileDamaged,
    PreconditionFailed,
    RangeNotSatisfiable,
    BAD_NAME,
    bad_flag("redirect"),
    Unavailable,
)
HEAD_FILE = head_of(GET_FILE, "What a download of a file would be")
GET_ARCHIVE = operation(
    "Download a version as an archive",
    bytes_responses("All files as a tar.", (TAR,), {}, "fraud-detector-2.4.0.tar"),
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileDamaged,
    PreconditionFailed,
    RangeNotSatisfiable,
    BAD_NAME,
    Unavailable,
)
HEAD_ARCHIVE = head_of(GET_ARCHIVE, "What a download of the archive would be")
DOWNLOAD_URL = operation(
    "A URL to download a file from storage",
    {
        200: response(
            "A credential for a while: whoever has it can read these bytes.",
            DownloadUrlOut,
            FILE_EXAMPLE | {"model_name": "fraud-detector", "version": "2.4.0"} | _URL,
            MODEL_VERSION,
        )
    },
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileNotFound,
    FileDamaged,
    InvalidField(("body", "path"), SEVERAL_FILES, None),
    Unavailable,
    body=json_body(DownloadUrlIn, {"path": "model.joblib", "expires_in_seconds": 900}, is_required=False),
)
