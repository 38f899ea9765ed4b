"""The client's end: rows are written and read by work on its own streams, and the host waits for words alone.

    x into the slot, on a stream -> record `written` -> publish -> ... the answer's word ...
    -> the stream waits for `answered` -> y out of the slot, on that stream

The record comes before the word, on both sides: a wait for an event whose record is still to come waits for
nothing.
"""

from __future__ import annotations

import os
import time
from typing import Final

from symbiosis_core.errors import ClosedError
from symbiosis_core.ids import SlotIndex
from symbiosis_transports.cuda.seam import CudaError, EventNumber, Pointer, Stream
from symbiosis_transports.cuda_ipc.events import OwnEvents
from symbiosis_transports.cuda_ipc.handles import LEFT, device_slot_bytes
from symbiosis_transports.ports import Call, ChannelStatistics, ClientChannel, DeviceRows

__all__ = ["CudaClientChannel"]

_SETTLE_S: Final = 5.0


class CudaClientChannel:
    """The client's end of a channel."""

    def __init__(
        self,
        words: ClientChannel,
        own: OwnEvents,
        pointer: Pointer,
        slot_bytes: int,
        written: list[EventNumber],
        answered: list[EventNumber],
    ) -> None:
        """`pointer` and `answered` are the daemon's, opened here; the channel closes them. `written` go back to
        `own`.
        """
        self.slot_bytes = slot_bytes
        self._words = words
        self._own = own
        self._cuda = cuda = own.cuda
        self._pointer = pointer
        self._written = written
        self._answered = answered
        self._left = words.buffer(SlotIndex(0))[LEFT]
        self._pid = os.getpid()
        self._last: list[Stream | None] = [None] * words.slots
        """The stream that read the slot last."""
        stride = device_slot_bytes(slot_bytes)
        self._rows = [cuda.rows(pointer, slot * stride, slot_bytes) for slot in range(words.slots)]

    def __repr__(self) -> str:
        return f"<CudaClientChannel {self._words!r}>"

    @property
    def slots(self) -> int:
        """How many slots there are."""
        return self._words.slots

    def lease_nowait(self) -> SlotIndex:
        """Takes a free slot. Who read it on another stream is waited for, by the current one."""
        slot = self._words.lease_nowait()
        last, now = self._last[slot], self._cuda.current_stream()
        if last is not None and last != now:
            self._cuda.record(self._written[slot], last)
            self._cuda.wait(now, self._written[slot])
        return slot

    def buffer(self, slot: SlotIndex) -> memoryview:
        """The rows, where the host sees the device's memory; of a real device it does not."""
        rows = self._rows[slot]
        assert isinstance(rows, memoryview)  # who computes on a real device asks for device_rows
        return rows

    def device_rows(self, slot: SlotIndex) -> DeviceRows:
        """The rows on the device."""
        return self._rows[slot]

    def publish(self, slot: SlotIndex, call: Call) -> None:
        """Hands the slot to the daemon, behind all that is queued on the current stream."""
        if not self._rows:
            raise ClosedError("the channel was closed")
        self._cuda.record(self._written[slot], self._cuda.current_stream())
        self._words.publish(slot, call)

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        """Blocks until the slot is answered; what is queued on the current stream from now on sees the answer."""
        self._words.wait(slot, timeout_s)
        self._cuda.wait(self._cuda.current_stream(), self._answered[slot])

    def release(self, slot: SlotIndex) -> None:
        """Gives the slot back. What reads it may still be queued, on the current stream."""
        self._last[slot] = self._cuda.current_stream()
        self._words.release(slot)

    def close(self) -> None:
        """Ends the channel, once what this process has queued on the memory is done."""
        if self._rows and os.getpid() == self._pid:  # a forked child has nothing of CUDA that it could close
            self._rows.clear()
            if self._settled():
                self._let_go()
        self._words.close()

    def statistics(self) -> ChannelStatistics:
        """Those of the words."""
        return self._words.statistics()

    def _settled(self) -> bool:
        """Waits until nothing of ours is queued on the memory: neither rows of calls that nobody will answer, nor
        what reads answers. False: it takes too long, or the device is lost.
        """
        deadline = time.monotonic() + _SETTLE_S
        streams = {stream for stream in self._last if stream is not None} | {self._cuda.current_stream()}
        try:
            return all(self._is_done(event, deadline) for event in self._written) and all(
                self._is_past(stream, deadline) for stream in streams
            )
        except CudaError:
            return False

    def _is_past(self, stream: Stream, deadline: float) -> bool:
        self._cuda.record(self._written[0], stream)
        return self._is_done(self._written[0], deadline)

    def _is_done(self, event: EventNumber, deadline: float) -> bool:
        while not self._cuda.done(event):
            if time.monotonic() > deadline:
                return False
            os.sched_yield()
        return True

    def _let_go(self) -> None:
        """Closes what was opened, and says so, so that the daemon may free it.

        What fails here fails because the device does. Then the daemon waits for the end of this process.
        """
        self._own.give_back(self._written)
        try:
            self._cuda.close_memory(self._pointer)
            for event in self._answered:
                self._cuda.destroy_event(event)
        except CudaError:
            return
        self._left[0] = 1
