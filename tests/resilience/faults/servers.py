"""A PostgreSQL of the test's own, to be killed, frozen and starved; it is restarted whenever it ends."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from sqlalchemy import make_url

from model_registry.migrations import migrate
from model_registry_devstack import StackAddresses
from model_registry_devstack.ports import pick_ports
from model_registry_devstack.postgres import Postgres, binaries
from model_registry_devstack.supervisor import Supervisor
from tests.support.processes import descendants
from tests.support.proxy import Proxy


@dataclass(frozen=True)
class OwnPostgres:
    folder: Path
    url: str

    def beside(self, stack: StackAddresses) -> StackAddresses:
        """Return the addresses of our PostgreSQL with the store of `stack`."""
        return replace(stack, database_url=self.url)

    @property
    def pid(self) -> int:
        """The process id of the postmaster."""
        return int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Freeze all of its processes until the block ends."""
        pids = {self.pid} | descendants(self.pid)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)


@contextmanager
def own_postgres(folder: Path) -> Iterator[OwnPostgres]:
    """Run a migrated PostgreSQL with its data in `folder`."""
    with _supervised(folder) as postgres:
        migrate(postgres.url)
        yield postgres


@asynccontextmanager
async def standby(primary: OwnPostgres, link: Proxy, folder: Path) -> AsyncIterator[OwnPostgres]:
    """Run a copy of `primary` in `folder`, which follows it through `link` and answers reads."""
    source = make_url(primary.url).set(drivername="postgresql", host="127.0.0.1", port=link.port)
    copy = await asyncio.create_subprocess_exec(
        *(binaries() / "pg_basebackup", "--pgdata", folder / "postgres", "--write-recovery-conf"),
        *("--checkpoint=fast", "--no-sync", "--dbname", source.render_as_string(hide_password=False)),
    )
    assert await copy.wait() == 0
    # Starting and stopping wait for the link, which this thread serves.
    supervised = _supervised(folder)
    yield await asyncio.to_thread(supervised.__enter__)
    await asyncio.to_thread(supervised.__exit__, None, None, None)


@contextmanager
def _supervised(folder: Path) -> Iterator[OwnPostgres]:
    (folder / "logs").mkdir()
    marker = f"model-registry-test-{uuid4().hex}"
    server = Postgres(folder, marker, pick_ports().postgres, "secret", durable=False)
    supervisor = Supervisor(server)
    supervisor.start()
    try:
        supervisor.wait_until_ready()
        yield OwnPostgres(folder, server.url)
    finally:
        supervisor.request_stop()
        supervisor.join()
