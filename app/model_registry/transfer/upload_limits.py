"""What bounds the writing of objects."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """The store can still finish a write that we gave up, so its key is deleted `late_write_seconds` later."""

    max_upload_bytes: int
    lease_seconds: float
    late_write_seconds: float
