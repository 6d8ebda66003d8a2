"""The memory that uploads pass through: a bounded pool of buffers.

Buffers are kept and used again, because the page faults of new ones cost more than the hashing.
"""

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import MAX_PARTS

SLOT_BYTES = 8 * 1024**2
PARTS_IN_FLIGHT = 4
_SMALL_IN_FLIGHT = 8
_WAIT_SECONDS = 30


class AllBuffersBusy(Unavailable):
    """More uploads are in progress than the process has buffers for."""

    slug = "all-buffers-busy"
    example: ClassVar = {}

    def __init__(self) -> None:
        super().__init__(
            "All upload buffers",
            detail="More uploads are in progress than this service has buffers for. Try again later.",
            retry_after_seconds=10,
        )


class Part:
    """A fixed number of slots, filled front to back."""

    def __init__(self, slots: list[bytearray]) -> None:
        self._slots = slots
        self._length = 0

    def fill(self, data: memoryview) -> int:
        """Take as much of `data` as fits into the current slot. Returns how many bytes that was."""
        index, offset = divmod(self._length, SLOT_BYTES)
        taken = min(len(data), SLOT_BYTES - offset)
        self._slots[index][offset : offset + taken] = data[:taken]
        self._length += taken
        return taken

    @property
    def is_full(self) -> bool:
        return self._length == len(self._slots) * SLOT_BYTES

    @property
    def pieces(self) -> Sequence[memoryview]:
        return [memoryview(slot)[: max(0, self._length - index * SLOT_BYTES)] for index, slot in enumerate(self._slots)]

    @property
    def slots(self) -> list[bytearray]:
        return self._slots

    def __len__(self) -> int:
        return self._length


class PartBuffers:
    """The process's buffers for parts: `slots` of `SLOT_BYTES` each, created when first needed and then kept.

    A part takes all of its slots at once, in the order of the calls, so two uploads never wait for each other's slots.
    """

    def __init__(self, slots: int) -> None:
        self._free: list[bytearray] = []
        self._left = slots
        self._queue = asyncio.Lock()
        self._returned = asyncio.Event()
        self.max_slots_per_part = max(1, slots // PARTS_IN_FLIGHT)
        self.small = asyncio.Semaphore(_SMALL_IN_FLIGHT)
        """For objects that need no buffer and are stored while their clients send more."""

    def slots_for(self, size_bytes: int | None) -> int:
        """The number of slots in each part of an object: `max(8 MiB, size / 10 000)`, rounded up."""
        if size_bytes is None:
            return 1
        return min(self.max_slots_per_part, max(1, -(-size_bytes // (MAX_PARTS * SLOT_BYTES))))

    async def take(self, slots: int) -> Part:
        """Return an empty part; give it back with `release`. Raises `AllBuffersBusy` after 30 seconds."""
        try:
            async with asyncio.timeout(_WAIT_SECONDS), self._queue:
                while self._left < slots:
                    self._returned.clear()
                    await self._returned.wait()
                self._left -= slots
        except TimeoutError:
            raise AllBuffersBusy from None
        return Part([self._free.pop() if self._free else bytearray(SLOT_BYTES) for _ in range(slots)])

    def release(self, part: Part) -> None:
        self._free.extend(part.slots)
        self._left += len(part.slots)
        self._returned.set()
