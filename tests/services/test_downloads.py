"""Downloads: whole, ranged, conditional, redirected and resumed, and never a short file that looks complete."""

import asyncio
import base64
import hashlib
import io
import os
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from model_registry.errors import Unavailable
from tests.support.bucket import Bucket
from tests.support.registering import register
from tests.support.service import RunningService, ServiceWith

MIB = 1024**2
CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "/get_model/m/1"


@pytest.fixture
async def one_file(client: httpx.AsyncClient) -> dict[str, Any]:
    info: dict[str, Any] = (
        await register(client, {"model_name": "m", "version": "1"}, {"dir/model.bin": CONTENT})
    ).json()
    return info


async def test_a_file_says_everything_about_itself(client: httpx.AsyncClient, one_file: dict[str, Any]) -> None:
    response = await client.get(URL)

    assert (response.status_code, response.content) == (200, CONTENT)
    headers = response.headers
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == str(len(CONTENT))
    assert headers["etag"] == f'"{SHA256}"'
    assert headers["accept-ranges"] == "bytes"
    assert headers["repr-digest"] == f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"
    assert headers["content-disposition"] == 'attachment; filename="model.bin"'
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "sandbox; default-src 'none'"
    assert headers["x-model-version"] == "1"
    assert "last-modified" in headers
    assert headers["cache-control"] == "no-cache"


async def test_head_says_the_same_without_a_body(client: httpx.AsyncClient, one_file: dict[str, Any]) -> None:
    get, head = await client.get(URL), await client.head(URL)

    varying = {"x-request-id", "date"}
    assert (head.status_code, head.content) == (200, b"")
    assert {name: value for name, value in head.headers.items() if name not in varying} == {
        name: value for name, value in get.headers.items() if name not in varying
    }
    assert (await client.head(URL, params={"redirect": "true"})).status_code == 200


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-19", 10, 20),
        ("bytes=10000-", 10000, len(CONTENT)),
        ("bytes=-5", len(CONTENT) - 5, len(CONTENT)),
        ("bytes=-999999999", 0, len(CONTENT)),
        ("bytes=5-999999999", 5, len(CONTENT)),
        ("BYTES = 5-9", 5, 10),
    ],
)
async def test_a_range_is_answered_with_just_those_bytes(
    client: httpx.AsyncClient, one_file: dict[str, Any], wanted: str, start: int, stop: int
) -> None:
    response = await client.get(URL, headers={"Range": wanted})

    assert response.status_code == 206
    assert response.content == CONTENT[start:stop]
    assert response.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
    assert response.headers["content-length"] == str(stop - start)


@pytest.mark.parametrize("wanted", ["bytes=0-1,5-6", "lines=1-2", "bytes=9-5", "bytes=", "bytes=-", "bytes=a-b", "5-9"])
async def test_what_is_no_single_range_is_answered_with_the_whole(
    client: httpx.AsyncClient, one_file: dict[str, Any], wanted: str
) -> None:
    response = await client.get(URL, headers={"Range": wanted})

    assert (response.status_code, response.content) == (200, CONTENT)


@pytest.mark.parametrize("wanted", [f"bytes={len(CONTENT)}-", "bytes=999999999999-", "bytes=-0"])
async def test_a_range_beyond_the_end_is_416(client: httpx.AsyncClient, one_file: dict[str, Any], wanted: str) -> None:
    response = await client.get(URL, headers={"Range": wanted})

    assert response.status_code == 416
    assert response.headers["content-range"] == f"bytes */{len(CONTENT)}"
    assert response.json()["type"] == "urn:model-registry:problem:range-not-satisfiable"


