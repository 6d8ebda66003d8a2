"""Push and pull by our client against boto3's transfers to the same storage, in turns: `python benchmarks/client.py`.

Two loads: one file of `--gib` GiB, and a thousand of 64 KiB. boto3 moves them as `aws s3 cp` and `sync` do, through the
same library with its ten threads; it hashes nothing, and nothing is registered. Ours hashes what it sends, the service
verifies it, and every pulled byte is hashed. Everything runs on this machine, on the servers of `model-registry dev`.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
from boto3.s3.transfer import TransferConfig

from model_registry_client import Registry

SMALL_FILES, SMALL_BYTES = 1_000, 64 * 1024
GIB = 1024**3


class Boto3:
    """What `aws s3 cp --recursive` does, with its defaults."""

    def __init__(self, stack: dict[str, Any]) -> None:
        self._client = boto3.client(
            "s3",
            endpoint_url=stack["s3_endpoint_url"],
            aws_access_key_id=stack["s3_access_key_id"],
            aws_secret_access_key=stack["s3_secret_access_key"],
            region_name=stack["s3_region"],
        )
        self._bucket = stack["s3_bucket"]
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


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(registry: Registry, boto: Boto3, make: Callable[[Path], None], name: str, rounds: int, base: Path) -> None:
    """One line for push and one for pull, each the median of the rounds, and the ratio."""
    taken: dict[str, list[float]] = {"push ours": [], "push boto3": [], "pull ours": [], "pull boto3": []}
    for number in range(rounds):
        source, target = base / "source", base / "target"
        source.mkdir()
        make(source)  # other bytes each time: nothing is stored already
        ref, prefix = f"bench-{name}:{number}", f"boto3/{name}/{number}"
        taken["push ours"].append(seconds(lambda: registry.push(source, ref)))  # noqa: B023 - called at once
        taken["push boto3"].append(seconds(lambda: boto.push(source, prefix)))  # noqa: B023
        for way, work in (
            ("pull ours", lambda: registry.pull(ref, target, use_cache=False)),  # noqa: B023
            ("pull boto3", lambda: boto.pull(prefix, target)),  # noqa: B023
        ):
            target.mkdir()
            taken[way].append(seconds(work))
            shutil.rmtree(target)
        registry.remove(ref, purge=True)
        boto.remove(prefix)
        shutil.rmtree(source)
    medians = {way: statistics.median(each) for way, each in taken.items()}
    for way in ("push", "pull"):
        ours, theirs = medians[f"{way} ours"], medians[f"{way} boto3"]
        sys.stdout.write(f"{name:<16}{way}  ours {ours:7.2f} s  boto3 {theirs:7.2f} s  ratio {theirs / ours:5.2f}\n")


def large(size_bytes: int) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        with (folder / "model.bin").open("wb") as file:
            for _ in range(size_bytes // 2**20):
                file.write(os.urandom(2**20))

    return make


def small(folder: Path) -> None:
    for number in range(SMALL_FILES):
        (folder / f"{number:04}.bin").write_bytes(os.urandom(SMALL_BYTES))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        data_dir = base / "data"
        command = [sys.executable, "-m", "model_registry.cli", "dev", "--port", "0", "--data-dir", str(data_dir)]
        service = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            address = data_dir / "address"
            while not address.exists():
                time.sleep(0.1)
            stack = json.loads((data_dir / "stack.json").read_text())["addresses"]
            with Registry(address.read_text().strip()) as registry:
                boto = Boto3(stack)
                measure(registry, boto, large(int(chosen.gib * GIB)), "one-large-file", chosen.rounds, base)
                measure(registry, boto, small, "thousand-small", chosen.rounds, base)
        finally:
            service.terminate()
            service.wait()
    # Of both, in this process; the client alone is measured by its tests.
    sys.stdout.write(
        f"largest resident size of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB\n"
    )


if __name__ == "__main__":
    main()
