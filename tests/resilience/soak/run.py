"""One soak: replicas, clients and a monkey for a while, then silence, and everything is compared."""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from model_registry_devstack import StackAddresses
from tests.resilience.soak.clients import Client, Follower, World
from tests.resilience.soak.monkey import Monkey
from tests.resilience.soak.plan import Plan
from tests.resilience.soak.replicas import Replica
from tests.resilience.soak.tally import Tally
from tests.support.bucket import Bucket
from tests.support.checker import Verdict, check
from tests.support.checkout import ROOT
from tests.support.ledger import Ledger, read_ledgers
from tests.support.processes import environment
from tests.support.service import make_settings

_SETTLE_SECONDS = 90
_LEAST_PER_SECOND = 0.2


@dataclass(frozen=True)
class Outcome:
    plan: Plan
    tally: Tally
    verdict: Verdict

    @property
    def complaints(self) -> list[str]:
        return self.tally.complaints + self.verdict.complaints

    def __str__(self) -> str:
        lines = [self.tally.table(), str(self.verdict)]
        if self.tally.complaints:
            lines += ["The running service:", self.tally.samples()]
        lines.append(
            f"{len(self.complaints)} broken promises in {self.plan.seconds / 60:.1f} minutes, seed {self.plan.seed}"
        )
        return "\n".join(lines)


def _settings(plan: Plan) -> dict[str, str]:
    return {
        "UPLOAD_LEASE_SECONDS": str(plan.lease_seconds),
        "GC_INTERVAL_SECONDS": "0.2",
        "GC_GRACE_SECONDS": str(plan.grace_seconds),
        "PURGE_AFTER_SECONDS": "4",
        "MULTIPART_THRESHOLD_BYTES": str(5 * 1024**2),
        "MULTIPART_PART_BYTES": str(5 * 1024**2),
        "COMMIT_WAIT_SECONDS": "1",
        "PRESIGN_EXPIRY_SECONDS": "30",
        "S3_CONNECT_TIMEOUT_SECONDS": "1",
        "S3_READ_TIMEOUT_SECONDS": "5",
        "S3_OPERATION_TIMEOUT_SECONDS": "10",
        "SHUTDOWN_GRACE_SECONDS": "3",
        "LOG_FORMAT": "json",
    }


async def soak(plan: Plan, addresses: StackAddresses, directory: Path) -> Outcome:
    """Run the plan on servers whose database and bucket are empty; leaves logs and ledgers in `directory`."""
    tally = Tally()
    env = environment(addresses, **_settings(plan))
    env["PYTHONPATH"] += f":{ROOT}"
    replicas = [
        Replica(f"replica-{number}", environment=env, directory=directory, tally=tally, mutant=plan.mutant)
        for number in range(plan.replicas)
    ]
    world, silence = World(), asyncio.Event()
    follower = Follower([replica.url for replica in replicas], tally, random.Random(plan.seed))
    engine = create_async_engine(make_url(addresses.database_url), pool_pre_ping=True)
    following = asyncio.create_task(follower.run(silence))
    try:
        for replica in replicas:
            await replica.start()
        await asyncio.gather(*(replica.ready() for replica in replicas))
        tally.memory.append("at the start: " + "; ".join(replica.measure() for replica in replicas))
        await _storm(plan, replicas, world, tally, directory)
        await _calm(plan, replicas, engine, tally)
        silence.set()
        try:
            await asyncio.wait_for(following, 30)
        except TimeoutError:
            tally.complain("M9", "the events cannot be followed to their end")
        await asyncio.gather(*(replica.stop() for replica in replicas))
        async with Bucket.open(make_settings(addresses)) as bucket:
            attempts = read_ledgers([directory / _ledger(number) for number in range(plan.clients)])
            verdict = await check(attempts, engine, bucket, followed=[follower.seen], is_settled=True)
        await _missing(world, engine, tally)
        if plan.operations is None and verdict.acknowledged < plan.seconds * _LEAST_PER_SECOND:
            tally.complain("M1", f"{verdict.acknowledged} versions in {plan.seconds:.0f} s are too few to say anything")
    finally:
        following.cancel()
        for replica in replicas:
            await replica.kill()
        await engine.dispose()
    for replica in replicas:
        for line in replica.bugs_logged():
            tally.complain("M7", f"{replica.log.name}: {line[:1500]}")
    return Outcome(plan, tally, verdict)


def _ledger(number: int) -> str:
    return f"client-{number}.ledger"


