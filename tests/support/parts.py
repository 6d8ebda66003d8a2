"""Push a file in parts."""

from collections.abc import Iterable
from typing import Any

import httpx

from tests.support.pushing import MIB, reserve, send, uploads_of

PART = 5 * MIB
CONTENT = b"1" * PART + b"2" * PART + b"the third"
PIECES = {1: CONTENT[:PART], 2: CONTENT[PART : 2 * PART], 3: CONTENT[2 * PART :]}


async def begin(client: httpx.AsyncClient, version: str = "1.0", content: bytes = CONTENT) -> dict[str, Any]:
    upload = uploads_of(await reserve(client, {"model.bin": content}, version))["model.bin"]
    assert upload["method"] == "multipart"
    return upload


async def sign(client: httpx.AsyncClient, upload: dict[str, Any], numbers: Iterable[Any]) -> httpx.Response:
    return await client.post(f"/v1/uploads/{upload['upload_id']}/parts", json={"part_numbers": list(numbers)})


async def send_parts(
    client: httpx.AsyncClient, upload: dict[str, Any], pieces: dict[int, bytes] = PIECES
) -> dict[int, str]:
    """Send these parts, and return their ETags."""
    signed = await sign(client, upload, pieces)
    assert signed.status_code == 200, signed.text
    etags = {}
    for part in signed.json()["parts"]:
        answer = await send(client, part, pieces[part["part_number"]])
        assert answer.status_code == 200, answer.text
        etags[part["part_number"]] = answer.headers["etag"]
    return etags


def listed(upload: dict[str, Any], etags: dict[int, str]) -> dict[str, list[dict[str, Any]]]:
    return {upload["upload_id"]: [{"part_number": number, "etag": etag} for number, etag in etags.items()]}
