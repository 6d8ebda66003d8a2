"""How the caller follows a transfer. The client itself prints nothing."""

from typing import Protocol


class Progress(Protocol):
    """Receives the events of a transfer, in the thread of the event loop. Amounts are bytes since the last call."""

    def begin(self, label: str, total_bytes: int, files: int) -> None:
        """A transfer begins. `label` is text for people."""

    def hashed(self, size_bytes: int) -> None:
        """Bytes were read from disk and hashed."""

    def sent(self, size_bytes: int) -> None:
        """Bytes were sent."""

    def received(self, size_bytes: int) -> None:
        """Bytes were received."""

    def saved(self, size_bytes: int) -> None:
        """Bytes need no transfer, because they are there already."""

    def file_done(self, path: str) -> None:
        """A file is in place and verified."""

    def publishing(self) -> None:
        """All bytes of a push have arrived, and the registry publishes the version."""

    def say(self, text: str) -> None:
        """A message for people, for example that a transfer goes through the service now."""

    def end(self) -> None:
        """The transfer has ended, successfully or not."""


class Silent:
    """Ignores all events."""

    def begin(self, label: str, total_bytes: int, files: int) -> None: ...

    def hashed(self, size_bytes: int) -> None: ...

    def sent(self, size_bytes: int) -> None: ...

    def received(self, size_bytes: int) -> None: ...

    def saved(self, size_bytes: int) -> None: ...

    def file_done(self, path: str) -> None: ...

    def publishing(self) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...
