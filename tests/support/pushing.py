"""Push versions of the model `fraud`: reserve, send, commit."""

import hashlib
from typing import Any

import httpx
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import EventDB

VERSIONS = "/v1/models/fraud/versions"
MIB = 1024**2
GOOD = b"weights of a model" * 50
OTHER = GOOD[::-1]


def entry(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"path": path, "size_bytes": len(content), "sha256": digest, **more}


async def reserve(
    client: httpx.AsyncClient, files: dict[str, bytes], version: str | None = "1.0", **more: Any
) -> httpx.Response:
    body = {"files": [entry(path, content) for path, content in files.items()], **more}
    return await client.post(VERSIONS, json=body | ({"version": version} if version else {}))


def uploads_of(reserved: httpx.Response) -> dict[str, dict[str, Any]]:
    """Return the instructions for each path."""
    assert reserved.status_code in {200, 201}, reserved.text
    return {upload["path"]: upload for upload in reserved.json()["uploads"]}


def missing_from(reserved: httpx.Response) -> set[str]:
    return {path for path, upload in uploads_of(reserved).items() if not upload["already_stored"]}


async def send(client: httpx.AsyncClient, upload: dict[str, Any], content: bytes) -> httpx.Response:
    return await client.put(upload["url"], content=content, headers=upload["headers"])


async def commit(client: httpx.AsyncClient, version: str = "1.0", **body: Any) -> httpx.Response:
    return await client.post(f"{VERSIONS}/{version}/commit", json=body)


async def push(client: httpx.AsyncClient, files: dict[str, bytes], version: str = "1.0", **more: Any) -> httpx.Response:
    """Do everything that one client does, for files that are sent with one PUT each."""
    for path, upload in uploads_of(await reserve(client, files, version, **more)).items():
        if not upload["already_stored"]:
            # 412: another client has sent the same bytes first.
            assert (await send(client, upload, files[path])).status_code in {200, 201, 412}
    return await commit(client, version)


async def read(client: httpx.AsyncClient, path: str, version: str = "1.0") -> bytes:
    response = await client.get(f"/get_model/fraud/{version}", params={"path": path})
    assert response.status_code == 200, response.text
    return response.content


async def expire(session: AsyncSession) -> None:
    """Let all leases expire."""
    for table in ("model_info", "uploads"):
        await session.execute(
            text(
                f"UPDATE {table} SET lease_expires_at = now() - interval '1 second' WHERE lease_expires_at IS NOT NULL"
            )
        )
    await session.commit()


async def actions(session: AsyncSession) -> list[str]:
    await session.rollback()
    return list((await session.scalars(select(EventDB.action).order_by(EventDB.id))).all())


async def count(session: AsyncSession, table: type) -> int:
    await session.rollback()
    number = await session.scalar(select(func.count()).select_from(table))
    assert number is not None
    return number
