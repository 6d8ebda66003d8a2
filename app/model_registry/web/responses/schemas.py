"""The JSON of versions and files: the schemas for OpenAPI, and the functions that write it.

Metadata is inserted as the text that PostgreSQL stores, so that no number is converted to a double. Therefore `orjson`
writes single versions here, PostgreSQL writes lists (`database.version_json`), and the Pydantic classes only describe
them. Tests compare the three.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field

from model_registry.domain.entities import (
    DOCUMENT_MEMBERS,
    Digest,
    FileEntry,
    ListedVersion,
    ModelInfo,
    ModelSummary,
    VersionState,
)
from model_registry.utils import JsonText, rfc3339

DIGEST_EXAMPLE = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
TIME_EXAMPLE = "2026-01-31T12:00:00.000000Z"


class FileOut(BaseModel):
    path: str = Field(examples=["model.joblib"])
    size_bytes: int = Field(examples=[1024])
    sha256: str = Field(examples=[DIGEST_EXAMPLE])
    media_type: str = Field(examples=["application/octet-stream"], description="As the client gave it.")


class ModelInfoOut(BaseModel):
    """One version of one model."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "id": 1,
                "model_name": "fraud-detector",
                "version": "2.4.0",
                "number": 1,
                "state": "ready",
                "file_path": "s3://models/blobs/0d9c2b5e-6f0e-4a51-9b6e-0a4f3a1f7c11",
                "standardization_params": {"mean": [5.8, 3.1], "scale": [0.8, 0.4]},
                "model_params": {"C": 1.0, "penalty": "l2"},
                "additional_metadata": {"metrics": {"auc": 0.97}},
                "description": None,
                "tags": {},
                "digest": DIGEST_EXAMPLE,
                "size_bytes": 1024,
                "file_count": 1,
                "files": [
                    {
                        "path": "model.joblib",
                        "size_bytes": 1024,
                        "sha256": DIGEST_EXAMPLE,
                        "media_type": "application/octet-stream",
                    }
                ],
                "is_prerelease": False,
                "yanked": False,
                "yank_reason": None,
                "aliases": ["champion"],
                "created_at": TIME_EXAMPLE,
                "created_by": "anonymous",
                "ready_at": TIME_EXAMPLE,
                "removed_at": None,
                "purge_after": None,
                "purged_at": None,
                "download_url": "/get_model/fraud-detector/2.4.0",
            }
        }
    )

    id: int
    model_name: str
    version: str
    number: int = Field(description="The position in the model: 1, 2, 3 … Never reused.")
    state: Literal["pending", "verifying", "ready", "removed"]
    file_path: str | None = Field(
        description="`s3://bucket/key` of the only file; null if there are no files or several."
    )
    standardization_params: dict[str, Any] = Field(description="Never changes.")
    model_params: dict[str, Any] = Field(description="Never changes.")
    additional_metadata: dict[str, Any]
    description: str | None
    tags: dict[str, Any]
    digest: str | None = Field(
        description="The sha256 of the manifest: lines `<sha256 hex>  <size>  <path>`, sorted by the bytes of the path."
    )
    size_bytes: int
    file_count: int
    files: list[FileOut] = Field(description="The first 100 files, sorted by path.")
    is_prerelease: bool
    yanked: bool = Field(description="A yanked version is never the latest. You can still read it by its label.")
    yank_reason: str | None
    aliases: list[str]
    created_at: str
    created_by: str
    ready_at: str | None
    removed_at: str | None
    purge_after: str | None = Field(description="You can restore a removed version until this time.")
    purged_at: str | None = Field(description="The time when its bytes were deleted.")
    download_url: str | None = Field(
        description="The URL of its bytes, relative to this service; null if it has none or is not ready."
    )


class ModelInfoPageOut(BaseModel):
    items: list[ModelInfoOut]
    next_page_token: str | None


class ModelSummaryOut(BaseModel):
    """An item of the list."""

    model_name: str = Field(examples=["fraud-detector"])
    version: str = Field(examples=["2.4.0"])
    is_latest: bool
    size_bytes: int
    digest: str = Field(examples=[DIGEST_EXAMPLE])
    created_at: str = Field(examples=[TIME_EXAMPLE])


def model_info_json(info: ModelInfo) -> bytes:
    return orjson.dumps(model_info_members(info))


def model_info_members(info: ModelInfo) -> dict[str, Any]:
    """The document of a version for `orjson`, to write alone or as part of a larger document."""
    members = {name: _to_json(getattr(info, name)) for name in DOCUMENT_MEMBERS}
    return members | {"download_url": _download_url(info)}


def _to_json(value: Any) -> Any:
    write = _WRITERS.get(type(value))
    return value if write is None else write(value)


def listed_json(versions: Sequence[ListedVersion], next_page_token: str | None) -> bytes:
    items = ",".join(version.document for version in versions)
    return f'{{"items":[{items}],"next_page_token":{orjson.dumps(next_page_token).decode()}}}'.encode()


def _download_url(info: ModelInfo) -> str | None:
    if info.state != VersionState.READY or info.file_count == 0:
        return None
    return f"/get_model/{info.model_name}/{info.version}"


def model_summaries_json(items: tuple[ModelSummary, ...]) -> bytes:
    return orjson.dumps(
        [
            {
                "model_name": item.model_name,
                "version": item.version,
                "is_latest": item.is_latest,
                "size_bytes": item.size_bytes,
                "digest": str(item.digest),
                "created_at": rfc3339(item.created_at),
            }
            for item in items
        ]
    )


def file_members(file: FileEntry) -> dict[str, Any]:
    return {
        "path": file.path,
        "size_bytes": file.size_bytes,
        "sha256": str(file.sha256),
        "media_type": file.media_type,
    }


# How `orjson` gets the values that it does not write itself. Metadata is spliced in as text.
_WRITERS: dict[type, Callable[[Any], Any]] = {
    JsonText: lambda text: orjson.Fragment(text.encode()),
    datetime: rfc3339,
    Digest: str,
    FileEntry: file_members,
    tuple: lambda values: [_to_json(value) for value in values],
}


def file_json(file: FileEntry) -> bytes:
    return orjson.dumps(file_members(file))
