"""Startup and shutdown: settings, connections and the collector, and the message if startup fails."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import structlog
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model_registry.errors import Unavailable
from model_registry.runtime.observability import configure_logging
from model_registry.settings import ConfigurationError, Settings, load_settings
from model_registry.wiring import open_services, require_supported_schema

log = structlog.get_logger(__name__)


def lifespan_with(settings: Settings | None) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return a lifespan that opens the services at startup. Without `settings`, it reads them then."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with _startup_error(app):
            effective = settings or load_settings()
        configure_logging(effective.log_level, effective.log_format)
        async with open_services(effective) as services:
            with _startup_error(app):
                try:
                    await require_supported_schema(services.database)
                except Unavailable:
                    # PostgreSQL may come back. Until then the process runs, and /readyz says what is missing.
                    log.warning("start.without_postgresql")
            app.state.services = services
            collecting = asyncio.create_task(services.collector.run_forever(effective.gc_interval_seconds))
            try:
                yield
            finally:
                collecting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await collecting

    return lifespan


@contextmanager
def _startup_error(app: FastAPI) -> Iterator[None]:
    try:
        yield
    except ConfigurationError as error:
        app.state.startup_error = str(error)
        raise


class StartsInOneSentence:
    """Middleware that reports in one sentence why the service cannot start, instead of a traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def brief_send(message: Message) -> None:
            if message["type"] == "lifespan.startup.failed":
                message["message"] = getattr(scope["app"].state, "startup_error", message.get("message", ""))
            await send(message)

        await self._app(scope, receive, brief_send)
