"""Same host, CPU: a sealed memfd arena per client, and an AF_UNIX SOCK_SEQPACKET socket beside it.

Rows, calls and sequence words stand in the arena; whoever looks finds them without a system call. The socket
passes the memory at the start, rings a side that sleeps, and tells of the other's death. See
`symbiosis_transports.layout` for who writes what, and docs/threading.md for who may call what.

    attach.py    what is said at the start: token in, memory out
    listener.py  the daemon's door
    server.py    the daemon's end
    knock.py     a client at the door, whatever it comes for
    connect.py   a client comes in
    client.py    the client's end
    collect.py   the client's way to the weights themselves
"""

from __future__ import annotations

import asyncio

from symbiosis_core.ids import Token, boot_id
from symbiosis_core.wire import Capability
from symbiosis_transports.address import parse
from symbiosis_transports.ports import ClientChannel, Host, Listener, Transport
from symbiosis_transports.posix_shm.connect import connect
from symbiosis_transports.posix_shm.listener import ShmListener

__all__ = ["TRANSPORT", "PosixShm"]


class PosixShm:
    """The transport for clients on the daemon's host."""

    name = "posix_shm"

    def capability(self) -> Capability:
        """Usable exactly between processes of one running kernel."""
        return Capability(self.name, boot_id())

    def endpoint(self, address: str) -> str:
        """The data socket stands beside the control socket."""
        return f"{parse(address).target}.data"

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`."""
        return ShmListener(loop, endpoint, host)

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """See `Transport.connect`."""
        return connect(endpoint, token, timeout_s)


TRANSPORT: Transport = PosixShm()
