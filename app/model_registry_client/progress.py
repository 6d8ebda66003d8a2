"""How whoever waits hears of a transfer: the client itself prints nothing."""

from typing import Protocol


class Progress(Protocol):
    """Told what happens while it happens, from the event loop's thread; amounts are bytes since the last call."""

    def begin(self, label: str, total_bytes: int, files: int) -> None:
        """A transfer begins; `label` is for people."""

    def hashed(self, size_bytes: int) -> None:
        """So much was read from disk to know its digest."""

    def sent(self, size_bytes: int) -> None:
        """So much went out."""

    def received(self, size_bytes: int) -> None:
        """So much came in."""

    def saved(self, size_bytes: int) -> None:
        """So much was there already, and need not move."""

    def file_done(self, path: str) -> None:
        """A file is where it should be, and verified."""

    def publishing(self) -> None:
        """All bytes of a push are there, and the registry is asked to show the version."""

    def say(self, text: str) -> None:
        """Something that a person would want to know, such as another way being taken."""

    def end(self) -> None:
        """The transfer is over, whether well or badly."""


class Silent:
    """Tells nobody."""

    def begin(self, label: str, total_bytes: int, files: int) -> None: ...

    def hashed(self, size_bytes: int) -> None: ...

    def sent(self, size_bytes: int) -> None: ...

    def received(self, size_bytes: int) -> None: ...

    def saved(self, size_bytes: int) -> None: ...

    def file_done(self, path: str) -> None: ...

    def publishing(self) -> None: ...

    def say(self, text: str) -> None: ...

    def end(self) -> None: ...
