"""Work on many items, beside the event loop."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ITEM_BYTES = 160
"""About as much JSON as a manifest has for a file: what is no list is as many items as there would be in its bytes."""
_FEW = 100


async def offload(work: Callable[[], T], items: int) -> T:
    """In a thread where the loop would stall for so many; at once where a thread, which a busy loop lets in only after
    some milliseconds, would cost more."""
    return work() if items <= _FEW else await asyncio.to_thread(work)
