"""The reference transport: client and daemon in one process, each in its own thread.

It is what the contract says and nothing else, so it is where to look when another transport behaves oddly, and
what tests use that are about something else.
"""

from __future__ import annotations

import asyncio
import os

from symbiosis_core.ids import Token, boot_id
from symbiosis_core.wire import Capability
from symbiosis_transports.inproc.client import InprocClientChannel
from symbiosis_transports.inproc.server import InprocListener
from symbiosis_transports.ports import ClientChannel, Host, Listener, Transport

__all__ = ["TRANSPORT", "Inproc"]


class Inproc:
    """The transport within one process."""

    name = "inproc"

    def capability(self) -> Capability:
        """Usable exactly within one process."""
        return Capability(self.name, f"{boot_id()}/process {os.getpid()}")

    def endpoint(self, address: str) -> str:
        """The address itself names the door."""
        return address

    def listen(self, loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
        """See `Transport.listen`."""
        return InprocListener(loop, endpoint, host)

    def connect(self, endpoint: str, token: Token, timeout_s: float) -> ClientChannel:
        """See `Transport.connect`."""
        return InprocClientChannel.connect(endpoint, token, timeout_s)


TRANSPORT: Transport = Inproc()
