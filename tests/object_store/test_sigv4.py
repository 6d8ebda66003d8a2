"""Presigned URLs equal those of the S3 library, and any change to them makes them invalid."""

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import botocore.session
import httpx
import pytest
from botocore.config import Config
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from model_registry.domain.entities import Digest
from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import PresignedRequest, StoredObject, storage_key
from model_registry.object_store.s3 import S3BlobStore
from model_registry.object_store.s3_client import S3Options
from model_registry.object_store.sigv4 import AccessKey, BucketAddress, Presigner
from model_registry.settings import Settings

MIB = 1024**2
CONTENT = bytes(range(256)) * 4
SHA256 = Digest(hashlib.sha256(CONTENT).digest())
OTHER = CONTENT[::-1]
ATTACHMENT = 'attachment; filename="model.bin"'

# Equal to another signer's URLs

PLACES = [
    S3Options(bucket="models"),
    S3Options(bucket="models", region="eu-west-1"),
    S3Options(bucket="models", region="cn-north-1"),
    S3Options(bucket="models.example.com", region="eu-west-1"),
    S3Options(bucket="models", endpoint_url="http://Storage.example:9000"),
    S3Options(bucket="models", endpoint_url="https://storage.example:443", region="garage"),
    S3Options(bucket="models", endpoint_url="http://storage.example:80/"),
    S3Options(bucket="models", endpoint_url="https://storage.example/base/path~ü x/"),
    S3Options(bucket="models", endpoint_url="http://[::1]:8333"),
]
ACCESS_KEYS = [
    AccessKey("AKIDEXAMPLE", "wJalr/XUtn+FEMI"),
    AccessKey("ASIA", "secret", "FwoG/Zs+IvYXdz=="),
    AccessKey("a", "b"),
]
PLAIN_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@cache
def other_signer(place: S3Options, access_key: AccessKey) -> Any:
    return _SESSION.create_client(
        "s3",
        region_name=place.region,
        endpoint_url=place.endpoint_url,
        aws_access_key_id=access_key.id,
        aws_secret_access_key=access_key.secret,
        aws_session_token=access_key.session_token,
        config=Config(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            s3={"addressing_style": "path" if place.endpoint_url else "auto"},
        ),
    )


_SESSION = botocore.session.Session()


@cache
def address_of(place: S3Options) -> BucketAddress:
    url = other_signer(place, ACCESS_KEYS[0]).generate_presigned_url("get_object", {"Bucket": place.bucket, "Key": "k"})
    return BucketAddress.from_presigned(url, "k")


def sign_elsewhere(
    operation: str, parameters: dict[str, Any], expires: int, now: datetime, place: S3Options, access_key: AccessKey
) -> str:
    with patch("botocore.auth.get_current_datetime", return_value=now.astimezone(UTC).replace(tzinfo=None)):
        url: str = other_signer(place, access_key).generate_presigned_url(
            operation, {"Bucket": place.bucket, **parameters}, expires
        )
    return url


def parsed(url: str) -> tuple[str, str, str, list[tuple[str, str]]]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc, parts.path, sorted(parse_qsl(parts.query, keep_blank_values=True))


@st.composite
def signing(draw: st.DrawFn) -> tuple[int, datetime, S3Options, AccessKey]:
    zone = st.timezones()
    return (
        draw(st.integers(1, 604_800)),
        draw(st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=zone)),  # noqa: DTZ001 - zone follows
        draw(st.sampled_from(PLACES)),
        draw(st.sampled_from(ACCESS_KEYS)),
    )


def presigner(expires: int, now: datetime, place: S3Options, access_key: AccessKey) -> Presigner:
    return Presigner(address_of(place), access_key, expires_in_seconds=expires, now=now)


@hypothesis_settings(deadline=None)
@given(how=signing(), key=PLAIN_TEXT, content_type=PLAIN_TEXT, disposition=PLAIN_TEXT)
def test_a_url_to_read_is_what_another_signer_makes(
    how: tuple[int, datetime, S3Options, AccessKey], key: str, content_type: str, disposition: str
) -> None:
    url = presigner(*how).get(key, content_type=content_type, disposition=disposition)

    wanted = {"Key": key, "ResponseContentType": content_type, "ResponseContentDisposition": disposition}
    assert parsed(url) == parsed(sign_elsewhere("get_object", wanted, *how))


