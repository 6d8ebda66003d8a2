"""A thousand files of 64 KiB in and out, against presigned requests straight to the same SeaweedFS.

The same client moves the bytes on both sides: sixteen connections from this process. Our side includes the whole push
and pull: hashing, the manifest with its URLs, the verification of every digest, the publication. The other side has its
URLs before the clock starts, and its writes are not verified. The target is for the pull by manifest. After the clock
has stopped, everything that came back is compared with what was sent. `BENCHMARK_FILES` (1000, which is the maximum) is
the number of files.
"""

import asyncio
import hashlib
import http.client
import io
import itertools
import json
import os
import statistics
import tarfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from benchmarks.harness import OURS, Report
from benchmarks.processes import Server, registry
from model_registry_devstack import StackAddresses

GROUP = "small files"
FILES = int(os.environ.get("BENCHMARK_FILES", "1000"))
CONNECTIONS = 16
_FILE_BYTES = 64 * 1024
_MANIFESTS = 20
_VERSION = "/v1/models/small/versions/v0"
_GETS, _PUTS = "bare presigned GETs", "bare presigned PUTs"
_numbers = itertools.count()


def run(report: Report, stack: StackAddresses) -> None:
    with registry(stack, report) as ours:
        contents = _contents()
        _push(ours, contents)
        _manifests(report, ours)
        _pulls(report, ours, contents)
        _pushes(report, ours, stack)


def _manifests(report: Report, ours: Server) -> None:
    before, began = ours.cpu_seconds(), time.perf_counter()
    for _ in range(_MANIFESTS):
        _manifest(ours)
    wall_ms = 1000 * (time.perf_counter() - began) / _MANIFESTS
    cpu_ms = 1000 * (ours.cpu_seconds() - before) / _MANIFESTS
    what = f"manifest of {FILES:,} files with URLs"
    report.bound(GROUP, f"{what}, CPU of the service", cpu_ms, 60, unit="ms")
    report.fact(f"{GROUP}, {what}", f"{wall_ms:.0f} ms until the client has read it")


def _pulls(report: Report, ours: Server, sent: Sequence[bytes]) -> None:
    """Compare each way to pull with the same GETs; the service's CPU goes into a fact."""
    digests = _digests(sent)
    presigned = [item["url"] for item in _manifest(ours)]
    proxied = [f"{ours.url}{_VERSION}/files/{_path(number)}" for number in range(FILES)]

    def pull(fetch: Callable[[], Sequence[bytes]], cpu_seconds: list[float]) -> float:
        before, began = ours.cpu_seconds(), time.perf_counter()
        contents = fetch()
        seconds = time.perf_counter() - began
        cpu_seconds.append(ours.cpu_seconds() - before)
        if _digests(_members(contents[0]) if len(contents) == 1 else contents) != digests:
            raise RuntimeError("Other bytes have come than were sent.")
        return seconds

    ways: dict[str, tuple[Callable[[], Sequence[bytes]], float | None]] = {
        "by a manifest with URLs": (lambda: _gets([item["url"] for item in _manifest(ours)]), 0.9),
        "as a tar": (lambda: [_ask(ours, "GET", f"{_VERSION}/archive.tar")], None),
        "one by one through the service": (lambda: _gets(proxied), None),
    }
    for way, (fetch, target) in ways.items():
        what = f"pull of {FILES:,} x 64 KiB {way}"
        cpu: list[float] = []
        report.contest(
            GROUP,
            what,
            {OURS: lambda: pull(fetch, cpu), _GETS: lambda: pull(lambda: _gets(presigned), [])},  # noqa: B023 - called at once
            unit="s",
            targets={} if target is None else {_GETS: target},
            rounds=min(report.rounds, 3) if target is None else report.rounds,
        )
        report.fact(f"{GROUP}, {what}", f"{_ms(cpu):.2f} ms of CPU for each file, of the service")


def _pushes(report: Report, ours: Server, stack: StackAddresses) -> None:
    cpu_seconds = []

    def push() -> float:
        contents = _contents()
        before, began = ours.cpu_seconds(), time.perf_counter()
        _push(ours, contents)
        seconds = time.perf_counter() - began
        cpu_seconds.append(ours.cpu_seconds() - before)
        return seconds

    def bare() -> float:
        contents, urls = _contents(), _urls(stack)
        began = time.perf_counter()
        _puts(
            [(url, {"Content-Length": str(len(content))}, content) for url, content in zip(urls, contents, strict=True)]
        )
        return time.perf_counter() - began

    what = f"push of {FILES:,} x 64 KiB"
    report.contest(GROUP, what, {OURS: push, _PUTS: bare}, unit="s", rounds=min(report.rounds, 3))
    report.fact(f"{GROUP}, {what}", f"{_ms(cpu_seconds):.2f} ms of CPU for each file, of the service")


