"""`kill -9` at the worst moments: nothing half-done is ever visible, and everything heals without help."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.support.processes import alive, descendants, environment, line_with, started
from tests.support.registering import WEIGHTS, register

pytestmark = pytest.mark.slow

MIB = 1024**2


def form(version: str, pause: asyncio.Event, go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a registration of 40 MiB that waits in the middle of its file."""

    async def pieces() -> AsyncIterator[bytes]:
        for field, value in (("model_name", "m"), ("version", version)):
            yield f'--B\r\nContent-Disposition: form-data; name="{field}"\r\n\r\n{value}\r\n'.encode()
        yield b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="f"\r\n\r\n'
        yield bytes(20 * MIB)
        pause.set()
        await go_on.wait()
        yield bytes(20 * MIB)
        yield b"\r\n--B--\r\n"

    return pieces()


def child_called(name: str, pid: int) -> int:
    """Return the process below `pid` that runs the program `name`, the outermost of its kind."""
    found = []
    for child in descendants(pid):
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")[0].decode()
            if Path(command).name == name:
                found.append(child)
    return min(found)


async def registered_in_time(client: httpx.AsyncClient, version: str) -> httpx.Response:
    """Register like a patient client: retry while the response is 503, or its own label is still held."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(httpx.TransportError):
                response = await register(client, {"model_name": "m", "version": version})
                if response.status_code not in (503, 409):
                    return response
            await asyncio.sleep(0.2)


async def test_every_process_may_be_killed_in_the_middle_of_an_upload(tmp_path: Path) -> None:
    env = environment(UPLOAD_LEASE_SECONDS="4", GC_INTERVAL_SECONDS="0.5", GC_GRACE_SECONDS="0")
    arguments = ("dev", "--port", "0", "--data-dir", str(tmp_path / "data"))

    async with started(*arguments, env=env, cwd=tmp_path) as dev:
        url = (await line_with(dev.stdout, "/docs")).split()[-1].removesuffix("/docs")
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            await register(client, {"model_name": "m", "version": "0"})

            for version, victim in (("1", "postgres"), ("2", "weed")):
                pause, go_on = asyncio.Event(), asyncio.Event()
                uploading = asyncio.create_task(
                    client.post(
                        "/register_model",
                        content=form(version, pause, go_on),
                        headers={"content-type": "multipart/form-data; boundary=B"},
                    )
                )
                await pause.wait()
                process = child_called(victim, dev.pid)
                os.kill(process, signal.SIGKILL)
                go_on.set()
                answer = await uploading

                # Complete or absent; and without a restart of the service, the same registration soon succeeds.
                assert answer.status_code in (201, 503), answer.text
                if answer.status_code == 503:
                    assert answer.headers["retry-after"]
                    assert (await registered_in_time(client, version)).status_code == 201
                assert (await client.get(f"/get_model_info/m/{version}")).status_code == 200
                assert (await client.get("/get_model/m/0")).content == WEIGHTS

            # And now the service itself.
            pause, go_on = asyncio.Event(), asyncio.Event()
            uploading = asyncio.create_task(
                client.post(
                    "/register_model",
                    content=form("3", pause, go_on),
                    headers={"content-type": "multipart/form-data; boundary=B"},
                )
            )
            await pause.wait()
            children = descendants(dev.pid)
            dev.send_signal(signal.SIGKILL)
            go_on.set()
            with contextlib.suppress(httpx.TransportError):
                await uploading
            await dev.wait()

    async with started(*arguments, env=env, cwd=tmp_path) as dev:
        url = (await line_with(dev.stdout, "/docs")).split()[-1].removesuffix("/docs")
        assert not alive(children)
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            assert (await client.get("/get_model_info/m/3")).status_code == 404
            assert [row["version"] for row in (await client.get("/list_models")).json()] == ["2", "1", "0"]
            assert (await client.get("/get_model/m/0")).content == WEIGHTS
            assert (await registered_in_time(client, "3")).status_code == 201
            assert (await client.get("/get_model/m/3")).content == WEIGHTS
        dev.send_signal(signal.SIGTERM)
        await asyncio.wait_for(dev.wait(), 60)
