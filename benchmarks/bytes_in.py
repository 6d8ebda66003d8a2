"""Upload one large file: `POST /register_model` against boto3 straight to the same storage.

Both send the same file, which is in the page cache. The service gets it as a form over one connection, hashes it and
registers it; boto3 writes parts in parallel and registers nothing. The sink is a storage server that costs nothing, so
the service is the limit. SeaweedFS is a real one, on the same cores as everything else. `BENCHMARK_MIB` (1024) is the
size of the file. CPU is the service's alone; storage and client use the same cores.
"""

import hashlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness import OURS, Report
from benchmarks.moving import Job, boto3_upload, download, moved, upload
from benchmarks.processes import Server, registry
from benchmarks.sink import counts, sink, write_pattern
from model_registry.domain.entities import Digest, FileEntry, manifest_digest
from model_registry_devstack import StackAddresses

GROUP = "bytes in"
MIB = int(os.environ.get("BENCHMARK_MIB", "1024"))
LATENCY_MS = 20
AT_ONCE = 8
_SETTLING_SECONDS = 20
_TUNED, _DEFAULT = "boto3 tuned, direct", "boto3 default, direct"
_keys = itertools.count()


def run(report: Report, stack: StackAddresses) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file, quarter = Path(folder) / "model.bin", Path(folder) / "quarter.bin"
        write_pattern(file, MIB * 1024**2)
        write_pattern(quarter, MIB * 1024**2 // 4)
        with sink() as storage:
            with registry(stack, report, S3_ENDPOINT_URL=storage.url) as ours:
                moved(upload(ours.url, "first", quarter))  # buffers are allocated when they are first needed, and kept
                targets = {_TUNED: 0.8, _DEFAULT: 2.0}
                before = counts(storage).received_bytes
                _compare(report, "a sink", stack, ours, storage.url, file, targets)
                if counts(storage).received_bytes - before < 3 * report.rounds * MIB * 1024**2:
                    raise RuntimeError("The storage has not got all that was sent.")
            _memory_of_one(report, stack, storage, file)
            _memory_of_many(report, stack, storage, quarter)
        with sink(latency_ms=LATENCY_MS) as far, registry(stack, report, S3_ENDPOINT_URL=far.url) as ours:
            moved(upload(ours.url, "first", quarter))
            where = f"a sink {LATENCY_MS} ms away"
            _compare(report, where, stack, ours, far.url, file, {_TUNED: None}, rounds=3)
        with registry(stack, report) as ours:
            moved(upload(ours.url, "first", quarter))
            _compare(report, "SeaweedFS", stack, ours, stack.s3_endpoint_url, file, {_TUNED: 0.95}, rounds=3)


def _compare(
    report: Report,
    where: str,
    stack: StackAddresses,
    ours: Server,
    storage_url: str,
    file: Path,
    targets: Mapping[str, float | None],
    rounds: int | None = None,
) -> None:
    """Compare with each contender that has a target, in MiB/s; the service's CPU goes into a fact."""
    digest = _manifest_digest(file)
    cpu_seconds = []

    def register() -> float:
        before = ours.cpu_seconds()
        speed = _speed(upload(ours.url, "large", file), digest)
        cpu_seconds.append(ours.cpu_seconds() - before)
        return speed

    def direct(*, is_tuned: bool) -> float:
        return _speed(boto3_upload(stack, storage_url, f"direct/{next(_keys)}", file, is_tuned=is_tuned))

    rivals = {_TUNED: lambda: direct(is_tuned=True), _DEFAULT: lambda: direct(is_tuned=False)}
    what = f"one file of {MIB} MiB to {where}"
    report.contest(
        GROUP,
        what,
        {OURS: register} | {name: rivals[name] for name in targets},
        unit="MiB/s",
        more_is_better=True,
        targets={name: target for name, target in targets.items() if target is not None},
        rounds=min(rounds or report.rounds, report.rounds),
    )
    per_gib = statistics.median(cpu_seconds) * 1024 / MIB
    report.fact(f"{GROUP}, {what}", f"{per_gib:.2f} s of CPU for each GiB, of the service")


def _speed(job: Job, digest: str = "") -> float:
    [done] = moved(job)
    if done.size_bytes != Path(job.file).stat().st_size or done.digest != digest:
        raise RuntimeError(f"{job} ended with {done}")
    return done.size_bytes / 1024**2 / done.seconds


def _manifest_digest(file: Path) -> str:
    with file.open("rb") as content:
        digest = Digest(hashlib.file_digest(content, "sha256").digest())
    return str(manifest_digest([FileEntry("model.bin", file.stat().st_size, digest, "application/octet-stream")]))


def _memory_of_one(report: Report, stack: StackAddresses, storage: Server, file: Path) -> None:
    with registry(stack, report, S3_ENDPOINT_URL=storage.url) as ours:
        idle = ours.resident_mib()
        moved(upload(ours.url, "large", file))
        report.bound(GROUP, f"memory while {MIB} MiB come in", ours.resident_mib("VmHWM"), 200, unit="MiB")
        report.fact(f"{GROUP}, memory before that", f"{idle:.0f} MiB")


def _memory_of_many(report: Report, stack: StackAddresses, storage: Server, file: Path) -> None:
    """Measure memory and open files. Kept connections count as open files, so they are compared after equal loads."""
    with registry(stack, report, S3_ENDPOINT_URL=storage.url) as ours, tempfile.TemporaryDirectory() as folder:
        little = Path(folder) / "little.bin"
        write_pattern(little, 1024**2)
        _many(ours, little, "little")
        files = _settled_files(ours)
        seconds = _many(ours, file, "many")
        most = ours.open_files()
        mib = file.stat().st_size / 1024**2
        what = f"{AT_ONCE} uploads and {AT_ONCE} downloads of {mib:.0f} MiB at once"
        report.bound(GROUP, f"memory with {what}", ours.resident_mib("VmHWM"), 260, unit="MiB")
        report.bound(GROUP, f"open files after {what}", _settled_files(ours, files), files, unit="files")
        report.fact(f"{GROUP}, {what}", f"{2 * AT_ONCE * mib / seconds:.0f} MiB/s in all, {most} files open at the end")


def _many(ours: Server, file: Path, model: str) -> float:
    """Return the seconds until the last upload has ended."""
    moved(upload(ours.url, model, file))
    jobs = [upload(ours.url, model, file) for _ in range(AT_ONCE)]
    jobs += [download(f"{ours.url}/get_model/{model}/latest") for _ in range(AT_ONCE)]
    results = moved(*jobs)
    if any(each.size_bytes != file.stat().st_size for each in results):
        raise RuntimeError(f"Not all bytes have arrived: {results}")
    return max(each.seconds for each in results)


def _settled_files(server: Server, at_most: int = 0) -> int:
    """Return the fewest open files while idle connections are being closed; at once if `at_most` is reached."""
    deadline = time.monotonic() + _SETTLING_SECONDS
    fewest = server.open_files()
    while fewest > at_most and time.monotonic() < deadline:
        time.sleep(0.5)
        fewest = min(fewest, server.open_files())
    return fewest
