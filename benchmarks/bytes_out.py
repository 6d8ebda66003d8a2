"""Download one large file, streamed or redirected by the service, against curl and boto3 straight from storage.

The same curl asks the service and the storage, so only the path differs. boto3 has its defaults (ten ranges at a time),
and writes to a file that keeps nothing. The service hashes what it streams. Then comes the heartbeat: how long `GET
/healthz` takes every 10 ms, while four files come in and four go out. Next to it is the heartbeat of an idle
application, which shows what the machine itself adds. `BENCHMARK_MIB` (1024) is the size of the file.
"""

import http.client
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.bytes_in import MIB
from benchmarks.harness import OURS, Report
from benchmarks.moving import boto3_download, download, heartbeat, moved, upload
from benchmarks.processes import Server, bare, registry
from benchmarks.sink import counts, sink, write_pattern
from model_registry_devstack import StackAddresses

GROUP = "bytes out"
AT_ONCE = 4
_SIZE_BYTES = MIB * 1024**2
_CURL, _BOTO3 = "curl, direct", "boto3 default, direct"
_IDLE_SECONDS = 3
_BETWEEN_SECONDS = 0.2  # until all sides have noticed that the last one is given up


def run(report: Report, stack: StackAddresses) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bin"
        write_pattern(file, _SIZE_BYTES)
        with sink() as storage, registry(stack, report, S3_ENDPOINT_URL=storage.url) as ours:
            moved(upload(ours.url, "of-sink", file))
            before = counts(storage).sent_bytes
            _compare(report, "a sink", stack, ours, storage.url, "of-sink", report.rounds)
            if counts(storage).sent_bytes - before < 5 * report.rounds * _SIZE_BYTES:
                raise RuntimeError("The storage has not sent all that was asked for.")
            _heartbeat(report, ours, file)
        # Other bytes, because the sink has those.
        with file.open("ab") as content:
            content.truncate(_SIZE_BYTES - 1)
            content.seek(_SIZE_BYTES - 1)
            content.write(b"!")
        with registry(stack, report) as ours:
            moved(upload(ours.url, "of-seaweedfs", file))
            rounds = min(report.rounds, 3)
            _compare(report, "SeaweedFS", stack, ours, stack.s3_endpoint_url, "of-seaweedfs", rounds)
            _first_byte(report, ours, "of-seaweedfs")


def _compare(
    report: Report, where: str, stack: StackAddresses, ours: Server, storage_url: str, model: str, rounds: int
) -> None:
    """Compare in MiB/s; the service's CPU goes into a fact."""
    url = f"{ours.url}/get_model/{model}/latest"
    bucket, _, key = urlsplit(_presigned(url)).path.strip("/").partition("/")
    if bucket != stack.s3_bucket:
        raise RuntimeError(f"The file is in {bucket}.")
    cpu_seconds = []

    def streamed() -> float:
        before = ours.cpu_seconds()
        speed = _curl(url)
        cpu_seconds.append(ours.cpu_seconds() - before)
        return speed

    def boto3() -> float:
        [done] = moved(boto3_download(stack, storage_url, key))
        return _speed(done.size_bytes, done.seconds)

    what = f"one file of {MIB} MiB from {where}"
    report.contest(
        GROUP,
        f"{what}, streamed",
        {OURS: streamed, _CURL: lambda: _curl(_presigned(url)), _BOTO3: boto3},
        unit="MiB/s",
        more_is_better=True,
        targets={_CURL: 0.6, _BOTO3: 1.5},
        rounds=rounds,
    )
    report.contest(
        GROUP,
        f"{what}, redirected",
        {OURS: lambda: _curl(f"{url}?redirect=true"), _CURL: lambda: _curl(_presigned(url))},
        unit="MiB/s",
        more_is_better=True,
        targets={_CURL: 0.95},
        rounds=rounds,
    )
    per_gib = statistics.median(cpu_seconds) * 1024 / MIB
    report.fact(f"{GROUP}, {what}, streamed", f"{per_gib:.2f} s of CPU for each GiB, of the service")


def _curl(url: str) -> float:
    command = ["curl", "-sSfL", "--noproxy", "*", "-o", "/dev/null", "-w", "%{json}", url]
    done = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)  # noqa: S603
    return _speed(done["size_download"], done["time_total"])


def _speed(size_bytes: int, seconds: float) -> float:
    if size_bytes != _SIZE_BYTES:
        raise RuntimeError(f"{size_bytes} bytes have come, not {_SIZE_BYTES}.")
    return size_bytes / 1024**2 / seconds


def _presigned(url: str) -> str:
    """Return the target of the service's redirect."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.netloc)
    connection.request("GET", f"{address.path}?redirect=true")
    location = connection.getresponse().getheader("Location")
    connection.close()
    if location is None:
        raise RuntimeError("The service does not redirect.")
    return location


def _first_byte(report: Report, ours: Server, model: str) -> None:
    """Measure the first byte of a streamed download over a new connection, which is then closed."""
    url = f"{ours.url}/get_model/{model}/latest"
    waits = []

    def streamed() -> float:
        waits.append(_first_byte_ms(url))
        return waits[-1]

    what = f"time to the first byte of {MIB} MiB from SeaweedFS"
    direct = _presigned(url)
    rivals = {OURS: streamed, "the storage itself": lambda: _first_byte_ms(direct)}
    report.contest(GROUP, what, rivals, unit="ms", rounds=10)
    report.bound(GROUP, what, statistics.median(waits), 50, unit="ms")


def _first_byte_ms(url: str) -> float:
    address = urlsplit(url)
    time.sleep(_BETWEEN_SECONDS)
    connection = http.client.HTTPConnection(address.netloc)
    began = time.perf_counter()
    connection.request("GET", f"{address.path}?{address.query}")
    answer = connection.getresponse()
    answer.read(1)
    waited = time.perf_counter() - began
    connection.close()
    if answer.status != 200:
        raise RuntimeError(f"{answer.status} for {url}")
    return 1000 * waited


def _heartbeat(report: Report, ours: Server, file: Path) -> None:
    jobs = [upload(ours.url, "beside", file) for _ in range(AT_ONCE)]
    jobs += [download(f"{ours.url}/get_model/of-sink/latest") for _ in range(AT_ONCE)]
    with bare() as other:
        with heartbeat(f"{ours.url}/healthz") as end:
            time.sleep(_IDLE_SECONDS)
            idle = end()
        with heartbeat(f"{ours.url}/healthz") as end, heartbeat(other.url) as end_other:
            results = moved(*jobs)
            beats, others = end(), end_other()
    if any(each.size_bytes != _SIZE_BYTES for each in results):
        raise RuntimeError(f"Not all bytes have arrived: {results}")
    name = f"{GROUP}, GET /healthz every 10 ms"
    report.fact(f"{name}, idle", str(idle))
    report.fact(f"{name}, while {AT_ONCE} files come in and {AT_ONCE} go out", str(beats))
    report.fact(f"{name}, of an application that does nothing, at the same time", str(others))
