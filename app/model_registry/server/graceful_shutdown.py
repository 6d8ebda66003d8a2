"""The application as `model-registry serve` runs it: after SIGTERM it reports that it is not ready and keeps serving.

A load balancer notices that a process is shutting down only at its next probe, and sends requests until then. So for
`SHUTDOWN_DELAY_SECONDS` the service handles every request as before. Only `/readyz` returns a 503, and every response
closes its connection, so that clients with open connections connect elsewhere. Then the server stops listening.
"""

import asyncio
import gc
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_registry import api
from model_registry.web.probes import DRAINING

log = structlog.get_logger(__name__)


class Draining:
    def __init__(self, app: ASGIApp, delay_seconds: Callable[[], float]) -> None:
        self._app = app
        self._delay_seconds = delay_seconds
        self._is_draining = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, self._when_started(send))
        elif self._is_draining:
            await self._app({**scope, DRAINING: True}, receive, _closing(send))
        else:
            await self._app(scope, receive, send)

    def _when_started(self, send: Send) -> Send:
        async def watched_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                if self._delay_seconds() > 0:
                    self._catch_sigterm()
                # Imported objects stay until the process ends. The garbage collector spent 150 ms and more on them each
                # time that a request had created many objects.
                gc.freeze()
            await send(message)

        return watched_send

    def _catch_sigterm(self) -> None:
        """Delay the handler of the server, which stops listening at once. A second signal skips the delay."""
        stop: Any = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()

        def drain(number: int, frame: FrameType | None) -> None:
            signal.signal(signal.SIGTERM, stop)
            self._is_draining = True
            log.info("draining", seconds=self._delay_seconds())
            loop.call_soon_threadsafe(loop.call_later, self._delay_seconds(), stop, number, frame)

        signal.signal(signal.SIGTERM, drain)


def _closing(send: Send) -> Send:
    async def closing_send(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return closing_send


app = Draining(api.app, lambda: api.app.state.services.settings.shutdown_delay_seconds)
