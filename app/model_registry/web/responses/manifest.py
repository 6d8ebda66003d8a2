"""The JSON of manifests and of URLs of single files."""

from collections.abc import Sequence
from datetime import datetime

import orjson
from pydantic import BaseModel, Field

from model_registry.domain.entities import FileEntry
from model_registry.utils import rfc3339
from model_registry.web.responses.schemas import FileOut, file_members


class ManifestEntryOut(FileOut):
    """A file of a version, with a URL if you asked for it."""

    url: str | None = Field(description="With `presign`: a URL for GET without credentials, until `expires_at`.")
    expires_at: str | None


class ManifestPageOut(BaseModel):
    items: list[ManifestEntryOut]
    next_page_token: str | None


class DownloadUrlOut(FileOut):
    """A URL for GET of the bytes of one file, without credentials."""

    model_name: str
    version: str
    url: str
    expires_at: str


def manifest_json(
    files: Sequence[FileEntry], urls: Sequence[str | None], expires_at: datetime | None, next_page_token: str | None
) -> bytes:
    expiry = expires_at and rfc3339(expires_at)
    items = [file_members(file) | {"url": url, "expires_at": expiry} for file, url in zip(files, urls, strict=True)]
    return orjson.dumps({"items": items, "next_page_token": next_page_token})


def download_url_json(model_name: str, version: str, file: FileEntry, url: str, expires_at: datetime) -> bytes:
    return orjson.dumps(
        file_members(file)
        | {"model_name": model_name, "version": version, "url": url, "expires_at": rfc3339(expires_at)}
    )
