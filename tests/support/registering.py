"""Register a version, by form or by JSON, as a client does."""

import json
from typing import Any

import httpx

WEIGHTS = b"weights of a model" * 100
FORM = {"content-type": "multipart/form-data; boundary=b0undary"}


def as_form(info: dict[str, Any]) -> dict[str, str]:
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in info.items()}


async def register(
    client: httpx.AsyncClient, info: dict[str, Any], files: dict[str, bytes] | None = None, *, key: str | None = None
) -> httpx.Response:
    """Register by form; `key` is the Idempotency-Key."""
    headers = {"Idempotency-Key": key} if key else {}
    parts = [("model_file", (path, content)) for path, content in (files or {"model.bin": WEIGHTS}).items()]
    return await client.post("/register_model", data=as_form(info), files=parts, headers=headers)


async def register_version(client: httpx.AsyncClient, model_name: str, version: str) -> dict[str, Any]:
    response = await client.post("/register_model", json={"model_name": model_name, "version": version})
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


def multipart(fields: list[tuple[str, str | None, bytes]], boundary: str = "b0undary") -> bytes:
    """Return a handwritten form: (name, filename, content) in the order given."""
    parts = []
    for name, filename, content in fields:
        suffix = "" if filename is None else f'; filename="{filename}"'
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{suffix}\r\n\r\n'.encode())
        parts.append(content + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode()
