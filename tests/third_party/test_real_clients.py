"""Clients that pull models in clusters and shells: KServe, curl, wget, aria2, aws, boto3, fsspec, tar and others.

They are unmodified, know nothing of this registry, and need no plugin.
"""

import asyncio
import gzip
import hashlib
import io
import json
import os
import random
import re
import shutil
import sys
import tarfile
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import boto3
import fsspec  # type: ignore[import-untyped]
import httpx
import numpy as np
import pytest
import requests
import yaml  # type: ignore[import-untyped]

from model_registry.domain.entities import Digest, StoredBlob, StoredFile
from model_registry.services.tar_archive import TarLayout
from model_registry.settings import Settings
from tests.support.bucket import Bucket
from tests.support.checkout import ROOT
from tests.support.registering import register
from tests.support.service import RunningService, ServiceWith
from tests.third_party.commands import Outcome, run
from tests.third_party.cutting import cutting
from tests.third_party.venvs import client_venv

pytestmark = pytest.mark.slow

MIB = 1024**2
GIB = 1024**3
WEIGHTS = random.Random(1).randbytes(6 * MIB + 12345)
SHA256 = hashlib.sha256(WEIGHTS).hexdigest()
FILES = {
    "config.pbtxt": b'backend: "onnxruntime"\n',
    "1/model.onnx": WEIGHTS,
    "1/vocabulary/模型 é.txt": "ä\n".encode(),
    "1/empty": b"",
    "n" * 150 + ".bin": b"longer than the name of a tar header",
    "/".join(["deep" * 20] * 5) + "/ü.bin": b"longer than a prefix and a name together",
}
VERSION = "/v1/models/fraud/versions/1.0"
FILE = f"{VERSION}/files/1/model.onnx"
ARCHIVE = f"{VERSION}/archive.tar"


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")


def tree(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder, at any depth, by their paths in it."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def url_of(path: str) -> str:
    return f"{VERSION}/files/{quote(path)}"


@pytest.fixture
async def version(client: httpx.AsyncClient) -> dict[str, Any]:
    """Version 1.0 of `fraud`, with all kinds of files."""
    response = await register(client, {"model_name": "fraud", "version": "1.0"}, FILES)
    assert response.status_code == 201, response.text
    info: dict[str, Any] = response.json()
    return info


@pytest.fixture
async def one_file(client: httpx.AsyncClient) -> dict[str, Any]:
    """Version 1.0 of `fraud`, with one file, whose name is not ASCII."""
    response = await register(client, {"model_name": "fraud", "version": "1.0"}, {"1/modèle.onnx": WEIGHTS})
    info: dict[str, Any] = response.json()
    return info


# KServe


@pytest.fixture(scope="session")
async def kserve(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.version_info >= (3, 14):
        pytest.skip("kserve-storage is for Python 3.10 to 3.13")
    return await client_venv(tmp_path_factory.mktemp("kserve") / "venv", "kserve")


Pull = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def pull(kserve: Path, tmp_path: Path) -> Pull:
    """`await pull(uri, folder, uri, folder …)` does what the storage initializer of a pod does."""
    program = "import sys; from kserve_storage import Storage; Storage.download_files(sys.argv[1::2], sys.argv[2::2])"

    async def pull(*uris_and_folders: str | Path, **variables: str) -> Outcome:
        return await run(kserve / "python", "-c", program, *uris_and_folders, cwd=tmp_path, **variables)

    return pull


async def test_kserve_mounts_an_archive_as_the_folder_that_was_registered(
    service: RunningService, version: dict[str, Any], pull: Pull, tmp_path: Path
) -> None:
    pulled = await pull(service.url + ARCHIVE, tmp_path / "models")

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "models") == FILES


async def test_kserve_mounts_a_file_of_any_kind_under_its_name(
    service: RunningService, client: httpx.AsyncClient, pull: Pull, tmp_path: Path
) -> None:
    names = ["model.onnx", "model.json", "model.pkl", "config.pbtxt", "page.html", "weights", "modèle 1.safetensors"]
    files = {f"1/{name}": name.encode() for name in names}
    await register(client, {"model_name": "fraud", "version": "1.0"}, files)
    wanted = [(f"{service.url}{VERSION}/files/{path}", tmp_path / "models") for path in files]

    pulled = await pull(*(word for each in wanted for word in each))

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "models") == {name: name.encode() for name in names}


