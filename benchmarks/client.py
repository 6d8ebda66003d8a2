"""Push and pull by our client, against boto3's transfers to the same storage.

Two loads: one file of `CLIENT_MIB` (2048), and a thousand files of 64 KiB. boto3 moves them as `aws s3 cp` and `sync`
do, through the same library with its ten threads; it neither hashes nor registers them. Our client hashes what it
sends, the service verifies it, and the client hashes every pulled byte.
"""

import itertools
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import boto3
from boto3.s3.transfer import TransferConfig

from benchmarks.harness import OURS, Report
from benchmarks.processes import registry
from model_registry_client import Registry
from model_registry_devstack import StackAddresses

SMALL_FILES, SMALL_BYTES = 1_000, 64 * 1024
MIB = int(os.environ.get("CLIENT_MIB", "2048"))


class Boto3:
    """What `aws s3 cp --recursive` does, with its defaults."""

    def __init__(self, stack: StackAddresses) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=stack.s3_endpoint_url,
            aws_access_key_id=stack.s3_access_key_id,
            aws_secret_access_key=stack.s3_secret_access_key,
            region_name=stack.s3_region,
        )
        self._bucket = stack.s3_bucket
        self._config = TransferConfig()

    def push(self, folder: Path, prefix: str) -> None:
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda path: self._upload(path, f"{prefix}/{path.name}"), sorted(folder.iterdir())))

    def _upload(self, path: Path, key: str) -> None:
        self._client.upload_file(str(path), self._bucket, key, Config=self._config)

    def pull(self, prefix: str, folder: Path) -> None:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{prefix}/")
        keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
        with ThreadPoolExecutor(10) as pool:
            list(pool.map(lambda key: self._download(key, folder / key.rpartition("/")[2]), keys))

    def _download(self, key: str, path: Path) -> None:
        self._client.download_file(self._bucket, key, str(path), Config=self._config)

    def remove(self, prefix: str) -> None:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=f"{prefix}/")
        for page in pages:
            for item in page.get("Contents", ()):
                self._client.delete_object(Bucket=self._bucket, Key=item["Key"])


class Contest:
    """Both push the same folder and pull it again. What they leave is removed, so that each turn starts fresh."""

    def __init__(self, registry: Registry, boto: Boto3, base: Path, name: str, make: Callable[[Path], None]) -> None:
        self._registry = registry
        self._boto = boto
        self._base = base
        self._name = name
        self._make = make
        self._numbers = itertools.count()
        self._pushed: dict[str, str] = {}

    def push_ours(self) -> float:
        ref = f"{self._name}:{next(self._numbers)}"
        with self._source() as source:
            took = _seconds(lambda: self._registry.push(source, ref))
        if before := self._pushed.get("ours"):
            self._registry.remove(before, purge=True)
        self._pushed["ours"] = ref
        return took

    def push_boto3(self) -> float:
        prefix = f"boto3/{self._name}/{next(self._numbers)}"
        with self._source() as source:
            took = _seconds(lambda: self._boto.push(source, prefix))
        if before := self._pushed.get("boto3"):
            self._boto.remove(before)
        self._pushed["boto3"] = prefix
        return took

    def pull_ours(self) -> float:
        return self._pulled(lambda target: self._registry.pull(self._pushed["ours"], target, use_cache=False))

    def pull_boto3(self) -> float:
        return self._pulled(lambda target: self._boto.pull(self._pushed["boto3"], target))

    @contextmanager
    def _source(self) -> Iterator[Path]:
        """Yield a folder with other bytes each time, so that nothing is stored already."""
        source = self._base / "source"
        source.mkdir()
        self._make(source)
        yield source
        shutil.rmtree(source)

    def _pulled(self, work: Callable[[Path], object]) -> float:
        target = self._base / "target"
        target.mkdir()
        took = _seconds(lambda: work(target))
        shutil.rmtree(target)
        return took


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def large(size_bytes: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with (folder / "model.bin").open("wb") as file:
            for _ in range(size_bytes // 2**20):
                file.write(os.urandom(2**20))

    return make


def small(folder: Path) -> None:
    for number in range(SMALL_FILES):
        (folder / f"{number:04}.bin").write_bytes(os.urandom(SMALL_BYTES))


def run(report: Report, stack: StackAddresses) -> None:
    with tempfile.TemporaryDirectory() as folder, registry(stack, report) as service, Registry(service.url) as client:
        boto = Boto3(stack)
        loads = {f"one file of {MIB} MiB": large(MIB * 2**20), "1,000 files of 64 KiB": small}
        for number, (what, make) in enumerate(loads.items()):
            contest = Contest(client, boto, Path(folder), f"load-{number}", make)
            rounds = min(report.rounds, 3)
            against = "boto3's transfers"
            pushes = {OURS: contest.push_ours, against: contest.push_boto3}
            report.contest("client", f"push {what}", pushes, unit="s", rounds=rounds)
            pulls = {OURS: contest.pull_ours, against: contest.pull_boto3}
            report.contest("client", f"pull {what}", pulls, unit="s", targets={against: 1}, rounds=rounds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report.fact("largest resident size of the process with both clients", f"{peak} MiB")
