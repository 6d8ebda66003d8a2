"""The object store on S3: one method for each operation, with a deadline and the registry's errors."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
)

from model_registry.domain.entities import Digest
from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import (
    KEY_PREFIX,
    BlobDamaged,
    BlobMissing,
    Body,
    PartsRefused,
    PresignedRequest,
    StoredObject,
    StoredPart,
)
from model_registry.object_store.http import Refused
from model_registry.object_store.s3_client import S3Clients, S3Options
from model_registry.object_store.sigv4 import Presigner

if TYPE_CHECKING:
    pass

_STORE = "The object store"
_READ_BYTES = 256 * 1024  # the most that the event loop reads at once; a slow client holds a few of these
_SEND_BYTES = 1024**2
_FIRST_BYTES = 16 * 1024
# In the middle of an upload, waiting is better than losing what was sent. The S3 library waits as long at most.
_MID_UPLOAD_PAUSES = (0.5, 1, 2, 4)
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_MISSING_UPLOAD = frozenset({"NoSuchUpload", "404", "NotFound"})
_REFUSED_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
_REFUSED_CHECKSUM = frozenset(
    {"BadDigest", "InvalidDigest", "InvalidRequest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)


class S3BlobStore:
    """One long-lived client for a process; use as an async context manager."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._s3 = S3Clients(options)

    async def __aenter__(self) -> "S3BlobStore":
        await self._s3.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._s3.__aexit__(*error)

    def location(self, key: str) -> str:
        return f"s3://{self._options.bucket}/{key}"

    @asynccontextmanager
    async def _bounded(self, timeout_seconds: float | None = None) -> AsyncIterator[None]:
        """Set a deadline for the whole operation (PUTs ignore `read_timeout`), and translate errors."""
        with _errors_as_unavailable():
            async with asyncio.timeout(timeout_seconds or self._options.operation_timeout_seconds):
                yield

    def _briefly(self) -> AbstractAsyncContextManager[None]:
        return self._bounded(self._options.short_timeout_seconds)

    async def ping(self) -> None:
        async with self._bounded(self._options.connect_timeout_seconds):
            await self._s3.control.head_bucket(Bucket=self._options.bucket)

    async def create_bucket(self) -> bool:
        async with self._bounded():
            try:
                await self._s3.control.head_bucket(Bucket=self._options.bucket)
            except ClientError as error:
                if _code(error) not in {"404", "NoSuchBucket"}:
                    raise
                if self._options.region == "us-east-1":  # AWS rejects its own default as a constraint
                    await self._s3.control.create_bucket(Bucket=self._options.bucket)
                else:
                    await self._s3.control.create_bucket(
                        Bucket=self._options.bucket,
                        CreateBucketConfiguration={"LocationConstraint": self._options.region},  # type: ignore[typeddict-item]
                    )
                return True
            return False

    async def put(self, key: str, body: Body) -> None:
        headers = {"Content-Length": str(len(body))}
        async with self._bounded():
            url = (await self._s3.signer()).put(key, headers)
            async with self._s3.writes.send("PUT", url, headers, partial(_pieces, body)):
                return

    async def create_multipart(self, key: str) -> str:
        async with self._briefly():
            response = await self._s3.control.create_multipart_upload(Bucket=self._options.bucket, Key=key)
            return response["UploadId"]

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        headers = {"Content-Length": str(len(body))}
        async with self._bounded():
            url = (await self._s3.signer()).put_part(key, multipart_id, number, headers)
            send = self._s3.writes.send("PUT", url, headers, partial(_pieces, body), pauses_seconds=_MID_UPLOAD_PAUSES)
            async with send as response:
                return response.headers["ETag"]

    async def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str], size_bytes: int) -> None:
        try:
            await self._complete(key, multipart_id, etags)
        except (Unavailable, PartsRefused):
            # If only the response was lost, the parts are gone and the object exists.
            found = await self.stored(key)
            if found is None or found.size_bytes != size_bytes:
                raise

    async def _complete(self, key: str, multipart_id: str, etags: Sequence[str]) -> None:
        async with self._bounded():
            try:
                await self._s3.control.complete_multipart_upload(
                    Bucket=self._options.bucket,
                    Key=key,
                    UploadId=multipart_id,
                    MultipartUpload={
                        "Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
                    },
                )
            except ClientError as error:
                if _code(error) in _REFUSED_PARTS:
                    raise PartsRefused(key, _code(error)) from error
                raise

    async def abort_multipart(self, key: str, multipart_id: str | None) -> None:
        ids = [multipart_id] if multipart_id else await self._multiparts(key)
        for each in ids:
            async with self._briefly():
                try:
                    await self._s3.control.abort_multipart_upload(Bucket=self._options.bucket, Key=key, UploadId=each)
                except ClientError as error:
                    if _code(error) not in _MISSING_UPLOAD:
                        raise

    async def _multiparts(self, key: str) -> list[str]:
        async with self._briefly():
            response = await self._s3.control.list_multipart_uploads(Bucket=self._options.bucket, Prefix=key)
        return [upload["UploadId"] for upload in response.get("Uploads", ()) if upload.get("Key") == key]

    async def list_parts(self, key: str, multipart_id: str) -> list[StoredPart] | None:
        parts: list[StoredPart] = []
        async with self._briefly():
            pages = self._s3.control.get_paginator("list_parts").paginate(
                Bucket=self._options.bucket, Key=key, UploadId=multipart_id
            )
            try:
                async for page in pages:
                    parts += [
                        StoredPart(part["PartNumber"], part["Size"], part["ETag"]) for part in page.get("Parts", ())
                    ]
            except ClientError as error:
                if _code(error) in _MISSING_UPLOAD:
                    return None
                raise
        return parts

    async def stored(self, key: str) -> StoredObject | None:
        headers = {"x-amz-checksum-mode": "ENABLED"}
        async with self._briefly():
            url = (await self._s3.signer()).plain("HEAD", key, headers)
            try:
                async with self._s3.heads.send("HEAD", url, headers) as response:
                    return StoredObject(int(response.headers["Content-Length"]), _kept_sha256(response.headers))
            except Refused as refused:
                if refused.code in _MISSING:
                    return None
                raise

    @asynccontextmanager
    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        async with AsyncExitStack() as cleanup:
            async with self._bounded(self._options.begin_timeout_seconds):
                url = (await self._s3.signer()).plain("GET", key, headers)
                try:
                    response = await cleanup.enter_async_context(self._s3.reads.send("GET", url, headers))
                except Refused as refused:
                    if refused.code in _MISSING:
                        raise BlobMissing(key) from refused
                    if refused.code == "InvalidRange":
                        raise BlobDamaged(key) from refused
                    raise
            # Some proxies remove the length; then the bytes are only counted.
            if int(response.headers.get("Content-Length", stop - start)) != stop - start:
                raise BlobDamaged(key)
            yield self._exactly(response.content, stop - start, key)

    async def _exactly(self, stream: aiohttp.StreamReader, size_bytes: int, key: str) -> AsyncIterator[bytes]:
        left = size_bytes
        while left > 0:
            with _errors_as_unavailable():
                async with asyncio.timeout(self._options.read_timeout_seconds):
                    chunk = await stream.read(_READ_BYTES)
            if not chunk or len(chunk) > left:
                raise BlobDamaged(key)
            left -= len(chunk)
            yield chunk

    async def objects(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        more: dict[str, str] = {}
        while True:
            async with self._bounded():
                page = await self._s3.control.list_objects_v2(Bucket=self._options.bucket, Prefix=KEY_PREFIX, **more)  # type: ignore[arg-type]
            yield [(item["Key"], item["Size"]) for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        if not keys:
            return ()
        async with self._bounded():
            response = await self._s3.control.delete_objects(
                Bucket=self._options.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        return {error["Key"] for error in response.get("Errors", ()) if error.get("Code") not in _MISSING}

    async def presign_gets(self, wanted: Sequence[tuple[str, str]], *, expires_in_seconds: int) -> list[str]:
        presigner = await self._public_presigner(expires_in_seconds)
        return [
            presigner.get(key, content_type="application/octet-stream", disposition=disposition)
            for key, disposition in wanted
        ]

    async def presign_puts(
        self, wanted: Sequence[tuple[str, Digest, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        presigner = await self._public_presigner(expires_in_seconds)
        requests = []
        for key, sha256, size_bytes in wanted:
            headers = {
                "Content-Length": str(size_bytes),
                "If-None-Match": "*",
                "x-amz-checksum-sha256": _base64(sha256.raw),
            }
            requests.append(PresignedRequest(presigner.put(key, headers), headers))
        return requests

    async def presign_parts(
        self, key: str, multipart_id: str, parts: Sequence[tuple[int, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        presigner = await self._public_presigner(expires_in_seconds)
        requests = []
        for number, size_bytes in parts:
            headers = {"Content-Length": str(size_bytes)}
            requests.append(PresignedRequest(presigner.put_part(key, multipart_id, number, headers), headers))
        return requests

    async def _public_presigner(self, expires_in_seconds: int) -> Presigner:
        async with self._bounded():
            return await self._s3.public_presigner(expires_in_seconds)

    async def enforces_checksums(self, key: str) -> bool:
        async with self._briefly():
            try:
                await self._s3.control.put_object(
                    Bucket=self._options.bucket,
                    Key=key,
                    Body=b"some bytes",
                    ChecksumSHA256=_base64(hashlib.sha256(b"other bytes").digest()),
                )
            except ClientError as error:
                if _code(error) in _REFUSED_CHECKSUM:
                    return True
                raise
        await self.delete([key])
        return False


async def _pieces(body: Body) -> AsyncIterator[memoryview]:
    """Yield the body without a copy. The first piece is short, because aiohttp before Python 3.12.9 copies it."""
    size_bytes = _FIRST_BYTES
    for piece in body.pieces:
        start = 0
        while start < len(piece):
            yield piece[start : start + size_bytes]
            start += size_bytes
            size_bytes = _SEND_BYTES


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _kept_sha256(headers: Mapping[str, str]) -> Digest | None:
    """Return the checksum of the object; `None` for a checksum of the checksums of parts (`…-3`)."""
    checksum = headers.get("x-amz-checksum-sha256", "")
    if "-" in checksum or headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    raw = base64.b64decode(checksum)
    return Digest(raw) if len(raw) == hashlib.sha256().digest_size else None


@contextmanager
def _errors_as_unavailable() -> Iterator[None]:
    """Raise `Unavailable` for all other errors between the service and the store. Only the log has the original error.

    A `KeyError` means that a 200 lacks what every response of a store has, so it came from a proxy in between.
    """
    try:
        yield
    except (ClientError, BotoCoreError, Refused, OSError, TimeoutError, aiohttp.ClientError, KeyError) as error:
        raise Unavailable(_STORE) from error
