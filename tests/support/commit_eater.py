"""A proxy that loses a COMMIT, or the response to it."""

import asyncio


class CommitEater:
    """A proxy in front of PostgreSQL that cuts a connection at a COMMIT: before it arrives, or before its response."""

    def __init__(self, host: str, port: int) -> None:
        self._upstream = host, port
        self.commits_to_pass: int | None = None
        self.lets_it_arrive = True
        self.eaten = 0

    async def start(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def stop(self) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        upstream, request = await asyncio.open_connection(*self._upstream)
        is_cut = asyncio.Event()

        async def forward() -> None:
            while data := await client.read(65536):
                if b"COMMIT;" in data and self.commits_to_pass is not None:
                    if self.commits_to_pass == 0:
                        self.commits_to_pass = None
                        self.eaten += 1
                        is_cut.set()
                        if self.lets_it_arrive:
                            request.write(data)
                            await request.drain()
                            await asyncio.sleep(0.2)
                        answer.transport.abort()
                        request.transport.abort()
                        return
                    self.commits_to_pass -= 1
                request.write(data)
                await request.drain()
            request.close()

        async def back() -> None:
            while (data := await upstream.read(65536)) and not is_cut.is_set():
                answer.write(data)
                await answer.drain()
            answer.close()

        await asyncio.gather(forward(), back(), return_exceptions=True)
