"""Requests for metadata, against a bare FastAPI endpoint under the same load.

A push here is of bytes that are stored already: it reserves and commits, and sends nothing. The other groups measure
the cost of bytes.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlencode

import httpx

from benchmarks.harness import OURS, Report
from benchmarks.load import Request, load
from benchmarks.processes import Server, bare, registry
from model_registry_devstack import StackAddresses

MODELS, VERSIONS = 20, 100
SMALL_FILES = 1000
_STATIC: Request = ("GET", "/", b"")
_Requests = Request | Callable[[int], Sequence[Request]]
_Files = Sequence[Mapping[str, str | int]]
_numbers = itertools.count()


def run(report: Report, stack: StackAddresses) -> None:
    with registry(stack, report) as ours, bare() as static:
        _fill(ours.url)
        one, many = _stored_files(ours.url, 1), _stored_files(ours.url, SMALL_FILES)
        search = urlencode({"filter": "additional_metadata.stage = 'prod'", "limit": 50})
        requests: dict[str, tuple[_Requests, float | None]] = {
            "one version by name and label": (("GET", "/get_model_info/bench-3/v50", b""), 0.33),
            "the latest version of a model": (("GET", "/get_latest_model_info/bench-3", b""), None),
            "a version by alias": (("GET", "/v1/models/bench-3/versions/@champion", b""), None),
            "a page of 50 versions": (("GET", "/v1/models/bench-3/versions?limit=50", b""), 0.2),
            "a search by metadata, 50 results": (("GET", f"/v1/versions?{search}", b""), None),
            "make a model": (lambda _: [_model()], None),
            "register a version without files": (lambda _: [_version()], None),
            "push a version of one file": (lambda _: _push(one), None),
            f"push a version of {SMALL_FILES:,} files": (lambda _: _push(many), None),
            "health": (("GET", "/healthz", b""), None),
        }
        for what, (request, target) in requests.items():
            _compare(report, what, ours, static, request, target)


def _compare(
    report: Report,
    what: str,
    ours: Server,
    static: Server,
    request: _Requests,
    target: float | None,
) -> None:
    latencies = []

    def ask() -> float:
        measured = load(ours, request)
        latencies.append((measured.p50_ms, measured.p99_ms, measured.cpu_ms))
        return measured.per_second

    report.contest(
        "metadata",
        what,
        {OURS: ask, "a bare FastAPI endpoint": lambda: load(static, _STATIC).per_second},
        unit="/s",
        more_is_better=True,
        targets={} if target is None else {"a bare FastAPI endpoint": target},
    )
    p50, p99, cpu = sorted(latencies)[len(latencies) // 2]
    report.fact(what, f"p50 {p50:.1f} ms, p99 {p99:.1f} ms with 16 connections, {cpu:.2f} ms of CPU each")


def _model() -> Request:
    return _post("/v1/models", {"name": f"fresh-{next(_numbers)}"})


def _version() -> Request:
    model, label = _next_label()
    fields = {"model_params": {"C": 1.0}, "additional_metadata": {"stage": "prod"}}
    return _post("/register_model", {"model_name": model, "version": label, **fields})


def _push(files: _Files) -> Sequence[Request]:
    model, label = _next_label()
    versions = f"/v1/models/{model}/versions"
    return [_post(versions, {"version": label, "files": files}), _post(f"{versions}/{label}/commit", {})]


def _next_label() -> tuple[str, str]:
    """Return the next label. Models take turns, because registrations into one model wait for each other."""
    number = next(_numbers)
    return f"bench-{number % MODELS}", f"n{number}"


def _post(path: str, body: object) -> Request:
    return ("POST", path, json.dumps(body).encode())


def _stored_files(url: str, count: int) -> _Files:
    """Register a version by a form, and return its files."""
    content = {f"shards/{number:04}.bin": f"{count} {number}".encode() for number in range(count)}
    with httpx.Client(base_url=url, timeout=60) as client:
        client.post(
            "/register_model",
            data={"model_name": "stored", "version": f"of-{count}"},
            files=[("model_file", item) for item in content.items()],
        ).raise_for_status()
    return [
        {"path": path, "size_bytes": len(each), "sha256": f"sha256:{hashlib.sha256(each).hexdigest()}"}
        for path, each in content.items()
    ]


def _fill(url: str) -> None:
    """Create `MODELS` models with `VERSIONS` versions each, all with the same small file."""
    with httpx.Client(base_url=url, timeout=30) as client:
        for model in range(MODELS):
            for number in range(VERSIONS):
                metadata = json.dumps({"stage": ("dev", "test", "prod")[number % 3]})
                client.post(
                    "/register_model",
                    data={
                        "model_name": f"bench-{model}",
                        "version": f"v{number}",
                        "model_params": json.dumps({"C": 1.0, "max_iter": number}),
                        "additional_metadata": metadata,
                    },
                    files={"model_file": ("model.bin", b"weights")},
                ).raise_for_status()
            client.put(f"/v1/models/bench-{model}/aliases/champion", json={"version": "v7"}).raise_for_status()