async def _storm(plan: Plan, replicas: Sequence[Replica], world: World, tally: Tally, directory: Path) -> None:
    """Run clients and monkey together, for the time of the plan."""
    over = asyncio.Event()
    urls = [replica.url for replica in replicas]
    monkey = Monkey(
        replicas,
        tally,
        random.Random(plan.seed),
        lease_seconds=plan.lease_seconds,
        pause_seconds=plan.pause_seconds,
        weights=plan.blows,
        faults=plan.faults,
    )
    with contextlib.ExitStack() as ledgers:
        clients = [
            Client(
                number,
                urls=urls,
                world=world,
                ledger=ledgers.enter_context(Ledger(directory / _ledger(number))),
                tally=tally,
                chance=random.Random(f"{plan.seed} {number}"),
                weights=plan.weights,
            )
            for number in range(plan.clients)
        ]
        busy = [asyncio.create_task(client.run(over)) for client in clients]
        keeping = [asyncio.create_task(monkey.keep_up(replica)) for replica in replicas]
        raging = [asyncio.create_task(monkey.rage())] if plan.blows else []
        # A client that fails is a mistake of the soak itself, and ends it.
        waiting = asyncio.create_task(_until(plan, clients))
        await asyncio.wait([waiting, *busy, *keeping, *raging], return_when=asyncio.FIRST_COMPLETED)
        over.set()
        try:
            await asyncio.wait_for(_cancelled(raging), 10)
            await asyncio.wait_for(asyncio.gather(*busy), 120)
            up = [replica.measure() for replica in replicas if replica.is_up]
            tally.memory.append("after the storm: " + "; ".join(up))
        finally:
            await _cancelled([waiting, *keeping, *busy])


async def _until(plan: Plan, clients: Sequence[Client]) -> None:
    deadline = time.monotonic() + plan.seconds
    while time.monotonic() < deadline:
        if plan.operations is not None and sum(client.done for client in clients) >= plan.operations:
            return
        await asyncio.sleep(0.05)


async def _cancelled(tasks: Sequence["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(result, Exception):
            raise result


async def _calm(plan: Plan, replicas: Sequence[Replica], engine: AsyncEngine, tally: Tally) -> None:
    """End the faults, renew the replicas, expire the leases, and wait until collectors have nothing left to do."""
    if plan.blows or plan.faults or tally.crash_points_hit:
        await asyncio.gather(*(replica.stop() for replica in replicas))
        for replica in replicas:
            await replica.start()
        await asyncio.gather(*(replica.ready() for replica in replicas))
    deadline = time.monotonic() + _SETTLE_SECONDS
    await _until_nothing_is_left(engine, _UNFINISHED, deadline, tally)
    # Claims of dead collectors last for minutes, and presigned URLs for an hour: make everything due now, except for
    # what a living collector holds.
    unheld = "SELECT storage_key FROM garbage FOR UPDATE SKIP LOCKED"
    async with engine.begin() as connection:
        await connection.execute(text(f"UPDATE garbage SET not_before = now() WHERE storage_key IN ({unheld})"))
    await _until_nothing_is_left(engine, _GARBAGE, deadline, tally)


_UNFINISHED = {
    "unfinished versions": "SELECT count(*) FROM model_info WHERE lease_expires_at IS NOT NULL",
    "uploads": "SELECT count(*) FROM uploads",
    "versions to purge": "SELECT count(*) FROM model_info "
    "WHERE purge_after < now() + interval '10 seconds' AND purged_at IS NULL",
}
_GARBAGE = {"garbage": "SELECT count(*) FROM garbage WHERE not_before <= now() OR writable_until IS NULL"}


async def _until_nothing_is_left(engine: AsyncEngine, counts: Mapping[str, str], deadline: float, tally: Tally) -> None:
    while True:
        async with engine.connect() as connection:
            found = {name: await connection.scalar(text(count)) for name, count in counts.items()}
        left = {name: count for name, count in found.items() if count}
        if not left:
            return
        if time.monotonic() > deadline:
            tally.complain("M5", f"collectors do not come to an end: {left}")
            return
        await asyncio.sleep(0.1)


async def _missing(world: World, engine: AsyncEngine, tally: Tally) -> None:
    """M7: check in the logs that only versions that were being purged had missing objects.

    With no grace time, the object of such a version may be gone a moment after it was looked up (docs/operations.md,
    "Troubleshooting").
    """
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT model_name, version FROM model_info WHERE purged_at IS NOT NULL"))
        purged = {(name, version) for name, version in rows}
    for label, url in world.missing:
        if label not in purged:
            tally.complain("M7", f"{url} was a 500, and {label} was never purged")
