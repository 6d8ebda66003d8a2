"""The protocol of an object store, tested with every server that the suite runs.

SeaweedFS is a real store. moto is fast but verifies no signatures, so tests of signatures use SeaweedFS only.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from uuid import uuid4

import httpx
import pytest
from moto.server import ThreadedMotoServer

from model_registry.errors import Unavailable
from model_registry.object_store.blob_store import BlobDamaged, BlobMissing, BlobStore, PartsRefused, storage_key
from model_registry.object_store.s3 import S3BlobStore
from model_registry.object_store.s3_client import S3Options
from model_registry.transfer.part_buffers import SLOT_BYTES, Part
from model_registry_devstack import StackAddresses
from tests.support.proxy import BlackHole, Proxy

MIB = 1024**2
ATTACHMENT = 'attachment; filename="model.bin"'


@pytest.fixture(scope="module", params=["seaweedfs", "moto"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[S3BlobStore]:
    if request.param == "seaweedfs":
        stack: StackAddresses = request.getfixturevalue("stack")
        options = S3Options(
            bucket=stack.s3_bucket,
            endpoint_url=stack.s3_endpoint_url,
            access_key_id=stack.s3_access_key_id,
            secret_access_key=stack.s3_secret_access_key,
        )
    else:
        options = S3Options(
            bucket="models",
            endpoint_url=request.getfixturevalue("moto_url"),
            access_key_id="x",
            secret_access_key="y",
        )
    async with S3BlobStore(options) as store:
        await store.create_bucket()
        yield store


@pytest.fixture(scope="module")
def moto_url() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def body(content: bytes) -> Part:
    part = Part([bytearray(SLOT_BYTES) for _ in range(max(1, -(-len(content) // SLOT_BYTES)))])
    view = memoryview(content)
    while view:
        view = view[part.fill(view) :]
    return part


async def read(store: BlobStore, key: str, start: int, stop: int) -> bytes:
    async with store.read(key, start, stop) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def size_of(store: BlobStore, key: str) -> int:
    found = await store.stored(key)
    assert found is not None
    return found.size_bytes


@pytest.mark.parametrize("size", [1, 1000, 3 * MIB, 8 * MIB, 8 * MIB + 1])
async def test_what_is_put_is_read(store: S3BlobStore, size: int) -> None:
    key, content = storage_key(uuid4()), os.urandom(size)

    await store.put(key, body(content))

    assert await size_of(store, key) == size
    assert await read(store, key, 0, size) == content
    assert await read(store, key, size // 2, size) == content[size // 2 :]


async def test_an_empty_object_is_an_object(store: S3BlobStore) -> None:
    key = storage_key(uuid4())

    await store.put(key, body(b""))

    assert await size_of(store, key) == 0


async def test_parts_become_one_object(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    contents = [os.urandom(8 * MIB), os.urandom(9 * MIB), os.urandom(5)]
    upload = await store.create_multipart(key)

    etags = await asyncio.gather(
        *(store.put_part(key, upload, number, body(content)) for number, content in enumerate(contents, 1))
    )
    assert await store.stored(key) is None
    size = sum(map(len, contents))
    await store.complete_multipart(key, upload, etags, size)

    assert await size_of(store, key) == size
    assert await read(store, key, 0, size) == b"".join(contents)


async def test_parts_that_the_store_refuses_are_not_a_store_that_is_away(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    upload = await store.create_multipart(key)
    etags = [await store.put_part(key, upload, number, body(b"too small")) for number in (1, 2)]

    for refused in ([*etags, '"5d41402abc4b2a76b9719d911017c592"'], etags):
        with pytest.raises(PartsRefused):
            await store.complete_multipart(key, upload, refused, 18)

    parts = await store.list_parts(key, upload)
    assert parts is not None
    assert [part.etag for part in parts] == etags
    await store.abort_multipart(key, upload)
    assert await store.list_parts(key, upload) is None


@pytest.mark.parametrize(("store", "is_enforced"), [("seaweedfs", True), ("moto", False)], indirect=["store"])
async def test_whether_the_store_checks_checksums_is_found_out(store: S3BlobStore, is_enforced: bool) -> None:
    key = storage_key(uuid4())

    assert await store.enforces_checksums(key) is is_enforced

    assert await store.stored(key) is None


async def test_completing_twice_is_completing_once(store: S3BlobStore) -> None:
    key, content = storage_key(uuid4()), os.urandom(MIB)
    upload = await store.create_multipart(key)
    etag = await store.put_part(key, upload, 1, body(content))

    for _ in range(2):
        await store.complete_multipart(key, upload, [etag], MIB)

    assert await read(store, key, 0, MIB) == content


async def test_an_aborted_upload_leaves_nothing(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    upload = await store.create_multipart(key)
    await store.put_part(key, upload, 1, body(b"x"))

    await store.abort_multipart(key, upload)
    await store.abort_multipart(key, upload)

    assert await store.stored(key) is None
    with pytest.raises(Unavailable):
        await store.put_part(key, upload, 2, body(b"x"))


async def test_an_upload_whose_id_was_lost_is_found_by_its_key(store: S3BlobStore) -> None:
    key, other = storage_key(uuid4()), storage_key(uuid4())
    lost = await store.create_multipart(key)
    kept = await store.create_multipart(other)

    await store.abort_multipart(key, None)

    with pytest.raises(Unavailable):
        await store.put_part(key, lost, 1, body(b"x"))
    await store.put_part(other, kept, 1, body(b"x"))
    await store.abort_multipart(other, kept)


async def test_what_is_not_there_is_said_to_be_missing(store: S3BlobStore) -> None:
    key = storage_key(uuid4())

    assert await store.stored(key) is None
    with pytest.raises(BlobMissing):
        await read(store, key, 0, 10)


async def test_deleting_what_is_not_there_is_no_error(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    await store.put(key, body(b"x"))

    for _ in range(2):
        await store.delete([key, storage_key(uuid4())])
    await store.delete([])

    assert await store.stored(key) is None


async def test_an_object_that_is_too_short_is_damaged(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    await store.put(key, body(b"short"))

    with pytest.raises(BlobDamaged):
        await read(store, key, 0, 10)
    with pytest.raises(BlobDamaged):
        await read(store, key, 7, 10)


async def test_reading_may_stop_early(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    await store.put(key, body(bytes(8 * MIB)))

    for _ in range(3):
        async with store.read(key, 0, 8 * MIB) as chunks:
            assert await anext(chunks)

    assert len(await read(store, key, 0, 8 * MIB)) == 8 * MIB


async def test_a_presigned_url_needs_no_credentials(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    await store.put(key, body(b"content"))

    (url,) = await store.presign_gets([(key, ATTACHMENT)], expires_in_seconds=60)
    async with httpx.AsyncClient() as anybody:
        answer = await anybody.get(url)

    assert (answer.status_code, answer.content) == (200, b"content")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["content-disposition"] == ATTACHMENT


async def test_the_bucket_is_made_once(store: S3BlobStore) -> None:
    assert await store.create_bucket() is False
    await store.ping()


@pytest.mark.parametrize("store", ["seaweedfs"], indirect=True)
async def test_a_presigned_url_dies_at_its_time_and_when_touched(store: S3BlobStore) -> None:
    key = storage_key(uuid4())
    await store.put(key, body(b"content"))

    (url,) = await store.presign_gets([(key, ATTACHMENT)], expires_in_seconds=1)
    async with httpx.AsyncClient() as anybody:
        tampered = await anybody.get(url.replace("blobs/", "blobs/x"))
        await asyncio.sleep(2.1)
        expired = await anybody.get(url)

    assert (tampered.status_code, expired.status_code) == (403, 403)


# A store that misbehaves


@pytest.fixture
async def silent_url() -> AsyncIterator[str]:
    """A server that accepts connections and never responds, not even with 100 Continue."""
    async with Proxy.to("127.0.0.1", 9) as nobody:
        nobody.misbehave(BlackHole())
        yield f"http://127.0.0.1:{nobody.port}"


@pytest.mark.parametrize("operation", ["put", "put_part", "stored", "read", "delete", "ping", "complete_multipart"])
async def test_a_store_that_never_answers_is_unavailable_at_the_deadline(silent_url: str, operation: str) -> None:
    options = S3Options(
        bucket="models",
        endpoint_url=silent_url,
        access_key_id="x",
        secret_access_key="y",
        connect_timeout_seconds=0.5,
        read_timeout_seconds=30,
        operation_timeout_seconds=0.5,
    )
    async with S3BlobStore(options) as store:
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "put": lambda: store.put("k", body(bytes(MIB))),
            "put_part": lambda: store.put_part("k", "u", 1, body(bytes(MIB))),
            "stored": lambda: store.stored("k"),
            "read": lambda: read(store, "k", 0, 10),
            "delete": lambda: store.delete(["k"]),
            "ping": store.ping,
            "complete_multipart": lambda: store.complete_multipart("k", "u", ["e"], 1),
        }
        started = time.monotonic()

        with pytest.raises(Unavailable):
            await calls[operation]()

        assert time.monotonic() - started < 3


async def test_a_store_that_is_not_there_is_unavailable() -> None:
    options = S3Options(
        bucket="models",
        endpoint_url="http://127.0.0.1:9",
        access_key_id="x",
        secret_access_key="y",
        connect_timeout_seconds=0.5,
    )
    async with S3BlobStore(options) as store:
        with pytest.raises(Unavailable):
            await store.ping()
