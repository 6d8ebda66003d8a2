"""Publish files, pull them, and look at what arrived."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

import httpx

from model_registry_client import Ref, Silent
from tests.support.registering import register


class RecordedProgress(Silent):
    """Records what a pull reports."""

    def __init__(self) -> None:
        self.amounts: Counter[str] = Counter()
        self.done: list[str] = []
        self.said: list[str] = []
        self.changed = asyncio.Event()

    def begin(self, label: str, total_bytes: int, files: int) -> None:
        self.amounts.update(total=total_bytes, files=files)

    def received(self, size_bytes: int) -> None:
        self.amounts["received"] += size_bytes
        self.changed.set()

    def saved(self, size_bytes: int) -> None:
        self.amounts["saved"] += size_bytes

    def file_done(self, path: str) -> None:
        self.done.append(path)

    def say(self, text: str) -> None:
        self.said.append(text)

    async def until_received(self, size_bytes: int) -> None:
        async with asyncio.timeout(30):
            while self.amounts["received"] < size_bytes:
                self.changed.clear()
                await self.changed.wait()


async def publish(http: httpx.AsyncClient, files: Mapping[str, bytes], *, of: Ref | None = None) -> Ref:
    """Register the first version of a new model, or the second version `of` a model."""
    ref = Ref(of.model, "2") if of else Ref(f"m-{uuid4().hex}", "1")
    response = await register(http, {"model_name": ref.model, "version": ref.selector}, dict(files))
    assert response.status_code == 201, response.text
    return ref


def everything(folder: Path) -> list[Path]:
    return list(folder.rglob("*"))


def content(folder: Path) -> dict[str, bytes]:
    """Return all files below a folder by path, including unfinished ones."""
    files = (path for path in everything(folder) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
