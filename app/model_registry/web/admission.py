"""How much a process takes on at once: requests, and what it has to hold of their bodies."""

from starlette.types import ASGIApp, Receive, Scope, Send

from model_registry.errors import Overloaded
from model_registry.web.middleware import PROBES
from model_registry.web.rendering import render

_MEMORY = "held_for_body"


class Memory:
    """What one request holds of its body as a whole, out of what the process has for all of them."""

    def __init__(self, admission: "Admission", available_bytes: int) -> None:
        self._admission = admission
        self._available_bytes = available_bytes
        self.held_bytes = 0

    def take(self, size_bytes: int) -> None:
        """Until the request ends. Raises `Overloaded` when other requests have the rest."""
        others = self._admission.held_bytes - self.held_bytes
        # Alone, a request may have whatever its own limits allow.
        if others and self._admission.held_bytes + size_bytes > self._available_bytes:
            raise Overloaded(f"holds {self._admission.held_bytes} bytes of request bodies")
        self.held_bytes += size_bytes
        self._admission.held_bytes += size_bytes


class Admission:
    """Refuses what is too much at once with a 503, so that what was admitted is done, and probes are answered."""

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
            await render(scope, Overloaded(f"is answering {self._in_flight} requests"))(scope, receive, send)
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
