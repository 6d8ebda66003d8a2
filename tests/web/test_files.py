"""Files of a version: the manifest, single files, the archive, and URLs to download from storage."""

import asyncio
import base64
import hashlib
import io
import mimetypes
import os
import tarfile
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from model_registry.database.version_files import VersionFileRepository
from tests.support.bucket import Bucket
from tests.support.problems import problem, wrong_field
from tests.support.rawhttp import message, send
from tests.support.registering import WEIGHTS, register, register_version
from tests.support.resources import MODELS, create, forged, reserve
from tests.support.service import RunningService, ServiceWith

VERSIONS = f"{MODELS}/m/versions"
ONE = f"{VERSIONS}/1.0"
FILES = {
    "config.json": b"{}",
    "weights/a.bin": b"a" * 1000,
    "weights/b.bin": bytes(range(256)) * 40,
    "empty": b"",
    "größe 100%.txt": b"x" * 512,
    "a+b&c=d#e?f;g": b"odd",
}
BIN = f"{ONE}/files/weights/b.bin"
CONTENT = FILES["weights/b.bin"]
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
async def model(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A client of a registry in which the model `m` has a version 1.0 with several files."""
    response = await register(client, {"model_name": "m", "version": "1.0"}, FILES)
    assert response.status_code == 201, response.text
    return client


def entry(path: str, content: bytes) -> dict[str, Any]:
    """Return a file as the manifest lists it. The client derives media types from file names."""
    return {
        "path": path,
        "size_bytes": len(content),
        "sha256": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "media_type": mimetypes.guess_type(path)[0] or "application/octet-stream",
    }


def in_order(files: dict[str, bytes]) -> list[str]:
    return sorted(files, key=str.encode)


def quoted(path: str) -> str:
    return "/".join("".join(f"%{byte:02X}" for byte in segment.encode()) for segment in path.split("/"))


async def by_anybody(method: str, url: str, **headers: str) -> httpx.Response:
    """Fetch a URL without any credentials."""
    async with httpx.AsyncClient() as anybody:
        return await anybody.request(method, url, headers=headers)


async def mark_damaged(session: AsyncSession, content: bytes) -> None:
    await session.execute(
        text("UPDATE blobs SET damaged_at = now() WHERE sha256 = :sha256"), {"sha256": hashlib.sha256(content).digest()}
    )
    await session.commit()


# The manifest


async def test_the_manifest_has_every_file(model: httpx.AsyncClient) -> None:
    response = await model.get(f"{ONE}/files")

    assert response.status_code == 200
    assert response.headers["x-model-version"] == "1.0"
    page = response.json()
    assert page == {
        "items": [entry(path, FILES[path]) | {"url": None, "expires_at": None} for path in in_order(FILES)],
        "next_page_token": None,
    }
    assert (await model.get(f"{VERSIONS}/latest/files")).json() == page
    lines = "".join(f"{item['sha256'][7:]}  {item['size_bytes']}  {item['path']}\n" for item in page["items"])
    digest = (await model.get(ONE)).json()["digest"]
    assert digest == f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"


async def test_the_manifest_comes_in_pages(model: httpx.AsyncClient) -> None:
    for presign in ("false", "true"):
        seen: list[str] = []
        token = ""
        while token is not None:
            response = await model.get(f"{ONE}/files", params={"limit": 2, "page_token": token, "presign": presign})
            page = response.json()
            assert len(page["items"]) == 2
            seen += [item["path"] for item in page["items"]]
            token = page["next_page_token"]
        assert seen == in_order(FILES)


async def test_more_files_than_a_version_shows_are_all_in_the_manifest(client: httpx.AsyncClient) -> None:
    files = {f"f{i:03}": b"%d" % i for i in range(130)}
    await register(client, {"model_name": "m", "version": "1.0"}, files)

    info = (await client.get(ONE)).json()
    first = (await client.get(f"{ONE}/files")).json()
    rest = (await client.get(f"{ONE}/files", params={"page_token": first["next_page_token"]})).json()

    assert (info["file_count"], len(info["files"]), len(first["items"])) == (130, 100, 100)
    assert [item["path"] for item in first["items"] + rest["items"]] == sorted(files)


async def test_presigned_urls_need_no_credentials(model: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    response = await model.get(f"{ONE}/files", params={"presign": "true"}, headers={"Host": "evil.example"})

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert "evil.example" not in response.text
    for item in response.json()["items"]:
        content = FILES[item["path"]]
        got = await by_anybody("GET", item["url"])
        assert (got.status_code, got.content) == (200, content), item["path"]
        assert got.headers["content-type"] == "application/octet-stream"
        ours = await model.get(f"{ONE}/files/{quoted(item['path'])}")
        assert got.headers["content-disposition"] == ours.headers["content-disposition"]
        assert ours.headers["content-disposition"].startswith("attachment; filename=")
        expires_at = datetime.fromisoformat(item["expires_at"])
        assert timedelta(seconds=890) < expires_at - before < timedelta(seconds=910)
        assert parse_qs(urlsplit(item["url"]).query)["X-Amz-Expires"] == ["900"]
    part = await by_anybody("GET", item["url"], Range="bytes=0-1")
    assert (part.status_code, part.content) == (206, content[:2])
    for tampered in (item["url"].replace("octet-stream", "html"), item["url"].replace("attachment", "inline")):
        assert (await by_anybody("GET", tampered)).status_code == 403
    assert (await by_anybody("PUT", item["url"])).status_code == 403
    assert (await by_anybody("DELETE", item["url"])).status_code == 403


async def test_a_page_token_is_of_one_version(model: httpx.AsyncClient) -> None:
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "1.0"})
    tokens = {
        version: (await model.get(f"{VERSIONS}/{version}/files", params={"limit": 1})).json()["next_page_token"]
        for version in ("1.0", "latest", "@prod")
    }
    rest = await model.get(f"{VERSIONS}/latest/files", params={"page_token": tokens["latest"]})
    assert [item["path"] for item in rest.json()["items"]] == in_order(FILES)[1:]

    await register(model, {"model_name": "m", "version": "2.0"}, FILES)
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "2.0"})

    for version in ("latest", "@prod"):
        moved = await model.get(f"{VERSIONS}/{version}/files", params={"page_token": tokens[version]})
        problem(moved, 422, "invalid-page-token")
    still = await model.get(f"{ONE}/files", params={"page_token": tokens["1.0"]})
    assert still.status_code == 200
    id_ = (await model.get(ONE)).json()["id"]
    query = ["files", "m", "1.0", False]
    for path, parameters in (
        (f"{ONE}/files", {"page_token": tokens["latest"]}),
        (f"{VERSIONS}/2.0/files", {"page_token": tokens["1.0"]}),
        (f"{ONE}/files", {"page_token": tokens["1.0"], "presign": "true"}),
        (f"{ONE}/files", {"page_token": forged(query, id_ + 1, "empty")}),
        (f"{ONE}/files", {"page_token": forged(query, id_, "../x")}),
        (f"{ONE}/files", {"page_token": forged(query, id_, "a\x00")}),
        (f"{ONE}/files", {"page_token": forged(query, id_, "\ud800")}),
        (f"{ONE}/files", {"page_token": forged(query, id_, 1)}),
        (f"{ONE}/files", {"page_token": forged(query, str(id_), "empty")}),
        (f"{ONE}/files", {"page_token": forged(query, 2**64, "empty")}),
        (f"{ONE}/files", {"page_token": forged(query, True, "empty")}),
        (f"{ONE}/files", {"page_token": forged(query)}),
        (f"{ONE}/files", {"page_token": "%00"}),
    ):
        problem(await model.get(path, params=parameters), 422, "invalid-page-token")
    for parameters in ({"limit": "0"}, {"limit": "1001"}, {"presign": "maybe"}, {"presign": ""}):
        problem(await model.get(f"{ONE}/files", params=parameters), 422, "invalid-request")


async def test_a_version_without_files(client: httpx.AsyncClient) -> None:
    await register_version(client, "m", "1.0")

    manifest = await client.get(f"{ONE}/files", params={"presign": "true"})
    archive = await client.get(f"{ONE}/archive.tar")

    assert manifest.json() == {"items": [], "next_page_token": None}
    assert (archive.status_code, archive.content) == (200, bytes(1024))
    assert archive.headers["content-length"] == "1024"
    with tarfile.open(fileobj=io.BytesIO(archive.content)) as tar:
        assert tar.getnames() == []
    problem(await client.get(f"{ONE}/files/f"), 404, "file-not-found")
    problem(await client.post(f"{ONE}/download_url"), 404, "file-not-found")
    problem(await client.post(f"{ONE}/download_url", json={"path": "f"}), 404, "file-not-found")
    problem(await client.get(f"{ONE}/archive.tar", headers={"Range": "bytes=1024-"}), 416, "range-not-satisfiable")


# One file


async def test_every_file_is_read_by_its_path(model: httpx.AsyncClient) -> None:
    for path, content in FILES.items():
        url = f"{ONE}/files/{quoted(path)}"
        get, head = await model.get(url), await model.head(url)

        assert (get.status_code, get.content) == (200, content)
        assert (head.status_code, head.content) == (200, b"")
        for headers in (get.headers, head.headers):
            digest = hashlib.sha256(content).digest()
            assert headers["content-length"] == str(len(content))
            assert headers["content-type"] == "application/octet-stream"
            assert headers["etag"] == f'"{digest.hex()}"'
            assert headers["repr-digest"] == f"sha-256=:{base64.b64encode(digest).decode()}:"
            assert headers["accept-ranges"] == "bytes"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-model-version"] == "1.0"
            assert headers["cache-control"] == "no-cache"
            assert "last-modified" in headers
        assert get.headers["content-disposition"] == head.headers["content-disposition"]
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "1.0"})
    for version in ("latest", "@prod"):
        got = await model.get(f"{VERSIONS}/{version}/files/weights/b.bin")
        assert (got.content, got.headers["x-model-version"]) == (CONTENT, "1.0")


@pytest.mark.parametrize(
    ("headers", "status", "start", "stop"),
    [
        ({"Range": "bytes=0-0"}, 206, 0, 1),
        ({"Range": "bytes=10000-"}, 206, 10000, len(CONTENT)),
        ({"Range": "bytes=-7"}, 206, len(CONTENT) - 7, len(CONTENT)),
        ({"Range": "bytes=5-99999999"}, 206, 5, len(CONTENT)),
        ({"Range": "bytes=0-1,5-6"}, 200, 0, len(CONTENT)),
        ({"Range": "bytes=0-1", "If-Range": f'"{SHA256}"'}, 206, 0, 2),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200, 0, len(CONTENT)),
        ({"Range": f"bytes={len(CONTENT)}-"}, 416, 0, 0),
        ({"Range": "bytes=-0"}, 416, 0, 0),
        ({"If-None-Match": f'"{SHA256}"'}, 304, 0, 0),
        ({"If-None-Match": '"other"'}, 200, 0, len(CONTENT)),
        ({"If-Match": f'"{SHA256}"'}, 200, 0, len(CONTENT)),
        ({"If-Match": '"other"'}, 412, 0, 0),
        ({"If-Match": '"other"', "Range": "bytes=0-1"}, 412, 0, 0),
    ],
)
async def test_a_file_is_read_under_conditions_and_in_ranges(
    model: httpx.AsyncClient, headers: dict[str, str], status: int, start: int, stop: int
) -> None:
    get, head = await model.get(BIN, headers=headers), await model.head(BIN, headers=headers)

    assert get.status_code == status
    assert head.status_code == (200 if status in {206, 416} else status)
    assert head.content == b""
    if status < 400:
        assert get.content == CONTENT[start:stop]
    if status == 206:
        assert get.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert head.headers["content-length"] == str(len(CONTENT))
    if status == 416:
        assert get.headers["content-range"] == f"bytes */{len(CONTENT)}"


NOWHERE = {
    "dot-dot": "../../../../etc/passwd",
    "dot-dot in the middle": "weights/../config.json",
    "encoded dot-dot": "%2e%2e/%2e%2e/etc/passwd",
    "encoded dot-dot in the middle": "weights/%2E%2E/config.json",
    "twice encoded": "%252e%252e/config.json",
    "an encoded slash": "weights%2fa.bin",
    "an encoded slash and dot-dot": "%2e%2e%2fconfig.json",
    "a backslash": "weights%5ca.bin",
    "a raw backslash": "weights\\a.bin",
    "NUL": "config.json%00",
    "NUL first": "%00config.json",
    "a dot": "./config.json",
    "a leading slash": "/config.json",
    "two slashes": "weights//a.bin",
    "a slash at the end": "config.json/",
    "a folder": "weights",
    "a folder and a slash": "weights/",
    "nothing": "",
    "another case": "Config.json",
    "bytes that are no UTF-8": "%ff%fe",
    "a character for such bytes": "%EF%BF%BD",
    "half a character": "%ED%A0%80",
    "another normal form": "gro%CC%88%C3%9Fe 100%25.txt".replace(" ", "%20"),
    "a drive": "C:/config.json",
    "a line end": "config.json%0d%0aX-Evil:%201",
    "a long path": "a" * 5000,
    "a wildcard": "*",
    "SQL": "x'%20OR%20'1'='1",
}


@pytest.mark.parametrize("path", NOWHERE.values(), ids=NOWHERE)
async def test_a_path_that_no_file_has_is_not_found(
    model: httpx.AsyncClient, service: RunningService, path: str
) -> None:
    for method in ("GET", "HEAD"):
        answer = await send(service.address, message(method, f"{ONE}/files/{path}"))
        assert answer is not None
        assert answer.status_code == 404, answer.text
        assert "x-evil" not in answer.headers
        if method == "GET":
            assert answer.headers["content-type"] == "application/problem+json"


ELSEWHERE = {
    "an encoded slash after the model": f"{MODELS}/m%2Fversions/1.0/files/empty",
    "an encoded slash before the file": f"{VERSIONS}/1.0/files%2Fempty",
    "dot-dot before the model": f"{MODELS}/../models/m/versions/1.0/files/empty",
    "dot-dot as a version": f"{VERSIONS}/../files/empty",
    "encoded dot-dot as a version": f"{VERSIONS}/%2e%2e/files/empty",
    "NUL in a version": f"{VERSIONS}/1.0%00/files/empty",
    "no version": f"{VERSIONS}//files/empty",
    "bytes that are no UTF-8 as a model": f"{MODELS}/%ff/versions/1.0/files/empty",
    "bytes that are no UTF-8 as a version": f"{VERSIONS}/%ff/archive.tar",
    "an archive of an archive": f"{ONE}/archive.tar/config.json",
    "an archive of another kind": f"{ONE}/archive.zip",
}


@pytest.mark.parametrize("target", ELSEWHERE.values(), ids=ELSEWHERE)
async def test_a_tricky_target_reaches_nothing(model: httpx.AsyncClient, service: RunningService, target: str) -> None:
    for method in ("GET", "HEAD", "DELETE", "PATCH"):
        answer = await send(service.address, message(method, target))
        assert answer is not None
        assert answer.status_code in {404, 405, 422}, answer.text
    assert (await model.get(ONE)).json()["state"] == "ready"


async def test_a_wrong_method_is_a_problem_that_says_which_there_are(model: httpx.AsyncClient) -> None:
    for url, methods in (
        (BIN, "GET, HEAD, PUT"),
        (f"{ONE}/files/config.json", "GET, HEAD, PUT"),
        (f"{ONE}/files", "GET, HEAD"),
        (f"{ONE}/archive.tar", "GET, HEAD"),
        (f"{ONE}/download_url", "POST"),
    ):
        refused = await model.delete(url)
        problem(refused, 405, "method-not-allowed")
        assert refused.headers["allow"] == methods


async def test_a_file_is_redirected_to_storage_where_that_is_asked_for(model: httpx.AsyncClient) -> None:
    redirect = await model.get(BIN, params={"redirect": "true"})
    head = await model.head(BIN, params={"redirect": "true"})
    held = await model.get(BIN, params={"redirect": "true"}, headers={"If-None-Match": f'"{SHA256}"'})
    streamed = await model.get(BIN, params={"redirect": "false"})

    assert (redirect.status_code, redirect.headers["cache-control"]) == (307, "no-store")
    assert redirect.headers["referrer-policy"] == "no-referrer"
    direct = await by_anybody("GET", redirect.headers["location"])
    assert (direct.status_code, direct.content) == (200, CONTENT)
    assert direct.headers["content-disposition"] == streamed.headers["content-disposition"]
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(CONTENT)))
    assert held.status_code == 304
    assert (streamed.status_code, streamed.content) == (200, CONTENT)
    problem(await model.get(BIN, params={"redirect": "perhaps"}), 422, "invalid-request")


async def test_the_service_can_be_set_to_redirect_files_but_never_archives(service_with: ServiceWith) -> None:
    redirecting = await service_with(download_mode="redirect")
    async with httpx.AsyncClient(base_url=redirecting.url) as client:
        await register(client, {"model_name": "m", "version": "1.0"}, FILES)

        assert (await client.get(BIN)).status_code == 307
        assert (await client.get(BIN, params={"redirect": "false"})).content == CONTENT
        assert (await client.head(BIN)).status_code == 200
        assert (await client.get(f"{ONE}/archive.tar")).status_code == 200
        assert (await client.get(f"{ONE}/archive.tar", params={"redirect": "true"})).status_code == 200


# A URL


async def test_a_download_url_needs_no_credentials(model: httpx.AsyncClient) -> None:
    before = datetime.now(UTC)
    response = await model.post(
        f"{VERSIONS}/latest/download_url", json={"path": "weights/b.bin", "expires_in_seconds": 60}
    )

    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["referrer-policy"] == "no-referrer"
    assert response.headers["x-model-version"] == "1.0"
    answer = response.json()
    assert answer == entry("weights/b.bin", CONTENT) | {
        "model_name": "m",
        "version": "1.0",
        "url": answer["url"],
        "expires_at": answer["expires_at"],
    }
    assert timedelta(seconds=59) < datetime.fromisoformat(answer["expires_at"]) - before < timedelta(seconds=65)
    got = await by_anybody("GET", answer["url"])
    assert (got.content, got.headers["content-type"]) == (CONTENT, "application/octet-stream")
    assert got.headers["content-disposition"] == 'attachment; filename="b.bin"'
    assert parse_qs(urlsplit(answer["url"]).query)["X-Amz-Expires"] == ["60"]


async def test_a_download_url_needs_a_path_only_where_there_are_several_files(model: httpx.AsyncClient) -> None:
    await register(model, {"model_name": "m", "version": "2.0"}, {"dir/only.bin": WEIGHTS})
    await model.put(f"{MODELS}/m/aliases/prod", json={"version": "2.0"})

    for version in ("2.0", "latest", "@prod"):
        for body in ({}, {"path": None}, {"path": "dir/only.bin"}, {"expires_in_seconds": None}):
            answer = await model.post(f"{VERSIONS}/{version}/download_url", json=body)
            assert (answer.status_code, answer.json()["path"]) == (200, "dir/only.bin"), body
            assert parse_qs(urlsplit(answer.json()["url"]).query)["X-Amz-Expires"] == ["900"]
        assert (await model.post(f"{VERSIONS}/{version}/download_url")).status_code == 200
    assert "several files" in wrong_field(await model.post(f"{ONE}/download_url", json={}), "body", "path")
    assert "several files" in wrong_field(await model.post(f"{ONE}/download_url"), "body", "path")


async def test_a_download_url_that_cannot_be_is_refused(model: httpx.AsyncClient) -> None:
    url = f"{ONE}/download_url"
    for seconds in [0, -1, 604_801, 10**30, 1.5, "60", True, [60]]:
        response = await model.post(url, json={"path": "empty", "expires_in_seconds": seconds})
        assert "1 to 604800" in wrong_field(response, "body", "expires_in_seconds")
    for seconds in (1, 604_800):
        assert (await model.post(url, json={"path": "empty", "expires_in_seconds": seconds})).status_code == 200
    for path in ("none", "", "../empty", "/empty", "a\\b", "weights", "EMPTY", "x" * 4096):
        missing = problem(await model.post(url, json={"path": path}), 404, "file-not-found")
        assert (missing["model_name"], missing["version"]) == ("m", "1.0")
    for wrong in (1, ["empty"], {"a": "empty"}, "x" * 4097, "a\x00b"):
        wrong_field(await model.post(url, json={"path": wrong}), "body", "path")
    wrong_field(await model.post(url, json={"path": "empty", "method": "PUT"}), "body", "method")
    wrong_field(await model.post(url, json=["empty"]), "body")
    problem(await model.post(url, content=b'{"path": "empty"}'), 415, "unsupported-media-type")
    problem(await model.post(f"{VERSIONS}/9/download_url", json={}), 404, "version-not-found")
    problem(await model.post(f"{VERSIONS}/@none/download_url", json={}), 404, "alias-not-found")
    problem(await model.post(f"{MODELS}/none/versions/1/download_url", json={}), 404, "model-not-found")


# The archive


@pytest.mark.parametrize("count", [1, len(FILES)])
async def test_an_archive_has_all_files_whatever_their_number(client: httpx.AsyncClient, count: int) -> None:
    files = dict(list(FILES.items())[-count:])
    await register(client, {"model_name": "m", "version": "1.0"}, files)

    get, head = await client.get(f"{ONE}/archive.tar"), await client.head(f"{ONE}/archive.tar")

    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    for headers in (get.headers, head.headers):
        assert headers["content-type"] == "application/x-tar"
        assert headers["content-length"] == str(len(get.content))
        assert headers["content-disposition"] == 'attachment; filename="m-1.0.tar"'
        assert headers["x-model-version"] == "1.0"
        assert headers["accept-ranges"] == "bytes"
        assert headers["etag"] == get.headers["etag"]
        assert not headers["etag"].startswith("W/")
    with tarfile.open(fileobj=io.BytesIO(get.content)) as archive:
        members = archive.getmembers()
        assert [member.name for member in members] == in_order(files)
        assert {member.name: archive.extractfile(member).read() for member in members} == files  # type: ignore[union-attr]
        assert {(member.mtime, member.uid, member.gid, member.uname, member.gname) for member in members} == {
            (0, 0, 0, "", "")
        }


async def test_an_archive_is_the_same_everywhere(model: httpx.AsyncClient, service_with: ServiceWith) -> None:
    other = await service_with()
    async with httpx.AsyncClient(base_url=other.url) as client:
        # Another service starts with an empty registry too.
        await register(client, {"model_name": "x", "version": "9"}, dict(reversed(FILES.items())))
        await register(client, {"model_name": "m", "version": "1.0"}, FILES)
        theirs = await client.get(f"{MODELS}/x/versions/9/archive.tar")
        ours = await model.get(f"{ONE}/archive.tar")
        by_original_route = await model.get("/get_model/m/1.0")

    assert ours.content == theirs.content == by_original_route.content
    assert ours.headers["etag"] == theirs.headers["etag"] == by_original_route.headers["etag"]


async def test_an_archive_is_read_under_conditions_and_in_ranges(model: httpx.AsyncClient) -> None:
    url = f"{ONE}/archive.tar"
    whole = await model.get(url)
    etag, size = whole.headers["etag"], len(whole.content)

    for headers, status, start, stop in (
        ({"Range": "bytes=0-511"}, 206, 0, 512),
        ({"Range": "bytes=500-3000"}, 206, 500, 3001),
        ({"Range": "bytes=-1025"}, 206, size - 1025, size),
        ({"Range": "bytes=100-", "If-Range": etag}, 206, 100, size),
        ({"Range": "bytes=100-", "If-Range": '"other"'}, 200, 0, size),
        ({"Range": f"bytes={size}-"}, 416, 0, 0),
        ({"If-None-Match": etag}, 304, 0, 0),
        ({"If-Match": '"other"'}, 412, 0, 0),
    ):
        response = await model.get(url, headers=headers)
        assert response.status_code == status, headers
        if status in {200, 206}:
            assert response.content == whole.content[start:stop]
    assert (await model.head(url, headers={"If-None-Match": etag})).status_code == 304
    assert (await model.head(url, headers={"If-Match": '"other"'})).status_code == 412


async def test_what_is_not_there_has_no_files(model: httpx.AsyncClient) -> None:
    await create(model, "bare")
    await reserve(model, "m", "3.0")
    for version, slug in (("9", "version"), ("3.0", "version"), ("@none", "alias")):
        for suffix in ("files", "files/empty", "archive.tar"):
            problem(await model.get(f"{VERSIONS}/{version}/{suffix}"), 404, f"{slug}-not-found")
            assert (await model.head(f"{VERSIONS}/{version}/{suffix}")).status_code == 404
    for name in ("none", "bare", "M"):
        for suffix in ("files", "files/empty", "archive.tar"):
            problem(await model.get(f"{MODELS}/{name}/versions/latest/{suffix}"), 404, "model-not-found")


# What is damaged or gone


async def test_a_file_known_to_be_damaged_is_a_problem_that_says_so(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await mark_damaged(database_session, CONTENT)

    redirected = await model.get(BIN, params={"redirect": "true"})
    for response in (
        await model.get(BIN),
        redirected,
        await model.get(BIN, headers={"Range": "bytes=0-1"}),
        # By RFC 9110, section 13.2.1, conditions are for what would succeed without them.
        await model.get(BIN, headers={"If-None-Match": f'"{SHA256}"'}),
        await model.get(f"{ONE}/files", params={"presign": "true"}),
        await model.post(f"{ONE}/download_url", json={"path": "weights/b.bin"}),
        await model.get(f"{ONE}/archive.tar"),
        await model.get("/get_model/m/1.0", params={"path": "weights/b.bin"}),
        await model.get("/get_model/m/1.0"),
    ):
        damaged = problem(response, 409, "file-damaged")
        assert (damaged["path"], damaged["sha256"]) == ("weights/b.bin", f"sha256:{SHA256}")
        assert "to repair them" in damaged["detail"]
    for url in (BIN, f"{ONE}/archive.tar"):
        head = await model.head(url)
        assert (head.status_code, head.content) == (409, b"")
    # The manifest itself and the other files are all right.
    assert len((await model.get(f"{ONE}/files")).json()["items"]) == len(FILES)
    assert (await model.get(f"{ONE}/files/config.json")).content == FILES["config.json"]
    assert (await model.post(f"{ONE}/download_url", json={"path": "config.json"})).status_code == 200
    presigned = await model.get(f"{ONE}/files", params={"presign": "true", "limit": 2})
    assert presigned.status_code == 200


async def test_a_damaged_file_is_healed_by_registering_it_again(
    model: httpx.AsyncClient, database_session: AsyncSession
) -> None:
    await mark_damaged(database_session, CONTENT)

    await register(model, {"model_name": "other", "version": "1"}, {"any-name": CONTENT})

    assert (await model.get(BIN)).content == CONTENT
    assert (await model.get(f"{ONE}/archive.tar")).status_code == 200


async def test_bytes_that_changed_in_storage_never_arrive_whole(model: httpx.AsyncClient, bucket: Bucket) -> None:
    content = os.urandom(2 * 1024**2)
    info = (await register(model, {"model_name": "m", "version": "2.0"}, {"f": content})).json()
    await bucket.write(info["file_path"].removeprefix(f"s3://{bucket.name}/"), content[:-1] + bytes([content[-1] ^ 1]))

    for suffix in ("files/f", "archive.tar"):
        with pytest.raises(httpx.RemoteProtocolError):
            await model.get(f"{VERSIONS}/2.0/{suffix}")


@pytest.mark.parametrize("suffix", ["archive.tar", "files", "files/empty"])
async def test_a_purge_between_two_reads_is_never_a_version_without_files(
    model: httpx.AsyncClient, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("all", "get", "page"):
        read = getattr(VersionFileRepository, name)

        async def after_a_purge(self: VersionFileRepository, *args: Any, _read: Any = read, **kwargs: Any) -> Any:
            monkeypatch.undo()
            purged = await model.delete(ONE, params={"purge": "true"})
            assert purged.status_code == 200
            return await _read(self, *args, **kwargs)

        monkeypatch.setattr(VersionFileRepository, name, after_a_purge)

    response = await model.get(f"{ONE}/{suffix}")

    assert response.status_code == 404
    assert response.json()["version"] == "1.0"


async def test_many_read_at_once(model: httpx.AsyncClient) -> None:
    answers = await asyncio.gather(*(model.get(f"{ONE}/files/{quoted(path)}") for path in FILES for _ in range(8)))

    assert [answer.content for answer in answers] == [content for content in FILES.values() for _ in range(8)]
