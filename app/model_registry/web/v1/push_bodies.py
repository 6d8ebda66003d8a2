"""The bodies of a push: what is read from them, what is written, and how OpenAPI shows them."""

from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import quote
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

from model_registry.domain.entities import Digest, FileEntry, ModelDetails
from model_registry.domain.naming_rules import MAX_FILES, DistinctPaths, validate_media_type
from model_registry.errors import InvalidField, UploadUnknown
from model_registry.object_store.blob_store import MAX_PARTS
from model_registry.services.push.commit import Parts, PartTag
from model_registry.services.push.instructions import Instruction, Method
from model_registry.services.push.parts import SignedPart, UploadStatus
from model_registry.services.push.reservation import Push, Reserved
from model_registry.utils import JsonText, Loc, parse_json_object, rfc3339, to_json_text
from model_registry.web.openapi.shared import INFO_EXAMPLE
from model_registry.web.requests.json_fields import Fields
from model_registry.web.responses.schemas import DIGEST_EXAMPLE, TIME_EXAMPLE, ModelInfoOut, model_info_members
from model_registry.web.v1.bodies import annotations_of

_MAX_BIGINT = 2**63 - 1
_DOCUMENTS = ("standardization_params", "model_params", "additional_metadata")
_PUSH = ("version", *_DOCUMENTS, "description", "tags", "files", "transfer")
_FILE = ("path", "size_bytes", "sha256", "media_type")
_TRANSFERS = ("direct", "proxied")
_UPLOAD_ID = "6f0e4a51-9b6e-4a4f-8a1f-7c113f0c8a52"


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


class UploadOut(BaseModel):
    """How to send one file."""

    path: str
    sha256: str
    size_bytes: int
    already_stored: bool = Field(
        description="Nothing is to be sent: the bytes are there, or another file of this push brings the same ones."
    )
    method: Literal["put", "multipart", "proxy"] | None = Field(
        description="put: one PUT to `url` with exactly `headers`. multipart: in parts, whose URLs come from "
        "`POST /v1/uploads/{upload_id}/parts`. proxy: one PUT to `url`, which is this service."
    )
    url: str | None
    headers: dict[str, str] | None
    expires_at: str | None = Field(description="Of the URL; reserving again gives a fresh one.")
    upload_id: str | None
    part_size: int | None = Field(description="Of every part but the last, in bytes.")


class PushOut(ModelInfoOut):
    """The pending version, and what is to be sent."""

    # Without the example of the class above, which has no uploads.
    model_config = ConfigDict(json_schema_extra={})

    uploads: list[UploadOut]


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


class SignedPartOut(BaseModel):
    part_number: int
    url: str
    headers: dict[str, str] = Field(description="To be sent exactly so.")
    expires_at: str


class SignedPartsOut(BaseModel):
    parts: list[SignedPartOut]


class StoredPartOut(BaseModel):
    part_number: int
    size_bytes: int
    etag: str


class UploadStatusOut(BaseModel):
    """What storage has of an upload in parts."""

    upload_id: str
    model_name: str
    version: str
    path: str
    sha256: str
    size_bytes: int
    part_size: int
    part_count: int
    is_complete: bool = Field(description="Once the parts have become one object, there are none any more.")
    parts: list[StoredPartOut]


