"""Forms to register a version, written byte by byte."""

from typing import Any

import httpx

BOUNDARY = "frontier"
FORM = f"multipart/form-data; boundary={BOUNDARY}"

Part = tuple[bytes, bytes]
"""Return the headers and the content of a part."""


def part(disposition: str | bytes, content: str | bytes = b"", *headers: str) -> Part:
    lines = [b"Content-Disposition: " + _bytes(disposition), *map(_bytes, headers)]
    return b"\r\n".join(lines), _bytes(content)


def field(name: str, value: str | bytes) -> Part:
    return part(f'form-data; name="{name}"', value)


def file(parameters: str | bytes = 'filename="model.bin"', content: str | bytes = b"weights", *headers: str) -> Part:
    return part(b'form-data; name="model_file"; ' + _bytes(parameters), content, *headers)


def form(*parts: Part, boundary: str = BOUNDARY, end: bool = True) -> bytes:
    delimiter = f"--{boundary}".encode()
    body = b"".join(delimiter + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n" for head, content in parts)
    return body + delimiter + b"--\r\n" if end else body


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


NAMED = (field("model_name", "fraud"), field("version", "1.0"))


async def post_form(client: httpx.AsyncClient, *parts: Part, **headers: str) -> httpx.Response:
    return await client.post("/register_model", content=form(*parts), headers={"Content-Type": FORM, **headers})


async def register_form(client: httpx.AsyncClient, *parts: Part) -> dict[str, Any]:
    response = await post_form(client, *(parts or (*NAMED, file())))
    assert response.status_code == 201, response.text
    info: dict[str, Any] = response.json()
    return info
