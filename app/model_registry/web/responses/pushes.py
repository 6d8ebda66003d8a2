"""The JSON of pushes: how to send files, URLs of parts, and the parts that storage has."""

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote

import orjson
from pydantic import BaseModel, ConfigDict, Field

from model_registry.services.push.instructions import Instruction, Method
from model_registry.services.push.parts import SignedPart, UploadStatus
from model_registry.services.push.reservation import Reserved
from model_registry.utils import rfc3339
from model_registry.web.responses.schemas import ModelInfoOut, model_info_members


class UploadOut(BaseModel):
    """How to send one file."""

    path: str
    sha256: str
    size_bytes: int
    already_stored: bool = Field(
        description="You do not send this file: storage has the bytes, or another file of this push has the same bytes."
    )
    method: Literal["put", "multipart", "proxy"] | None = Field(
        description="put: send one PUT to `url` with exactly `headers`. multipart: send parts to the URLs from "
        "`POST /v1/uploads/{upload_id}/parts`. proxy: send one PUT to `url`, which is this service."
    )
    url: str | None
    headers: dict[str, str] | None
    expires_at: str | None = Field(description="When the URL expires. To get a new URL, reserve again.")
    upload_id: str | None
    part_size: int | None = Field(description="The size in bytes of every part but the last.")


class PushOut(ModelInfoOut):
    """The pending version and the files to send."""

    # This removes the example of the base class, which has no uploads.
    model_config = ConfigDict(json_schema_extra={})

    uploads: list[UploadOut]


class SignedPartOut(BaseModel):
    part_number: int
    url: str
    headers: dict[str, str] = Field(description="Send exactly these headers.")
    expires_at: str


class SignedPartsOut(BaseModel):
    parts: list[SignedPartOut]


class StoredPartOut(BaseModel):
    part_number: int
    size_bytes: int
    etag: str


class UploadStatusOut(BaseModel):
    """The state of a multipart upload."""

    upload_id: str
    model_name: str
    version: str
    path: str
    sha256: str
    size_bytes: int
    part_size: int
    part_count: int
    is_complete: bool = Field(description="After the parts are joined into one object, `parts` is empty.")
    parts: list[StoredPartOut]


def push_json(reserved: Reserved, base_url: str) -> bytes:
    """Write a reservation. `base_url` is the address of this service, to which a client can send files."""
    info = reserved.info
    folder = f"{base_url}/v1/models/{info.model_name}/versions/{info.version}/files/"
    return orjson.dumps(
        model_info_members(info) | {"uploads": [_upload(each, folder) for each in reserved.instructions]}
    )


def _upload(instruction: Instruction, folder: str) -> dict[str, Any]:
    request = instruction.request
    url = request.url if request else None
    if instruction.method == Method.PROXY:
        url = folder + quote(instruction.file.path)
    return {
        "path": instruction.file.path,
        "sha256": str(instruction.file.sha256),
        "size_bytes": instruction.file.size_bytes,
        "already_stored": instruction.method is None,
        "method": instruction.method,
        "url": url,
        "headers": request.headers if request else ({} if url else None),
        "expires_at": instruction.expires_at and rfc3339(instruction.expires_at),
        "upload_id": instruction.upload_id and str(instruction.upload_id),
        "part_size": instruction.part_size,
    }


def signed_parts_json(parts: Sequence[SignedPart]) -> bytes:
    return orjson.dumps(
        {
            "parts": [
                {
                    "part_number": part.number,
                    "url": part.request.url,
                    "headers": part.request.headers,
                    "expires_at": rfc3339(part.expires_at),
                }
                for part in parts
            ]
        }
    )


def upload_status_json(status: UploadStatus) -> bytes:
    upload = status.upload
    return orjson.dumps(
        {
            "upload_id": str(upload.id),
            "model_name": status.model_name,
            "version": status.version,
            "path": upload.path,
            "sha256": str(upload.sha256),
            "size_bytes": upload.size_bytes,
            "part_size": upload.part_size,
            "part_count": len(upload.part_sizes),
            "is_complete": status.is_complete,
            "parts": [
                {"part_number": part.number, "size_bytes": part.size_bytes, "etag": part.etag} for part in status.parts
            ],
        }
    )
