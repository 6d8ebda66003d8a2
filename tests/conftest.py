"""One real PostgreSQL and one real S3 server for the whole run, one service in front of them, fresh for each test."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, cast

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from model_registry.api import create_app
from model_registry.db_models import Base
from model_registry.maintenance.collector import Collected, Collector
from model_registry.migrations import migrate
from model_registry.object_store.s3 import S3BlobStore
from model_registry.server.http11 import BoundedHttp
from model_registry.settings import PREFIX, Settings
from model_registry.wiring import Services, blob_store
from model_registry_devstack import EmbeddedStack, StackAddresses
from tests.support.bucket import Bucket

# What a developer has set for the service must not reach the tests.
_ENVIRONMENT = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=["embedded", "containers", "environment"],
        default="embedded",
        help="PostgreSQL and S3: our own servers, containers by Docker, or what MODEL_REGISTRY_… names.",
    )


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackAddresses]:
    """Where the servers of this run are."""
    match request.config.getoption("--stack"):
        case "embedded":
            embedded = EmbeddedStack(tmp_path_factory.mktemp("stack"), durable=False)
            try:
                yield embedded.start()
            finally:
                embedded.stop()
        case "containers":
            from tests.support.containers import container_stack

            with container_stack() as addresses:
                yield addresses
        case _:
            yield StackAddresses(
                database_url=_ENVIRONMENT[f"{PREFIX}DATABASE_URL"],
                s3_endpoint_url=_ENVIRONMENT[f"{PREFIX}S3_ENDPOINT_URL"],
                s3_bucket=_ENVIRONMENT.get(f"{PREFIX}S3_BUCKET", "models"),
                s3_region=_ENVIRONMENT.get(f"{PREFIX}S3_REGION", "us-east-1"),
                s3_access_key_id=_ENVIRONMENT[f"{PREFIX}S3_ACCESS_KEY_ID"],
                s3_secret_access_key=_ENVIRONMENT[f"{PREFIX}S3_SECRET_ACCESS_KEY"],
            )


@pytest.fixture(scope="session")
def settings(stack: StackAddresses) -> Settings:
    """Settings of the service under test: the collector waits for nobody, and runs when a test says so."""
    settings = make_settings(stack)
    migrate(settings.database_url.get_secret_value())
    return settings


def make_settings(stack: StackAddresses, **changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": stack.database_url,
        "s3_endpoint_url": stack.s3_endpoint_url,
        "s3_bucket": stack.s3_bucket,
        "s3_region": stack.s3_region,
        "s3_access_key_id": stack.s3_access_key_id,
        "s3_secret_access_key": stack.s3_secret_access_key,
        "gc_interval_seconds": 3600,
        "gc_grace_seconds": 0,
        # Machines that run tests are busy; how soon the service gives up is for the tests that say so.
        "database_pool_timeout_seconds": 10,
    }
    return Settings(_env_file=None, **(values | changes))


@dataclass(frozen=True)
class RunningService:
    """The service, in this process and on a real socket."""

    app: FastAPI
    url: str

    @property
    def services(self) -> Services:
        return cast(Services, self.app.state.services)

    @property
    def address(self) -> tuple[str, int]:
        parsed = httpx.URL(self.url)
        assert parsed.port is not None
        return parsed.host, parsed.port


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[RunningService]:
    """Serve until the block ends; connections that are still open then are cut."""
    app = create_app(settings)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        app, http=BoundedHttp, ws="none", log_config=None, access_log=False, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    server.capture_signals = _without_signals  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        if serving.done():
            serving.result()
            raise AssertionError("the service did not start")
        await asyncio.sleep(0.01)
    try:
        yield RunningService(app, f"http://127.0.0.1:{listener.getsockname()[1]}")
    finally:
        server.should_exit = True
        await serving
        listener.close()


@contextmanager
def _without_signals() -> Iterator[None]:
    yield


@pytest.fixture(scope="session")
async def service(settings: Settings) -> AsyncIterator[RunningService]:
    """The service under test."""
    async with running(settings) as service:
        yield service


ServiceWith = Callable[..., Awaitable[RunningService]]


@pytest.fixture
async def service_with(stack: StackAddresses, fresh: None) -> AsyncIterator[ServiceWith]:
    """Starts another service over the same servers, with some settings changed: `await service_with(name=value)`."""
    async with AsyncExitStack() as cleanup:

        async def start(**changes: Any) -> RunningService:
            return await cleanup.enter_async_context(running(make_settings(stack, **changes)))

        yield start


@pytest.fixture
async def client(service: RunningService, fresh: None) -> AsyncIterator[httpx.AsyncClient]:
    """A REST client of the service, whose registry is empty."""
    async with httpx.AsyncClient(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(settings.database_url.get_secret_value())
    yield engine
    await engine.dispose()


@pytest.fixture
async def database_session(engine: AsyncEngine) -> AsyncIterator[AsyncSession]:
    """A session of the test's own on the service's database."""
    async with AsyncSession(engine) as session:
        yield session


@pytest.fixture
async def fresh(engine: AsyncEngine, bucket: Bucket) -> None:
    """An empty registry: no rows, no objects."""
    await empty(engine, [table.name for table in Base.metadata.sorted_tables if table.name != "schema_floor"])
    await bucket.empty()


async def empty(engine: AsyncEngine, tables: Sequence[str]) -> None:
    for _ in range(5):
        # A collector, or what gives up a registration, may just hold rows; then one of the two waits in vain.
        with contextlib.suppress(DBAPIError):
            async with engine.begin() as connection:
                await connection.execute(text(f"TRUNCATE {', '.join(tables)}"))
            return
    raise AssertionError("the tables could not be emptied")


@pytest.fixture(scope="session")
async def blobs(settings: Settings) -> AsyncIterator[S3BlobStore]:
    async with blob_store(settings) as blobs:
        yield blobs


@pytest.fixture(scope="session")
async def bucket(settings: Settings) -> AsyncIterator[Bucket]:
    """What is really in the bucket, seen without the service's code."""
    async with Bucket.open(settings) as bucket:
        yield bucket


Collect = Callable[[], Awaitable[Collected]]


@pytest.fixture
def collect(service: RunningService) -> Collect:
    """One run of the collector, with no grace."""
    collector: Collector = service.services.collector
    return collector.collect


@pytest.fixture
def sample_model_info() -> dict[str, Any]:
    """What somebody would register."""
    return {
        "model_name": "iris-classifier",
        "version": "1.0.0",
        "standardization_params": {"mean": [5.84, 3.06, 3.76, 1.2], "scale": [0.83, 0.43, 1.76, 0.76]},
        "model_params": {"C": 1.0, "penalty": "l2", "max_iter": 200},
        "additional_metadata": {"framework": "scikit-learn", "metrics": {"accuracy": 0.97}},
    }
