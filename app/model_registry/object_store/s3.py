"""The object store over aioboto3; nothing outside this module knows that library."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import aioboto3
import aiohttp
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    EndpointConnectionError,
    NoCredentialsError,
)
from botocore.handlers import add_expect_header

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
from model_registry.object_store.http import Refused, SignedRequests
from model_registry.object_store.sigv4 import AccessKey, BucketAddress, Presigner

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_STORE = "The object store"
_CONTROL_CONNECTIONS = 8
_OWN_REQUEST_SECONDS = 300
_READ_BYTES = 256 * 1024  # as much as the event loop reads at once; a slow client holds some of them
_SEND_BYTES = 1024**2
_FIRST_BYTES = 16 * 1024
_PAUSES_SECONDS = (0.1, 0.2, 0.4)
# To lose what was sent is worse than to wait; as long as the S3 library waits at most.
_MID_UPLOAD_PAUSES = (0.5, 1, 2, 4)
_MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
_MISSING_UPLOAD = frozenset({"NoSuchUpload", "404", "NotFound"})
_REFUSED_PARTS = frozenset({"InvalidPart", "InvalidPartOrder", "EntityTooSmall"})
_REFUSED_CHECKSUM = frozenset(
    {"BadDigest", "InvalidDigest", "InvalidRequest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch"}
)


@dataclass(frozen=True, slots=True)
class S3Options:
    """Where the store is, and how long to wait for it.

    `public_endpoint_url` is the address that clients see: a signature covers the host, so a presigned URL must be
    made for it. Without keys the usual AWS chain applies (environment, profile, instance or pod identity).

    A call that moves bytes, or may make the store move some, has `operation_timeout_seconds`; the beginning of a read
    has `begin_timeout_seconds`; whatever is short has `short_timeout_seconds`. All of them include further tries.
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

    @property
    def short_timeout_seconds(self) -> float:
        """As long to answer as to connect."""
        return min(2 * self.connect_timeout_seconds, self.operation_timeout_seconds)

    @property
    def begin_timeout_seconds(self) -> float:
        return min(self.read_timeout_seconds, self.operation_timeout_seconds)


