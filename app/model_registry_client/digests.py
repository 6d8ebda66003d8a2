"""Digests of files and versions. Files are read in threads, so that the event loop does not wait."""

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

_PIECE = 1024**2


def version_digest(files: Iterable[tuple[str, int, str]]) -> str:
    """Return the digest of a version, from path, size and `sha256:<hex>` of its files.

    It is the sha256 of the lines `<hex>  <size>  <path>`, sorted by the bytes of the path.
    """
    digest = hashlib.sha256()
    for path, size_bytes, sha256 in sorted(files, key=lambda file: file[0].encode()):
        digest.update(f"{sha256.removeprefix('sha256:')}  {size_bytes}  {path}\n".encode())
    return f"sha256:{digest.hexdigest()}"


async def sha256(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """Return the digest of a file as the registry writes it: `sha256:<hex>`.

    Parameters
    ----------
    on_bytes
        Called in the event loop with the number of bytes read since the last call. Bytes that were counted before a
        failure stay counted.

    Raises
    ------
    OSError
        The file cannot be read.
    """
    loop = asyncio.get_running_loop()
    is_given_up = threading.Event()

    def work() -> str:
        digest = hashlib.sha256()
        piece = memoryview(bytearray(_PIECE))
        with path.open("rb", buffering=0) as file:
            while (count := file.readinto(piece)) and not is_given_up.is_set():
                digest.update(piece[:count])
                if on_bytes is not None:
                    loop.call_soon_threadsafe(on_bytes, count)
        return f"sha256:{digest.hexdigest()}"

    try:
        return await asyncio.to_thread(work)
    finally:
        # A thread cannot be cancelled, and a process waits for its threads when it ends.
        is_given_up.set()
