"""The requests to our service, under the names that `mlflow.MLflow` has for the same."""

import hashlib
import itertools
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import urlencode, urlsplit

import orjson

from benchmarks.load import Request
from benchmarks.peers.wire import Content, Small, Spent, ask, ask_all, ask_json, fetch, opened, spent
from benchmarks.processes import Server

_BOUNDARY = "one-of-a-kind"
_LARGE = "large"


class Ours:
    def __init__(self, server: Server) -> None:
        self.server = server

    def make_model(self, name: str) -> Request:
        return ("POST", "/v1/models", orjson.dumps({"name": name}))

    def register(self, name: str, label: str, metadata: Mapping[str, str]) -> Request:
        body = {"model_name": name, "version": label, "additional_metadata": metadata}
        return ("POST", "/register_model", orjson.dumps(body))

    def point(self, name: str, alias: str, label: str) -> Request:
        return ("PUT", f"/v1/models/{name}/aliases/{alias}", orjson.dumps({"version": label}))

    def version(self, name: str, label: str) -> Request:
        return _get(f"/get_model_info/{name}/{label}")

    def aliased(self, name: str, alias: str) -> Request:
        return _get(f"/v1/models/{name}/versions/@{alias}")

    def model(self, name: str) -> Request:
        return _get(f"/v1/models/{name}")

    def page(self, name: str, limit: int, token: str | None = None) -> Request:
        query = {"filter": f"model_name = '{name}'", "limit": str(limit)} | ({"page_token": token} if token else {})
        return _get(f"/v1/versions?{urlencode(query)}")

    def label_of(self, answer: bytes) -> str:
        return str(orjson.loads(answer)["version"])

    def name_of(self, answer: bytes) -> str:
        return str(orjson.loads(answer)["name"])

    def labels_of(self, answer: bytes) -> tuple[list[str], str | None]:
        """Return the labels of a page, and the token of the next page."""
        page = orjson.loads(answer)
        return [each["version"] for each in page["items"]], page["next_page_token"]

    def upload(self, content: Content) -> Spent:
        """Upload one file as a form, through the service."""
        return spent(self.server, lambda: self._send(_LARGE, str(content.number), [("model.bin", content)]))

    def download(self, content: Content) -> Spent:
        return spent(self.server, lambda: fetch(self.server.url, f"/get_model/{_LARGE}/{content.number}", content))

    def upload_files(self, name: str, files: Sequence[Content]) -> Spent:
        """Do what our client does: hash, reserve, send straight to storage by presigned URLs, and commit."""

        def work() -> None:
            contents = {f"{at:05}.bin": each.whole() for at, each in enumerate(files)}
            declared = [
                {"path": path, "size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for path, content in contents.items()
            ]
            with opened(self.server.url) as connection:
                reserved = ask_json(
                    connection, "POST", f"/v1/models/{name}/versions", {"version": "1", "files": declared}
                )
                puts = [
                    Small("PUT", _path(each["url"]), contents[each["path"]], each["headers"])
                    for each in reserved["uploads"]
                ]
                ask_all(reserved["uploads"][0]["url"], puts)
            with opened(self.server.url) as connection:
                committed = ask_json(connection, "POST", f"/v1/models/{name}/versions/1/commit", {})
            _check_version(committed, len(files))

        return spent(self.server, work)

    def download_files(self, name: str, files: Sequence[Content]) -> Spent:
        """Get the manifest, and then each file straight from storage by its presigned URL."""

        def work() -> None:
            target = f"/v1/models/{name}/versions/1/files?presign=true&limit=1000"
            items = []
            token = ""
            with opened(self.server.url) as connection:
                while token is not None:
                    page = ask_json(connection, "GET", f"{target}&page_token={token}")
                    items += page["items"]
                    token = page["next_page_token"]
            gets = [
                Small("GET", _path(item["url"]), expected=each.whole()) for item, each in zip(items, files, strict=True)
            ]
            ask_all(items[0]["url"], gets)

        return spent(self.server, work)

    def upload_files_as_form(self, name: str, files: Sequence[Content]) -> Spent:
        """Upload all files in one request, through the service."""
        return spent(
            self.server, lambda: self._send(name, "1", [(f"{at:05}.bin", each) for at, each in enumerate(files)])
        )

    def download_files_as_archive(self, name: str, files: Sequence[Content]) -> Spent:
        """Download all files in one tar, through the service."""

        def work() -> None:
            with opened(self.server.url) as connection:
                response = ask(connection, "GET", f"/v1/models/{name}/versions/1/archive.tar")
                with tarfile.open(fileobj=response, mode="r|") as archive:
                    for member, each in itertools.zip_longest(archive, files):
                        stored = archive.extractfile(member) if member and each else None
                        if stored is None or stored.read() != each.whole():
                            raise RuntimeError("The archive has other files than it was given.")

        return spent(self.server, work)

    def _send(self, name: str, label: str, files: Sequence[tuple[str, Content]]) -> None:
        parts: list[tuple[bytes, Content | None]] = [
            (_field('name="model_name"', name), None),
            (_field('name="version"', label), None),
            *((_field(f'name="model_file"; filename="{path}"'), content) for path, content in files),
            (f"\r\n--{_BOUNDARY}--\r\n".encode(), None),
        ]
        size = sum(len(head) + (content.size_bytes if content else 0) for head, content in parts)
        about = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}", "Content-Length": str(size)}

        def body() -> Iterable[bytes]:
            for head, content in parts:
                yield head
                yield from content or ()

        with opened(self.server.url) as connection:
            _check_version(orjson.loads(ask(connection, "POST", "/register_model", body(), about).read()), len(files))


def _get(target: str) -> Request:
    return ("GET", target, b"")


def _path(url: str) -> str:
    """Return the path of a URL as it was signed."""
    parts = urlsplit(url)
    return f"{parts.path}?{parts.query}"


def _field(about: str, value: str = "") -> bytes:
    return f"\r\n--{_BOUNDARY}\r\nContent-Disposition: form-data; {about}\r\n\r\n{value}".encode()


def _check_version(info: Mapping[str, object], files: int) -> None:
    if info["state"] != "ready" or info["file_count"] != files:
        raise RuntimeError(f"Registered with {info['file_count']} files of {files}, {info['state']}.")
