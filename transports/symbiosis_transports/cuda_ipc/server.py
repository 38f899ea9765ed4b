"""The daemon's end: words in the host's memory, rows on the device, and events between the two sides' streams.

Two rules keep the order.

*Taken once written.* A call is taken only when the client's event behind its rows is done, which the host asks;
the daemon's streams never wait for a client's. They are shared by all clients of a lane: waiting there, a client
whose stream stands still, or who was killed, would stop everybody.

*Recorded, then answered.* `computed` records the slot's event behind all that was queued for it; `answer` comes
later in the program, so it is a record that the client's wait speaks of, and not the one before.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from symbiosis_core.errors import RefusalCode, RemoteProtocolError
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_transports.cuda.seam import Cuda, CudaError, EventNumber
from symbiosis_transports.cuda_ipc.arena import DeviceArena
from symbiosis_transports.ports import Arrival, ChannelStatistics, DeviceRows, ServerChannel

__all__ = ["CudaServerChannel"]

_AWAKE_NS: Final = 2_000_000
"""How long a call that was published and is not written yet keeps the loop awake; afterwards it is looked at by a
timer: no event of CUDA wakes a loop, and a client can keep its stream busy for as long as it likes."""
_LOOK_S: Final = 0.001


class CudaServerChannel:
    """The daemon's end of one client's channel."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        words: ServerChannel,
        cuda: Cuda,
        arena: DeviceArena,
        written: list[EventNumber],
        closed: Callable[[CudaServerChannel], None],
        ready: Callable[[CudaServerChannel], None],
    ) -> None:
        """`written` are the client's events, opened here and now this channel's. `closed` is told once."""
        self.client: ClientId = words.client
        self.arena = arena
        self._loop = loop
        self._words = words
        self._cuda = cuda
        self._written = written
        self._closed = closed
        self._ready = ready
        self._rows = [arena.rows(SlotIndex(slot)) for slot in range(arena.slots)]
        self._unwritten: list[Arrival] = []
        self._since_ns = 0
        self._timer: asyncio.TimerHandle | None = None
        self._open = True

    def __repr__(self) -> str:
        state = "open" if self._open else "closed"
        return f"<CudaServerChannel client={self.client} {state} unwritten={len(self._unwritten)}>"

    @property
    def arena_bytes(self) -> int:
        """Bytes on the device and on the host."""
        return self.arena.nbytes + self._words.arena_bytes

    def statistics(self) -> ChannelStatistics:
        """Those of the words."""
        return self._words.statistics()

    def waiting(self) -> bool:
        """Whether something was published, or what was published has been written."""
        return self._words.waiting() or self._any_written()

    def announced_us(self) -> int:
        """Nothing is announced."""
        return 0

    def take(self) -> list[Arrival]:
        """Everything that is written.

        Raises:
            RemoteProtocolError: the client broke the protocol, or its events are of no use; the caller closes.
        """
        if arrived := self._words.take():
            self._since_ns = time.monotonic_ns()
            self._unwritten += arrived
        if not self._unwritten:
            return []
        try:
            written = [arrival for arrival in self._unwritten if self._is_written(arrival)]
        except CudaError as error:
            raise RemoteProtocolError(f"the client's events cannot be asked: {error}") from error
        if written:
            self._unwritten = [arrival for arrival in self._unwritten if arrival not in written]
        return written

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows, where the host sees the device's memory; of a real device it does not."""
        rows = self._rows[slot]
        assert isinstance(rows, memoryview)  # who serves a real device asks for device_rows
        return rows

    def device_rows(self, slot: SlotIndex) -> DeviceRows:
        """The rows on the device."""
        return self._rows[slot]

    def computed(self, slot: SlotIndex) -> None:
        """Records the slot's event on the current stream."""
        if self._open:
            self._cuda.record(self.arena.answered[slot], self._cuda.current_stream())

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        """Makes the answer visible to a client that is awake."""
        self._words.answer(slot, generation, refusal)

    def ring(self) -> None:
        """Wakes the client where it sleeps."""
        self._words.ring()

    def arm(self) -> bool:
        """Asks to be rung. What is published and not written is looked at again: at once, later by a timer."""
        armed = self._words.arm()
        if not armed or not self._open or not self._unwritten:
            return armed
        if time.monotonic_ns() - self._since_ns < _AWAKE_NS:
            return False
        self._timer = self._loop.call_later(_LOOK_S, self._look)
        return True

    def disarm(self) -> None:
        """No wake-ups wanted."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._words.disarm()

    def close(self, reason: str, *, breach: bool = False) -> None:
        """Hangs up. The memory is freed once the client has let go of it."""
        if not self._open:
            return
        self._open = False
        self.disarm()
        self._words.close(reason, breach=breach)
        self._unwritten.clear()
        self._rows.clear()
        self._closed(self)
        for event in self._written:
            with contextlib.suppress(CudaError):  # the device is lost
                self._cuda.destroy_event(event)
        self._written.clear()

    def _is_written(self, arrival: Arrival) -> bool:
        return self._cuda.done(self._written[arrival.slot])

    def _any_written(self) -> bool:
        try:
            return any(self._is_written(arrival) for arrival in self._unwritten)
        except CudaError:
            return True  # `take` says what it is

    def _look(self) -> None:
        self._timer = None
        if self._any_written():
            self._ready(self)
        else:
            self._timer = self._loop.call_later(_LOOK_S, self._look)