async def test_kserve_calls_a_file_by_its_address_and_unpacks_gzip_under_another_name(
    service: RunningService, client: httpx.AsyncClient, pull: Pull, tmp_path: Path
) -> None:
    files = {"modèle.onnx": b"model", "rows.csv.gz": gzip.compress(b"rows")}
    await register(client, {"model_name": "fraud", "version": "1.0"}, files)
    wanted = [(service.url + url_of(path), tmp_path / "models") for path in files]

    pulled = await pull(*(word for each in wanted for word in each))

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "models") == {"mod%C3%A8le.onnx": b"model", "rows.csv.gz.tar": b"rows"}


async def test_kserve_pulls_what_latest_or_an_alias_names(
    service: RunningService, client: httpx.AsyncClient, pull: Pull, tmp_path: Path
) -> None:
    for label in ("1.0", "2.0"):
        await register(client, {"model_name": "fraud", "version": label}, {"model.bin": label.encode()})
    await client.put("/v1/models/fraud/aliases/champion", json={"version": "1.0"})
    versions = f"{service.url}/v1/models/fraud/versions"

    pulled = await pull(
        f"{versions}/latest/archive.tar",
        tmp_path / "latest",
        f"{versions}/@champion/archive.tar",
        tmp_path / "champion",
    )

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "latest") == {"model.bin": b"2.0"}
    assert tree(tmp_path / "champion") == {"model.bin": b"1.0"}


async def test_kserve_follows_redirects_and_takes_presigned_urls(
    service_with: ServiceWith, pull: Pull, tmp_path: Path
) -> None:
    redirecting = await service_with(download_mode="redirect")
    async with httpx.AsyncClient(base_url=redirecting.url) as client:
        info = (await register(client, {"model_name": "fraud", "version": "1.0"}, {"model.bin": WEIGHTS})).json()
        presigned = (await client.post(f"{VERSION}/download_url")).json()["url"]

    pulled = await pull(
        f"{redirecting.url}{VERSION}/files/model.bin",
        tmp_path / "redirected",
        presigned,
        tmp_path / "presigned",
        f"{redirecting.url}{ARCHIVE}",
        tmp_path / "archive",
    )

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "redirected") == tree(tmp_path / "archive") == {"model.bin": WEIGHTS}
    assert tree(tmp_path / "presigned") == {info["file_path"].rpartition("/")[2]: WEIGHTS}


async def test_kserve_pulls_the_only_file_by_its_file_path(
    one_file: dict[str, Any], settings: Settings, pull: Pull, tmp_path: Path
) -> None:
    pulled = await pull(one_file["file_path"], tmp_path / "models", **credentials(settings))

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "models") == {one_file["file_path"].rpartition("/")[2]: WEIGHTS}


async def test_kserve_sends_headers_so_that_if_match_can_pin_the_bytes(
    service: RunningService, version: dict[str, Any], pull: Pull, tmp_path: Path
) -> None:
    url = f"{service.url}/v1/models/fraud/versions/latest/files/1/model.onnx"

    right = await pull(url, tmp_path / "right", **{"127.0.0.1-headers": json.dumps({"If-Match": f'"{SHA256}"'})})
    wrong = await pull(url, tmp_path / "wrong", **{"127.0.0.1-headers": json.dumps({"If-Match": f'"{"0" * 64}"'})})

    assert right.code == 0, right.errors
    assert tree(tmp_path / "right") == {"model.onnx": WEIGHTS}
    assert wrong.code == 1
    assert "failed with status code 412" in wrong.errors
    assert tree(tmp_path / "wrong") == {}


@pytest.mark.parametrize("path", [FILE, ARCHIVE])
async def test_kserve_fails_when_the_connection_breaks(
    service: RunningService, version: dict[str, Any], pull: Pull, tmp_path: Path, path: str
) -> None:
    async with cutting(service, after_bytes=3 * MIB) as proxy:
        pulled = await pull(proxy.url + path, tmp_path / "models")

    assert pulled.code == 1
    assert "IncompleteRead" in pulled.errors


