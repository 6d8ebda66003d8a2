"""Memory does not grow with the model, and nothing is written to disk."""

import asyncio
import hashlib
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.processes import Moved, environment, free_port, resident_bytes, started, until_ready, written_bytes

pytestmark = pytest.mark.slow

MIB = 1024**2
SIZE_MIB = 640
PIECE = bytes(range(256)) * 4096


async def form(model_name: str, size_mib: int = SIZE_MIB) -> AsyncIterator[bytes]:
    for field, value in (("model_name", model_name), ("version", "1")):
        yield f'--B\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
    yield b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="weights.bin"\r\n\r\n'
    for number in range(size_mib):
        yield number.to_bytes(8, "big") + PIECE[8:]
    yield b"\r\n--B--\r\n"


async def test_a_large_file_goes_in_and_out_in_little_memory_and_without_a_disk(
    stack: StackAddresses, settings: Settings, fresh: None, tmp_path: Path
) -> None:
    port = free_port()
    expected = hashlib.sha256()
    for number in range(SIZE_MIB):
        expected.update(number.to_bytes(8, "big") + PIECE[8:])
    highest = 0

    async def watch(pid: int) -> None:
        nonlocal highest
        while True:
            highest = max(highest, resident_bytes(pid))
            await asyncio.sleep(0.02)

    async with started("serve", "--port", str(port), env=environment(stack), cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        watching = asyncio.create_task(watch(process.pid))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            registered = await client.post(
                "/register_model", content=form("large"), headers={"content-type": "multipart/form-data; boundary=B"}
            )
            received = hashlib.sha256()
            async with client.stream("GET", "/get_model/large/1") as response:
                async for chunk in response.aiter_raw():
                    received.update(chunk)
        watching.cancel()
        on_disk = written_bytes(process.pid)
        process.send_signal(signal.SIGTERM)
        await process.wait()

    assert registered.status_code == 201, registered.text
    assert registered.json()["files"][0]["sha256"] == f"sha256:{expected.hexdigest()}"
    assert received.digest() == expected.digest()
    assert highest < 200 * MIB
    assert on_disk < MIB


async def test_every_byte_is_read_once_and_written_once_in_memory_that_is_there_already(
    stack: StackAddresses, settings: Settings, fresh: None, tmp_path: Path
) -> None:
    port, size = free_port(), 256 * MIB
    async with started("serve", "--port", str(port), env=environment(stack), cwd=tmp_path) as process:
        await until_ready(f"http://127.0.0.1:{port}")
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:

            async def come_in(model_name: str) -> Moved:
                before = Moved.of(process.pid)
                answer = await client.post(
                    "/register_model",
                    content=form(model_name, size // MIB),
                    headers={"content-type": "multipart/form-data; boundary=B"},
                )
                assert answer.status_code == 201, answer.text
                return Moved.of(process.pid) - before

            async def go_out(model_name: str) -> Moved:
                before = Moved.of(process.pid)
                async with client.stream("GET", f"/get_model/{model_name}/1") as response:
                    async for _chunk in response.aiter_raw():
                        pass
                return Moved.of(process.pid) - before

            await come_in("first")  # buffers are allocated when they are first needed
            await go_out("first")
            moved = [await come_in("second"), await go_out("second")]
        process.send_signal(signal.SIGTERM)
        await process.wait()

    for each in moved:
        assert size <= each.read < 1.02 * size
        assert size <= each.written < 1.02 * size
        # Under load, storage may need a few more buffers than for the first file. A fresh buffer for each part would be
        # 1.
        assert each.touched < 0.5 * size
