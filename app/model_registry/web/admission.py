"""Limits for a process: requests at the same time, and memory for their bodies."""

from starlette.types import ASGIApp, Receive, Scope, Send

from model_registry.errors import Overloaded
from model_registry.web.middleware import PROBES
from model_registry.web.rendering import render

_MEMORY = "held_for_body"


class Memory:
    """The memory that one request holds for its body, out of the memory for all requests of the process."""

    def __init__(self, admission: "Admission", available_bytes: int) -> None:
        self._admission = admission
        self._available_bytes = available_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Reserve memory until the request ends. Raises `Overloaded` if other requests hold the rest."""
        others = self._admission.held_bytes - self.held_bytes
        # A request that is alone may use as much as its own limits allow.
        if others and self._admission.held_bytes + size_bytes > self._available_bytes:
            raise Overloaded(f"holds {self._admission.held_bytes} bytes of request bodies")
        self.held_bytes += size_bytes
        self._admission.held_bytes += size_bytes


class Admission:
    """Refuses requests beyond the limit with 503, so that admitted requests finish. Probes are always admitted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._in_flight = 0
        self.held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self._app(scope, receive, send)
            return
        settings = scope["app"].state.services.settings
        if self._in_flight >= settings.max_requests_in_flight:
            await render(scope, Overloaded(f"is handling {self._in_flight} requests"))(scope, receive, send)
            return
        memory = scope[_MEMORY] = Memory(self, settings.max_buffered_bytes)
        self._in_flight += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._in_flight -= 1
            self.held_bytes -= memory.held_bytes


def memory_of(scope: Scope) -> Memory:
    memory: Memory = scope[_MEMORY]
    return memory
