"""The operations that the registry needs from an object store, and the layout of keys.

The store only sees opaque keys. PostgreSQL records which digest is under which key.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

from model_registry.domain.entities import Digest
from model_registry.errors import RegistryError

MAX_PARTS = 10_000
MAX_PUT_BYTES = 5 * 1024**3
"""Amazon S3 User Guide, "Multipart upload limits": 5 MiB to 5 GiB a part, at most 10 000 parts, 5 GiB a PUT."""


KEY_PREFIX = "blobs/"


def storage_key(upload_id: UUID) -> str:
    """Return the key of an upload. A key is written once, never reused, and does not depend on the content.

    A late or repeated delete can therefore only delete the upload that it was meant for.
    """
    return f"{KEY_PREFIX}{upload_id}"


class BlobMissing(RegistryError):
    """The store has no object under a key that the database refers to."""

    slug = "blob-missing"

    def __init__(self, key: str) -> None:
        super().__init__("The object store has lost an object of the registry.")
        self.key = key


class BlobDamaged(RegistryError):
    """The store returned other bytes than were stored."""

    slug = "blob-damaged"

    def __init__(self, key: str) -> None:
        super().__init__("The object store returned other bytes than were stored.")
        self.key = key


class PartsRefused(RegistryError):
    """The store responded, and refuses to combine these parts; `reason` is its error code."""

    slug = "parts-refused"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The object store refuses the parts of an upload ({reason}).", reason=reason)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the store describes it. `sha256` is of the whole object, `None` unless the store kept one.

    Without `enforces_checksums`, the store may not have compared it with the bytes.
    """

    size_bytes: int
    sha256: Digest | None


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of an unfinished upload; `etag` is what `complete_multipart` takes, including any quotes."""

    number: int
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A PUT without credentials: to `url`, with exactly these `headers` and the number of bytes that they declare."""

    url: str
    headers: dict[str, str]


class Body(Protocol):
    """Bytes to send, in one or more pieces. They must not change until the call returns."""

    @property
    def pieces(self) -> Sequence[memoryview]: ...

    def __len__(self) -> int: ...


class BlobStore(Protocol):
    """An S3-compatible store. Every call has a timeout and raises `Unavailable` if the store cannot be reached."""

    def location(self, key: str) -> str:
        """Return `s3://bucket/key`, for display."""
        ...

    async def ping(self) -> None:
        """Return if the bucket is usable; otherwise raise `Unavailable`."""
        ...

    async def create_bucket(self) -> bool:
        """Create the bucket if it does not exist; return whether it was created."""
        ...

    async def put(self, key: str, body: Body) -> None:
        """Write an object in one request; at most `MAX_PUT_BYTES`."""
        ...

    async def create_multipart(self, key: str) -> str:
        """Start an object of several parts; return the store's id of the upload."""
        ...

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        """Write part `number` (1 to `MAX_PARTS`); return its etag for `complete_multipart`."""
        ...

    async def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str], size_bytes: int) -> None:
        """Combine the parts into one object. Safe to repeat: if a response is lost, the object itself decides.

        Raises `PartsRefused` if a part is missing, has another etag, or is too small and not the last.
        """
        ...

    async def abort_multipart(self, key: str, multipart_id: str | None) -> None:
        """Delete the parts of an unfinished upload; with `None`, of all uploads to this key."""
        ...

    async def list_parts(self, key: str, multipart_id: str) -> list[StoredPart] | None:
        """Return all parts of an unfinished upload by number; `None` if the store does not have the upload."""
        ...

    async def stored(self, key: str) -> StoredObject | None:
        """Return the size and checksum of an object; `None` if it does not exist."""
        ...

    def read(self, key: str, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Read bytes `start` to `stop` (exclusive, not empty) of an object, in pieces of any size.

        Leaving the context early ends the transfer. Raises `BlobMissing`, and `BlobDamaged` if the number of bytes is
        wrong.
        """
        ...

    def objects(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """Yield all objects under `KEY_PREFIX` in pages of up to 1 000: keys and sizes in bytes."""
        ...

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """Delete at most 1 000 objects; missing objects count as deleted. Return the keys that the store refused."""
        ...

    async def presign_gets(self, wanted: Sequence[tuple[str, str]], *, expires_in_seconds: int) -> list[str]:
        """Return a URL that needs no credentials for each key and disposition.

        Its response has the type application/octet-stream and this Content-Disposition. Signing does not connect to
        the store, so thousands at once are fine. A URL signed with temporary credentials expires with them, if that
        is before `expires_in_seconds`. This applies to all presigned URLs.
        """
        ...

    async def presign_puts(
        self, wanted: Sequence[tuple[str, Digest, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        """Return a request that writes one object for each key, sha256 and size in bytes; at most `MAX_PUT_BYTES`.

        The store refuses another number of bytes and never overwrites an object. If it `enforces_checksums`, it also
        refuses other bytes. The request expires as in `presign_gets`; until then it works again if the object is
        deleted.
        """
        ...

    async def presign_parts(
        self, key: str, multipart_id: str, parts: Sequence[tuple[int, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        """Return a request that writes one part for each part number and size in bytes; other sizes are refused.

        Until the upload is completed or aborted, a part can be written again, also with other bytes: the store does
        not compare them with a checksum. The request expires as in `presign_gets`.
        """
        ...

    async def enforces_checksums(self, key: str) -> bool:
        """Return whether the store refuses bytes that do not match their declared sha256. This tries it.

        An object that the store accepts is deleted again. The collector must know `key`, in case this is interrupted.
        """
        ...
