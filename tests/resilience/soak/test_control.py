"""A soak catches a service that is wrong on purpose, so a soak without complaints means something."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import create_async_engine

from model_registry.migrations import migrate
from model_registry_devstack import StackAddresses
from tests.resilience.soak.mutants import MUTANTS, plan_of, prepare
from tests.resilience.soak.plan import Plan
from tests.resilience.soak.run import soak
from tests.support.bucket import Bucket
from tests.support.service import make_settings

pytestmark = pytest.mark.slow

_PLAN = Plan(seconds=90, seed=1)


@asynccontextmanager
async def own_servers(stack: StackAddresses) -> AsyncIterator[StackAddresses]:
    """A database and a bucket of their own, on the servers of this run."""
    name = f"soak-{uuid4().hex[:12]}"
    engine = create_async_engine(stack.database_url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        await connection.execute(text(f'CREATE DATABASE "{name}"'))
    url = make_url(stack.database_url).set(database=name).render_as_string(hide_password=False)
    addresses = replace(stack, database_url=url, s3_bucket=name)
    await asyncio.to_thread(migrate, url)
    async with Bucket.open(make_settings(addresses)) as bucket:
        await bucket.client.create_bucket(Bucket=name)
        yield addresses
        await bucket.empty()
        await bucket.client.delete_bucket(Bucket=name)
    async with engine.connect() as connection:
        await connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    await engine.dispose()


async def test_a_service_that_is_right_keeps_its_promises(stack: StackAddresses, tmp_path: Path) -> None:
    async with own_servers(stack) as servers:
        outcome = await soak(replace(_PLAN.in_peace(), operations=100, replicas=1), servers, tmp_path)

    assert outcome.complaints == [], str(outcome)
    assert outcome.verdict.acknowledged > 10


@pytest.mark.parametrize("mutant", MUTANTS)
async def test_a_mistake_of_the_service_is_caught(stack: StackAddresses, tmp_path: Path, mutant: str) -> None:
    # A soak searches at random, and a busy machine gives it few attempts: it gets three seeds to find the mistake.
    for seed in (1, 2, 3):
        folder = tmp_path / str(seed)
        folder.mkdir()
        async with own_servers(stack) as servers:
            await prepare(mutant, servers)
            outcome = await soak(plan_of(mutant, replace(_PLAN, seed=seed)), servers, folder)
        if {complaint.partition(":")[0] for complaint in outcome.complaints} & {"M1", "M3", "M4"}:
            return

    raise AssertionError(str(outcome))
