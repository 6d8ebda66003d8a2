"""One real PostgreSQL and one real S3 server for the whole run, and one service. Each test starts empty."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from model_registry.db_models import Base
from model_registry.maintenance.collector import Collector
from model_registry.migrations import migrate
from model_registry.object_store.s3 import S3BlobStore
from model_registry.settings import PREFIX, Settings
from model_registry.wiring import blob_store
from model_registry_devstack import EmbeddedStack, StackAddresses
from tests.support.bucket import Bucket
from tests.support.service import Collect, RunningService, ServiceWith, empty, make_settings, running

# The developer's own settings of the service must not reach the tests.
_ENVIRONMENT = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(PREFIX)}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--stack",
        choices=["embedded", "containers", "environment"],
        default="embedded",
        help="PostgreSQL and S3: our own servers, containers by Docker, or what MODEL_REGISTRY_… names.",
    )


@pytest.fixture(autouse=True)
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Load no certificates: the test servers speak plain HTTP, and httpx needs 20 ms to load the system's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.getbasetemp()))
        yield


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StackAddresses]:
    """The addresses of the servers of this run."""
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
    """Settings of the service under test: the collector has no grace time, and runs only when a test starts it."""
    settings = make_settings(stack)
    migrate(settings.database_url.get_secret_value())
    return settings


@pytest.fixture(scope="session")
async def service(settings: Settings) -> AsyncIterator[RunningService]:
    """The service under test."""
    async with running(settings) as service:
        yield service


@pytest.fixture
async def service_with(stack: StackAddresses, fresh: None) -> AsyncIterator[ServiceWith]:
    """Start another service on the same servers with some settings changed: `await service_with(name=value)`."""
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
    """A database session of the test's own."""
    async with AsyncSession(engine) as session:
        yield session


@pytest.fixture
async def fresh(engine: AsyncEngine, bucket: Bucket) -> None:
    """An empty registry: no rows, no objects."""
    await empty(engine, [table for table in Base.metadata.sorted_tables if table.name != "schema_floor"])
    await bucket.empty()


@pytest.fixture(scope="session")
async def blobs(settings: Settings) -> AsyncIterator[S3BlobStore]:
    async with blob_store(settings) as blobs:
        yield blobs


@pytest.fixture(scope="session")
async def bucket(settings: Settings) -> AsyncIterator[Bucket]:
    """The real content of the bucket, read without the service's code."""
    async with Bucket.open(settings) as bucket:
        yield bucket


@pytest.fixture
def collect(service: RunningService) -> Collect:
    """One run of the collector, with no grace time."""
    collector: Collector = service.services.collector
    return collector.collect


@pytest.fixture
def sample_model_info() -> dict[str, Any]:
    """The fields of a typical registration."""
    return {
        "model_name": "iris-classifier",
        "version": "1.0.0",
        "standardization_params": {"mean": [5.84, 3.06, 3.76, 1.2], "scale": [0.83, 0.43, 1.76, 0.76]},
        "model_params": {"C": 1.0, "penalty": "l2", "max_iter": 200},
        "additional_metadata": {"framework": "scikit-learn", "metrics": {"accuracy": 0.97}},
    }
