"""The six endpoints, as their users meet them."""

import hashlib
import io
import tarfile
from typing import Any

import httpx
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.db_models import ModelInfoDB
from tests.support.bucket import Bucket
from tests.support.registering import WEIGHTS, register, register_version


async def test_register_model(
    client: httpx.AsyncClient,
    sample_model_info: dict[str, Any],
    database_session: AsyncSession,
    bucket: Bucket,
) -> None:
    response = await register(client, sample_model_info)

    assert response.status_code == 201
    assert response.headers["location"] == "/get_model_info/iris-classifier/1.0.0"
    info = response.json()
    assert {name: info[name] for name in sample_model_info} == sample_model_info
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    assert info["files"] == [
        {
            "path": "model.bin",
            "size_bytes": len(WEIGHTS),
            "sha256": f"sha256:{sha256}",
            "media_type": "application/octet-stream",
        }
    ]
    manifest = f"{sha256}  {len(WEIGHTS)}  model.bin\n".encode()
    assert info["digest"] == f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    row = (await database_session.scalars(select(ModelInfoDB))).one()
    assert (row.model_name, row.version, row.state, row.file_path) == (
        "iris-classifier",
        "1.0.0",
        "ready",
        info["file_path"],
    )
    assert await bucket.read(info["file_path"].removeprefix(f"s3://{bucket.name}/")) == WEIGHTS


async def test_get_model_info(client: httpx.AsyncClient, sample_model_info: dict[str, Any]) -> None:
    registered = (await register(client, sample_model_info)).json()

    response = await client.get("/get_model_info/iris-classifier/1.0.0")

    assert response.status_code == 200
    assert response.json() == registered
    assert response.headers["x-model-version"] == "1.0.0"
    assert response.headers["etag"].startswith('"')


async def test_get_latest_model_info(client: httpx.AsyncClient) -> None:
    for version in ("1.9.0", "1.10.0", "1.10.0rc1", "2.0.0-beta.1", "nightly"):
        await register_version(client, "resnet", version)

    response = await client.get("/get_latest_model_info/resnet")

    assert response.status_code == 200
    assert response.json()["version"] == "1.10.0"
    assert response.headers["x-model-version"] == "1.10.0"


async def test_list_models(client: httpx.AsyncClient) -> None:
    for model_name, version in (("b", "1.0"), ("a", "1.0"), ("a", "2.0rc1"), ("a", "1.1"), ("B2", "x")):
        await register_version(client, model_name, version)

    response = await client.get("/list_models")

    assert response.status_code == 200
    rows = response.json()
    assert [(row["model_name"], row["version"], row["is_latest"]) for row in rows] == [
        ("B2", "x", True),
        ("a", "2.0rc1", False),
        ("a", "1.1", True),
        ("a", "1.0", False),
        ("b", "1.0", True),
    ]
    assert set(rows[0]) == {"model_name", "version", "is_latest", "size_bytes", "digest", "created_at"}


async def test_register_duplicate_model(client: httpx.AsyncClient, sample_model_info: dict[str, Any]) -> None:
    first = await register(client, sample_model_info)

    second = await register(client, sample_model_info, {"model.bin": b"other bytes"})

    assert second.status_code == 409
    assert second.headers["content-type"] == "application/problem+json"
    problem = second.json()
    assert problem["type"] == "urn:model-registry:problem:version-exists"
    assert problem["digest"] == first.json()["digest"]
    assert (await client.get("/get_model/iris-classifier/1.0.0")).content == WEIGHTS


async def test_get_nonexistent_model(client: httpx.AsyncClient) -> None:
    await register_version(client, "resnet", "1.0")

    for path, slug in {
        "/get_model_info/alexnet/1.0": "model-not-found",
        "/get_latest_model_info/alexnet": "model-not-found",
        "/get_model/alexnet/1.0": "model-not-found",
        "/get_model_info/resnet/9.9": "version-not-found",
        "/get_model_info/resnet/@champion": "alias-not-found",
        "/get_model/resnet/1.0": "file-not-found",
    }.items():
        response = await client.get(path)

        assert response.status_code == 404
        problem = response.json()
        assert problem["type"] == f"urn:model-registry:problem:{slug}"
        assert problem["instance"] == path
        assert problem["request_id"] == response.headers["x-request-id"]


async def test_several_files_come_back_as_one_tar(client: httpx.AsyncClient, sample_model_info: dict[str, Any]) -> None:
    files = {"weights/b.bin": b"b" * 700, "weights/a.bin": b"", "config.json": b"{}", "größe.txt": b"x" * 512}
    await register(client, sample_model_info, files)

    response = await client.get("/get_model/iris-classifier/latest")

    assert response.headers["content-type"] == "application/x-tar"
    assert int(response.headers["content-length"]) == len(response.content)
    with tarfile.open(fileobj=io.BytesIO(response.content)) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in members.items() if file} == files
    assert list(members) == sorted(files, key=str.encode)