@pytest.mark.parametrize("path", [FILE, ARCHIVE])
async def test_kserve_never_mounts_bytes_that_changed_in_storage(
    service: RunningService, client: httpx.AsyncClient, bucket: Bucket, pull: Pull, tmp_path: Path, path: str
) -> None:
    files = {"1/model.onnx": WEIGHTS}
    info = (await register(client, {"model_name": "fraud", "version": "1.0"}, files)).json()
    key = info["file_path"].removeprefix(f"s3://{bucket.name}/")
    await bucket.write(key, WEIGHTS[:-1] + bytes([WEIGHTS[-1] ^ 1]))

    pulled = await pull(service.url + path, tmp_path / "models")

    assert pulled.code == 1
    assert tree(tmp_path / "models").get("1/model.onnx") is None


async def test_kserve_says_what_is_not_there(
    service: RunningService, version: dict[str, Any], pull: Pull, tmp_path: Path
) -> None:
    url = f"{service.url}/v1/models/fraud/versions/9/archive.tar"

    pulled = await pull(url, tmp_path / "models")

    assert pulled.code == 1
    assert f"HTTP resource not found at '{url}'" in pulled.errors


@pytest.mark.parametrize("name", ["model.tar", "model.tar.gz", "model.zip"])
async def test_kserve_takes_an_archive_that_was_registered_inside_the_archive_of_its_version(
    service: RunningService, client: httpx.AsyncClient, pull: Pull, tmp_path: Path, name: str
) -> None:
    await register(client, {"model_name": "fraud", "version": "1.0"}, {name: b"packed"})

    inside = await pull(service.url + ARCHIVE, tmp_path / "inside")
    alone = await pull(f"{service.url}{VERSION}/files/{name}", tmp_path / "alone")

    assert inside.code == 0, inside.errors
    assert tree(tmp_path / "inside") == {name: b"packed"}
    # By itself the file would need a media type of its own, and all our files are octet streams.
    assert alone.code == 1
    assert "did not respond with any of following 'Content-Type'" in alone.errors


# curl


async def curl(*arguments: str | Path, cwd: Path) -> Outcome:
    return await run("curl", "--silent", "--show-error", *arguments, cwd=cwd)


@needs("curl")
@pytest.mark.parametrize("path", [FILE, ARCHIVE])
async def test_curl_resumes_where_the_connection_broke(
    service: RunningService, client: httpx.AsyncClient, version: dict[str, Any], tmp_path: Path, path: str
) -> None:
    whole = (await client.get(path)).content
    async with cutting(service, after_bytes=3 * MIB + 77) as proxy:
        first = await curl("--fail", "-C", "-", "-o", "got", proxy.url + path, cwd=tmp_path)
        part = (tmp_path / "got").read_bytes()
        second = await curl("--fail", "-C", "-", "-o", "got", proxy.url + path, cwd=tmp_path)
        third = await curl("-C", "-", "-o", "got", proxy.url + path, cwd=tmp_path)

    assert first.code == 18, first
    assert part == whole[: 3 * MIB + 77]
    assert second.code == 0, second
    assert f"range: bytes={len(part)}-" in proxy.requests[1].lower()
    assert proxy.answered_bytes[1] == len(whole) - len(part)
    assert third.code == 0, third
    assert (tmp_path / "got").read_bytes() == whole


@needs("curl")
async def test_curl_follows_the_redirect_and_resumes_there_too(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "got").write_bytes(WEIGHTS[:MIB])

    done = await curl("--fail", "-L", "-C", "-", "-o", "got", f"{service.url}{FILE}?redirect=true", cwd=tmp_path)

    assert done.code == 0, done
    assert (tmp_path / "got").read_bytes() == WEIGHTS


