"""A TCP proxy in the test's own process. It stands between the service and one of its servers, and misbehaves."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

_PIECE = 65536


@dataclass
class Pass:
    """Passes everything at once."""


@dataclass
class Delay:
    """Delays each piece, in both directions."""

    seconds: float


@dataclass
class Rate:
    """Limits each connection to this many bytes a second, in each direction."""

    bytes_per_second: float


@dataclass
class CutAfter:
    """Resets each connection once, after this many bytes of requests have passed."""

    request_bytes: int


@dataclass
class CutBefore:
    """Resets the connection at a request that contains `pattern`. The request never arrives."""

    pattern: bytes
    times: int = 1
    skip: int = 0


@dataclass
class SwallowReply:
    """Passes a request that contains `pattern`, so it is done, but resets the connection instead of responding."""

    pattern: bytes
    times: int = 1
    skip: int = 0
    seconds_to_be_done: float = 0.3


@dataclass
class BlackHole:
    """Passes nothing and closes nothing. New connections are accepted and stay silent."""


@dataclass
class Refuse:
    """Resets open connections, and each new one at once."""


@dataclass
class RandomReset:
    """Resets a connection with this probability at each piece, in either direction."""

    probability: float
    random: Random = field(default_factory=lambda: Random(1))


Mode = Pass | Delay | Rate | CutAfter | CutBefore | SwallowReply | BlackHole | Refuse | RandomReset


class _Connection:
    """Both ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter) -> None:
        self.writers = [client]
        self.is_mute = False

    def reset(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """A proxy whose faults a test switches on and off.

    `misbehave(mode)` applies to open connections and new ones, until `behave()`. `struck` counts the faults, and
    `requests` the pieces that came from clients.
    """

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self._mode: Mode = Pass()
        self._changed = asyncio.Event()
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self.port = 0
        self.struck = 0
        self.requests = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, host: str, port: int) -> AsyncIterator["Proxy"]:
        proxy = cls(host, port)
        server = await asyncio.start_server(proxy._serve, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            proxy.misbehave(Refuse())
            await asyncio.gather(*proxy._connections, return_exceptions=True)

    def misbehave(self, mode: Mode) -> None:
        self._mode = mode
        self._changed.set()
        self._changed = asyncio.Event()
        if isinstance(mode, Refuse):
            self._reset_all()

    def lead_to(self, host: str, port: int) -> None:
        """Forward to another server from now on, as when an address moves; open connections are reset."""
        self._upstream = host, port
        self._reset_all()

    def behave(self) -> None:
        """Pass everything again. Connections that lost data in a black hole are reset, as a network does in time."""
        if isinstance(self._mode, BlackHole):
            self._reset_all()
        self.misbehave(Pass())

    def _reset_all(self) -> None:
        for connection in self._connections.values():
            connection.reset()

    async def _serve(self, client_reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connection = self._connections[task] = _Connection(client)
        try:
            while isinstance(self._mode, BlackHole):
                await self._changed.wait()
            if isinstance(self._mode, Refuse):
                return
            server_reader, server = await asyncio.open_connection(*self._upstream)
            connection.writers.append(server)
            requests = asyncio.create_task(self._requests(client_reader, server, connection))
            answers = asyncio.create_task(self._answers(server_reader, client, connection))
            await asyncio.gather(requests, answers, return_exceptions=True)
        except OSError:
            return  # the server is away
        finally:
            connection.reset()
            del self._connections[task]

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        passed = 0
        while data := await reader.read(_PIECE):
            passed += len(data)
            self.requests += 1
            mode = self._mode
            if isinstance(mode, CutAfter) and passed > mode.request_bytes:
                self.struck += 1
                connection.reset()
            elif isinstance(mode, CutBefore) and self._is_meant(mode, data):
                connection.reset()
            elif isinstance(mode, SwallowReply) and self._is_meant(mode, data):
                connection.is_mute = True
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(mode.seconds_to_be_done)
                connection.reset()
            else:
                await self._move(data, writer, connection)
        writer.write_eof()

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: _Connection
    ) -> None:
        while data := await reader.read(_PIECE):
            if not connection.is_mute:
                await self._move(data, writer, connection)
        writer.write_eof()

    async def _move(self, data: bytes, writer: asyncio.StreamWriter, connection: _Connection) -> None:
        while isinstance(self._mode, BlackHole):
            await self._changed.wait()
        match self._mode:
            case Delay(seconds):
                await asyncio.sleep(seconds)
            case Rate(bytes_per_second):
                await asyncio.sleep(len(data) / bytes_per_second)
            case RandomReset() as mode if mode.random.random() < mode.probability:
                self.struck += 1
                connection.reset()
                return
        writer.write(data)
        await writer.drain()

    def _is_meant(self, mode: CutBefore | SwallowReply, data: bytes) -> bool:
        if mode.times == 0 or mode.pattern not in data:
            return False
        if mode.skip > 0:
            mode.skip -= 1
            return False
        mode.times -= 1
        self.struck += 1
        return True
