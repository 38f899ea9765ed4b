"""Yardsticks: ZeroMQ as one would use it without this library, blocking on both sides.

    raw_zmq_shm    a header of 32 bytes in the message, the payload in memory that both sides share
    raw_zmq        the payload in the message

No batching, no slots, no death notice, no limits: what those cost is on the transports' side of the comparison.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

import zmq

from symbiosis_bench.transports.messages import Place, Tally
from symbiosis_bench.transports.work import LINEAR, Asked, Work
from symbiosis_core.ids import OpId
from symbiosis_transports.ports import ChannelStatistics

__all__ = ["RawZmq", "RawZmqServer"]

_HEADER: Final = struct.Struct("<QQQQ")  # op, microseconds to burn, bytes, where they begin
_COPY_FROM_BYTES: Final = 1 << 16
"""pyzmq's own limit: smaller messages are cheaper to copy than to track."""
_NOTHING: Final = ChannelStatistics(0, 0, 0, 0)


class RawZmqServer:
    """A ROUTER and a loop. Clients of the shared kind each get a region of one file in memory."""

    def __init__(self, endpoint: str, slot_bytes: int, clients: int) -> None:
        self.endpoint = endpoint
        fd = os.memfd_create("raw-zmq")
        os.ftruncate(fd, 2 * slot_bytes * clients)
        self._memory = memoryview(mmap.mmap(fd, 2 * slot_bytes * clients))
        self._work = Work()
        self._socket = zmq.Context().socket(zmq.ROUTER)
        self._socket.bind(endpoint)
        Path(f"{endpoint.removeprefix('ipc://')}.memory").symlink_to(f"/proc/{os.getpid()}/fd/{fd}")

    def serve(self) -> None:
        """Answers for ever."""
        while True:
            sender, header, *payload = self._socket.recv_multipart(copy=False)
            op, burn_us, size, at = _HEADER.unpack(header.buffer)
            if payload:
                rows = memoryview(bytearray(payload[0].buffer))
                out = memoryview(bytearray(size)) if op == LINEAR else rows
                self._work([(OpId(op), burn_us, rows, out)])
                self._socket.send_multipart([sender, out], copy=size < _COPY_FROM_BYTES)
            else:
                rows = self._memory[at : at + size]
                out = self._memory[at + size : at + 2 * size] if op == LINEAR else rows
                self._work([(OpId(op), burn_us, rows, out)])
                self._socket.send_multipart([sender, header])

    def tally(self, cpu_ns: int) -> Tally:
        """Returns what was done so far. May be called by another thread."""
        work = self._work
        return Tally(requests=work.requests, batches=work.batches, busy_ns=work.busy_ns, cpu_ns=cpu_ns)


class RawZmq:
    """A client: a DEALER, and for the shared kind the memory."""

    def __init__(self, endpoint: str, slot_bytes: int, number: int, *, shared: bool) -> None:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._at = 2 * slot_bytes * number
        self._memory: memoryview | None = None
        if shared:
            with Path(f"{endpoint.removeprefix('ipc://')}.memory").open("r+b") as file:
                self._memory = memoryview(mmap.mmap(file.fileno(), 0))

    def exchange(self, ask: Asked, payload: memoryview, answer: memoryview) -> None:
        """Sends, and blocks until the answer is there."""
        size = len(payload)
        header = _HEADER.pack(ask.op, ask.burn_us, size, self._at)
        if self._memory is None:
            self._socket.send_multipart([header, payload], copy=size < _COPY_FROM_BYTES)
            answer[:] = self._socket.recv(copy=False).buffer
            return
        self._memory[self._at : self._at + size] = payload
        self._socket.send(header)
        self._socket.recv()
        out_at = self._at + (size if ask.op == LINEAR else 0)
        answer[:] = self._memory[out_at : out_at + size]

    def statistics(self) -> ChannelStatistics:
        """Nobody counts."""
        return _NOTHING

    def place(self) -> Place | None:
        """Not asked of a yardstick."""
        return None

    def close(self) -> None:
        """Ends the connection."""
        self._context.destroy(linger=0)
