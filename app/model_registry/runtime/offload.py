"""Long computations, in a thread."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

ITEM_BYTES = 160
"""The JSON of one file in a manifest has about this many bytes. Use it to count JSON that is not a list in items."""
_FEW = 100


async def offload(work: Callable[[], T], items: int) -> T:
    """Do the work in a thread if it has more than 100 items, and otherwise at once.

    Many items would stall the event loop. For few items a thread costs more: on a busy loop its result waits for some
    milliseconds.
    """
    return work() if items <= _FEW else await asyncio.to_thread(work)
