"""Clients that move bytes, as separate processes: `moved(Job(…), …)` runs jobs at once and returns their results.

The clock runs inside the process, when everything is imported and the files are open. `upload` and `download` cost
almost nothing (sendfile, one buffer), so the client is never the limit. The others are clients that people use.
"""

import http.client
import io
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from benchmarks.processes import ROOT
from model_registry_devstack import StackAddresses

_CHUNK_BYTES = 1024**2
_BOUNDARY = "benchmark-3f9a52c1"
_BEATS_PER_SECOND = 100


@dataclass(frozen=True)
class Job:
    do: str
    """`upload`, `download`, `boto3 upload` or `boto3 download`."""
    url: str
    """The URL of the service, the file, or the storage."""
    name: str = ""
    """The name of the model, or the key in the bucket."""
    file: str = ""
    storage: dict[str, str] | None = None
    """For boto3: `StackAddresses` as a dictionary."""
    is_tuned: bool = False


@dataclass(frozen=True)
class Moved:
    seconds: float
    size_bytes: int
    digest: str = ""
    """The digest of an upload, as the service returns it."""


@dataclass(frozen=True)
class Beats:
    """How long requests took that were sent every 10 ms."""

    count: int
    p50_ms: float
    p99_ms: float
    highest_ms: float

    def __str__(self) -> str:
        return f"p50 {self.p50_ms:.1f} ms, p99 {self.p99_ms:.1f} ms, highest {self.highest_ms:.1f} ms"


def moved(*jobs: Job) -> list[Moved]:
    """Run all jobs at once, in threads of one new process; returns their results, in order."""
    command = [sys.executable, "-m", "benchmarks.moving", json.dumps([asdict(job) for job in jobs])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT)  # noqa: S603
    return [Moved(**each) for each in json.loads(done.stdout)]


def upload(url: str, model: str, file: Path) -> Job:
    """Return a proxied registration of the next version of a model."""
    return Job("upload", url, model, str(file))


def download(url: str) -> Job:
    return Job("download", url)


def boto3_upload(stack: StackAddresses, url: str, key: str, file: Path, *, is_tuned: bool) -> Job:
    """Return an upload by boto3; tuned: four parts of 16 MiB in flight, no payload signature, no extra checksums."""
    return Job("boto3 upload", url, key, str(file), asdict(stack), is_tuned)


def boto3_download(stack: StackAddresses, url: str, key: str) -> Job:
    return Job("boto3 download", url, key, "", asdict(stack))


@contextmanager
def heartbeat(url: str) -> Iterator[Callable[[], Beats]]:
    """Request `url` every 10 ms from a separate process, until the function that this yields is called."""
    command = [sys.executable, "-m", "benchmarks.moving", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:  # noqa: S603

        def end() -> Beats:
            output, _ = process.communicate()
            return Beats(**json.loads(output))

        assert process.stdout is not None  # noqa: S101
        process.stdout.readline()  # it has begun
        yield end


def _upload(job: Job) -> Callable[[], Moved]:
    address = urlsplit(job.url)
    size_bytes = Path(job.file).stat().st_size
    fields = {"model_name": job.name, "version": f"v{time.monotonic_ns()}"}
    form = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    form += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="model_file"; filename="model.bin"\r\n\r\n'
    end = f"\r\n--{_BOUNDARY}--\r\n"
    head = (
        f"POST /register_model HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(form) + size_bytes + len(end)}\r\n\r\n"
    )

    def work() -> Moved:
        with socket.create_connection((address.hostname or "", address.port or 80)) as connection:
            with Path(job.file).open("rb") as file:
                began = time.perf_counter()
                connection.sendall((head + form).encode())
                connection.sendfile(file)
                connection.sendall(end.encode())
            answer = http.client.HTTPResponse(connection, method="POST")
            answer.begin()
            body = answer.read()
            seconds = time.perf_counter() - began
        if answer.status != 201:
            raise RuntimeError(f"{answer.status}: {body.decode()[:500]}")
        info = json.loads(body)
        return Moved(seconds, info["size_bytes"], info["digest"])

    return work


def _download(job: Job) -> Callable[[], Moved]:
    address = urlsplit(job.url)

    def work() -> Moved:
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        connection = http.client.HTTPConnection(address.netloc)
        began = time.perf_counter()
        connection.request("GET", f"{address.path}?{address.query}")
        answer = connection.getresponse()
        size_bytes = 0
        while count := answer.readinto(buffer):
            size_bytes += count
        seconds = time.perf_counter() - began
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status} for {job.url}")
        return Moved(seconds, size_bytes)

    return work