@needs("curl")
async def test_curl_fails_on_what_is_not_there(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    done = await curl("--fail", "-o", "got", f"{service.url}{VERSION}/files/other.onnx", cwd=tmp_path)

    assert done.code == 22
    assert "404" in done.errors
    assert tree(tmp_path) == {}


@needs("curl")
async def test_curl_sees_size_and_digest_before_it_downloads(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    file = (await curl("-I", service.url + FILE, cwd=tmp_path)).output.lower().splitlines()
    archive = (await curl("-I", service.url + ARCHIVE, cwd=tmp_path)).output.lower().splitlines()

    assert file[0] == archive[0] == "http/1.1 200 ok"
    assert {f"content-length: {len(WEIGHTS)}", f'etag: "{SHA256}"', "accept-ranges: bytes"} <= set(file)
    assert {"content-type: application/x-tar", "accept-ranges: bytes"} <= set(archive)


@needs("curl")
@pytest.mark.parametrize("path", [FILE, f"{FILE}?redirect=true", ARCHIVE])
async def test_curl_downloads_nothing_twice(
    service: RunningService, version: dict[str, Any], tmp_path: Path, path: str
) -> None:
    by_tag = ("-L", "--etag-save", "tag", "--etag-compare", "tag", "-o", "got", "-w", "%{http_code}")
    by_date = ("-L", "-R", "-z", "got", "-o", "got", "-w", "%{http_code}")

    first = await curl(*by_tag, service.url + path, cwd=tmp_path)
    size_bytes = (tmp_path / "got").stat().st_size
    second = await curl(*by_tag, service.url + path, cwd=tmp_path)
    third = await curl(*by_date, service.url + path, cwd=tmp_path)

    assert [first.output, second.output, third.output] == ["200", "304", "304"]
    assert (tmp_path / "got").stat().st_size == size_bytes


@needs("curl")
@pytest.mark.parametrize("name", ["latest", "@champion"])
async def test_curl_notices_by_date_that_a_name_went_back_to_an_older_version(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path, name: str
) -> None:
    for label in ("1.0", "2.0"):
        await register(client, {"model_name": "fraud", "version": label}, {"model.bin": label.encode()})
    await client.put("/v1/models/fraud/aliases/champion", json={"version": "2.0"})
    url = f"{service.url}/v1/models/fraud/versions/{name}/files/model.bin"
    await curl("-o", "got", url, cwd=tmp_path)
    newer = (tmp_path / "got").read_bytes()
    await client.put("/v1/models/fraud/aliases/champion", json={"version": "1.0"})
    await client.post("/v1/models/fraud/versions/2.0/yank")

    done = await curl("-z", "got", "-o", "got", url, cwd=tmp_path)

    assert done.code == 0, done
    assert (newer, (tmp_path / "got").read_bytes()) == (b"2.0", b"1.0")


@needs("curl")
async def test_curl_takes_the_file_s_name_from_the_answer_or_the_address(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    await curl("-O", "-J", f"{service.url}/get_model/fraud/1.0?path=1/model.onnx", cwd=tmp_path)
    await curl("-O", "-J", f"{service.url}/get_model/fraud/latest", cwd=tmp_path)
    await curl("-O", "-J", service.url + url_of("1/vocabulary/模型 é.txt"), cwd=tmp_path)

    # curl ignores filename*, so it sees the underscores that replace other letters.
    assert set(tree(tmp_path)) == {"model.onnx", "fraud-1.0.tar", "__ _.txt"}


@needs("curl")
async def test_curls_fetch_a_file_in_parts_at_once(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    step = len(WEIGHTS) // 4 + 1
    ranges = [f"{start}-{start + step - 1}" for start in range(0, len(WEIGHTS), step)]

    done = await asyncio.gather(
        *(curl("--fail", "-r", each, "-o", f"part-{each}", service.url + FILE, cwd=tmp_path) for each in ranges)
    )

    assert [each.code for each in done] == [0] * 4
    assert b"".join((tmp_path / f"part-{each}").read_bytes() for each in ranges) == WEIGHTS


@needs("curl")
@needs("tar")
@pytest.mark.parametrize(
    ("after_bytes", "is_whole"),
    [(2**40, True), (512 + MIB, False), (MIB, False)],
    ids=["whole", "cut between two files", "cut inside a file"],
)
async def test_curl_into_tar_is_whole_or_fails(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path, after_bytes: int, is_whole: bool
) -> None:
    files = {"a.bin": bytes(MIB), "b.bin": bytes(MIB)}
    await register(client, {"model_name": "fraud", "version": "1.0"}, files)
    script = "set -o pipefail; curl -fsS $URL | tar -x"

    async with cutting(service, after_bytes=after_bytes) as proxy:
        done = await run("bash", "-c", script, cwd=tmp_path, URL=proxy.url + ARCHIVE)

    assert (done.code == 0) is is_whole, done
    assert not is_whole or tree(tmp_path) == files


# wget and aria2


@needs("wget")
@pytest.mark.parametrize("path", [FILE, ARCHIVE])
async def test_wget_goes_on_by_itself_where_the_connection_broke(
    service: RunningService, client: httpx.AsyncClient, version: dict[str, Any], tmp_path: Path, path: str
) -> None:
    whole = (await client.get(path)).content
    async with cutting(service, after_bytes=3 * MIB) as proxy:
        done = await run("wget", "--waitretry=0", "-O", "got", proxy.url + path, cwd=tmp_path)

    assert done.code == 0, done
    assert proxy.answered_bytes == [3 * MIB, len(whole) - 3 * MIB]
    assert (tmp_path / "got").read_bytes() == whole


@needs("wget")
async def test_wget_continues_an_older_download_and_takes_names_in_any_script(
    service: RunningService, version: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "model.onnx").write_bytes(WEIGHTS[:MIB])

    done = await run("wget", "-c", service.url + FILE, cwd=tmp_path)
    again = await run("wget", "-c", service.url + FILE, cwd=tmp_path)
    named = await run("wget", "--content-disposition", service.url + url_of("1/vocabulary/模型 é.txt"), cwd=tmp_path)

    assert (done.code, again.code, named.code) == (0, 0, 0), (done, again, named)
    assert tree(tmp_path) == {"model.onnx": WEIGHTS, "模型 é.txt": FILES["1/vocabulary/模型 é.txt"]}


@needs("aria2c")
@pytest.mark.parametrize("path", [FILE, f"{FILE}?redirect=true", ARCHIVE])
async def test_aria2_fetches_and_verifies_by_several_connections(
    service: RunningService, client: httpx.AsyncClient, version: dict[str, Any], tmp_path: Path, path: str
) -> None:
    whole = (await client.get(path, follow_redirects=True)).content
    digest = f"--checksum=sha-256={hashlib.sha256(whole).hexdigest()}"

    done = await run("aria2c", "-x4", "-s4", "-k1M", digest, "-o", "got", service.url + path, cwd=tmp_path)

    assert done.code == 0, done
    assert (tmp_path / "got").read_bytes() == whole


# Directly from storage


def credentials(settings: Settings) -> dict[str, str]:
    """Return the environment variables that S3 clients read."""
    assert settings.s3_endpoint_url is not None
    assert settings.s3_access_key_id is not None
    assert settings.s3_secret_access_key is not None
    return {
        "AWS_ENDPOINT_URL": settings.s3_endpoint_url,
        "AWS_ACCESS_KEY_ID": settings.s3_access_key_id,
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_access_key.get_secret_value(),
        "AWS_DEFAULT_REGION": settings.s3_region,
    }


async def test_boto3_downloads_what_file_path_names(
    one_file: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    secrets = credentials(settings)
    s3 = boto3.client(
        "s3",
        endpoint_url=secrets["AWS_ENDPOINT_URL"],
        aws_access_key_id=secrets["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=secrets["AWS_SECRET_ACCESS_KEY"],
        region_name=settings.s3_region,
    )
    bucket_name, _, key = one_file["file_path"].removeprefix("s3://").partition("/")

    await asyncio.to_thread(s3.download_file, bucket_name, key, str(tmp_path / "got"))

    assert (tmp_path / "got").read_bytes() == WEIGHTS


@pytest.fixture(scope="session")
async def aws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return await client_venv(tmp_path_factory.mktemp("awscli") / "venv", "awscli") / "aws"


async def test_aws_copies_what_file_path_names(
    aws: Path, one_file: dict[str, Any], settings: Settings, tmp_path: Path
) -> None:
    copied = await run(aws, "s3", "cp", one_file["file_path"], "got", cwd=tmp_path, **credentials(settings))

    assert copied.code == 0, copied
    assert (tmp_path / "got").read_bytes() == WEIGHTS


def by_urllib(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        content: bytes = answer.read()
        return content


def by_requests(url: str) -> bytes:
    content: bytes = requests.get(url, timeout=30).content
    return content


def by_httpx(url: str) -> bytes:
    return httpx.get(url, follow_redirects=True).content


def by_aiohttp(url: str) -> bytes:
    async def read() -> bytes:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return await answer.read()

    return asyncio.run(read())


@pytest.mark.parametrize("read", [by_urllib, by_requests, by_httpx, by_aiohttp])
async def test_any_http_library_reads_from_us_by_a_redirect_and_by_a_presigned_url(
    service: RunningService, client: httpx.AsyncClient, one_file: dict[str, Any], read: Callable[[str], bytes]
) -> None:
    one = (await client.post(f"{VERSION}/download_url")).json()["url"]
    [listed] = (await client.get(f"{VERSION}/files", params={"presign": "true"})).json()["items"]
    streamed = f"{service.url}/get_model/fraud/1.0"

    for url in (streamed, f"{streamed}?redirect=true", one, listed["url"]):
        assert await asyncio.to_thread(read, url) == WEIGHTS


# Readers of ranges


@pytest.fixture
async def arrays(client: httpx.AsyncClient) -> dict[str, Any]:
    """Version 1.0 of `fraud`: two arrays, in a format with an index behind and in one with an index before them."""
    arrays = {name: np.frombuffer(WEIGHTS[: 3 * MIB], np.uint8) + offset for offset, name in enumerate("ab")}
    packed = io.BytesIO()
    np.savez(packed, a=arrays["a"], b=arrays["b"])
    index = {
        name: {"dtype": "U8", "shape": [3 * MIB], "data_offsets": [offset * 3 * MIB, (offset + 1) * 3 * MIB]}
        for offset, name in enumerate("ab")
    }
    header = json.dumps(index).encode()
    tensors = len(header).to_bytes(8, "little") + header + arrays["a"].tobytes() + arrays["b"].tobytes()
    files = {"arrays.npz": packed.getvalue(), "model.safetensors": tensors}
    assert (await register(client, {"model_name": "fraud", "version": "1.0"}, files)).status_code == 201
    return arrays


@pytest.mark.parametrize("how", ["", "?redirect=true"])
async def test_fsspec_reads_one_array_of_many_without_the_others(
    service: RunningService, arrays: dict[str, Any], how: str
) -> None:
    def read() -> tuple[int, Any]:
        with fsspec.open(f"{service.url}{VERSION}/files/arrays.npz{how}", block_size=MIB // 4) as file:
            array = np.load(file)["b"]
            return file.cache.total_requested_bytes, array

    read_bytes, array = await asyncio.to_thread(read)

    assert np.array_equal(array, arrays["b"])
    assert read_bytes < 4 * MIB


@pytest.mark.parametrize("how", ["", "?redirect=true"])
async def test_fsspec_reads_one_tensor_by_its_place(service: RunningService, arrays: dict[str, Any], how: str) -> None:
    url = f"{service.url}{VERSION}/files/model.safetensors{how}"

    def read() -> tuple[int, bytes]:
        web = fsspec.filesystem("http")
        length = int.from_bytes(web.cat_file(url, 0, 8), "little")
        start, stop = json.loads(web.cat_file(url, 8, 8 + length))["b"]["data_offsets"]
        size: int = web.info(url)["size"]
        tensor: bytes = web.cat_file(url, 8 + length + start, 8 + length + stop)
        return size, tensor

    size, tensor = await asyncio.to_thread(read)

    assert size > 6 * MIB
    assert tensor == arrays["b"].tobytes()


# tar


@needs("tar")
@pytest.mark.parametrize("program", ["tar", "busybox tar", "bsdtar"])
@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
async def test_every_tar_unpacks_an_archive(
    client: httpx.AsyncClient, version: dict[str, Any], tmp_path: Path, program: str, locale: str
) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip(f"{program} is not installed")
    (tmp_path / "archive.tar").write_bytes((await client.get(ARCHIVE)).content)
    (tmp_path / "models").mkdir()

    done = await run(*program.split(), "-xf", "archive.tar", "-C", "models", cwd=tmp_path, LC_ALL=locale)

    assert (done.code, done.errors) == (0, "")
    assert tree(tmp_path / "models") == FILES


async def test_python_unpacks_an_archive_that_it_does_not_trust(
    client: httpx.AsyncClient, version: dict[str, Any], tmp_path: Path
) -> None:
    content = (await client.get(ARCHIVE)).content

    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "models", filter="data")

    assert tree(tmp_path / "models") == FILES


@needs("tar")
@pytest.mark.parametrize("program", ["tar", "busybox tar", "bsdtar"])
async def test_every_tar_knows_the_size_of_a_huge_file(tmp_path: Path, program: str) -> None:
    if shutil.which(program.split()[0]) is None:
        pytest.skip(f"{program} is not installed")
    sizes = {"huge.safetensors": 9 * GIB, "small.txt": 3}
    layout = TarLayout([StoredFile(path, "", StoredBlob(Digest(b""), size, path)) for path, size in sizes.items()])
    # Only the headers of the files are written; the rest is holes, which take no space.
    with (tmp_path / "archive.tar").open("wb") as file:
        for piece in layout.read(0, layout.size_bytes):
            if isinstance(piece, bytes):
                file.write(piece)
            else:
                file.seek(piece.stop - piece.start, io.SEEK_CUR)

    listed = await run(*program.split(), "-tvf", "archive.tar", cwd=tmp_path)

    assert (listed.code, listed.errors) == (0, "")
    words = [line.split() for line in listed.output.splitlines()]
    assert [(line[-1], str(sizes[line[-1]]) in line) for line in words] == [(path, True) for path in sizes]


# A push with nothing but Python


async def push(*arguments: str | Path, url: str, cwd: Path) -> Outcome:
    return await run(sys.executable, ROOT / "examples" / "push.py", *arguments, cwd=cwd, MODEL_REGISTRY_URL=url)


def write(files: dict[str, bytes], folder: Path) -> Path:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


async def test_a_folder_is_pushed_once_however_often_it_is_pushed(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    folder = write(FILES, tmp_path / "folder")

    first = await push("fraud", "1.0", folder, url=service.url, cwd=tmp_path)
    again = await push("fraud", "1.0", folder, url=service.url, cwd=tmp_path)
    info = (await client.get("/get_model_info/fraud/1.0")).json()

    assert (first.code, first.errors) == (0, "")
    assert {line.removeprefix("sending ") for line in first.output.splitlines()[:-1]} == set(FILES)
    assert again.output == f"fraud 1.0 is ready: {len(FILES)} files, {info['digest']}\n"
    for path, content in FILES.items():
        assert (await client.get(url_of(path))).content == content


async def test_a_push_sends_through_the_service_what_storage_wants_in_parts(
    service_with: ServiceWith, tmp_path: Path
) -> None:
    service = await service_with(multipart_threshold_bytes=MIB, multipart_part_bytes=5 * MIB)
    folder = write({"1/large ä.bin": WEIGHTS, "small.bin": b"s"}, tmp_path / "folder")

    pushed = await push("fraud", "1.0", folder, url=service.url, cwd=tmp_path)

    assert (pushed.code, pushed.errors) == (0, "")
    async with httpx.AsyncClient(base_url=service.url) as client:
        assert (await client.get(url_of("1/large ä.bin"))).content == WEIGHTS


async def test_a_push_says_why_it_is_refused(
    service: RunningService, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await register(client, {"model_name": "fraud", "version": "1.0"})
    folder = write({"model.bin": b"other"}, tmp_path / "folder")

    taken = await push("fraud", "1.0", folder, url=service.url, cwd=tmp_path)
    unheard = await push("fraud", "1.0", folder, url="http://127.0.0.1:1", cwd=tmp_path)

    assert taken.code == unheard.code == 1
    assert taken.errors.startswith("error: 409: {")
    assert "a version never changes" in taken.errors
    assert unheard.errors.startswith("error: no response from http://127.0.0.1:1 (")


# The guide

GUIDE = (ROOT / "docs" / "pulling.md").read_text()
ONE_FILE = b"the model of the README\n"


def fences(title: str, language: str) -> list[str]:
    """Return the blocks of one language in a section of the guide; an empty title means its beginning."""
    section = GUIDE.partition(f"\n## {title}\n")[2] if title else GUIDE
    return re.findall(rf"^```{language}\n(.*?)^```$", section.partition("\n## ")[0], re.MULTILINE | re.DOTALL)


@pytest.fixture
async def folder(service: RunningService, client: httpx.AsyncClient, tmp_path: Path) -> Path:
    """The folder of the guide, pushed as the guide says, in the registry that the guide describes."""
    await register(client, {"model_name": "fraud-detector", "version": "1.0.0"}, {"model.bin": ONE_FILE})
    [beginning] = fences("", "sh")
    push = beginning.replace("python3 examples/push.py", f"{sys.executable} {ROOT / 'examples' / 'push.py'}")
    begun = await run("bash", "-euc", push, cwd=tmp_path, MODEL_REGISTRY_URL=service.url)
    assert begun.code == 0, begun
    return tmp_path / "folder"


@needs("curl")
@needs("sha256sum")
async def test_the_guide_to_curl_works_as_it_stands(service: RunningService, folder: Path, tmp_path: Path) -> None:
    for command in fences("curl", "sh"):
        done = await run("bash", "-euc", command.replace("http://localhost:8000", service.url), cwd=tmp_path)
        assert done.code == 0, (command, done)

    assert (tmp_path / "model.onnx").read_bytes() == (folder / "fraud/1/model.onnx").read_bytes()
    assert tree(tmp_path / "fraud") == tree(folder / "fraud")
    with tarfile.open(tmp_path / "model.tar") as archive:
        assert set(archive.getnames()) == set(tree(folder))


async def test_the_guide_to_kserve_mounts_the_folder(
    service: RunningService, folder: Path, pull: Pull, tmp_path: Path
) -> None:
    [text] = fences("KServe", "yaml")
    uri = yaml.safe_load(text)["spec"]["predictor"]["model"]["storageUri"]

    pulled = await pull(uri.replace("http://localhost:8000", service.url), tmp_path / "models")

    assert pulled.code == 0, pulled.errors
    assert tree(tmp_path / "models") == tree(folder)


@needs("curl")
@needs("tar")
async def test_the_guide_s_init_container_resumes_and_starts_again(
    service: RunningService, folder: Path, tmp_path: Path
) -> None:
    [text] = fences("Triton, or any container", "yaml")
    [container] = yaml.safe_load(text)["initContainers"]
    [script] = container["args"]
    (tmp_path / "models").mkdir()

    async def start(url: str, version: str) -> int:
        here = script.replace("http://localhost:8000", url).replace("2.0.0", version)
        here = here.replace("/models/.tar", f"{tmp_path}/models/.tar").replace("-C /models", f"-C {tmp_path}/models")
        return (await run(*container["command"], here, cwd=tmp_path)).code

    async with cutting(service, after_bytes=MIB) as proxy:
        resumed = await start(proxy.url, "2.0.0")
    restarted = await start(service.url, "2.0.0")
    hopeless = await start(service.url, "9")

    assert (resumed, restarted, hopeless) == (0, 0, 1)
    assert [head.partition("\r\nRange: bytes=")[2] > "1" for head in proxy.requests] == [False, True]
    assert tree(tmp_path / "models") == tree(folder)


@needs("curl")
async def test_the_guide_to_the_storage_works_as_it_stands(
    service: RunningService, settings: Settings, folder: Path, aws: Path, tmp_path: Path
) -> None:
    path = f"{aws.parent}:{os.environ['PATH']}"
    programs = [("bash", "-euc", command) for command in fences("Directly from the storage", "sh")]
    programs += [(sys.executable, "-c", program) for program in fences("Directly from the storage", "python")]

    for *program, text in programs:
        (tmp_path / "model.bin").unlink(missing_ok=True)
        here = text.replace("http://localhost:8000", service.url)
        done = await run(*program, here, cwd=tmp_path, **credentials(settings) | {"PATH": path})
        assert (done.code, done.errors) == (0, ""), (text, done)
        assert (tmp_path / "model.bin").read_bytes() == ONE_FILE
    assert len(programs) == 3


async def test_the_guide_to_ranges_works_as_it_stands(service: RunningService, folder: Path, tmp_path: Path) -> None:
    [program] = fences("Readers of ranges", "python")

    done = await run(sys.executable, "-c", program.replace("http://localhost:8000", service.url), cwd=tmp_path)

    assert done.code == 0, done
