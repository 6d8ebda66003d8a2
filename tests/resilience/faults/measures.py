"""The base of every test in this suite.

Clients that write down what happened, services as processes, and the measures M1 to M9 that hold after every fault.
"""

import asyncio
import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from model_registry.runtime.failpoints import VARIABLE
from model_registry.wiring import open_services
from model_registry_devstack import StackAddresses
from tests.support.bucket import Bucket
from tests.support.checker import check
from tests.support.ledger import Ledger, read_ledgers
from tests.support.processes import environment, line_with, resident_bytes, started
from tests.support.proxy import Proxy
from tests.support.service import make_settings

MIB = 1024**2
RECOVERY_SECONDS = 40
LIMITS = {
    "database_pool_timeout_seconds": 2,
    "database_statement_timeout_seconds": 5,
    "database_lock_timeout_seconds": 2,
}
"""How long a service waits for a lost database. The services of other tests wait longer."""
LATE_SECONDS = 20
"""A response that a fault delays this long is late.

Without a time limit it would never come, or after a minute. With the limits that the tests set, it comes after one to
three seconds, and on a busy machine some seconds later.
"""

Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Backend:
    """PostgreSQL and the bucket, reached past every proxy; and a collector of our own, without a grace time."""

    stack: StackAddresses
    engine: AsyncEngine
    bucket: Bucket
    collect: Callable[[], Coroutine[Any, Any, Any]]

    @classmethod
    @asynccontextmanager
    async def of(cls, stack: StackAddresses) -> AsyncIterator["Backend"]:
        settings = make_settings(stack)
        engine = create_async_engine(settings.database_url.get_secret_value(), pool_pre_ping=True)
        try:
            async with open_services(settings) as services, Bucket.open(settings) as bucket:
                yield cls(stack, engine, bucket, services.collector.collect)
        finally:
            await engine.dispose()

    async def execute(self, statement: str, **values: Any) -> Sequence[Any]:
        """Execute one statement, commit, and return the rows."""
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return result.all() if result.returns_rows else []

    async def expire(self) -> None:
        """Expire every lease, and make all garbage due."""
        for table in ("model_info", "uploads"):
            await self.execute(
                f"UPDATE {table} SET lease_expires_at = now() - interval '1 second' WHERE lease_expires_at IS NOT NULL"
            )
        await self.execute("UPDATE garbage SET not_before = now() - interval '1 second', writable_until = NULL")

    async def settle(self) -> None:
        """Do what time would do: leases expire, and the collector reclaims what they held."""
        await self.expire()
        await self.collect()
        await self.expire()  # what it found is garbage now, which may wait for late writes
        await self.collect()


