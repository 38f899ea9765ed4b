"""What carries rows, as a client uses it: one call is the copy in, the trip, and the copy out.

The transports are used as the client library uses them, through `ports`. Beside them stand yardsticks: the copies
without a trip (`memory_floor`), and in modules of their own ZeroMQ without this library, and a bare doorbell.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, Protocol

from symbiosis_bench.transports.messages import Place
from symbiosis_bench.transports.places import place_of
from symbiosis_bench.transports.work import LINEAR, Asked, carry_out
from symbiosis_core.ids import Token
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call, ChannelStatistics
from symbiosis_transports.registry import transport
from symbiosis_transports.waiting import SPIN_VARIABLE

__all__ = ["ChannelContender", "Contender", "MemoryFloor"]

_TIMEOUT_S: Final = 60.0
_NOTHING: Final = ChannelStatistics(0, 0, 0, 0)


class Contender(Protocol):
    """One way to have work done on a payload. Views and not bytearrays: assigning to one of those copies twice."""

    def exchange(self, ask: Asked, payload: memoryview, answer: memoryview) -> None:
        """Has it done once. Payload and answer are of one size."""

    def statistics(self) -> ChannelStatistics:
        """Counters since the start; zeros where nobody counts."""

    def place(self) -> Place | None:
        """Where the rows of the latest exchange lay."""

    def close(self) -> None:
        """Ends the connection."""


class ChannelContender:
    """A transport of ours."""

    def __init__(self, name: str, endpoint: str, spin: str) -> None:
        os.environ.pop(SPIN_VARIABLE, None)
        if spin != "auto":
            os.environ[SPIN_VARIABLE] = "0" if spin == "off" else spin
        self._channel = transport(name).connect(endpoint, Token("benchmark"), _TIMEOUT_S)
        self._calls: dict[tuple[Asked, int], Call] = {}
        self._latest: memoryview | None = None

    def exchange(self, ask: Asked, payload: memoryview, answer: memoryview) -> None:
        """Leases, writes, publishes, waits, reads, releases."""
        channel, size = self._channel, len(payload)
        call = self._calls.get((ask, size)) or self._call(ask, size)
        slot = channel.lease_nowait()
        rows = self._latest = channel.buffer(slot)
        rows[:size] = payload
        channel.publish(slot, call)
        channel.wait(slot, _TIMEOUT_S)
        answer[:] = rows[call.out_offset : call.out_offset + size]
        channel.release(slot)

    def statistics(self) -> ChannelStatistics:
        """The channel's own."""
        return self._channel.statistics()

    def place(self) -> Place | None:
        """Where the latest slot lies."""
        return place_of(self._latest) if self._latest is not None else None

    def close(self) -> None:
        """Leaves the server."""
        self._latest = None
        self._channel.close()

    def _call(self, ask: Asked, size: int) -> Call:
        out_at = -(-size // 64) * 64 if ask.op == LINEAR else 0  # a product is not made in place
        call = Call(ask.op, Direction.FORWARD, size, 0, out_at, ask.burn_us, in_bytes=size, out_bytes=size)
        self._calls[ask, size] = call
        return call


class MemoryFloor:
    """The same copies and the same work in one process: what no transport can be faster than."""

    def __init__(self, slot_bytes: int) -> None:
        fd = os.memfd_create("floor")
        os.ftruncate(fd, slot_bytes)
        self._memory = memoryview(mmap.mmap(fd, slot_bytes))
        os.close(fd)

    def exchange(self, ask: Asked, payload: memoryview, answer: memoryview) -> None:
        """Copies in, works, copies out."""
        size = len(payload)
        rows = self._memory[:size]
        rows[:] = payload
        out = self._memory[size : 2 * size] if ask.op == LINEAR else rows
        carry_out([(*ask, rows, out)])
        answer[:] = out

    def statistics(self) -> ChannelStatistics:
        """Nothing is counted."""
        return _NOTHING

    def place(self) -> Place | None:
        """Nobody else sees it."""
        return None

    def close(self) -> None:
        """Frees the memory."""
        self._memory.release()