class S3BlobStore:
    """One long-lived client for a process; use as an async context manager."""

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._clients = AsyncExitStack()
        self._botocore = get_session()
        self._session = aioboto3.Session(
            botocore_session=self._botocore,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            region_name=options.region,
        )
        self._control: S3Client
        self._reads: SignedRequests
        self._writes: SignedRequests
        self._heads: SignedRequests
        self._address: BucketAddress
        self._public_address: BucketAddress

    async def __aenter__(self) -> "S3BlobStore":
        endpoint_url = self._options.endpoint_url
        # Connections of their own for what is short: with all others taken by slow downloads, the service is still
        # ready, finishes uploads and deletes garbage.
        self._control = await self._connect(endpoint_url)
        self._reads = await self._clients.enter_async_context(self._signed_requests(self._options.max_connections))
        self._writes = await self._clients.enter_async_context(self._signed_requests(self._options.max_connections))
        self._heads = await self._clients.enter_async_context(self._signed_requests(_CONTROL_CONNECTIONS))
        self._address = await self._address_at(endpoint_url)
        public_endpoint_url = self._options.public_endpoint_url
        self._public_address = await self._address_at(public_endpoint_url) if public_endpoint_url else self._address
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._clients.aclose()

    async def _connect(self, endpoint_url: str | None) -> "S3Client":
        connecting = self._new_client(self._session, endpoint_url, _CONTROL_CONNECTIONS)
        client = await self._clients.enter_async_context(connecting)
        # A server that never says "100 Continue" would hang a PUT beyond any read timeout.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register_first("needs-retry.s3", _pause_when_cut_off)  # type: ignore[arg-type]
        return client

    def _new_client(
        self, session: aioboto3.Session, endpoint_url: str | None, max_connections: int
    ) -> "AbstractAsyncContextManager[S3Client]":
        options = self._options
        return session.client(
            "s3",
            endpoint_url=endpoint_url,
            config=AioConfig(
                signature_version="s3v4",
                connect_timeout=options.connect_timeout_seconds,
                read_timeout=options.read_timeout_seconds,
                max_pool_connections=max_connections,
                retries={"mode": "standard", "max_attempts": 3},
                # Not every store knows the checksums that are the library's default.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Path style works for every host name; AWS itself wants the bucket in it.
                s3={"addressing_style": "path" if endpoint_url else "auto"},
            ),
        )

    def _signed_requests(self, connections: int) -> SignedRequests:
        options = self._options
        return SignedRequests(
            connections=connections,
            connect_timeout_seconds=options.connect_timeout_seconds,
            read_timeout_seconds=options.read_timeout_seconds,
            ca_bundle=self._botocore.get_config_variable("ca_bundle"),
        )

    async def _address_at(self, endpoint_url: str | None) -> BucketAddress:
        """Where the bucket is at an endpoint, by the library's own rules: taken from a URL that it signs once.

        Signed with a made-up access key, so that a process starts without credentials as it does without a store.
        """
        key, nobody, options = "key", "nobody", self._options
        botocore = get_session()
        # What describes the API is large, and once is enough: 11 MiB.
        botocore.register_component("data_loader", self._botocore.get_component("data_loader"))
        session = aioboto3.Session(
            botocore_session=botocore,
            aws_access_key_id=nobody,
            aws_secret_access_key=nobody,
            region_name=options.region,
        )
        async with self._new_client(session, endpoint_url, 1) as client:
            url = await client.generate_presigned_url("get_object", Params={"Bucket": options.bucket, "Key": key})
        return BucketAddress.from_presigned(url, key)

    def location(self, key: str) -> str:
        return f"s3://{self._options.bucket}/{key}"

    @asynccontextmanager
    async def _bounded(self, timeout_seconds: float | None = None) -> AsyncIterator[None]:
        """A deadline for the whole operation (PUTs ignore `read_timeout`), and errors in the registry's words."""
        with _translated():
            async with asyncio.timeout(timeout_seconds or self._options.operation_timeout_seconds):
                yield

    def _briefly(self) -> AbstractAsyncContextManager[None]:
        return self._bounded(self._options.short_timeout_seconds)

    async def ping(self) -> None:
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
        headers = {"Content-Length": str(len(body))}
        async with self._bounded():
            url = (await self._signer()).put(key, headers)
            async with self._writes.send("PUT", url, headers, partial(_pieces, body)):
                return

    async def create_multipart(self, key: str) -> str:
        async with self._briefly():
            answer = await self._control.create_multipart_upload(Bucket=self._options.bucket, Key=key)
            return answer["UploadId"]

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        headers = {"Content-Length": str(len(body))}
        async with self._bounded():
            url = (await self._signer()).put_part(key, multipart_id, number, headers)
            send = self._writes.send("PUT", url, headers, partial(_pieces, body), pauses_seconds=_MID_UPLOAD_PAUSES)
            async with send as answer:
                return answer.headers["ETag"]

    async def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str], size_bytes: int) -> None:
        try:
            await self._complete(key, multipart_id, etags)
        except (Unavailable, PartsRefused):
            # The answer may be lost after the work was done, and the parts are gone then: the object decides.
            found = await self.stored(key)
            if found is None or found.size_bytes != size_bytes:
                raise

    async def _complete(self, key: str, multipart_id: str, etags: Sequence[str]) -> None:
        async with self._bounded():
            try:
                await self._control.complete_multipart_upload(
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
                    await self._control.abort_multipart_upload(Bucket=self._options.bucket, Key=key, UploadId=each)
                except ClientError as error:
                    if _code(error) not in _MISSING_UPLOAD:
                        raise

    async def _multiparts(self, key: str) -> list[str]:
        async with self._briefly():
            answer = await self._control.list_multipart_uploads(Bucket=self._options.bucket, Prefix=key)
        return [upload["UploadId"] for upload in answer.get("Uploads", ()) if upload.get("Key") == key]

    async def list_parts(self, key: str, multipart_id: str) -> list[StoredPart] | None:
        parts: list[StoredPart] = []
        async with self._briefly():
            pages = self._control.get_paginator("list_parts").paginate(
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
            url = (await self._signer()).plain("HEAD", key, headers)
            try:
                async with self._heads.send("HEAD", url, headers) as answer:
                    return StoredObject(int(answer.headers["Content-Length"]), _kept_sha256(answer.headers))
            except Refused as refused:
                if refused.code in _MISSING:
                    return None
                raise

    @asynccontextmanager
    async def read(self, key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        async with AsyncExitStack() as cleanup:
            async with self._bounded(self._options.begin_timeout_seconds):
                url = (await self._signer()).plain("GET", key, headers)
                try:
                    answer = await cleanup.enter_async_context(self._reads.send("GET", url, headers))
                except Refused as refused:
                    if refused.code in _MISSING:
                        raise BlobMissing(key) from refused
                    if refused.code == "InvalidRange":
                        raise BlobDamaged(key) from refused
                    raise
            # Some proxies leave the length out; then it is only counted.
            if int(answer.headers.get("Content-Length", stop - start)) != stop - start:
                raise BlobDamaged(key)
            yield self._exactly(answer.content, stop - start, key)

    async def _signer(self) -> Presigner:
        """For a request of our own, at once."""
        return Presigner(self._address, await self._access_key(), expires_in_seconds=_OWN_REQUEST_SECONDS)

    async def _exactly(self, stream: aiohttp.StreamReader, size_bytes: int, key: str) -> AsyncIterator[bytes]:
        left = size_bytes
        while left > 0:
            with _translated():
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
                page = await self._control.list_objects_v2(Bucket=self._options.bucket, Prefix=KEY_PREFIX, **more)  # type: ignore[arg-type]
            yield [(item["Key"], item["Size"]) for item in page.get("Contents", ())]
            if not page.get("IsTruncated"):
                return
            more = {"ContinuationToken": page["NextContinuationToken"]}

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        if not keys:
            return ()
        async with self._bounded():
            answer = await self._control.delete_objects(
                Bucket=self._options.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        return {error["Key"] for error in answer.get("Errors", ()) if error.get("Code") not in _MISSING}

    async def presign_gets(self, wanted: Sequence[tuple[str, str]], *, expires_in_seconds: int) -> list[str]:
        presigner = await self._presigner(expires_in_seconds)
        return [
            presigner.get(key, content_type="application/octet-stream", disposition=disposition)
            for key, disposition in wanted
        ]

    async def presign_puts(
        self, wanted: Sequence[tuple[str, Digest, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        presigner = await self._presigner(expires_in_seconds)
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
        presigner = await self._presigner(expires_in_seconds)
        requests = []
        for number, size_bytes in parts:
            headers = {"Content-Length": str(size_bytes)}
            requests.append(PresignedRequest(presigner.put_part(key, multipart_id, number, headers), headers))
        return requests

    async def _presigner(self, expires_in_seconds: int) -> Presigner:
        """For one batch: credentials of an instance or pod change every few hours."""
        async with self._bounded():
            access_key = await self._access_key()
        return Presigner(self._public_address, access_key, expires_in_seconds=expires_in_seconds)

    async def _access_key(self) -> AccessKey:
        session: Any = self._session  # typed as if this were no coroutine
        credentials = await session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        now = await credentials.get_frozen_credentials()
        return AccessKey(now.access_key, now.secret_key, now.token)

    async def enforces_checksums(self, key: str) -> bool:
        async with self._briefly():
            try:
                await self._control.put_object(
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
    """Without a copy, but of the first piece, which is short: before Python 3.12.9 aiohttp joins the headers to it."""
    size_bytes = _FIRST_BYTES
    for piece in body.pieces:
        start = 0
        while start < len(piece):
            yield piece[start : start + size_bytes]
            start += size_bytes
            size_bytes = _SEND_BYTES


def _pause_when_cut_off(operation: Any, attempts: int, caught_exception: Exception | None, **_: Any) -> float | None:
    """Seconds until the next try where no connection came about, or it ended without an answer.

    `None` leaves that to the library, as after any answer. Its pauses add up to seven seconds, which is too long to
    tell a client that the store is away. In the middle of a large upload that is better than to lose what was sent.
    """
    is_cut_off = isinstance(caught_exception, EndpointConnectionError | ConnectionClosedError)
    if not is_cut_off or operation.name == "CompleteMultipartUpload" or attempts > len(_PAUSES_SECONDS):
        return None
    return _PAUSES_SECONDS[attempts - 1]


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _kept_sha256(headers: Mapping[str, str]) -> Digest | None:
    """The checksum of a whole object; that of an object made of parts is of their checksums (`…-3`)."""
    checksum = headers.get("x-amz-checksum-sha256", "")
    if "-" in checksum or headers.get("x-amz-checksum-type", "FULL_OBJECT") != "FULL_OBJECT":
        return None
    raw = base64.b64decode(checksum)
    return Digest(raw) if len(raw) == hashlib.sha256().digest_size else None


@contextmanager
def _translated() -> Iterator[None]:
    """Whatever else goes wrong between us and the store is `Unavailable`, its own words only in the log.

    A `KeyError` is a 200 that lacks what every answer of a store has: somebody in between has answered.
    """
    try:
        yield
    except (ClientError, BotoCoreError, Refused, OSError, TimeoutError, aiohttp.ClientError, KeyError) as error:
        raise Unavailable(_STORE) from error