class Users:
    """The clients of one test: their ledgers, and every response that they got."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)
        self.answers: list[httpx.Response] = []

    @asynccontextmanager
    async def client(self, url: str, *, timeout_seconds: float = 30) -> AsyncIterator["Client"]:
        """Open one more client of the service at `url`."""
        async with httpx.AsyncClient(base_url=url, timeout=timeout_seconds) as http:
            with Ledger(self._folder / f"{next(self._numbers)}.ledger") as ledger:
                yield Client(http, ledger, self.answers)

    @property
    def ledgers(self) -> list[Path]:
        return sorted(self._folder.glob("*.ledger"))

    def check_answers(self) -> None:
        """M7: the only 5xx is a 503 that says when to retry."""
        for answer in self.answers:
            if answer.status_code >= 500:
                said = f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text[:500]}"
                assert answer.status_code == 503, said
                assert int(answer.headers["retry-after"]) >= 1, said

    def slowest_seconds(self) -> float:
        return max(answer.elapsed.total_seconds() for answer in self.answers)

    def statuses(self) -> list[int]:
        return [answer.status_code for answer in self.answers]


class Client:
    """Does what a user does.

    If no response comes, its methods raise `httpx.TransportError`, and the ledger has only the attempt.
    """

    def __init__(self, http: httpx.AsyncClient, ledger: Ledger, answers: list[httpx.Response]) -> None:
        self.http = http
        self._ledger = ledger
        self._answers = answers

    async def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        answer = await self.http.request(method, path, **more)
        self._answers.append(answer)
        return answer

    def intend(self, operation: str, model: str, version: str, files: Files) -> None:
        """Record an attempt that is made in another way, and whose response is ignored."""
        self._ledger.attempt(operation, model, version, files=_hashes(files))

    async def register(
        self, model: str, version: str, files: Files | None = None, *, key: str | None = None
    ) -> httpx.Response:
        """Register by form, with one file by default; `key` is the Idempotency-Key."""
        files = files or {"model.bin": f"{model} {version}".encode()}
        attempt = self._ledger.attempt("register", model, version, files=_hashes(files))
        answer = await self.ask(
            "POST",
            "/register_model",
            data={"model_name": model, "version": version},
            files=[("model_file", (path, content)) for path, content in files.items()],
            headers={"Idempotency-Key": key} if key else {},
        )
        return self._acknowledged(attempt, answer)

    async def push(
        self, model: str, version: str, files: Files | None = None, *, transfer: str = "direct"
    ) -> httpx.Response:
        """Reserve, send and commit; returns the first response that is not a success, or that of the commit."""
        files = files or {"model.bin": f"{model} {version}".encode()}
        attempt = self._ledger.attempt("push", model, version, files=_hashes(files))
        answer = await self.reserve(model, version, files, transfer=transfer)
        if answer.status_code < 300:
            sent = await self.send(answer.json()["uploads"], files)
            answer = sent or await self.commit(model, version)
        return self._acknowledged(attempt, answer)

    async def reserve(self, model: str, version: str, files: Files, *, transfer: str = "direct") -> httpx.Response:
        entries = [
            {"path": path, "size_bytes": len(content), "sha256": f"sha256:{_sha256(content)}"}
            for path, content in files.items()
        ]
        body = {"version": version, "files": entries, "transfer": transfer}
        return await self.ask("POST", f"/v1/models/{model}/versions", json=body)

    async def send(self, uploads: Sequence[Mapping[str, Any]], files: Files) -> httpx.Response | None:
        """Do what `uploads` ask for; returns the first response that is not a success, if there is one."""
        for upload in uploads:
            content = files[upload["path"]]
            match upload.get("method"):
                case "put" | "proxy":
                    sent = await self._sent(upload["url"], content, upload["headers"])
                case "multipart":
                    sent = await self._send_parts(upload, content)
                case _:
                    continue
            if sent is not None:
                return sent
        return None

    async def _send_parts(self, upload: Mapping[str, Any], content: bytes) -> httpx.Response | None:
        size = upload["part_size"]
        numbers = list(range(1, -(-len(content) // size) + 1))
        signed = await self.ask("POST", f"/v1/uploads/{upload['upload_id']}/parts", json={"part_numbers": numbers})
        if signed.status_code >= 300:
            return signed
        for part in signed.json()["parts"]:
            start = (part["part_number"] - 1) * size
            if (failed := await self._sent(part["url"], content[start : start + size], part["headers"])) is not None:
                return failed
        return None

    async def _sent(self, url: str, content: bytes, headers: Mapping[str, str]) -> httpx.Response | None:
        answer = await self.http.put(url, content=content, headers=dict(headers))
        if answer.url.host == self.http.base_url.host and answer.url.port == self.http.base_url.port:
            self._answers.append(answer)
        # The store responds with 412 if the object exists already.
        return None if answer.status_code in {200, 201, 412} else answer

    async def commit(self, model: str, version: str) -> httpx.Response:
        return await self.ask("POST", f"/v1/models/{model}/versions/{version}/commit", json={})

    async def remove(self, model: str, version: str, *, purge: bool = False) -> httpx.Response:
        attempt = self._ledger.attempt("purge" if purge else "remove", model, version)
        params = {"purge": "true"} if purge else {}
        return self._acknowledged(
            attempt, await self.ask("DELETE", f"/v1/models/{model}/versions/{version}", params=params)
        )

    async def restore(self, model: str, version: str) -> httpx.Response:
        attempt = self._ledger.attempt("restore", model, version)
        return self._acknowledged(attempt, await self.ask("POST", f"/v1/models/{model}/versions/{version}/restore"))

    async def move(self, model: str, alias: str, version: str, **headers: str) -> httpx.Response:
        path = f"/v1/models/{model}/aliases/{alias}"
        return await self.ask("PUT", path, json={"version": version}, headers=headers)

    def _acknowledged(self, attempt: int, answer: httpx.Response) -> httpx.Response:
        facts = {}
        # A 202 promises nothing yet.
        if answer.status_code in {200, 201} and "digest" in (body := answer.json()):
            facts = {name: body[name] for name in ("digest", "version", "id")}
        if answer.status_code != 202:
            self._ledger.ack(attempt, answer.status_code, **facts)
        return answer


def _hashes(files: Files) -> dict[str, str]:
    return {path: _sha256(content) for path, content in files.items()}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def standing(users: Users, backend: Backend, url: str, *, within_seconds: float = RECOVERY_SECONDS) -> None:
    """Check the measures after the fault is lifted, and that everything stored belongs to a version.

    M6 at `url` first, then M1 to M5, M9 and M7.
    """
    await until_written(users, url, within_seconds=within_seconds)
    await backend.settle()
    verdict = await check(read_ledgers(users.ledgers), backend.engine, backend.bucket)
    assert not verdict.complaints, verdict
    kept = {key for (key,) in await backend.execute("SELECT storage_key FROM blobs")}
    assert await backend.bucket.keys() == kept
    assert await backend.bucket.unfinished() == []
    assert (
        await backend.execute("SELECT model_name, version FROM model_info WHERE state IN ('pending', 'verifying')")
        == []
    )
    users.check_answers()


async def until_written(users: Users, url: str, *, within_seconds: float = RECOVERY_SECONDS) -> None:
    """M6: wait until a registration succeeds, soon and without a restart."""
    begun = time.monotonic()
    async with users.client(url) as client:
        for number in itertools.count():
            said: object
            try:
                answer = await client.register("probe", f"{time.time_ns()}", {"probe": b"probe"})
                said = f"{answer.status_code} {answer.text}"
                if answer.status_code == 201:
                    break
            except httpx.TransportError as error:
                said = repr(error)
            assert time.monotonic() - begun < within_seconds, f"after {number} tries, the last: {said}"
            await asyncio.sleep(0.05)
    assert time.monotonic() - begun < within_seconds


@asynccontextmanager
async def writing(users: Users, url: str, clients: int = 4) -> AsyncIterator[None]:
    """Run clients that register one version after the other until the block ends."""
    is_over = asyncio.Event()

    async def write(model: str) -> None:
        async with users.client(url) as client:
            number = 0
            while not is_over.is_set():
                number += 1
                with lost():
                    await client.register(model, f"{number}")

    tasks = [asyncio.create_task(write(f"m{number}")) for number in range(clients)]
    try:
        yield
    finally:
        is_over.set()
        await asyncio.gather(*tasks)


async def in_two(body: bytes, may_go_on: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield a body whose last bytes wait for the event."""
    yield body[:-60]
    await may_go_on.wait()
    yield body[-60:]


