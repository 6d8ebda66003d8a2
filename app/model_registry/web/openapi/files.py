"""The descriptions of the operations on files of a version."""

from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

from model_registry.errors import (
    AliasNotFound,
    EtagMismatch,
    FileDamaged,
    FileNotFound,
    InvalidField,
    InvalidPageToken,
    ModelNotFound,
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

SEVERAL_FILES = "this version has several files; give the path of one of them"

Presign = Annotated[bool, Query(description="Include a URL for each file, to download it from storage.")]


class DownloadUrlIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    path: str | None = Field(None, description="Optional if the version has only one file.")
    expires_in_seconds: int | None = Field(None, description="1 to 604,800. Default: the setting of the service.")


_URL = {"url": "https://s3.example.org/models/blobs/0d9c2b5e?X-Amz-…", "expires_at": TIME_EXAMPLE}

LIST_FILES = operation(
    "List the files of a version",
    {
        200: response(
            "Sorted by path.", ManifestPageOut, {"items": [FILE_EXAMPLE | _URL], "next_page_token": None}, MODEL_VERSION
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
    EtagMismatch,
    RangeNotSatisfiable,
    BAD_NAME,
    bad_flag("redirect"),
    Unavailable,
)
HEAD_FILE = head_of(GET_FILE, "Get the headers of a download of a file")
GET_ARCHIVE = operation(
    "Download a version as an archive",
    bytes_responses("All files as a tar archive.", (TAR,), {}, "fraud-detector-2.4.0.tar"),
    ModelNotFound,
    VersionNotFound,
    AliasNotFound,
    FileDamaged,
    EtagMismatch,
    RangeNotSatisfiable,
    BAD_NAME,
    Unavailable,
)
HEAD_ARCHIVE = head_of(GET_ARCHIVE, "Get the headers of a download of the archive")
DOWNLOAD_URL = operation(
    "Get a URL to download a file from storage",
    {
        200: response(
            "The URL is a credential: everyone who has it can read these bytes until it expires.",
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