def _contents() -> list[bytes]:
    """Return other bytes each time, so that nothing is stored already."""
    return [os.urandom(_FILE_BYTES) for _ in range(FILES)]


def _digests(contents: Sequence[bytes]) -> list[str]:
    return sorted(hashlib.sha256(content).hexdigest() for content in contents)


def _members(tar: bytes) -> list[bytes]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        return [file.read() for member in archive if (file := archive.extractfile(member))]


def _ms(cpu_seconds: Sequence[float]) -> float:
    return 1000 * statistics.median(cpu_seconds) / FILES


def _path(number: int) -> str:
    return f"shards/{number:04}.bin"


def _push(ours: Server, contents: Sequence[bytes]) -> None:
    version = f"v{next(_numbers)}"
    files = [
        {
            "path": _path(number),
            "size_bytes": len(content),
            "sha256": f"sha256:{hashlib.sha256(content).hexdigest()}",
        }
        for number, content in enumerate(contents)
    ]
    answer = _ask(ours, "POST", "/v1/models/small/versions", {"version": version, "files": files})
    uploads = json.loads(answer)["uploads"]
    if any(upload["method"] != "put" for upload in uploads):
        raise RuntimeError("Not every file is sent by a presigned PUT.")
    of_path = {file["path"]: content for file, content in zip(files, contents, strict=True)}
    _puts([(upload["url"], upload["headers"], of_path[upload["path"]]) for upload in uploads])
    info = json.loads(_ask(ours, "POST", f"/v1/models/small/versions/{version}/commit", {}))
    if info["state"] != "ready":
        raise RuntimeError(f"The version is {info['state']}.")


def _manifest(ours: Server) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = json.loads(_ask(ours, "GET", f"{_VERSION}/files?presign=true&limit=1000"))["items"]
    if len(items) != FILES:
        raise RuntimeError(f"{len(items)} files are in the manifest.")
    return items


def _ask(ours: Server, method: str, target: str, body: object = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", ours.port)
    content = None if body is None else json.dumps(body)
    connection.request(method, target, content, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    content_bytes = answer.read()
    connection.close()
    if not 200 <= answer.status < 300:
        raise RuntimeError(f"{method} {target}: {answer.status} {content_bytes[:500]!r}")
    return content_bytes


def _urls(stack: StackAddresses) -> list[str]:
    client = boto3.client(
        "s3",
        endpoint_url=stack.s3_endpoint_url,
        aws_access_key_id=stack.s3_access_key_id,
        aws_secret_access_key=stack.s3_secret_access_key,
        region_name=stack.s3_region,
        config=Config(signature_version="s3v4"),
    )
    folder = f"bare/{next(_numbers)}"
    return [
        client.generate_presigned_url("put_object", {"Bucket": stack.s3_bucket, "Key": f"{folder}/{_path(number)}"})
        for number in range(FILES)
    ]


def _gets(urls: Sequence[str]) -> Sequence[bytes]:
    return asyncio.run(_exchange([_request("GET", url) for url in urls], urlsplit(urls[0]).port))


def _puts(requests: Sequence[tuple[str, Mapping[str, str], bytes]]) -> None:
    encoded = [_request("PUT", url, headers, content) for url, headers, content in requests]
    asyncio.run(_exchange(encoded, urlsplit(requests[0][0]).port))


def _request(method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b"") -> bytes:
    address = urlsplit(url)
    target = f"{address.path}?{address.query}" if address.query else address.path
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return f"{method} {target} HTTP/1.1\r\nHost: {address.netloc}\r\n{lines}\r\n".encode() + body


async def _exchange(requests: Sequence[bytes], port: int | None) -> list[bytes]:
    """Send requests to one server and return the response bodies, in order; each must be a success."""
    bodies = [b""] * len(requests)
    waiting = iter(enumerate(requests))

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2 * _FILE_BYTES)
        for number, request in waiting:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0] or 0)
            bodies[number] = await reader.readexactly(length)
            if head[9:10] != b"2":
                raise RuntimeError(f"{head.decode()}{bodies[number].decode(errors='replace')[:500]}")
        writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(ask())
    return bodies
