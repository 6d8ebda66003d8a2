"""What the registry asks of an object store, and how keys are laid out.

The store is told only of opaque keys; which digest is where, Postgres knows.
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
    """Where an upload's bytes go: a key written once, never reused, and never the digest of what it holds.

    So a late or repeated delete can only ever hit the upload it was meant for.
    """
    return f"{KEY_PREFIX}{upload_id}"


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


class PartsRefused(RegistryError):
    """The store is there and will not make one object of these parts; `reason` is its code for why."""

    slug = "parts-refused"

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"The object store refuses the parts of an upload ({reason}).", reason=reason)
        self.key = key
        self.reason = reason


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What the store says of an object. `sha256` is of the whole, `None` unless the store was given one and kept it.

    Only from a store that `enforces_checksums` is it more than the word of whoever wrote the object.
    """

    size_bytes: int
    sha256: Digest | None


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part of an unfinished upload; `etag` as `complete_multipart` wants it, which includes any quotes."""

    number: int
    size_bytes: int
    etag: str


@dataclass(frozen=True, slots=True)
class PresignedRequest:
    """A PUT that needs no credentials: to `url`, with exactly these `headers` and as many bytes as they say."""

    url: str
    headers: dict[str, str]


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

    async def ping(self) -> None:
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
        """Make the parts one object. Safe to repeat; a lost answer is resolved by looking at the object.

        Raises `PartsRefused` when a part is missing, has another etag, or is too small and not the last.
        """
        ...

    async def abort_multipart(self, key: str, multipart_id: str | None) -> None:
        """Throw away the parts of an unfinished upload; `None` for whatever uploads there are to this key."""
        ...

    async def list_parts(self, key: str, multipart_id: str) -> list[StoredPart] | None:
        """All parts of an unfinished upload by number; `None` when the store knows no such upload (any more)."""
        ...

    async def stored(self, key: str) -> StoredObject | None:
        """What the store says of an object, `None` when there is none."""
        ...

    def read(self, key: str, start: int, stop: int) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Bytes `start` to `stop` (exclusive, not empty) of an object, in pieces of any size, exactly that many.

        Leaving the context early ends the transfer. Raises `BlobMissing`; `BlobDamaged` when fewer bytes came.
        """
        ...

    def objects(self) -> AsyncIterator[Sequence[tuple[str, int]]]:
        """Every object under our prefix, in pages of up to 1 000: keys and sizes in bytes."""
        ...

    async def delete(self, keys: Sequence[str]) -> Collection[str]:
        """Delete objects, at most 1 000; those that do not exist count as deleted. Returns what the store refused."""
        ...

    async def presign_gets(self, wanted: Sequence[tuple[str, str]], *, expires_in_seconds: int) -> list[str]:
        """A URL that needs no credentials for each key and disposition.

        It answers application/octet-stream with that Content-Disposition. Nothing connects to the store for this, and
        thousands at once are fine. URLs signed with temporary credentials end with those, if that is sooner than
        `expires_in_seconds`; so it is with every presigned URL.
        """
        ...

    async def presign_puts(
        self, wanted: Sequence[tuple[str, Digest, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        """A request that writes one whole object for each key, sha256 and size in bytes; at most `MAX_PUT_BYTES`.

        The store takes no other number of bytes, never writes over an object, and, if it `enforces_checksums`, takes
        no other bytes. It expires as in `presign_gets`, and until then it works again when the object was deleted.
        """
        ...

    async def presign_parts(
        self, key: str, multipart_id: str, parts: Sequence[tuple[int, int]], *, expires_in_seconds: int
    ) -> list[PresignedRequest]:
        """A request that writes one part for each part number and size in bytes; the store takes no other size.

        A part may be written again until the upload is completed or aborted, with other bytes too: nothing checks
        what they are. It expires as in `presign_gets`.
        """
        ...

    async def enforces_checksums(self, key: str) -> bool:
        """Whether the store refuses bytes that do not have the sha256 declared with them, found out by trying.

        Bytes that it takes are deleted again. `key` must be where the collector looks, for the case that this ends in
        the middle.
        """
        ...
