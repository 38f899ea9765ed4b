"""The daemon's end: an arena per client, kept open under /proc until the client has mapped it."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import ClientId
from symbiosis_transports.arena import Arena
from symbiosis_transports.folder import for_owner_alone
from symbiosis_transports.peers import told_by_zeromq
from symbiosis_transports.ports import Grant, Host, Listener, Peer
from symbiosis_transports.zmq_rows.door import Caller, Door
from symbiosis_transports.zmq_rows.listener import RowsListener
from symbiosis_transports.zmq_rows.messages import HEADER_BYTES, VERSION, Opened
from symbiosis_transports.zmq_rows.server import RowsServerChannel
from symbiosis_transports.zmq_rows.slots import Slots

__all__ = ["ZmqIpcServerChannel", "listen"]

_MOST_BYTES = 4096
"""Of a message: an opening is the longest."""
assert HEADER_BYTES < _MOST_BYTES


def listen(loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
    """Opens the daemon's end, for its own user alone."""
    path = Path(endpoint.removeprefix("ipc://"))
    if path.exists() and not path.is_socket():
        raise UsageError(f"cannot listen at {path}: it is there and is no socket; choose another address")
    with for_owner_alone(path):
        return RowsListener(loop, endpoint, host, _make, _peer_of, most_bytes=_MOST_BYTES)


class ZmqIpcServerChannel(RowsServerChannel):
    """One client, with the descriptor of its arena until it has mapped it."""

    def __init__(self, door: Door, caller: Caller, client: ClientId, slots: Slots, host: Host, fd: int) -> None:
        super().__init__(door, caller, client, slots, host)
        self._fd = fd

    def hear(self, frames: list[memoryview]) -> None:
        """See `RowsServerChannel.hear`. Who asks has mapped its arena."""
        self._forget_arena()
        super().hear(frames)

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up."""
        self._forget_arena()
        super().close(reason, breach=breach)

    def _forget_arena(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _make(door: Door, caller: Caller, grant: Grant, host: Host) -> tuple[RowsServerChannel, Opened]:
    arena, fd = Arena.create(Slots.arena_bytes(grant.slots, grant.slot_bytes))
    slots = Slots(arena, grant.slots, grant.slot_bytes)
    opened = Opened(VERSION, grant.slots, grant.slot_bytes, f"/proc/{os.getpid()}/fd/{fd}")
    return ZmqIpcServerChannel(door, caller, grant.client, slots, host, fd), opened


def _peer_of(caller: Caller) -> Peer:
    return told_by_zeromq(caller.where)