PUSH_EXAMPLE = {
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
_UPLOAD_EXAMPLE = {
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
PENDING_EXAMPLE = INFO_EXAMPLE | {
    "state": "pending",
    "file_path": None,
    "description": "Trained on the January data.",
    "tags": {"team": "risk"},
    "aliases": [],
    "ready_at": None,
    "download_url": None,
}
PUSHED_EXAMPLE = PENDING_EXAMPLE | {"uploads": [_UPLOAD_EXAMPLE]}
COMMIT_EXAMPLE = {"parts": {_UPLOAD_ID: [{"part_number": 1, "etag": "9b2cf535f27731c974343645a3985328"}]}}
PARTS_EXAMPLE = {"part_numbers": [1, 2]}
SIGNED_EXAMPLE = {
    "parts": [
        {
            "part_number": 1,
            "url": "https://s3.example.org/models/blobs/0d9c2b5e?partNumber=1&X-Amz-…",
            "headers": {"Content-Length": "16777216"},
            "expires_at": TIME_EXAMPLE,
        }
    ]
}
STATUS_EXAMPLE = {
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


def push_of(model_name: str, tree: dict[str, Any], max_metadata_bytes: int) -> Push:
    """What the body of a push says; a large manifest takes seconds, so call it `aside`."""
    body = Fields(tree, _PUSH)
    transfer = body.optional_text("transfer")
    if transfer not in {None, *_TRANSFERS}:
        raise InvalidField(body.loc("transfer"), f"one of {', '.join(_TRANSFERS)} is expected", transfer)
    return Push(
        model_name,
        body.optional_text("version"),
        ModelDetails(**{name: _document(body, name, max_metadata_bytes) for name in _DOCUMENTS}),
        annotations_of(body),
        _files(body),
        is_direct=transfer != "proxied",
    )


def _document(body: Fields, name: str, max_bytes: int) -> JsonText:
    """By itself as large as any other, whatever the size of the body."""
    document = to_json_text(body.object(name))
    parse_json_object(document, body.loc(name), max_bytes=max_bytes)
    return document


def _files(body: Fields) -> tuple[FileEntry, ...]:
    paths = DistinctPaths()
    sizes: dict[Digest, int] = {}
    files = []
    for index, item in enumerate(body.items("files", at_most=MAX_FILES)):
        loc: Loc = (*body.loc("files"), index)
        fields = Fields(item, _FILE, loc)
        file = FileEntry(
            paths.add(fields.text("path"), fields.loc("path")),
            fields.integer("size_bytes", at_least=0, at_most=_MAX_BIGINT),
            Digest.parse(fields.text("sha256"), fields.loc("sha256")),
            _media_type(fields),
        )
        if sizes.setdefault(file.sha256, file.size_bytes) != file.size_bytes:
            raise InvalidField(fields.loc("size_bytes"), "the same bytes have one size", file.size_bytes)
        files.append(file)
    return tuple(files)


def _media_type(fields: Fields) -> str:
    media_type = fields.optional_text("media_type")
    return (
        "application/octet-stream" if media_type is None else validate_media_type(media_type, fields.loc("media_type"))
    )


def parts_of(tree: dict[str, Any]) -> Parts:
    """What the body of a commit says; call it `aside`, too."""
    body = Fields(tree, ("parts",))
    given = body.object("parts")
    return {upload_id_of(upload_id): _tags(tags, (*body.loc("parts"), upload_id)) for upload_id, tags in given.items()}


def upload_id_of(text: str) -> UUID:
    """As it was handed out, and in no other spelling: two of one id would hide each other."""
    try:
        upload_id = UUID(text)
    except ValueError:
        raise UploadUnknown(text) from None
    if str(upload_id) != text:
        raise UploadUnknown(text)
    return upload_id


def _tags(tags: object, loc: Loc) -> Sequence[PartTag]:
    if not isinstance(tags, list) or len(tags) > MAX_PARTS:
        raise InvalidField(loc, f"a list of at most {MAX_PARTS} parts is expected", tags)
    each = [Fields(item, ("part_number", "etag"), (*loc, index)) for index, item in enumerate(tags)]
    return [
        PartTag(part.integer("part_number", at_least=1, at_most=MAX_PARTS), part.text("etag", max_chars=256).strip('"'))
        for part in each
    ]


def part_numbers_of(tree: dict[str, Any]) -> list[int]:
    """What the body of a request for part URLs says."""
    body = Fields(tree, ("part_numbers",))
    numbers = body.items("part_numbers", at_least=1, at_most=1000)
    seen = set()
    for index, number in enumerate(numbers):
        where = (*body.loc("part_numbers"), index)
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidField(where, "a part's number is an integer", number)
        if number in seen:
            raise InvalidField(where, "each part stands once in the list", number)
        seen.add(number)
    return numbers


def push_json(reserved: Reserved, base_url: str) -> bytes:
    """`base_url` is how the client reached us, for the files that it sends through us."""
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
