"""What the registry asks of an object store, and how keys are laid out.

The store is told only of opaque keys; which digest is where, Postgres knows.
"""

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from uuid import UUID

from model_registry.errors import RegistryError

MAX_PARTS = 10_000
MAX_PUT_BYTES = 5 * 1024**3
"""Amazon S3 User Guide, "Multipart upload limits": 5 MiB to 5 GiB a part, at most 10 000 parts, 5 GiB a PUT."""


def storage_key(upload_id: UUID) -> str:
    """Where an upload's bytes go: a key written once, never reused, and never the digest of what it holds.

    So a late or repeated delete can only ever hit the upload it was meant for.
    """
    return f"blobs/{upload_id}"


class BlobMissing(RegistryError):
    """The store has no object where the database says there is one."""

    slug = "blob-missing"

    def __init__(self, key: str) -> None:
        super().__init__("The object store has lost an object that the registry counts on.")
        self.key = key


class BlobDamaged(RegistryError):
    """The bytes that came back are not those that were stored."""

    slug = "blob-damaged"

    def __init__(self, key: str) -> None:
        super().__init__("The object store gave back other bytes than were stored.")
        self.key = key


class Body(Protocol):
    """Bytes to send, in one or several pieces that must not change until the call returns."""

    @property
    def pieces(self) -> Sequence[memoryview]: ...

    def __len__(self) -> int: ...


class BlobStore(Protocol):
    """An S3-like store. Every call is bounded in time and raises `Unavailable` when the store is out of reach."""

    def location(self, key: str) -> str:
        """`s3://bucket/key`, for people."""
        ...

    async def check(self) -> None:
        """Return when the bucket can be used, raise `Unavailable` otherwise."""
        ...

    async def create_bucket(self) -> bool:
        """Make the bucket unless it is there; `True` when it was made."""
        ...

    async def put(self, key: str, body: Body) -> None:
        """Write a whole object in one request; at most `MAX_PUT_BYTES`."""
        ...

    async def create_multipart(self, key: str) -> str:
        """Begin an object of several parts; returns the store's id of the upload."""
        ...

    async def put_part(self, key: str, multipart_id: str, number: int, body: Body) -> str:
        """Write part `number` (1 to `MAX_PARTS`); returns its etag, as `complete_multipart` wants it."""
        ...

    async def complete_multipart(self, key: str, multipart_id: str, etags: Sequence[str], size_bytes: int) -> None:
        """Make the parts one object. Safe to repeat; a lost answer is resolved by looking at the object."""
        ...

    async def abort_multipart(self, key: str, multipart_id: str | None) -> None:
        """Throw away the parts of an unfinished upload; `None` for whatever uploads there are to this key."""
        ...

    async def size(self, key: str) -> int | None:
        """The size of an object in bytes, `None` when there is none."""
        ...

    def read(self, key: str, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Bytes `start` to `stop` (exclusive, not empty) of an object, in pieces of any size, exactly that many.

        Leaving the context early ends the transfer. Raises `BlobMissing`; `BlobDamaged` when fewer bytes came.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """Delete objects, at most 1 000; those that do not exist count as deleted. Returns what the store refused."""
        ...

    async def presign_get(self, key: str, *, disposition: str, expires_in_seconds: int) -> str:
        """A URL that needs no credentials; it answers application/octet-stream with this Content-Disposition."""
        ...
