"""What bounds a push."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from model_registry.object_store.blob_store import MAX_PARTS

_MEBIBYTE = 1024**2
# A URL can write after its expiry: the store's clock can be behind, and a transfer that began in time can take long.
_LATE_PUT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class PushLimits:
    """Files over `multipart_threshold_bytes` are sent in parts of `part_bytes`.

    Parts are larger if 10 000 of them are not enough. One actor can have `max_pending` unfinished versions.
    """

    multipart_threshold_bytes: int
    part_bytes: int
    presign_expiry_seconds: int
    max_pending: int

    def part_size(self, size_bytes: int) -> int | None:
        """The size of each part but the last, or `None` if the file is sent in one PUT."""
        if size_bytes <= self.multipart_threshold_bytes:
            return None
        return max(self.part_bytes, -(-size_bytes // (MAX_PARTS * _MEBIBYTE)) * _MEBIBYTE)

    def expires_at(self) -> datetime:
        """When a URL that is signed now expires."""
        return datetime.now(UTC) + timedelta(seconds=self.presign_expiry_seconds)

    @property
    def writable_seconds(self) -> float:
        """How long a URL that is signed now can write its object."""
        return self.presign_expiry_seconds + _LATE_PUT_SECONDS
