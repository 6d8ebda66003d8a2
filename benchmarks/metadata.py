"""Requests for metadata, against a bare FastAPI endpoint under the same load."""

import json
from collections.abc import Callable
from urllib.parse import urlencode

import httpx

from benchmarks.harness import OURS, Report
from benchmarks.load import Request, load
from benchmarks.processes import Server, bare, registry
from model_registry.embedded import StackAddresses

MODELS, VERSIONS = 20, 100
_STATIC: Request = ("GET", "/", b"")


def run(report: Report, stack: StackAddresses) -> None:
    with registry(stack) as ours, bare() as static:
        _fill(ours.url)
        search = urlencode({"filter": "additional_metadata.stage = 'prod'", "limit": 50})
        requests: dict[str, tuple[Request | Callable[[int], Request], float | None]] = {
            "one version by name and label": (("GET", "/get_model_info/bench-3/v50", b""), 0.33),
            "the latest version of a model": (("GET", "/get_latest_model_info/bench-3", b""), None),
            "a version by alias": (("GET", "/v1/models/bench-3/versions/@champion", b""), None),
            "a page of 50 versions": (("GET", "/v1/models/bench-3/versions?limit=50", b""), 0.2),
            "a search by metadata, 50 results": (("GET", f"/v1/versions?{search}", b""), None),
            "register a model": (lambda number: _model(ours, number), None),
            "health": (("GET", "/healthz", b""), None),
        }
        for what, (request, target) in requests.items():
            _compare(report, what, ours, static, request, target)
        report.fact("service after the metadata", f"{ours.resident_mib():.0f} MiB, {ours.open_files()} files")


def _compare(
    report: Report,
    what: str,
    ours: Server,
    static: Server,
    request: Request | Callable[[int], Request],
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


_names = iter(range(10**9))


def _model(server: Server, _number: int) -> Request:
    return ("POST", "/v1/models", json.dumps({"name": f"fresh-{server.port}-{next(_names)}"}).encode())


def _fill(url: str) -> None:
    """`MODELS` models with `VERSIONS` versions each, all of the same small file."""
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
