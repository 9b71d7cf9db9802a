"""Lines of JSON over a connection, and the addresses at which the first process of a run is reached."""

import json
import socket
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from finetrainers.distributed.launch import Launch

CONNECTING_SECONDS = 20.0
ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
"""Seconds and tries after which the system gives up a host that is gone without closing a connection."""


class Lines:
    """One connection."""

    def __init__(self, own: socket.socket) -> None:
        """Take an open connection."""
        own.settimeout(CONNECTING_SECONDS)
        own.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in ALIVE.items():
            if hasattr(socket, name):  # which are of the system
                own.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        self.socket, self._left = own, b""
        self.rank, self.about = 0, "the first process"

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; one that cannot be sent is to somebody who is gone, which reading tells."""
        with suppress(OSError):
            self.socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self) -> tuple[list[dict[str, Any]], bool]:
        """Read what has come, and say whether the connection is still open."""
        try:
            read = self.socket.recv(1 << 16)
        except OSError:
            read = b""
        *lines, self._left = (self._left + read).split(b"\n")
        try:
            return [dict(json.loads(line)) for line in lines], bool(read)
        except (ValueError, TypeError):  # of somebody else
            return [], False


def listen() -> socket.socket:
    """Listen at a free port, at all addresses of this host."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", 0), backlog=1024)


def addresses(launch: Launch) -> list[str]:
    """List names under which others may reach this host: it need not be the one where all meet."""
    own = []
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((launch.address, launch.port))  # sends nothing, and tells the address that packets would have
        own = [probe.getsockname()[0]]
    return [launch.address, *own, socket.gethostname()]


def connect(hosts: Sequence[str], port: int, hello: dict[str, Any]) -> Lines:
    """Connect to the first of these hosts that answers a greeting.

    Raises:
        OSError: If none does.
    """
    for host in hosts:
        with suppress(OSError):
            lines = Lines(socket.create_connection((host, port), CONNECTING_SECONDS))
            lines.send(hello)
            if lines.receive()[0]:  # else it is somebody else's
                return lines
            lines.socket.close()
    raise OSError(f"no connection to the first process at port {port} of {', '.join(hosts)}: is there a firewall?")