def _boto3(job: Job) -> tuple[Any, str, Any]:
    """Return client, bucket, and the settings of the transfer."""
    import boto3
    from boto3.s3.transfer import TransferConfig
    from botocore.config import Config

    storage = job.storage or {}
    tuned = Config(
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        s3={"payload_signing_enabled": False},
    )
    client = boto3.client(
        "s3",
        endpoint_url=job.url,
        aws_access_key_id=storage["s3_access_key_id"],
        aws_secret_access_key=storage["s3_secret_access_key"],
        region_name=storage["s3_region"],
        config=tuned if job.is_tuned else None,
    )
    part_bytes = 16 * 1024**2
    parts_of_16 = TransferConfig(multipart_threshold=part_bytes, multipart_chunksize=part_bytes, max_concurrency=4)
    return client, storage["s3_bucket"], parts_of_16 if job.is_tuned else TransferConfig()


def _boto3_upload(job: Job) -> Callable[[], Moved]:
    client, bucket, config = _boto3(job)

    def work() -> Moved:
        began = time.perf_counter()
        client.upload_file(job.file, bucket, job.name, Config=config)
        seconds = time.perf_counter() - began
        return Moved(seconds, client.head_object(Bucket=bucket, Key=job.name)["ContentLength"])

    return work


def _boto3_download(job: Job) -> Callable[[], Moved]:
    client, bucket, config = _boto3(job)

    def work() -> Moved:
        target = _Counter()
        began = time.perf_counter()
        client.download_fileobj(bucket, job.name, target, Config=config)
        return Moved(time.perf_counter() - began, target.size_bytes)

    return work


class _Counter(io.RawIOBase):
    """A file to write to that keeps nothing; it is seekable, as boto3 prefers."""

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, _whence: int = os.SEEK_SET) -> int:
        return offset

    def write(self, content: Any) -> int:
        self.size_bytes += len(content)
        return len(content)


_JOBS: dict[str, Callable[[Job], Callable[[], Moved]]] = {
    "upload": _upload,
    "download": _download,
    "boto3 upload": _boto3_upload,
    "boto3 download": _boto3_download,
}


def _beat(url: str, out: IO[str]) -> None:
    """Send each request over a kept connection. A late response delays the next request, which then follows at once."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    waits: list[float] = []
    connection.connect()
    out.write("\n")
    out.flush()
    due = time.perf_counter()
    while not select.select([sys.stdin], [], [], max(0, due - time.perf_counter()))[0]:
        began = time.perf_counter()
        connection.request("GET", address.path or "/")
        connection.getresponse().read()
        waits.append(1000 * (time.perf_counter() - began))
        due = max(due + 1 / _BEATS_PER_SECOND, time.perf_counter())
    hundredths = statistics.quantiles(waits, n=100)
    json.dump(asdict(Beats(len(waits), hundredths[49], hundredths[98], max(waits))), out)


def main() -> None:
    told = sys.argv[1]
    if told.startswith("http"):
        _beat(told, sys.stdout)
        return
    ready = [_JOBS[job.do](job) for job in (Job(**each) for each in json.loads(told))]
    with ThreadPoolExecutor(len(ready)) as pool:
        done = [future.result() for future in [pool.submit(work) for work in ready]]
    json.dump([asdict(each) for each in done], sys.stdout)


if __name__ == "__main__":
    main()
