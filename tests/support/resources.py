"""Requests to models and versions under `/v1`."""

import base64
import hashlib
import json
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MODELS = "/v1/models"
MERGE_PATCH = "application/merge-patch+json"


async def create(client: httpx.AsyncClient, name: str, **more: Any) -> httpx.Response:
    response = await client.post(MODELS, json={"name": name, **more})
    assert response.status_code == 201, response.text
    return response


async def patch(client: httpx.AsyncClient, path: str, body: Any, **headers: str) -> httpx.Response:
    """Return headers by their names with underscores."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    content = body if isinstance(body, str | bytes) else json.dumps(body)
    return await client.patch(path, content=content, headers={"Content-Type": MERGE_PATCH} | named)


async def reserve(
    client: httpx.AsyncClient, model: str, version: str, files: dict[str, bytes] | None = None, **more: Any
) -> dict[str, Any]:
    """Begin a push, and do not commit it."""
    entries = [
        {"path": path, "size_bytes": len(content), "sha256": f"sha256:{hashlib.sha256(content).hexdigest()}"}
        for path, content in (files or {"f": f"bytes of {model} {version}".encode()}).items()
    ]
    response = await client.post(f"{MODELS}/{model}/versions", json={"version": version, "files": entries, **more})
    assert response.status_code in {200, 201}, response.text
    reserved: dict[str, Any] = response.json()
    return reserved


async def let_expire(session: AsyncSession) -> None:
    await session.execute(
        text("UPDATE model_info SET lease_expires_at = now() - interval '1 second' WHERE lease_expires_at IS NOT NULL")
    )
    await session.commit()


async def found(client: httpx.AsyncClient, **query: str | int) -> list[str]:
    """Return the names of the models that a search finds, on one page."""
    page = await client.get(MODELS, params={"limit": 1000, **query})
    assert page.status_code == 200, page.text
    return [item["name"] for item in page.json()["items"]]


async def events(client: httpx.AsyncClient, action: str) -> list[dict[str, Any]]:
    items = (await client.get("/v1/events", params={"limit": 1000})).json()["items"]
    return [item for item in items if item["action"] == action]


def forged(*fields: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
