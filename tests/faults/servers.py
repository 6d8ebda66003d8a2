"""A PostgreSQL of a test's own, to be killed, frozen and starved; it is started again whenever it ends."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

from model_registry.embedded import StackAddresses
from model_registry.embedded.ports import pick_ports
from model_registry.embedded.postgres import Postgres
from model_registry.embedded.supervisor import Supervisor
from model_registry.migrations import migrate
from tests.processes import descendants


@dataclass(frozen=True)
class OwnPostgres:
    folder: Path
    url: str

    def beside(self, stack: StackAddresses) -> StackAddresses:
        """Our PostgreSQL with the store of `stack`."""
        return replace(stack, database_url=self.url)

    @property
    def pid(self) -> int:
        """The postmaster."""
        return int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            os.kill(self.pid, signal.SIGKILL)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """None of its processes runs in this block."""
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
    """Migrated, and with its data in `folder`."""
    (folder / "logs").mkdir()
    marker = f"model-registry-test-{uuid4().hex}"
    server = Postgres(folder, marker, pick_ports().postgres, "secret", durable=False)
    supervisor = Supervisor(server)
    supervisor.start()
    try:
        supervisor.wait_until_ready()
        migrate(server.url)
        yield OwnPostgres(folder, server.url)
    finally:
        supervisor.request_stop()
        supervisor.join()
