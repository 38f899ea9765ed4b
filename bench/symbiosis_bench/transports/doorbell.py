"""Yardstick: the kernel's own doorbell, one byte through an AF_UNIX SOCK_SEQPACKET socket and one back.

No payload and no work. Measured with both processes on one core, and on two: where waking another core is dear, no
transport that sleeps can be cheap.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from symbiosis_bench.transports.messages import Place
from symbiosis_bench.transports.work import Asked
from symbiosis_transports.ports import ChannelStatistics

__all__ = ["Doorbell", "serve_doorbells"]

_NOTHING: Final = ChannelStatistics(0, 0, 0, 0)


def serve_doorbells(endpoint: str, on_open: Callable[[], None]) -> None:
    """Gives every byte back, one connection after the other, for ever; `on_open` once it can be connected to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
        door.bind(endpoint)
        door.listen()
        on_open()
        while True:
            with door.accept()[0] as caller:
                while rung := caller.recv(1):
                    caller.send(rung)


class Doorbell:
    """A client. Payload and answer are left alone."""

    def __init__(self, endpoint: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(endpoint)

    def exchange(self, ask: Asked, payload: memoryview, answer: memoryview) -> None:
        """Rings and waits."""
        self._socket.send(b"\0")
        self._socket.recv(1)

    def statistics(self) -> ChannelStatistics:
        """Nobody counts."""
        return _NOTHING

    def place(self) -> Place | None:
        """There are no rows."""
        return None

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()