LONG_AGO, FAR_AHEAD = "Mon, 01 Jan 2001 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": f'"{SHA256}"'}, 304),
        ({"If-None-Match": f'"x", W/"{SHA256}"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"other"'}, 200),
        ({"If-Match": f'"{SHA256}"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"other"'}, 412),
        ({"If-Match": f'W/"{SHA256}"'}, 412),
        ({"If-Modified-Since": FAR_AHEAD}, 304),
        ({"If-Modified-Since": LONG_AGO}, 200),
        ({"If-Modified-Since": FAR_AHEAD, "If-None-Match": '"other"'}, 200),
        ({"If-Unmodified-Since": LONG_AGO}, 412),
        ({"If-Unmodified-Since": FAR_AHEAD}, 200),
        ({"If-Modified-Since": "nonsense"}, 200),
        ({"Range": "bytes=0-1", "If-Range": f'"{SHA256}"'}, 206),
        ({"Range": "bytes=0-1", "If-Range": '"other"'}, 200),
        ({"Range": "bytes=0-1", "If-Range": FAR_AHEAD}, 200),
        ({"Range": "bytes=0-1", "If-None-Match": f'"{SHA256}"'}, 304),
        ({"Range": "bytes=0-1", "If-Match": '"other"'}, 412),
    ],
)
async def test_conditions_are_those_of_rfc_9110(
    client: httpx.AsyncClient, one_file: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    for method in ("GET", "HEAD"):
        response = await client.request(method, URL, headers=headers)

        expected = 200 if method == "HEAD" and status == 206 else status
        assert response.status_code == expected
        if expected == 304:
            assert response.content == b""
            assert response.headers["etag"] == f'"{SHA256}"'


async def test_latest_never_gives_a_304_for_another_version(client: httpx.AsyncClient) -> None:
    await register(client, {"model_name": "m", "version": "1"})
    first = await client.get("/get_model_info/m/latest")
    same = await client.get("/get_latest_model_info/m", headers={"If-None-Match": first.headers["etag"]})
    await register(client, {"model_name": "m", "version": "2"})

    moved = await client.get("/get_model_info/m/latest", headers={"If-None-Match": first.headers["etag"]})

    assert (same.status_code, same.content) == (304, b"")
    assert (moved.status_code, moved.headers["x-model-version"]) == (200, "2")


@pytest.mark.parametrize(
    "path",
    ["/get_model_info/m/1", "/get_latest_model_info/m", "/list_models", "/healthz", "/version", "/get_model_info/m/9"],
)
async def test_head_is_understood_wherever_get_is(
    client: httpx.AsyncClient, one_file: dict[str, Any], path: str
) -> None:
    get, head = await client.get(path), await client.head(path)

    assert (head.status_code, head.content) == (get.status_code, b"")
    assert head.headers.get("etag") == get.headers.get("etag")
    assert head.headers["content-type"] == get.headers["content-type"]


async def test_a_redirect_leads_to_the_same_bytes_without_credentials(
    client: httpx.AsyncClient, one_file: dict[str, Any]
) -> None:
    redirect = await client.get(URL, params={"redirect": "true"}, headers={"Host": "evil.example"})

    assert redirect.status_code == 307
    assert redirect.headers["cache-control"] == "no-store"
    assert redirect.headers["referrer-policy"] == "no-referrer"
    location = redirect.headers["location"]
    assert "evil.example" not in location
    async with httpx.AsyncClient() as anybody:
        direct = await anybody.get(location)
        ranged = await anybody.get(location, headers={"Range": "bytes=3-5"})
        tampered = await anybody.get(location.replace("octet-stream", "html"))
    assert (direct.status_code, direct.content) == (200, CONTENT)
    assert direct.headers["content-type"] == "application/octet-stream"
    assert direct.headers["content-disposition"] == 'attachment; filename="model.bin"'
    assert (ranged.status_code, ranged.content) == (206, CONTENT[3:6])
    assert tampered.status_code == 403


async def test_the_service_can_be_set_to_redirect(
    client: httpx.AsyncClient, one_file: dict[str, Any], service_with: ServiceWith
) -> None:
    # service_with empties the registry too, so the file is registered again.
    redirecting = await service_with(download_mode="redirect", s3_public_endpoint_url="http://storage.example:9000")
    async with httpx.AsyncClient(base_url=redirecting.url) as other:
        await register(other, {"model_name": "n", "version": "1"}, {"f": CONTENT})

        default = await other.get("/get_model/n/1")
        streamed = await other.get("/get_model/n/1", params={"redirect": "false"})

    assert default.status_code == 307
    assert default.headers["location"].startswith("http://storage.example:9000/")
    assert (streamed.status_code, streamed.content) == (200, CONTENT)


FILES = {"a/x.bin": b"x" * 1000, "b.bin": CONTENT, "c-empty": b"", "ü" + "n" * 150 + ".txt": b"y" * 512}


async def test_an_archive_is_deterministic_and_never_redirected(client: httpx.AsyncClient) -> None:
    await register(client, {"model_name": "m", "version": "1"}, FILES)
    await register(client, {"model_name": "n", "version": "7"}, dict(reversed(FILES.items())))

    one, two = await client.get(URL, params={"redirect": "true"}), await client.get("/get_model/n/7")

    assert one.status_code == 200
    assert one.content == two.content
    assert one.headers["etag"] == two.headers["etag"]
    assert one.headers["content-type"] == "application/x-tar"
    assert one.headers["content-disposition"] == 'attachment; filename="m-1.tar"'
    head = await client.head(URL)
    assert head.headers["content-length"] == str(len(one.content))
    with tarfile.open(fileobj=io.BytesIO(one.content)) as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == FILES  # type: ignore[union-attr]
        assert {(member.mtime, member.uid, member.gid, member.mode) for member in archive} == {(0, 0, 0, 0o644)}


async def test_any_range_of_an_archive_is_what_stands_there(client: httpx.AsyncClient) -> None:
    await register(client, {"model_name": "m", "version": "1"}, FILES)
    whole = (await client.get(URL)).content

    edges = sorted({0, 1, 511, 512, 513, 1535, 1536, 1537, 5000, len(whole) - 1025, len(whole) - 1024, len(whole) - 1})
    for start in edges:
        for stop in (*(edge for edge in edges if edge > start), len(whole)):
            response = await client.get(URL, headers={"Range": f"bytes={start}-{stop - 1}"})
            assert response.status_code == 206
            assert response.content == whole[start:stop], (start, stop)


@dataclass
class Reads:
    """Counts the reads from storage, and how many ran at the same time."""

    begun: int = 0
    underway: int = 0
    most: int = 0
    fails_at: int | None = None


@pytest.fixture
def reads(service: RunningService, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Count the reads from storage, and make each take 10 ms longer."""
    reads = Reads()
    read = service.services.blobs.read

    @asynccontextmanager
    async def slow_read(key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        reads.begun += 1
        if reads.begun == reads.fails_at:
            raise Unavailable("The object store")
        reads.underway += 1
        reads.most = max(reads.most, reads.underway)
        try:
            await asyncio.sleep(0.01)
            async with read(key, start, stop) as chunks:
                yield chunks
        finally:
            reads.underway -= 1

    monkeypatch.setattr(service.services.blobs, "read", slow_read)
    return reads


async def test_small_files_of_an_archive_are_read_a_few_at_a_time(client: httpx.AsyncClient, reads: Reads) -> None:
    files = {f"{number:03}": f"{number}".encode() * 100 for number in range(50)} | {"025-large": CONTENT * 300}
    await register(client, {"model_name": "m", "version": "1"}, files)

    whole = (await client.get(URL)).content
    part = await client.get(URL, headers={"Range": "bytes=5000-20000"})

    with tarfile.open(fileobj=io.BytesIO(whole)) as archive:
        assert {member.name: archive.extractfile(member).read() for member in archive} == files  # type: ignore[union-attr]
    assert part.content == whole[5000:20001]
    assert 4 <= reads.most <= 9
    assert reads.underway == 0


async def test_an_archive_of_which_nothing_can_be_read_is_an_answer_and_no_broken_body(
    client: httpx.AsyncClient, reads: Reads
) -> None:
    await register(client, {"model_name": "m", "version": "1"}, {f"{number}": b"%d" % number for number in range(20)})
    reads.fails_at = 1

    answer = await client.get(URL)

    assert (answer.status_code, answer.json()["type"]) == (503, "urn:model-registry:problem:unavailable")
    assert reads.underway == 0


async def test_an_archive_that_breaks_in_the_middle_is_short(client: httpx.AsyncClient, reads: Reads) -> None:
    files = {f"{number:03}": os.urandom(20_000) for number in range(40)}
    await register(client, {"model_name": "m", "version": "1"}, files)
    reads.fails_at = 30

    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(URL)

    assert (reads.begun < 40, reads.underway) == (True, 0)


async def test_one_of_several_files_is_asked_for_by_its_path(client: httpx.AsyncClient) -> None:
    await register(client, {"model_name": "m", "version": "1"}, FILES)

    response = await client.get(URL, params={"path": "a/x.bin"})
    missing = await client.get(URL, params={"path": "a/y.bin"})
    outside = await client.get(URL, params={"path": "../../etc/passwd"})

    assert (response.status_code, response.content) == (200, FILES["a/x.bin"])
    assert (missing.status_code, missing.json()["path"]) == (404, "a/y.bin")
    assert outside.status_code == 404


@pytest.mark.parametrize(
    ("path", "header"),
    [
        ("模型.bin", "attachment; filename=\"__.bin\"; filename*=UTF-8''%E6%A8%A1%E5%9E%8B.bin"),
        ('a"b.bin', "attachment; filename=\"a_b.bin\"; filename*=UTF-8''a%22b.bin"),
        ("50%25.bin", "attachment; filename=\"50_25.bin\"; filename*=UTF-8''50%2525.bin"),
        ("plain name;x.bin", 'attachment; filename="plain name;x.bin"'),
    ],
)
async def test_a_file_keeps_its_name_whatever_is_in_it(client: httpx.AsyncClient, path: str, header: str) -> None:
    body = (
        b'--B\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nm\r\n'
        b'--B\r\nContent-Disposition: form-data; name="version"\r\n\r\n1\r\n'
        b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="'
        + path.replace('"', "%22").encode()
        + b'"\r\n\r\nx\r\n--B--\r\n'
    )
    registered = await client.post(
        "/register_model", content=body, headers={"content-type": "multipart/form-data; boundary=B"}
    )

    response = await client.get(URL)

    assert registered.json()["files"][0]["path"] == path
    assert response.headers["content-disposition"] == header


# Damaged, slow and missing files


def key_of(info: dict[str, Any], bucket: Bucket) -> str:
    path: str = info["file_path"]
    return path.removeprefix(f"s3://{bucket.name}/")


async def test_bytes_that_changed_in_storage_never_arrive_as_a_whole_file(
    client: httpx.AsyncClient, bucket: Bucket
) -> None:
    content = os.urandom(3 * MIB)
    info = (await register(client, {"model_name": "m", "version": "1"}, {"f": content})).json()
    await bucket.write(key_of(info, bucket), content[:-1] + bytes([content[-1] ^ 1]))

    with pytest.raises(httpx.RemoteProtocolError):
        await client.get(URL)


@pytest.mark.parametrize("length", [0, 1000, 3 * MIB - 1])
async def test_a_short_object_never_arrives_as_a_whole_file(
    client: httpx.AsyncClient, bucket: Bucket, length: int
) -> None:
    content = os.urandom(3 * MIB)
    info = (await register(client, {"model_name": "m", "version": "1"}, {"f": content})).json()
    await bucket.write(key_of(info, bucket), content[:length])

    try:
        response = await client.get(URL)
    except httpx.RemoteProtocolError:
        return
    assert response.status_code == 500
    assert response.json()["type"] == "urn:model-registry:problem:internal-error"


async def test_a_lost_object_is_an_error_and_names_no_internals(client: httpx.AsyncClient, bucket: Bucket) -> None:
    info = (await register(client, {"model_name": "m", "version": "1"})).json()
    await bucket.empty()

    response = await client.get(URL)

    assert response.status_code == 500
    assert key_of(info, bucket) not in response.text


async def test_no_connection_to_the_database_is_held_while_bytes_flow(service_with: ServiceWith) -> None:
    narrow = await service_with(database_pool_size=1)
    content = os.urandom(40 * MIB)
    async with httpx.AsyncClient(base_url=narrow.url, timeout=20) as client:
        await register(client, {"model_name": "m", "version": "1"}, {"f": content})

        async with client.stream("GET", URL) as one, client.stream("GET", URL) as two:
            first = [await anext(one.aiter_raw(65536)), await anext(two.aiter_raw(65536))]
            info = await client.get("/get_model_info/m/1")

    assert info.status_code == 200
    assert all(content.startswith(chunk) for chunk in first)


async def test_no_connection_to_the_database_is_held_while_an_upload_waits(service_with: ServiceWith) -> None:
    narrow = await service_with(database_pool_size=1)

    async with httpx.AsyncClient(base_url=narrow.url, timeout=20) as client:

        async def waiting_form() -> AsyncIterator[bytes]:
            yield (
                b'--B\r\nContent-Disposition: form-data; name="model_name"\r\n\r\nm\r\n'
                b'--B\r\nContent-Disposition: form-data; name="version"\r\n\r\n1\r\n'
                b'--B\r\nContent-Disposition: form-data; name="model_file"; filename="f"\r\n\r\nabc'
            )
            for _ in range(3000):
                reserved = await client.get("/v1/models/m/versions/1")
                if reserved.status_code == 200:
                    break
                await asyncio.sleep(0.01)
            assert reserved.json()["state"] == "pending"
            assert (await client.get("/list_models")).status_code == 200
            yield b"\r\n--B--\r\n"

        response = await client.post(
            "/register_model",
            content=waiting_form(),
            headers={"content-type": "multipart/form-data; boundary=B"},
        )

    assert response.status_code == 201


async def test_a_client_that_goes_away_ends_the_read_from_storage(
    client: httpx.AsyncClient, service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await register(client, {"model_name": "m", "version": "1"}, {"f": bytes(64 * MIB)})
    read_bytes = 0
    is_over = asyncio.Event()
    downloads = service.services.downloads
    original = type(downloads).read

    async def watched(self: Any, *args: Any) -> AsyncIterator[bytes]:
        nonlocal read_bytes
        try:
            async for chunk in original(self, *args):
                read_bytes += len(chunk)
                yield chunk
        finally:
            is_over.set()

    monkeypatch.setattr(type(downloads), "read", watched)
    async with client.stream("GET", URL) as response:
        await anext(response.aiter_raw(1024))

    await asyncio.wait_for(is_over.wait(), 30)
    assert read_bytes < 32 * MIB


async def test_storage_that_goes_away_in_the_middle_is_an_outage_in_the_log_and_no_bug(
    service: RunningService,
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await register(client, {"model_name": "m", "version": "1"}, {"f": bytes(8 * MIB)})
    read = service.services.blobs.read
    away = Unavailable("The object store")

    @asynccontextmanager
    async def breaking(key: str, start: int, stop: int) -> AsyncIterator[AsyncIterator[bytes]]:
        async def some(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            for _ in range(3):
                yield await anext(chunks)
            raise away

        async with read(key, start, stop) as chunks:
            yield some(chunks)

    monkeypatch.setattr(service.services.blobs, "read", breaking)
    with pytest.raises(httpx.RemoteProtocolError):
        await client.get("/get_model/m/1")

    said = [record.msg["event"] for record in caplog.records if isinstance(record.msg, dict)]
    assert "request.unavailable" in said
    assert "request.failed" not in said
