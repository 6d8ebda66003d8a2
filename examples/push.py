"""Push a folder as one version, with only the standard library: reserve it, send the missing files, commit.

    python examples/push.py fraud-detector 2.0.0 folder

The registry is at MODEL_REGISTRY_URL, or at http://localhost:8000, where `make dev` starts one. Run it again after a
failure: files that have arrived are not sent again, and a version that is complete is reported as ready.
"""
# ruff: noqa: S310 - the URLs are those of the registry, or come from it

import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote
from urllib.request import Request, urlopen

URL = os.environ.get("MODEL_REGISTRY_URL", "http://localhost:8000")


def push(model: str, version: str, folder: Path) -> dict[str, Any]:
    versions = f"{URL}/v1/models/{quote(model)}/versions"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    manifest = [
        {"path": name, "size_bytes": path.stat().st_size, "sha256": sha256(path)} for name, path in files.items()
    ]
    reserved = call("POST", versions, {"version": version, "files": manifest})
    for upload in reserved["uploads"]:
        if not upload["already_stored"]:
            print(f"sending {upload['path']}")
            # Directly to storage if one PUT is enough. A file that needs several parts goes through the service.
            through_the_service = f"{versions}/{quote(version)}/files/{quote(upload['path'])}"
            with files[upload["path"]].open("rb") as file:
                send(file, upload["size_bytes"], upload["url"] or through_the_service, upload["headers"] or {})
    # Verifying large files can take longer than one response may. Commit again to continue to wait.
    while (info := call("POST", f"{versions}/{quote(version)}/commit", {}))["state"] != "ready":
        time.sleep(1)
    return info


def send(file: IO[bytes], size_bytes: int, url: str, headers: dict[str, str]) -> None:
    urlopen(Request(url, file, {"Content-Length": str(size_bytes), **headers}, method="PUT")).close()


def call(method: str, url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
    with urlopen(request) as response:
        info: dict[str, Any] = json.load(response)
        return info


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    try:
        info = push(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except HTTPError as error:  # the response says what is wrong, a registry in `detail`
        sys.exit(f"error: {error.code}: {error.read().decode()}")
    except URLError as error:
        sys.exit(f"error: no response from {URL} ({error.reason}). `make dev` starts a registry.")
    print(f"{info['model_name']} {info['version']} is ready: {info['file_count']} files, {info['digest']}")
