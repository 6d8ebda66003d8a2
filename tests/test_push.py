"""Pushing a version: reserved in one request, sent past the service, verified before anybody sees it."""

import asyncio
import hashlib
from typing import Any

import httpx
import pytest

from tests.bucket import Bucket
from tests.conftest import RunningService, ServiceWith

VERSIONS = "/v1/models/fraud/versions"
MIB = 1024**2


def entry(path: str, content: bytes, **more: Any) -> dict[str, Any]:
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    return {"path": path, "size_bytes": len(content), "sha256": digest, **more}


async def reserve(
    client: httpx.AsyncClient, files: dict[str, bytes], version: str | None = "1.0", **more: Any
) -> httpx.Response:
    body = {"files": [entry(path, content) for path, content in files.items()], **more}
    return await client.post(VERSIONS, json=body | ({"version": version} if version else {}))


async def send(client: httpx.AsyncClient, upload: dict[str, Any], content: bytes) -> httpx.Response:
    return await client.put(upload["url"], content=content, headers=upload["headers"])


async def commit(client: httpx.AsyncClient, version: str = "1.0", **body: Any) -> httpx.Response:
    return await client.post(f"{VERSIONS}/{version}/commit", json=body)


async def push(
    client: httpx.AsyncClient, files: dict[str, bytes], version: str = "1.0", **more: Any
) -> httpx.Response:
    """Everything that one client does, for files that are sent with one PUT each."""
    reserved = await reserve(client, files, version, **more)
    assert reserved.status_code in {200, 201}, reserved.text
    for upload in reserved.json()["uploads"]:
        if not upload["already_stored"]:
            assert (await send(client, upload, files[upload["path"]])).status_code in {200, 201, 204}
    return await commit(client, version)


async def read(client: httpx.AsyncClient, path: str, version: str = "1.0") -> bytes:
    response = await client.get(f"/get_model/fraud/{version}", params={"path": path})
    assert response.status_code == 200, response.text
    return response.content


@pytest.mark.parametrize("transfer", ["direct", "proxied"])
async def test_a_push_is_reserved_sent_and_committed(client: httpx.AsyncClient, transfer: str) -> None:
    files = {"model.bin": b"weights" * 100, "conf/labels.txt": b"ok\nfraud\n", "empty": b""}

    reserved = await reserve(
        client, files, transfer=transfer, model_params={"C": 1.0}, description="first", tags={"team": "risk"}
    )
    pending = reserved.json()
    before = await client.get("/get_model_info/fraud/1.0")
    for upload in pending["uploads"]:
        sent = await send(client, upload, files[upload["path"]])
        assert sent.status_code in {200, 201}, sent.text
    committed = await commit(client)

    assert reserved.status_code == 201
    assert reserved.headers["location"] == f"{VERSIONS}/1.0"
    assert reserved.headers["cache-control"] == "no-store"
    assert (pending["state"], pending["file_count"], pending["number"]) == ("pending", 3, 1)
    assert {upload["method"] for upload in pending["uploads"]} == {"put" if transfer == "direct" else "proxy"}
    assert before.status_code == 404
    assert committed.status_code == 200, committed.text
    info = committed.json()
    assert (info["state"], info["description"], info["tags"]) == ("ready", "first", {"team": "risk"})
    assert info["model_params"] == {"C": 1.0}
    assert [file["path"] for file in info["files"]] == ["conf/labels.txt", "empty", "model.bin"]
    for path, content in files.items():
        assert await read(client, path) == content
    assert (await client.get("/get_model_info/fraud/1.0")).json() == info


async def test_large_files_go_in_parts_whose_urls_are_fresh_on_request(
    service_with: ServiceWith, client: httpx.AsyncClient, service: RunningService
) -> None:
    service = await service_with(multipart_threshold_bytes=MIB, multipart_part_bytes=5 * MIB)
    content = bytes(range(256)) * (12 * MIB // 256)
    async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
        [upload] = (await reserve(client, {"model.bin": content})).json()["uploads"]
        numbers = {"part_numbers": [1, 2, 3]}
        signed = (await client.post(f"/v1/uploads/{upload['upload_id']}/parts", json=numbers)).json()["parts"]
        etags = []
        for part in signed:
            start = (part["part_number"] - 1) * upload["part_size"]
            piece = content[start : start + upload["part_size"]]
            answer = await client.put(part["url"], content=piece, headers=part["headers"])
            assert answer.status_code == 200, answer.text
            etags.append({"part_number": part["part_number"], "etag": answer.headers["etag"]})
        status = (await client.get(f"/v1/uploads/{upload['upload_id']}")).json()
        committed = await commit(client, parts={upload["upload_id"]: etags})

    assert upload["method"] == "multipart"
    assert upload["part_size"] == 5 * MIB
    assert [part["size_bytes"] for part in status["parts"]] == [5 * MIB, 5 * MIB, 2 * MIB]
    assert committed.status_code == 200, committed.text
    assert committed.json()["size_bytes"] == len(content)
