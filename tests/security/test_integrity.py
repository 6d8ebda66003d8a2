"""B: bytes that differ from their digest, and names that change their meaning (T19-T39); the rest is in rows.py."""

import asyncio
import hashlib
import io
import zipfile

import httpx
import pytest

from tests.security.conftest import Watch
from tests.security.routes import arrange
from tests.support.bucket import Bucket
from tests.support.problems import assert_problem, slug
from tests.support.pushing import entry, reserve
from tests.support.registering import register
from tests.support.service import Collect


def _zip() -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("../../evil", bytes(10_000_000))
        return buffer.getvalue()


async def test_what_was_refused_is_not_there(client: httpx.AsyncClient, watch: Watch, collect: Collect) -> None:
    """T19: by its version, by its path, and by its digest, which is requested again."""
    declared = entry("model.bin", b"declared")
    made = await client.post("/v1/models/fraud/versions", json={"version": "1.0", "files": [declared]})
    refused = await client.put("/v1/models/fraud/versions/1.0/files/model.bin", content=b"replaced")
    await collect()
    await watch.arranged()
    again = await client.post("/v1/models/fraud/versions", json={"version": "1.0", "files": [declared]})

    assert made.status_code == 201
    assert_problem(refused, 422, slug="digest-mismatch")
    for path in ("/get_model/fraud/1.0", "/v1/models/fraud/versions/1.0/files/model.bin"):
        assert (await client.head(path)).status_code == 404
    assert [upload["already_stored"] for upload in again.json()["uploads"]] == [False]


async def test_a_version_that_was_removed_stays_so_while_another_shows_its_bytes(
    client: httpx.AsyncClient, watch: Watch
) -> None:
    """T30: a read of the existing version returns nothing of the removed one."""
    for name in ("a", "b"):
        assert (await register(client, {"model_name": name, "version": "1.0"})).status_code == 201
    etag = (await client.get("/get_model/a/1.0")).headers["etag"]
    for removal in ("/remove_model/a/1.0", "/v1/models/a/versions/1.0?purge=true"):
        assert (await client.delete(removal)).status_code == 200
        await watch.arranged()

        for path in ("/get_model/{}/1.0", "/v1/models/{}/versions/1.0/files/model.bin", "/get_model_info/{}/1.0"):
            assert (await client.get(path.format("b"))).status_code == 200
            assert (await client.get(path.format("a"))).status_code == 404
            assert (await client.get(path.format("a"), headers={"If-None-Match": etag})).status_code == 404
        link = await client.post("/v1/models/a/versions/1.0/download_url", json={})
        assert link.status_code == 404


async def test_a_digest_is_no_claim_to_bytes_that_nobody_sent(client: httpx.AsyncClient, watch: Watch) -> None:
    """T29: a version that has only a digest is not committed."""
    reserved = await reserve(client, {"model.bin": b"nobody sent me"})
    await watch.arranged()

    committed = await client.post("/v1/models/fraud/versions/1.0/commit", json={})

    assert reserved.status_code == 201
    assert (committed.status_code, slug(committed)) == (409, "upload-incomplete")
    assert (await client.get("/get_model/fraud/1.0")).status_code == 404


@pytest.mark.parametrize("name", ["model.zip", "model.gz", "model.tar"])
async def test_nothing_is_unpacked(client: httpx.AsyncClient, watch: Watch, bucket: Bucket, name: str) -> None:
    """T34: an archive is stored and returned as it came."""
    content = _zip()

    answer = await register(client, {"model_name": "m", "version": "1"}, {name: content})
    got = await client.get("/get_model/m/1", headers={"Accept-Encoding": "gzip, br, zstd"})
    await watch.arranged()

    assert answer.json()["size_bytes"] == len(content)
    assert got.content == content
    assert "content-encoding" not in got.headers
    assert [await bucket.read(key) for key in await bucket.keys()] == [content]


async def test_what_was_ready_never_names_other_bytes(client: httpx.AsyncClient, watch: Watch) -> None:
    """T22 and T24: by every way of upload, at once or one after another, before and after a removal."""
    await arrange(client)
    sha256 = hashlib.sha256(b"weights").hexdigest()

    async def overwrite() -> None:
        other = {"version": "1.0", "files": [entry("model.bin", b"other")]}
        answers = await asyncio.gather(
            register(client, {"model_name": "fraud", "version": "1.0"}, {"model.bin": b"other"}),
            client.post("/register_model", json={"model_name": "fraud", "version": "1.0"}),
            client.post("/v1/models/fraud/versions", json=other),
            client.put("/v1/models/fraud/versions/1.0/files/model.bin", content=b"other"),
            client.patch("/v1/models/fraud/versions/1.0", json={"files": other["files"]}),
        )
        assert {answer.status_code for answer in answers} <= {404, 409, 422}

    await watch.arranged()
    await overwrite()
    kept = await client.get("/get_model/fraud/1.0")
    await client.delete("/remove_model/fraud/1.0?force=true")
    await watch.arranged()
    await overwrite()
    await client.post("/v1/models/fraud/versions/1.0/restore")
    await watch.arranged()
    restored = await client.get("/get_model/fraud/1.0")

    assert hashlib.sha256(kept.content).hexdigest() == hashlib.sha256(restored.content).hexdigest() == sha256
