"""Checks around every security test: no 5xx, no traceback, one log line for each request, nothing left behind."""

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.contents import Registry
from tests.support.processes import COMMAND, environment, free_port, until_ready
from tests.support.proxy import Proxy
from tests.support.rawhttp import RawAnswer, send
from tests.support.service import Collect, RunningService

# Handlers on these loggers stay when a service configures logging again. A filter hears what the others log.
_OURS = "model_registry"
_SERVERS = ("uvicorn.error", "asyncio")


class Journal(logging.Handler):
    """The log of the services in this process: our events, and all records with a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.requests: list[dict[str, Any]] = []
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        event = record.msg if isinstance(record.msg, dict) else {"event": record.getMessage()}
        if event.get("event") == "request":
            self.requests.append(event)
        if record.exc_info or event.get("exc_info") or "Traceback" in str(event.get("event")):
            self.tracebacks.append(f"{record.name}: {event}")

    def overhear(self, record: logging.LogRecord) -> bool:
        self.emit(record)
        return True


@contextmanager
def _listening() -> Iterator[Journal]:
    journal = Journal()
    logging.getLogger(_OURS).addHandler(journal)
    for name in _SERVERS:
        logging.getLogger(name).addFilter(journal.overhear)
    try:
        yield journal
    finally:
        logging.getLogger(_OURS).removeHandler(journal)
        for name in _SERVERS:
            logging.getLogger(name).removeFilter(journal.overhear)


class Watch:
    """Sends attacks, remembers the responses, and reports at the end which rules they broke.

    The state at the end must equal the state when `arranged()` was last called.
    """

    def __init__(self, journal: Journal, service: RunningService, registry: Registry) -> None:
        self._journal = journal
        self._service = service
        self._registry = registry
        self._before: dict[str, Any] = {}
        self._request_ids: Counter[str] = Counter()
        self.expected_failures: frozenset[int] = frozenset()
        """Statuses of 500 and above that a test causes: 503 if it takes a server away."""

    async def arranged(self) -> None:
        """Mark the end of the preparation: from here on, nothing may change."""
        self._before = await self._registry.content()

    async def raw(self, message: bytes, *, at: RunningService | None = None, **more: Any) -> RawAnswer | None:
        """Send a message exactly as given, and return the response."""
        answer = await send((at or self._service).address, message, **more)
        if answer is not None:
            self.saw(answer)
        return answer

    async def on_response(self, response: httpx.Response) -> None:
        """Record a response; a hook for clients."""
        if response.url.port == self._service.address[1]:
            self.saw(response)

    def saw(self, answer: httpx.Response | RawAnswer) -> None:
        assert answer.status_code < 500 or answer.status_code in self.expected_failures, answer.status_code
        if request_id := answer.headers.get("x-request-id"):
            self._request_ids[request_id] += 1

    async def conclude(self) -> None:
        # The service writes the line after the response has ended, a moment after the client has read it.
        for _ in range(200):
            if self._lines() == self._request_ids:
                break
            await asyncio.sleep(0.01)
        assert self._lines() == self._request_ids, "one log line for each request"
        statuses = {event["status"] for event in self._journal.requests if event["status"] >= 500}
        assert statuses <= self.expected_failures
        assert self._journal.tracebacks == []
        await self._registry.assert_unchanged(self._before)

    def _lines(self) -> Counter[str]:
        ids = Counter(event["request_id"] for event in self._journal.requests)
        return Counter({request_id: ids[request_id] for request_id in self._request_ids})


@pytest.fixture(autouse=True)
def _watched(request: pytest.FixtureRequest) -> None:
    """Watch every test that sends a request."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("watch")


@pytest.fixture
async def watch(
    service: RunningService, engine: AsyncEngine, bucket: Bucket, collect: Collect, fresh: None
) -> AsyncIterator[Watch]:
    with _listening() as journal:
        watch = Watch(journal, service, Registry(engine, bucket, collect))
        await watch.arranged()
        yield watch
        await watch.conclude()


@pytest.fixture(scope="session")
async def one_client(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture
def client(one_client: httpx.AsyncClient, watch: Watch) -> Iterator[httpx.AsyncClient]:
    """A client whose responses are watched. It is shared, because creating one takes longer than most tests."""
    one_client.event_hooks = {"response": [watch.on_response]}
    yield one_client
    one_client.event_hooks = {}


@dataclass(frozen=True)
class Outside:
    """The service as a separate process between proxies, with its whole log in a file."""

    process: asyncio.subprocess.Process
    url: str
    log: Path
    temporary: Path
    database: Proxy
    storage: Proxy

    @property
    def address(self) -> tuple[str, int]:
        port = httpx.URL(self.url).port
        assert port is not None
        return "127.0.0.1", port

    def open_files(self) -> list[str]:
        folder = Path(f"/proc/{self.process.pid}/fd")
        return [str(entry.readlink()) for entry in folder.iterdir() if entry.exists()]


@pytest.fixture(scope="session")
async def outside(
    stack: StackAddresses, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Outside]:
    """The shared service between proxies; a test that makes its servers misbehave makes them behave again."""
    folder = tmp_path_factory.mktemp("outside")
    temporary = folder / "temporary"
    temporary.mkdir()
    database_url, storage_url = make_url(stack.database_url), httpx.URL(stack.s3_endpoint_url)
    async with (
        Proxy.to(database_url.host or "127.0.0.1", database_url.port or 5432) as database,
        Proxy.to(storage_url.host, storage_url.port or 80) as storage,
    ):
        changes = {
            "DATABASE_URL": database_url.set(host="127.0.0.1", port=database.port).render_as_string(False),
            "S3_ENDPOINT_URL": f"http://127.0.0.1:{storage.port}",
            "S3_PUBLIC_ENDPOINT_URL": stack.s3_endpoint_url,
            "DATABASE_CONNECT_TIMEOUT_SECONDS": "1",
            "S3_OPERATION_TIMEOUT_SECONDS": "3",
            "LOG_LEVEL": "DEBUG",
            "LOG_FORMAT": "json",
        }
        env = environment(stack, **changes) | {"TMPDIR": str(temporary)}
        port = free_port()
        with (folder / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *COMMAND, "serve", "--port", str(port), env=env, cwd=folder, stdout=log, stderr=log
            )
        try:
            await until_ready(url := f"http://127.0.0.1:{port}")
            yield Outside(process, url, folder / "log", temporary, database, storage)
        finally:
            process.kill()
            await process.wait()
