"""Connections to an S3-compatible store: the S3 library's client, our own signed requests, and credentials.

`s3` builds the operations on top. No other module uses aioboto3.
"""

from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aioboto3
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import ConnectionClosedError, EndpointConnectionError, NoCredentialsError
from botocore.handlers import add_expect_header

from model_registry.object_store.http import PAUSES_SECONDS, SignedRequests
from model_registry.object_store.sigv4 import AccessKey, BucketAddress, Presigner

if TYPE_CHECKING:
    from types_aiobotocore_s3 import S3Client

_CONTROL_CONNECTIONS = 8
_OWN_REQUEST_SECONDS = 300


@dataclass(frozen=True, slots=True)
class S3Options:
    """The address of the store and the timeouts of its operations.

    `public_endpoint_url` is the address that clients use. A signature covers the host, so a presigned URL must name the
    host that the client connects to. Without keys, the usual AWS chain applies (environment, profile, instance or pod
    identity).

    An operation that moves bytes, or may make the store move bytes, has `operation_timeout_seconds`. The start of a
    read has `begin_timeout_seconds`. Short operations have `short_timeout_seconds`. All of them include retries.
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
        """Twice the connect timeout: once to connect, once to respond."""
        return min(2 * self.connect_timeout_seconds, self.operation_timeout_seconds)

    @property
    def begin_timeout_seconds(self) -> float:
        return min(self.read_timeout_seconds, self.operation_timeout_seconds)


class S3Clients:
    """Long-lived connections of a process; use as an async context manager.

    `control` is the S3 library's client. `reads`, `writes` and `heads` send our own signed requests. Each has its own
    connections: if slow downloads take all connections for reads, the service is still ready, finishes uploads and
    deletes garbage.
    """

    control: "S3Client"
    reads: SignedRequests
    writes: SignedRequests
    heads: SignedRequests

    def __init__(self, options: S3Options) -> None:
        self._options = options
        self._stack = AsyncExitStack()
        self._botocore = get_session()
        self._session = aioboto3.Session(
            botocore_session=self._botocore,
            aws_access_key_id=options.access_key_id,
            aws_secret_access_key=options.secret_access_key,
            region_name=options.region,
        )
        self._address: BucketAddress
        self._public_address: BucketAddress

    async def __aenter__(self) -> "S3Clients":
        options = self._options
        self.control = await self._connect()
        self.reads = await self._stack.enter_async_context(self._signed_requests(options.max_connections))
        self.writes = await self._stack.enter_async_context(self._signed_requests(options.max_connections))
        self.heads = await self._stack.enter_async_context(self._signed_requests(_CONTROL_CONNECTIONS))
        self._address = self._public_address = await self._address_at(options.endpoint_url)
        if options.public_endpoint_url:
            self._public_address = await self._address_at(options.public_endpoint_url)
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self._stack.aclose()

    async def signer(self) -> Presigner:
        """Return a signer for requests of this process, which are sent at once."""
        return Presigner(self._address, await self._access_key(), expires_in_seconds=_OWN_REQUEST_SECONDS)

    async def public_presigner(self, expires_in_seconds: int) -> Presigner:
        """Return a signer for one batch of URLs for clients. Credentials of an instance or pod change within hours."""
        return Presigner(self._public_address, await self._access_key(), expires_in_seconds=expires_in_seconds)

    async def _access_key(self) -> AccessKey:
        session: Any = self._session  # its type says that this is not a coroutine
        credentials = await session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        now = await credentials.get_frozen_credentials()
        return AccessKey(now.access_key, now.secret_key, now.token)

    async def _connect(self) -> "S3Client":
        connecting = self._new_client(self._session, self._options.endpoint_url, _CONTROL_CONNECTIONS)
        client = await self._stack.enter_async_context(connecting)
        # A server that never sends "100 Continue" would hang a PUT beyond any read timeout.
        client.meta.events.unregister("before-call.s3", add_expect_header)
        client.meta.events.register_first("needs-retry.s3", _pause_when_disconnected)  # type: ignore[arg-type]
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
                # Not every store supports the checksums that the library sends by default.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Path style works with every host name; AWS itself requires the bucket in the host name.
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
        """Return the address of the bucket at an endpoint, taken from a URL that the library signs.

        The access key is made up, so that a process starts without credentials, as it starts without a store.
        """
        key, made_up, options = "key", "nobody", self._options
        botocore = get_session()
        # The description of the API takes 11 MiB; one copy is enough.
        botocore.register_component("data_loader", self._botocore.get_component("data_loader"))
        session = aioboto3.Session(
            botocore_session=botocore,
            aws_access_key_id=made_up,
            aws_secret_access_key=made_up,
            region_name=options.region,
        )
        async with self._new_client(session, endpoint_url, 1) as client:
            url = await client.generate_presigned_url("get_object", Params={"Bucket": options.bucket, "Key": key})
        return BucketAddress.from_presigned(url, key)


def _pause_when_disconnected(
    operation: Any, attempts: int, caught_exception: Exception | None, **_: Any
) -> float | None:
    """Return the seconds until the next try if there was no connection, or it closed without a response.

    `None` leaves the decision to the library, as after any response. The library's own pauses add up to seven seconds,
    too long to tell a client that the store is down. In the middle of a large upload, waiting is better than losing
    what was sent.
    """
    is_disconnected = isinstance(caught_exception, EndpointConnectionError | ConnectionClosedError)
    if not is_disconnected or operation.name == "CompleteMultipartUpload" or attempts > len(PAUSES_SECONDS):
        return None
    return PAUSES_SECONDS[attempts - 1]