@hypothesis_settings(deadline=None)
@given(
    how=signing(), key=PLAIN_TEXT, sha256=st.binary(min_size=32, max_size=32), size_bytes=st.integers(0, 5 * 1024**3)
)
def test_a_url_to_write_is_what_another_signer_makes(
    how: tuple[int, datetime, S3Options, AccessKey], key: str, sha256: bytes, size_bytes: int
) -> None:
    checksum = base64.b64encode(sha256).decode()

    url = presigner(*how).put(
        key, {"x-amz-checksum-sha256": checksum, "If-None-Match": "*", "Content-Length": str(size_bytes)}
    )

    wanted = {"Key": key, "ChecksumSHA256": checksum, "IfNoneMatch": "*", "ContentLength": size_bytes}
    assert parsed(url) == parsed(sign_elsewhere("put_object", wanted, *how))


@hypothesis_settings(deadline=None)
@given(
    how=signing(),
    key=PLAIN_TEXT,
    multipart_id=PLAIN_TEXT,
    number=st.integers(1, 10_000),
    size_bytes=st.integers(0, 5 * 1024**3),
)
def test_a_url_to_write_a_part_is_what_another_signer_makes(
    how: tuple[int, datetime, S3Options, AccessKey], key: str, multipart_id: str, number: int, size_bytes: int
) -> None:
    url = presigner(*how).put_part(key, multipart_id, number, {"Content-Length": str(size_bytes)})

    wanted = {"Key": key, "UploadId": multipart_id, "PartNumber": number, "ContentLength": size_bytes}
    assert parsed(url) == parsed(sign_elsewhere("upload_part", wanted, *how))


