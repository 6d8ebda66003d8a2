"""Finds free ports."""

import contextlib
import dataclasses
import random
import socket
from pathlib import Path

from model_registry_devstack.errors import EmbeddedStackError

# weed puts a gRPC port 10,000 above each HTTP port. Both ranges are below those from which systems take the ports of
# outgoing connections (Linux: from 32,768; macOS: from 49,152), so that no outgoing connection takes our ports during a
# restart.
_GRPC_OFFSET = 10_000
_RANGE = range(15_000, 22_000)
_ATTEMPTS = 100


@dataclasses.dataclass(frozen=True)
class Ports:
    postgres: int
    s3: int
    master: int
    volume: int
    filer: int
    admin: int

    def grpc(self) -> dict[str, int]:
        """Return the gRPC ports of weed, by weed's names for them."""
        names = ("s3", "master", "volume", "filer", "admin")
        return {name: getattr(self, name) + _GRPC_OFFSET for name in names}

    def are_free(self) -> bool:
        return all(_is_free(port) for port in (*dataclasses.astuple(self), *self.grpc().values()))

    def sockets(self) -> list[Path]:
        """Return where weed listens for its own gRPC calls in addition to the ports. No option changes this path."""
        return [Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock") for name, port in self.grpc().items()]  # noqa: S108

    def remove_sockets(self) -> None:
        """Remove the sockets that a killed weed leaves behind."""
        for path in self.sockets():
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def pick_ports() -> Ports:
    for _ in range(_ATTEMPTS):
        ports = Ports(*random.sample(_RANGE, 6))
        # An existing socket may belong to another user, and weed would then talk to that user's server.
        if ports.are_free() and not any(path.exists() for path in ports.sockets()):
            return ports
    raise EmbeddedStackError(f"Found no free ports between {_RANGE.start} and {_RANGE.stop + _GRPC_OFFSET}.")


def _is_free(port: int) -> bool:
    """Return whether a server could listen on this port; connections in TIME_WAIT do not prevent it."""
    for host in ("127.0.0.1", ""):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True