async def until(condition: Callable[[], Awaitable[object]], *, within_seconds: float = RECOVERY_SECONDS) -> None:
    """Wait until a condition is true."""
    async with asyncio.timeout(within_seconds):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Footprint:
    """Memory and files of a process. Compare it after a first round of the same load, when pools are filled."""

    resident_bytes: int
    open_files: int

    @classmethod
    def of(cls, pid: int) -> "Footprint":
        return cls(resident_bytes(pid), len(list(Path(f"/proc/{pid}/fd").iterdir())))


async def back_to(
    before: Footprint,
    pid: int,
    *,
    spare_bytes: int = 16 * MIB,
    spare_files: int = 4,
    within_seconds: float = RECOVERY_SECONDS,
) -> None:
    """M8: wait until memory and files are back at their old level, plus a tenth and a little."""
    deadline = time.monotonic() + within_seconds
    while True:
        now = Footprint.of(pid)
        if (
            now.resident_bytes <= before.resident_bytes * 1.1 + spare_bytes
            and now.open_files <= before.open_files * 1.1 + spare_files
        ):
            return
        assert time.monotonic() < deadline, f"{before} before, {now} now"
        await asyncio.sleep(0.1)


@dataclass(frozen=True)
class ServiceProcess:
    """The service as a separate process."""

    url: str
    pid: int
    _ended: Callable[[], Coroutine[Any, Any, int]]

    async def exit_code(self, timeout_seconds: float = 60) -> int:
        """Wait for the end of the process."""
        return await asyncio.wait_for(self._ended(), timeout_seconds)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)


def service_environment(stack: StackAddresses, **settings: str) -> dict[str, str]:
    """Return the environment of a service; `settings` are named as in the environment, without the prefix."""
    told = {"GC_INTERVAL_SECONDS": "3600", "GC_GRACE_SECONDS": "0", "LOG_FORMAT": "json"} | settings
    return environment(stack, **told)


def announced_url(line: str) -> str:
    """Return the address of the service that wrote this line of its log."""
    url: str = json.loads(line)["url"]
    return url.replace("localhost", "127.0.0.1")


@asynccontextmanager
async def serving(
    stack: StackAddresses, cwd: Path, *, faults: str = "", variables: Mapping[str, str] | None = None, **settings: str
) -> AsyncIterator[ServiceProcess]:
    """Run `model-registry serve` until the block ends, with `faults` armed and `variables` in its environment.

    It listens when the block begins, which is before it has started: the first request waits for that.
    """
    env = service_environment(stack, **settings) | {VARIABLE: faults} | dict(variables or {})
    async with started("serve", "--host", "127.0.0.1", "--port", "0", env=env, cwd=cwd) as process:
        line = await line_with(process.stderr, '"serving"')
        yield ServiceProcess(announced_url(line), process.pid, process.wait)


@asynccontextmanager
async def behind_proxies(stack: StackAddresses) -> AsyncIterator[tuple[StackAddresses, Proxy, Proxy]]:
    """Yield the stack's addresses through two proxies, and the proxies: PostgreSQL's, then the store's."""
    database, store = make_url(stack.database_url), httpx.URL(stack.s3_endpoint_url)
    async with (
        Proxy.to(database.host or "127.0.0.1", database.port or 5432) as postgres,
        Proxy.to(store.host, store.port or 80) as s3,
    ):
        moved = replace(
            stack,
            database_url=database.set(host="127.0.0.1", port=postgres.port).render_as_string(hide_password=False),
            s3_endpoint_url=str(store.copy_with(host="127.0.0.1", port=s3.port)),
        )
        yield moved, postgres, s3


@contextlib.contextmanager
def lost() -> Iterator[None]:
    """Requests in this block may remain without a response."""
    with contextlib.suppress(httpx.TransportError):
        yield
