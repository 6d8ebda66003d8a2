"""A storage server with minimal cost, which shows the cost of the others. `python -m benchmarks.sink --port N`.

It responds like S3 to the requests of the service, boto3 and curl, and verifies nothing: no signature, no checksum, no
precondition. Bytes that arrive are counted and discarded inside the kernel, without a copy. Bytes that it sends are
always `PATTERN`, repeated, so only files made of it (`write_pattern`) come back unchanged. It stores only the sizes of
objects. `GET /` returns how much has moved. Each connection has a thread, which spends almost all its time in system
calls.
"""

import argparse
import contextlib
import itertools
import json
import random
import re
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from benchmarks.processes import Server, free_port, started

PATTERN = random.Random(0).randbytes(1024**2)  # noqa: S311 - only to be incompressible
_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_PART = re.compile(rb"<PartNumber>(\d+)</PartNumber>")
_KEY = re.compile(rb"<Key>([^<]+)</Key>")


def write_pattern(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size_bytes, len(PATTERN)):
            file.write(PATTERN[: size_bytes - start])


@contextmanager
def sink(*, latency_ms: float = 0) -> Iterator[Server]:
    """Run the server as a separate process; it delays every response by `latency_ms`."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "benchmarks.sink", "--port", url.rpartition(":")[2]]
    with started([*command, "--latency-ms", str(latency_ms)], url) as server:
        yield server


@dataclass
class Counts:
    """The bytes of bodies, without headers."""

    requests: int = 0
    received_bytes: int = 0
    sent_bytes: int = 0


def counts(server: Server) -> Counts:
    with urllib.request.urlopen(server.url, timeout=5) as answer:  # noqa: S310 - of a server of ours
        return Counts(**json.load(answer))


@dataclass
class _Objects:
    sizes: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, dict[int, int]] = field(default_factory=dict)
    """For each unfinished multipart upload, the size of each part."""
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    counts: Counts = field(default_factory=Counts)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def etag(self, suffix: str = "") -> str:
        """Return a new ETag, as long as an MD5."""
        return f'"{next(self.numbers):032x}{suffix}"'

    def count(self, received_bytes: int, sent_bytes: int) -> None:
        with self.lock:
            self.counts.requests += 1
            self.counts.received_bytes += received_bytes
            self.counts.sent_bytes += sent_bytes


@dataclass(frozen=True)
class _Answer:
    status: str = "200 OK"
    headers: str = ""
    body: bytes = b""
    content: range | None = None
    """Positions in an object. If they are set, there is no body."""
    length: int | None = None
    """The value of Content-Length if no body follows."""


_NOT_FOUND = _Answer("404 Not Found")
_NO_SUCH_UPLOAD = _Answer("404 Not Found", body=b"<Error><Code>NoSuchUpload</Code></Error>")


class _Connection:
    def __init__(self, connection: socket.socket, objects: _Objects, latency_seconds: float) -> None:
        self._socket = connection
        self._objects = objects
        self._latency_seconds = latency_seconds
        self._ahead = b""
        self._discarded = bytearray(len(PATTERN))

    def serve(self) -> None:
        with self._socket, contextlib.suppress(ConnectionError):
            while head := self._head():
                first, *lines = head.split("\r\n")
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                method, target, _ = first.split(" ")
                if headers.get("expect", "").lower() == "100-continue":
                    self._socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                length = int(headers.get("content-length", 0))
                body = b""
                if method == "PUT":
                    self._discard(length)
                else:
                    body = self._body(length)
                if self._latency_seconds:
                    time.sleep(self._latency_seconds)
                sent = self._send(_answer(self._objects, method, target, headers, body, length))
                self._objects.count(length, sent)

    def _head(self) -> str:
        """Return the head of a request; empty at the end of the connection."""
        while b"\r\n\r\n" not in self._ahead:
            received = self._socket.recv(64 * 1024)
            if not received:
                return ""
            self._ahead += received
        head, _, self._ahead = self._ahead.partition(b"\r\n\r\n")
        return head.decode("latin-1")

    def _body(self, length: int) -> bytes:
        while len(self._ahead) < length:
            received = self._socket.recv(64 * 1024)
            if not received:
                raise ConnectionError
            self._ahead += received
        body, self._ahead = self._ahead[:length], self._ahead[length:]
        return body

    def _discard(self, length: int) -> None:
        """Read and discard: MSG_TRUNC of tcp(7) makes the kernel discard bytes instead of copying them."""
        left = length - len(self._ahead)
        self._ahead = self._ahead[length:]
        while left > 0:
            size = min(left, len(self._discarded))
            received = self._socket.recv_into(self._discarded, size, socket.MSG_TRUNC | socket.MSG_WAITALL)
            if not received:
                raise ConnectionError
            left -= received

    def _send(self, answer: _Answer) -> int:
        """Send a response; returns how many bytes of it came from an object."""
        content = answer.content or range(0)
        length = len(content) or len(answer.body) if answer.length is None else answer.length
        head = f"HTTP/1.1 {answer.status}\r\n{answer.headers}Content-Length: {length}\r\n\r\n"
        if answer.status.startswith("204"):
            head = f"HTTP/1.1 {answer.status}\r\n\r\n"
        self._socket.sendall(head.encode() + answer.body)
        pattern = memoryview(PATTERN)
        at = content.start
        while at < content.stop:
            offset = at % len(PATTERN)
            piece = pattern[offset : offset + content.stop - at]
            self._socket.sendall(piece)
            at += len(piece)
        return len(content)


def _answer(objects: _Objects, method: str, target: str, headers: dict[str, str], body: bytes, length: int) -> _Answer:
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
    query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
    if not key:
        return _of_bucket(objects, method, bucket, query, body)
    path = f"{bucket}/{key}"
    upload_id = query.get("uploadId")
    if upload_id is not None:
        return _of_upload(objects, method, path, upload_id, query, body, length)
    match method:
        case "POST":  # with `uploads`
            upload_id = f"{next(objects.numbers):032x}"
            objects.uploads[upload_id] = {}
            return _xml(
                "InitiateMultipartUploadResult",
                f"<Bucket>{bucket}</Bucket><Key>{key}</Key><UploadId>{upload_id}</UploadId>",
            )
        case "PUT":
            objects.sizes[path] = length
            return _Answer(headers=f"ETag: {objects.etag()}\r\n")
        case "DELETE":
            objects.sizes.pop(path, None)
            return _Answer("204 No Content")
    size_bytes = objects.sizes.get(path)
    if size_bytes is None:
        return _NOT_FOUND
    about = f'ETag: "{0:032x}"\r\nAccept-Ranges: bytes\r\nContent-Type: application/octet-stream\r\n'
    about += "Last-Modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    if method == "HEAD":
        return _Answer(headers=about, length=size_bytes)
    wanted = _RANGE.fullmatch(headers.get("range", ""))
    if wanted is None:
        return _Answer(headers=about, content=range(size_bytes))
    start, stop = int(wanted[1]), min(size_bytes, int(wanted[2]) + 1 if wanted[2] else size_bytes)
    about += f"Content-Range: bytes {start}-{stop - 1}/{size_bytes}\r\n"
    return _Answer("206 Partial Content", about, content=range(start, stop))


def _of_bucket(objects: _Objects, method: str, bucket: str, query: dict[str, str], body: bytes) -> _Answer:
    if not bucket:
        return _Answer(headers="Content-Type: application/json\r\n", body=json.dumps(vars(objects.counts)).encode())
    if method == "POST" and "delete" in query:
        for key in _KEY.findall(body):
            objects.sizes.pop(f"{bucket}/{key.decode()}", None)
        return _xml("DeleteResult", "")
    if method == "GET" and "uploads" in query:
        return _xml("ListMultipartUploadsResult", f"<Bucket>{bucket}</Bucket><IsTruncated>false</IsTruncated>")
    return _Answer()


def _of_upload(
    objects: _Objects, method: str, path: str, upload_id: str, query: dict[str, str], body: bytes, length: int
) -> _Answer:
    parts = objects.uploads.get(upload_id)
    if parts is None:
        return _NO_SUCH_UPLOAD
    if method == "PUT":
        parts[int(query["partNumber"])] = length
        return _Answer(headers=f"ETag: {objects.etag()}\r\n")
    objects.uploads.pop(upload_id)
    if method == "DELETE":
        return _Answer("204 No Content")
    wanted = [int(number) for number in _PART.findall(body)]
    objects.sizes[path] = sum(parts[number] for number in wanted)
    bucket, _, key = path.partition("/")
    etag = objects.etag(f"-{len(wanted)}").strip('"')
    return _xml(
        "CompleteMultipartUploadResult", f"<Bucket>{bucket}</Bucket><Key>{key}</Key><ETag>&quot;{etag}&quot;</ETag>"
    )


def _xml(name: str, content: str) -> _Answer:
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name} xmlns="{_NAMESPACE}">{content}</{name}>'
    return _Answer(headers="Content-Type: application/xml\r\n", body=body.encode())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sink", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--latency-ms", type=float, default=0, help="every answer is late by this")
    chosen = parser.parse_args()
    objects = _Objects()
    threading.stack_size(256 * 1024)
    with socket.create_server(("127.0.0.1", chosen.port), backlog=256) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            serve = _Connection(connection, objects, chosen.latency_ms / 1000).serve
            threading.Thread(target=serve, daemon=True).start()


if __name__ == "__main__":
    main()
