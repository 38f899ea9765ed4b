"""Another host: rows travel in messages of at most one mebibyte, over ZeroMQ and TCP.

With keys (`symbiosis_transports.keys`) everything is encrypted and only who is on the list gets in; without, a
daemon listens on the loopback only. Heartbeats tell of a cable that was cut. What is in flight at that moment is
lost, and the session asks again: requests are pure.

    pieces.py   slots in messages
    server.py   the daemon's end
    client.py   the client's end
"""

from __future__ import annotations

import asyncio

from symbiosis_core.ids import Token
from symbiosis_core.wire import Capability
from symbiosis_transports.address import parse
from symbiosis_transports.ports import ClientChannel, Host, Listener, Transport
from symbiosis_transports.zmq_tcp.client import connect
from symbiosis_transports.zmq_tcp.server import listen

__all__ = ["TRANSPORT", "ZmqTcp"]


class ZmqTcp:
    """The transport between hosts."""

    name = "zmq_tcp"

    def capability(self) -> Capability:
        """Usable wherever the daemon was reached over TCP."""
        return Capability(self.name, schemes=("tcp",))

    def endpoint(self, address: str) -> str:
        """Rows use the port behind the control port's."""
        parsed = parse(address)
        return f"tcp://{parsed.host}:{parsed.port + 1}"

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`."""
        return listen(loop, endpoint, host)

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """See `Transport.connect`."""
        return connect(endpoint, token, timeout_s)


TRANSPORT: Transport = ZmqTcp()
