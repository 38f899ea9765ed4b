"""The client's end: its slots are its own memory, and rows travel both ways."""

from __future__ import annotations

from symbiosis_core.errors import UsageError
from symbiosis_core.ids import SlotIndex, Token
from symbiosis_transports.arena import Arena
from symbiosis_transports.keys import client_keys
from symbiosis_transports.ports import Call
from symbiosis_transports.zmq_rows.client import RowsClientChannel, open_line
from symbiosis_transports.zmq_rows.line import Line
from symbiosis_transports.zmq_rows.messages import HEADER_BYTES, PIECE, Head, pack_head
from symbiosis_transports.zmq_rows.slots import Slots
from symbiosis_transports.zmq_tcp.pieces import PIECE_BYTES, bounds, cut
from symbiosis_transports.zmq_tcp.server import HEARTBEAT_MS

__all__ = ["ZmqTcpClientChannel", "connect"]


def connect(endpoint: str, token: Token, timeout_s: float) -> ZmqTcpClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says."""
    line = Line(endpoint, most_bytes=PIECE_BYTES + HEADER_BYTES, keys=client_keys(), heartbeat_ms=HEARTBEAT_MS)
    opened = open_line(line, token, timeout_s)
    try:
        arena = Arena.private(Slots.arena_bytes(opened.slots, opened.slot_bytes))
    except BaseException:
        line.close()
        raise
    return ZmqTcpClientChannel(line, Slots(arena, opened.slots, opened.slot_bytes))


class ZmqTcpClientChannel(RowsClientChannel):
    """The client's end of a channel to another host."""

    def rows_out(self, slot: SlotIndex, generation: int, call: Call) -> tuple[int, list[memoryview]]:
        """Sends all pieces but the last, which it returns, with where it begins."""
        span = bounds(call.in_offset, call.in_bytes, self.slot_bytes)
        if span is None:
            raise UsageError(f"the rows of {call} leave the slot of {self.slot_bytes} bytes")
        *ahead, last = cut(*span)
        rows = self._memory.buffers[slot]
        for begin, end in ahead:
            self.send([pack_head(PIECE, slot, generation, at=begin), rows[begin:end]])
        self._copied_bytes += span[1] - span[0]
        return last[0], [rows[last[0] : last[1]]]

    def rows_in(self, head: Head, call: Call, rows: list[memoryview]) -> bool:
        """Copies a piece to where it belongs; false: that is not within what was asked for."""
        if not rows:
            return head.kind != PIECE and head.code != 0
        span = bounds(call.out_offset, call.out_bytes, self.slot_bytes)
        end = head.at + len(rows[0])
        if len(rows) != 1 or span is None or not span[0] <= head.at <= end <= span[1]:
            return False
        self._memory.buffers[head.slot][head.at : end] = rows[0]
        self._copied_bytes += len(rows[0])
        return True
