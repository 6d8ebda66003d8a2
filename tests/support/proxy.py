"""A TCP proxy in the test's own process, to put between the service and one of its servers and then misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

_PIECE = 65536


@dataclass
class Pass:
    """Everything arrives at once."""


@dataclass
class Delay:
    """Each piece waits, in both directions."""

    seconds: float


@dataclass
class Rate:
    """So many bytes a second on each connection, in each direction."""

    bytes_per_second: float


@dataclass
class CutAfter:
    """Reset each connection once so many bytes of requests have passed."""

    request_bytes: int


@dataclass
class CutBefore:
    """Reset the connection at a request that holds `pattern`; it never arrives."""

    pattern: bytes
    times: int = 1
    skip: int = 0


@dataclass
class SwallowReply:
    """A request that holds `pattern` arrives and is done; instead of its answer comes a reset."""

    pattern: bytes
    times: int = 1
    skip: int = 0
    seconds_to_be_done: float = 0.3


@dataclass
class BlackHole:
    """Nothing moves any more, and nothing is closed; new connections are accepted and met with silence."""


@dataclass
class Refuse:
    """Open connections are reset, and new ones at once."""


@dataclass
class RandomReset:
    """Reset a connection with this probability at each piece, in either direction."""

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
    """`misbehave(mode)` holds for open connections and new ones, until `behave()`. `struck` counts what it did, and
    `requests` what came from clients in one piece each."""

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
        """Another server from now on, as when an address moves: open connections are reset."""
        self._upstream = host, port
        self._reset_all()

    def behave(self) -> None:
        """Pass again. What fell into a black hole stays lost: its connections are reset, as a network does in time."""
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
