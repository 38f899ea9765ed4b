"""Sides of a channel that break one rule of order each, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from symbiosis_core.ids import SlotIndex
from symbiosis_transports.cuda.seam import EventNumber
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.cuda_ipc.events import OwnEvents
from symbiosis_transports.cuda_ipc.server import CudaServerChannel
from symbiosis_transports.fake_cuda import FakeCuda
from symbiosis_transports.ports import Arrival, Call
from tests.transports.cuda_world import BoundGrave

__all__ = [
    "Careless",
    "Credulous",
    "Forgetful",
    "Hasty",
    "Impatient",
    "Presuming",
    "PublishedFirst",
    "RestlessGrave",
    "ShallowGrave",
    "Spendthrift",
    "Wasteful",
]


class PublishedFirst(CudaClientChannel):
    """Records after the word."""

    def publish(self, slot: SlotIndex, call: Call) -> None:
        self._words.publish(slot, call)
        self._cuda.record(self._written[slot], self._cuda.current_stream())


class Impatient(CudaClientChannel):
    """Does not have its stream wait for the answer."""

    def wait(self, slot: SlotIndex, timeout_s: float) -> None:
        self._words.wait(slot, timeout_s)


class Forgetful(CudaClientChannel):
    """Does not have one stream wait for what another still reads from the slot."""

    def lease_nowait(self) -> SlotIndex:
        return self._words.lease_nowait()


class Hasty(CudaClientChannel):
    """Closes the memory while its own work on it is queued."""

    def _settled(self) -> bool:
        return True


class Careless(CudaClientChannel):
    """Waits for what reads answers, and closes the memory under rows of calls that nobody will answer."""

    def _settled(self) -> bool:
        return all(self._is_past(stream, inf) for stream in self._last if stream is not None)


class Spendthrift(OwnEvents):
    """Gives an event to two slots of the next channel."""

    def give_back(self, events: Sequence[EventNumber]) -> None:
        super().give_back([event for event in events for _ in range(2)])


class Presuming(CudaClientChannel):
    """Records nothing behind the first rows of a slot where the channel before has recorded the event."""

    def publish(self, slot: SlotIndex, call: Call) -> None:
        assert isinstance(self._cuda, FakeCuda)
        recorded = self._cuda._events[self._written[slot]].words[0]
        if self._last[slot] is not None or not recorded:
            self._cuda.record(self._written[slot], self._cuda.current_stream())
        self._words.publish(slot, call)


class Wasteful(OwnEvents):
    """Destroys events of its own that the daemon has open."""

    def give_back(self, events: Sequence[EventNumber]) -> None:
        for event in events:
            self.cuda.destroy_event(event)


class Credulous(CudaServerChannel):
    """Takes what is published, written or not."""

    def _is_written(self, arrival: Arrival) -> bool:
        return True


class ShallowGrave(BoundGrave):
    """Frees memory at the end of the socket."""

    def untouchable(self) -> bool:
        return True


class RestlessGrave(BoundGrave):
    """Frees memory while the daemon's own work on it is queued."""

    def untouchable(self) -> bool:
        return self._left[0] == 1 or self._process.ended()
