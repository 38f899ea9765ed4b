"""What the channels of a virtual world stand on: words in plain memory, and a device, both with places to switch.

Wherever a channel calls one of them, `switch` lets anybody else move before, after, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from symbiosis_core.errors import BusyError, DaemonGoneError, RefusalCode
from symbiosis_core.ids import ClientId, Generation, SlotIndex
from symbiosis_transports.cuda.seam import EventNumber, Pointer, Stream
from symbiosis_transports.cuda_ipc.handles import HOST_SLOT_BYTES
from symbiosis_transports.fake_cuda import Board, FakeCuda
from symbiosis_transports.ports import Arrival, Call, ChannelStatistics

__all__ = ["SLOTS", "SwitchingCuda", "Words"]

SLOTS: Final = 2


class Words:
    """Calls and answers between a client and the daemon: both ends' words, without a socket."""

    def __init__(self, switch: Callable[[], None], client: ClientId) -> None:
        self.client = client
        self.buffers = [memoryview(bytearray(HOST_SLOT_BYTES)) for _ in range(SLOTS)]
        self.published: list[Arrival] = []
        self.answered = [Generation(0)] * SLOTS
        self.generations = [Generation(0)] * SLOTS
        self.free = [SlotIndex(slot) for slot in range(SLOTS)]
        self.slots = SLOTS
        self.slot_bytes = self.arena_bytes = HOST_SLOT_BYTES
        self.hung_up = False
        self._switch = switch

    def buffer(self, slot: SlotIndex) -> memoryview:
        return self.buffers[slot]

    def lease_nowait(self) -> SlotIndex:
        if not self.free:
            raise BusyError(RefusalCode.QUOTA, "all in use")
        return self.free.pop()

    def publish(self, slot: SlotIndex, call: Call) -> None:
        self._switch()
        if self.hung_up:
            raise DaemonGoneError("here", "it hung up")
        self.generations[slot] = Generation(self.generations[slot] + 1)
        self.published.append(Arrival(slot, self.generations[slot], call))
        self._switch()

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        assert self.answered[slot] == self.generations[slot]  # a client of this world looks before it waits
        self._switch()

    def release(self, slot: SlotIndex) -> None:
        self.free.append(slot)

    def waiting(self) -> bool:
        return bool(self.published)

    def take(self) -> list[Arrival]:
        taken, self.published = self.published, []
        self._switch()
        return taken

    def answer(self, slot: SlotIndex, generation: Generation, refusal: RefusalCode | None = None) -> None:
        self._switch()
        self.answered[slot] = generation
        self._switch()

    def ring(self) -> None:
        pass

    def arm(self) -> bool:
        return True

    def disarm(self) -> None:
        pass

    def close(self, reason: str = "", *, breach: bool = False) -> None:
        self.hung_up = True

    def statistics(self) -> ChannelStatistics:
        return ChannelStatistics(0, 0, 0, 0)


class SwitchingCuda(FakeCuda):
    """A device before each of whose calls others may move."""

    def __init__(self, board: Board, name: str, switch: Callable[[], None]) -> None:
        super().__init__(board, name=name)
        self._switch = switch

    def record(self, event: EventNumber, stream: Stream) -> None:
        self._switch()
        super().record(event, stream)
        self._switch()

    def wait(self, stream: Stream, event: EventNumber) -> None:
        self._switch()
        super().wait(stream, event)

    def done(self, event: EventNumber) -> bool:
        self._switch()
        return super().done(event)

    def close_memory(self, pointer: Pointer) -> None:
        self._switch()
        super().close_memory(pointer)
