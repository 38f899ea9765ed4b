"""Same host, by ZeroMQ: headers in messages, rows in a sealed memfd arena that both sides map.

The fallback where the data socket of `posix_shm` cannot be used, and the yardstick beside it: several times
slower, because a message passes through an I/O thread on either side. The client finds the memory at
/proc/PID/fd/N of the daemon, so both need one process namespace.

    server.py   the daemon's end
    client.py   the client's end
"""

from __future__ import annotations

import asyncio

from symbiosis_core.ids import Token, boot_id, process_namespace
from symbiosis_core.wire import Capability
from symbiosis_transports.address import parse
from symbiosis_transports.ports import ClientChannel, Host, Listener, Transport
from symbiosis_transports.zmq_ipc.client import connect
from symbiosis_transports.zmq_ipc.server import listen

__all__ = ["TRANSPORT", "ZmqIpc"]


class ZmqIpc:
    """The transport by ZeroMQ and shared memory."""

    name = "zmq_ipc"

    def capability(self) -> Capability:
        """Usable between processes of one running kernel that know each other by the same numbers."""
        return Capability(self.name, f"{boot_id()}/pid namespace {process_namespace()}")

    def endpoint(self, address: str) -> str:
        """The socket stands beside the control socket."""
        return f"ipc://{parse(address).target}.zmq"

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`."""
        return listen(loop, endpoint, host)

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """See `Transport.connect`."""
        return connect(endpoint, token, timeout_s)


TRANSPORT: Transport = ZmqIpc()
