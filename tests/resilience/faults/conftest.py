"""The servers behind the service, reached past every fault, and the users in front of it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from model_registry.settings import Settings
from model_registry_devstack import StackAddresses
from tests.resilience.faults.measures import Backend, Users
from tests.resilience.faults.nursery import Nursery


@pytest.fixture(scope="session")
async def shared_backend(stack: StackAddresses, settings: Settings) -> AsyncIterator[Backend]:
    async with Backend.of(stack) as backend:
        yield backend


@pytest.fixture
def backend(shared_backend: Backend, fresh: None) -> Backend:
    """The servers of this run, emptied."""
    return shared_backend


@pytest.fixture
def users(tmp_path: Path) -> Users:
    folder = tmp_path / "ledgers"
    folder.mkdir()
    return Users(folder)


@pytest.fixture(scope="session")
async def nursery(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Nursery]:
    async with Nursery.open(tmp_path_factory.mktemp("nursery")) as nursery:
        yield nursery
