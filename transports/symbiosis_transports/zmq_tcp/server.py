"""The daemon's end: every client's slots are the daemon's own memory."""

from __future__ import annotations

import asyncio

from symbiosis_core.errors import RemoteProtocolError, UsageError
from symbiosis_core.ids import Generation, SlotIndex
from symbiosis_transports.address import parse
from symbiosis_transports.keys import check_exposure, daemon_keys
from symbiosis_transports.ports import Call, Grant, Host, Listener, Peer
from symbiosis_transports.zmq_rows.door import SENT, Caller, Door
from symbiosis_transports.zmq_rows.listener import RowsListener
from symbiosis_transports.zmq_rows.messages import HEADER_BYTES, PIECE, VERSION, Head, Opened, pack_head
from symbiosis_transports.zmq_rows.server import RowsServerChannel
from symbiosis_transports.zmq_rows.slots import Slots
from symbiosis_transports.zmq_tcp.pieces import PIECE_BYTES, bounds, cut

__all__ = ["HEARTBEAT_MS", "MOST_BYTES", "ZmqTcpServerChannel", "listen"]

HEARTBEAT_MS = 2000
MOST_BYTES = PIECE_BYTES + HEADER_BYTES
"""Of a message's frame."""


def listen(loop: asyncio.AbstractEventLoop, endpoint: str, host: Host) -> Listener:
    """Opens the daemon's end.

    Raises:
        UsageError: the port is in use, or others than this host could come in without a key.
    """
    keys = daemon_keys()
    check_exposure(parse(endpoint), keys)
    return RowsListener(
        loop, endpoint, host, _make, _peer_of, most_bytes=MOST_BYTES, keys=keys, heartbeat_ms=HEARTBEAT_MS
    )


class ZmqTcpServerChannel(RowsServerChannel):
    """One client on another host."""

    def rows_in(self, head: Head, call: Call | None, rows: list[memoryview]) -> None:
        """Copies a piece to where it belongs.

        Raises:
            RemoteProtocolError: it is none, or it leaves the slot, or what the call asks for does.
        """
        if len(rows) != 1:
            raise RemoteProtocolError(f"rows come in one frame, not in {len(rows)}")
        if call is not None and bounds(call.out_offset, call.out_bytes, self._slots.slot_bytes) is None:
            raise RemoteProtocolError("the rows that a call asks for leave the slot")
        end = head.at + len(rows[0])
        if end > self._slots.slot_bytes:
            raise RemoteProtocolError("rows leave the slot")
        self._slots.buffers[head.slot][head.at : end] = rows[0]
        self._copied_bytes += len(rows[0])

    def rows_out(self, slot: SlotIndex, generation: Generation, call: Call) -> tuple[int, list[memoryview]]:
        """Sends all pieces but the last, which it returns, with where it begins."""
        span = bounds(call.out_offset, call.out_bytes, self._slots.slot_bytes)
        assert span is not None  # rows_in has looked
        *ahead, last = cut(*span)
        rows = self._slots.buffers[slot]
        for begin, end in ahead:
            self._door.send(self._caller, [pack_head(PIECE, slot, generation, at=begin), rows[begin:end]])
        self._copied_bytes += span[1] - span[0]
        return last[0], [rows[last[0] : last[1]]]


def _make(door: Door, caller: Caller, grant: Grant, host: Host) -> tuple[RowsServerChannel, Opened]:
    if grant.slots * (grant.slot_bytes // PIECE_BYTES + 1) > SENT:
        raise UsageError(
            "all slots together hold more than one client may have under way; lower limits.slot_bytes"
        )
    slots = Slots.private(grant.slots, grant.slot_bytes)
    return ZmqTcpServerChannel(door, caller, grant.client, slots, host), Opened(
        VERSION, grant.slots, grant.slot_bytes
    )


def _peer_of(caller: Caller) -> Peer:
    """Nobody of this host: either it has shown a key, or it came over the loopback."""
    return Peer(0, None, caller.key)