@pytest.mark.parametrize("place", PLACES, ids=lambda place: f"{place.endpoint_url}-{place.region}-{place.bucket}")
async def test_the_store_signs_for_where_the_library_would_go(place: S3Options) -> None:
    access_key = ACCESS_KEYS[0]
    options = S3Options(
        bucket=place.bucket,
        endpoint_url=place.endpoint_url and "http://inside:9000",
        public_endpoint_url=place.endpoint_url,
        region=place.region,
        access_key_id=access_key.id,
        secret_access_key=access_key.secret,
    )
    async with S3BlobStore(options) as store:
        (url,) = await store.presign_gets([("blobs/k", ATTACHMENT)], expires_in_seconds=60)

    signed_at = datetime.strptime(dict(parse_qsl(url))["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    wanted = {
        "Key": "blobs/k",
        "ResponseContentType": "application/octet-stream",
        "ResponseContentDisposition": ATTACHMENT,
    }
    assert parsed(url) == parsed(sign_elsewhere("get_object", wanted, 60, signed_at, place, access_key))


def test_no_secret_is_shown() -> None:
    assert repr(AccessKey("id", "secret", "token")) == "AccessKey(id='id')"


# Credentials from the environment


@pytest.fixture
def aws_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only folder that the AWS chain reads. Its file `config` does not exist yet."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


@pytest.fixture
def changing_credentials(aws_folder: Path) -> None:
    """Temporary credentials that are about to expire, so the library fetches new ones each time."""
    soon = (datetime.now(UTC) + timedelta(minutes=5)).isoformat()
    answer = json.dumps(
        {"Version": 1, "AccessKeyId": "ID$$", "SecretAccessKey": "s", "SessionToken": "to/ken", "Expiration": soon}
    )
    script = aws_folder / "credentials.sh"
    script.write_text(f"cat <<END\n{answer}\nEND\n")
    (aws_folder / "config").write_text(f"[default]\ncredential_process = sh {script}\n")


async def test_every_batch_is_signed_with_the_credentials_of_its_time(changing_credentials: None) -> None:
    async with S3BlobStore(S3Options(bucket="models")) as store:
        one, two = await store.presign_gets([("a", ATTACHMENT), ("b", ATTACHMENT)], expires_in_seconds=60)
        (three,) = await store.presign_gets([("c", ATTACHMENT)], expires_in_seconds=60)

    by_url = [dict(parse_qsl(url)) for url in (one, two, three)]
    assert [parameters["X-Amz-Security-Token"] for parameters in by_url] == ["to/ken"] * 3
    assert by_url[0]["X-Amz-Credential"] == by_url[1]["X-Amz-Credential"] != by_url[2]["X-Amz-Credential"]


async def test_without_credentials_nothing_can_be_signed_now(aws_folder: Path) -> None:
    async with S3BlobStore(S3Options(bucket="models")) as store:
        with pytest.raises(Unavailable):
            await store.presign_gets([("a", ATTACHMENT)], expires_in_seconds=60)


# Requests to the real server


@pytest.fixture(scope="module")
async def anybody() -> AsyncIterator[httpx.AsyncClient]:
    """A client without credentials."""
    async with httpx.AsyncClient() as anybody:
        yield anybody


@pytest.fixture
def key() -> str:
    return storage_key(uuid4())


@pytest.fixture
async def put(blobs: S3BlobStore, key: str) -> PresignedRequest:
    """A presigned PUT of `CONTENT` to `key`."""
    (request,) = await blobs.presign_puts([(key, SHA256, len(CONTENT))], expires_in_seconds=60)
    return request


async def send(
    anybody: httpx.AsyncClient, request: PresignedRequest, content: bytes, **changes: str | None
) -> tuple[int, str]:
    """Send a request with some headers changed (`None` removes one); return the status and the store's code."""
    headers = request.headers | {name.replace("_", "-"): value for name, value in changes.items()}
    answer = await anybody.put(
        request.url, content=content, headers={name: value for name, value in headers.items() if value is not None}
    )
    return answer.status_code, answer.text.partition("<Code>")[2].partition("</Code>")[0]


async def test_the_store_takes_what_was_signed(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str, put: PresignedRequest
) -> None:
    sent = await send(anybody, put, CONTENT)

    assert sent == (200, "")
    assert await blobs.stored(key) == StoredObject(len(CONTENT), SHA256)
    (url,) = await blobs.presign_gets([(key, ATTACHMENT)], expires_in_seconds=60)
    got = await anybody.get(url)
    assert (got.status_code, got.content) == (200, CONTENT)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"] == ATTACHMENT


async def test_an_empty_file_is_put_like_any_other(anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str) -> None:
    empty = Digest(hashlib.sha256().digest())
    (request,) = await blobs.presign_puts([(key, empty, 0)], expires_in_seconds=60)

    assert await send(anybody, request, b"") == (200, "")

    assert (await blobs.stored(key)) == StoredObject(0, empty)


async def test_other_bytes_are_refused(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str, put: PresignedRequest
) -> None:
    assert await send(anybody, put, OTHER) == (400, "BadDigest")

    assert await blobs.stored(key) is None
    assert await send(anybody, put, CONTENT) == (200, "")


OTHER_SHA256 = base64.b64encode(hashlib.sha256(OTHER).digest()).decode()


@pytest.mark.parametrize(
    ("content", "changes"),
    [
        pytest.param(CONTENT, {"x_amz_checksum_sha256": None}, id="no checksum"),
        pytest.param(OTHER, {"x_amz_checksum_sha256": OTHER_SHA256}, id="another checksum, and its bytes"),
        pytest.param(CONTENT, {"If_None_Match": None}, id="no condition"),
        pytest.param(CONTENT, {"If_None_Match": '"x"'}, id="another condition"),
        pytest.param(CONTENT[:-1], {"Content_Length": str(len(CONTENT) - 1)}, id="shorter"),
        pytest.param(CONTENT + b"x", {"Content_Length": str(len(CONTENT) + 1)}, id="longer"),
        pytest.param(CONTENT, {"Content_Length": None, "Transfer_Encoding": "chunked"}, id="of unknown length"),
        pytest.param(CONTENT, {"x_amz_acl": "public-read"}, id="one more"),
    ],
)
async def test_other_headers_are_refused(
    anybody: httpx.AsyncClient,
    blobs: S3BlobStore,
    key: str,
    put: PresignedRequest,
    content: bytes,
    changes: dict[str, str | None],
) -> None:
    status, _ = await send(anybody, put, content, **changes)

    assert status == 403
    assert await blobs.stored(key) is None


async def test_bytes_in_chunks_within_the_body_are_refused(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str, put: PresignedRequest
) -> None:
    # The only header of Amazon's that is not signed and changes how the body is read.
    head, tail = b"%x\r\n" % (len(CONTENT) - 12), b"\r\n0\r\n\r\n"
    framed = head + CONTENT[: len(CONTENT) - 12] + tail
    assert len(framed) == len(CONTENT)

    sent = await send(anybody, put, framed, x_amz_content_sha256="STREAMING-UNSIGNED-PAYLOAD-TRAILER")

    assert sent[0] in {400, 403}
    assert await blobs.stored(key) is None


async def test_a_body_that_ends_early_leaves_nothing(blobs: S3BlobStore, key: str, put: PresignedRequest) -> None:
    url = httpx.URL(put.url)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    headers = "".join(f"{name}: {value}\r\n" for name, value in put.headers.items())

    writer.write(f"PUT {url.raw_path.decode()} HTTP/1.1\r\nHost: {url.netloc.decode()}\r\n{headers}\r\n".encode())
    writer.write(CONTENT[:-1])
    writer.write_eof()
    answer = await reader.read()
    writer.close()

    assert not answer.startswith(b"HTTP/1.1 200")
    assert await blobs.stored(key) is None


async def test_a_second_put_changes_nothing(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str, put: PresignedRequest
) -> None:
    assert await send(anybody, put, CONTENT) == (200, "")
    other = (key, Digest(hashlib.sha256(OTHER).digest()), len(OTHER))
    (replacing,) = await blobs.presign_puts([other], expires_in_seconds=60)

    assert await send(anybody, put, CONTENT) == (412, "PreconditionFailed")
    assert await send(anybody, put, OTHER) == (412, "PreconditionFailed")
    assert await send(anybody, replacing, OTHER) == (412, "PreconditionFailed")

    async with blobs.read(key, 0, len(CONTENT)) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == CONTENT


async def test_a_url_is_for_one_key_one_method_and_one_time_span(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, put: PresignedRequest
) -> None:
    tampered = [
        put.url.replace("blobs/", "blobs/x"),
        put.url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"),
        f"{put.url}&response-content-type=text%2Fhtml",
        put.url.replace("%3Bx-amz-checksum-sha256", ""),
    ]

    for url in tampered:
        status, _ = await send(anybody, PresignedRequest(url, put.headers), CONTENT)
        assert status == 403, url
    assert (await anybody.get(put.url)).status_code == 403
    assert (await anybody.delete(put.url)).status_code == 403


async def test_a_url_expires(
    anybody: httpx.AsyncClient, settings: Settings, blobs: S3BlobStore, key: str, put: PresignedRequest
) -> None:
    assert settings.s3_access_key_id is not None
    assert settings.s3_secret_access_key is not None
    access_key = AccessKey(settings.s3_access_key_id, settings.s3_secret_access_key.get_secret_value())
    address = BucketAddress.from_presigned(put.url, key)
    now = datetime.now(UTC)

    statuses = []
    for ago in (timedelta(seconds=61), timedelta(seconds=40)):
        earlier = Presigner(address, access_key, expires_in_seconds=60, now=now - ago)
        statuses.append((await send(anybody, PresignedRequest(earlier.put(key, put.headers), put.headers), CONTENT))[0])

    assert statuses == [403, 200]


# Parts


async def test_parts_go_straight_to_the_store(anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str) -> None:
    contents = [os.urandom(5 * MIB), b"the rest"]
    upload = await blobs.create_multipart(key)
    sizes = [(number, len(content)) for number, content in enumerate(contents, 1)]
    requests = await blobs.presign_parts(key, upload, sizes, expires_in_seconds=60)

    assert [await send(anybody, *part) for part in zip(requests, contents, strict=True)] == [(200, "")] * 2

    parts = await blobs.list_parts(key, upload)
    assert parts is not None
    assert [(part.number, part.size_bytes) for part in parts] == sizes
    size_bytes = sum(map(len, contents))
    await blobs.complete_multipart(key, upload, [part.etag for part in parts], size_bytes)
    assert await blobs.stored(key) == StoredObject(size_bytes, None)
    assert await blobs.list_parts(key, upload) is None
    assert await send(anybody, requests[1], b"THE REST") == (404, "NoSuchUpload")
    async with blobs.read(key, 0, size_bytes) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == b"".join(contents)


async def test_a_part_of_another_size_is_refused(anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str) -> None:
    upload = await blobs.create_multipart(key)
    (request,) = await blobs.presign_parts(key, upload, [(1, 8)], expires_in_seconds=60)

    for content in (b"1234567", b"123456789"):
        assert (await send(anybody, request, content, Content_Length=str(len(content))))[0] == 403
    other_part = PresignedRequest(request.url.replace("partNumber=1", "partNumber=2"), request.headers)
    assert (await send(anybody, other_part, b"12345678"))[0] == 403

    assert await blobs.list_parts(key, upload) == []
    await blobs.abort_multipart(key, upload)


async def test_a_part_that_comes_after_the_abort_is_refused(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str
) -> None:
    upload = await blobs.create_multipart(key)
    (request,) = await blobs.presign_parts(key, upload, [(1, 8)], expires_in_seconds=60)
    assert await send(anybody, request, b"12345678") == (200, "")
    await blobs.abort_multipart(key, upload)

    assert await send(anybody, request, b"12345678") == (404, "NoSuchUpload")

    assert await blobs.list_parts(key, upload) is None
    assert await blobs.stored(key) is None


async def test_more_parts_than_fit_on_a_page_are_all_listed(
    anybody: httpx.AsyncClient, blobs: S3BlobStore, key: str
) -> None:
    upload = await blobs.create_multipart(key)
    wanted = [(number, 1) for number in range(1, 1003)]
    requests = await blobs.presign_parts(key, upload, wanted, expires_in_seconds=60)
    limit = asyncio.Semaphore(16)

    async def write(request: PresignedRequest) -> None:
        async with limit:
            assert await send(anybody, request, b"x") == (200, "")

    await asyncio.gather(*map(write, requests))

    parts = await blobs.list_parts(key, upload)
    assert parts is not None
    assert [(part.number, part.size_bytes) for part in parts] == wanted
    await blobs.abort_multipart(key, upload)
