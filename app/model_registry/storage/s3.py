"""The object store over aioboto3; nothing outside this module knows that library."""

import asyncio
import io
from collections.abc import AsyncIterator, Collection, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from botocore.exceptions import BotoCoreError, ClientError
from botocore.handlers import add_expect_header

from model_registry.errors import Unavailable
from model_registry.storage.blobstore import BlobDamaged, BlobMissing, Body

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_STORE = "The object store"
_CONTROL_CONNECTIONS = 8
_READ_BYTES = 1024**2
_SEND_BYTES = 1024**2
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_MISSING_UPLOAD = frozenset({"NoSuchUpload", "404", "NotFound"})


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the store is, and how long to wait for it.

    `public_endpoint_url` is the address that clients see: a signature covers the host, so a presigned URL must be
    made for it. Without keys the usual AWS chain applies (environment, profile, instance or pod identity).
    """

    bucket: str
    endpoint_url: str | None = None
    public_endpoint_url: str | None = None
    region: str = "us-east-1"
    access_key_id: str | None = None
    secret_access_key: str | None = None
    max_connections: int = 64
    connect_timeout_seconds: float = 5
    read_timeout_seconds: float = 30
    operation_timeout_seconds: float = 60


class S3BlobStore:
    """One long-lived client for a process; use as an async context manager."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._clients = AsyncExitStack()
        self._session = aioboto3.Session(
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            region_name=options.region,
        )
        self._client: S3Client
        self._control: S3Client
        self._public: S3Client

    async def __aenter__(self) -> "S3BlobStore":
        endpoint_url = self._options.endpoint_url
        self._client = await self._connect(endpoint_url, self._options.max_connections)
        # Connections of their own for what is short: with all others taken by slow downloads, the service is still
        # ready, finishes uploads and deletes garbage.
        self._control = await self._connect(endpoint_url, _CONTROL_CONNECTIONS)
        # Signs and never connects.
        self._public = await self._connect(self._options.public_endpoint_url or endpoint_url, 1)
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._clients.aclose()

    async def _connect(self, endpoint_url: str | None, max_connections: int) -> "S3Client":
        options = self._options
        client: S3Client = await self._clients.enter_async_context(
            self._session.client(
                "s3",
                endpoint_url=endpoint_url,
                config=AioConfig(
                    signature_version="s3v4",
                    connect_timeout=options.connect_timeout_seconds,
                    read_timeout=options.read_timeout_seconds,
                    max_pool_connections=max_connections,
                    retries={"mode": "standard", "max_attempts": 3},
                    # Signing or summing every body would cost twice the transfer; the sha256 is ours, of what came in.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    # Path style works for every host name; AWS itself wants the bucket in it.
                    s3={"payload_signing_enabled": False, "addressing_style": "path" if endpoint_url else "auto"},
                ),
            )
        )
        # A server that never says "100 Continue" would hang a PUT beyond any read timeout.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        return client

    def location(self, key: str) -> str:
        return f"s3://{self._options.bucket}/{key}"

    @asynccontextmanager
    async def _bounded(self, timeout_seconds: float | None = None) -> AsyncIterator[None]:
        """A deadline for the whole operation (PUTs ignore `read_timeout`), and errors in the registry's words."""
        with _translated():
            async with asyncio.timeout(timeout_seconds or self._options.operation_timeout_seconds):
                yield

    async def check(self) -> None:
        async with self._bounded(self._options.connect_timeout_seconds):
            await self._control.head_bucket(Bucket=self._options.bucket)

    async def create_bucket(self) -> bool:
        async with self._bounded():
            try:
                await self._control.head_bucket(Bucket=self._options.bucket)
            except ClientError as error:
                if _code(error) not in {"404", "NoSuchBucket"}:
                    raise
                if self._options.region == "us-east-1":  # AWS refuses its own default as a constraint
                    await self._control.create_bucket(Bucket=self._options.bucket)
                else:
                    await self._control.create_bucket(
                        Bucket=self._options.bucket,
                        CreateBucketConfiguration={"LocationConstraint": self._options.region},  # type: ignore[typeddict-item]
                    )
                return True
            return False

    async def put(self, key: str, body: Body) -> None:
        async with self._bounded():
            await self._client.put_object(
                Bucket=self._options.bucket,
                Key=key,
                Body=_Payload(body),  # type: ignore[arg-type]
                ContentLength=len(body),
            )

    async def create_multipart(self, key: str) -> str:
        async with self._bounded():
            answer = await self._control.create_multipart_upload(Bucket=self._options.bucket, Key=key)
            return answer["UploadId"]

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        async with self._bounded():
            answer = await self._client.upload_part(
                Bucket=self._options.bucket,
                Key=key,
                UploadId=multipart_id,
                PartNumber=number,
                Body=_Payload(body),  # type: ignore[arg-type]
                ContentLength=len(body),
            )
            return answer["ETag"]

    async def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str], size_bytes: int) -> None:
        try:
            async with self._bounded():
                await self._control.complete_multipart_upload(
                    Bucket=self._options.bucket,
                    Key=key,
                    UploadId=multipart_id,
                    MultipartUpload={
                        "Parts": [{"PartNumber": number, "ETag": etag} for number, etag in enumerate(etags, 1)]
                    },
                )
        except Unavailable:
            # The answer may be lost after the work was done: the object decides.
            if await self.size(key) != size_bytes:
                raise

    async def abort_multipart(self, key: str, multipart_id: str | None) -> None:
        ids = [multipart_id] if multipart_id else await self._multiparts(key)
        for each in ids:
            async with self._bounded():
                try:
                    await self._control.abort_multipart_upload(Bucket=self._options.bucket, Key=key, UploadId=each)
                except ClientError as error:
                    if _code(error) not in _MISSING_UPLOAD:
                        raise

    async def _multiparts(self, key: str) -> list[str]:
        async with self._bounded():
            answer = await self._control.list_multipart_uploads(Bucket=self._options.bucket, Prefix=key)
        return [upload["UploadId"] for upload in answer.get("Uploads", ()) if upload.get("Key") == key]

    async def size(self, key: str) -> int | None:
        async with self._bounded():
            try:
                answer = await self._control.head_object(Bucket=self._options.bucket, Key=key)
            except ClientError as error:
                if _code(error) in _MISSING:
                    return None
                raise
            return answer["ContentLength"]

    @asynccontextmanager
    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._bounded():
            try:
                answer = await self._client.get_object(
                    Bucket=self._options.bucket, Key=key, Range=f"bytes={start}-{stop - 1}"
                )
            except ClientError as error:
                if _code(error) in _MISSING:
                    raise BlobMissing(key) from error
                if _code(error) == "InvalidRange":
                    raise BlobDamaged(key) from error
                raise
        stream: Any = answer["Body"]
        try:
            if answer["ContentLength"] != stop - start:
                raise BlobDamaged(key)
            yield self._exactly(stream, stop - start, key)
        finally:
            stream.close()

    async def _exactly(self, stream: Any, size_bytes: int, key: str) -> AsyncIterator[bytes]:
        left = size_bytes
        while left > 0:
            with _translated():
                async with asyncio.timeout(self._options.read_timeout_seconds):
                    chunk: bytes = await stream.content.read(_READ_BYTES)
            if not chunk or len(chunk) > left:
                raise BlobDamaged(key)
            left -= len(chunk)
            yield chunk

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        if not keys:
            return ()
        async with self._bounded():
            answer = await self._control.delete_objects(
                Bucket=self._options.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        return {error["Key"] for error in answer.get("Errors", ()) if error.get("Code") not in _MISSING}

    async def presign_get(self, key: str, *, disposition: str, expires_in_seconds: int) -> str:
        return await self._public.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._options.bucket,
                "Key": key,
                "ResponseContentType": "application/octet-stream",
                "ResponseContentDisposition": disposition,
            },
            ExpiresIn=expires_in_seconds,
        )


class _Payload:
    """A `Body` as botocore and aiohttp take it: seekable for a retry, sent piece by piece without a copy.

    A bytearray would be copied whole: before Python 3.12.9 aiohttp joins the headers to the first piece it sends.
    """

    def __init__(self, body: Body) -> None:
        self._body = body
        self._position = 0

    def __len__(self) -> int:
        return len(self._body)

    def __bool__(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = offset + (0, self._position, len(self._body))[whence]
        return self._position

    def read(self, _size: int = -1) -> bytes:
        """Only so that botocore takes this for a file; the bytes go out through `__aiter__`."""
        raise io.UnsupportedOperation("read")

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for piece in self._body.pieces:
            for start in range(0, len(piece), _SEND_BYTES):
                yield piece[start : start + _SEND_BYTES]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever else goes wrong between us and the store is `Unavailable`, its own words only in the log."""
    try:
        yield
    except (ClientError, BotoCoreError, OSError, TimeoutError, aiohttp.ClientError) as error:
        raise Unavailable(_STORE) from error
