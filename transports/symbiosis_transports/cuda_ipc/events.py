"""The events that a client makes, and that a daemon opens: made once, used by one channel after the other.

An event that another process has open must not be destroyed: what CUDA does when it is asked then is undefined.
A client that leaves does not know when the daemon asks for the last time. So its events are never destroyed; the
next channel of this process takes them. There are no more of them than slots were ever open at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from symbiosis_transports.cuda.seam import Cuda, CudaSource, EventNumber

__all__ = ["Devices", "OwnEvents"]


class OwnEvents:
    """This process's events on one device, for any of its threads."""

    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self._free: list[EventNumber] = []

    def __repr__(self) -> str:
        return f"<OwnEvents {self.cuda!r} free={len(self._free)}>"

    def take(self) -> EventNumber:
        """Returns an event that no channel uses. Raises `CudaError` where a new one cannot be made."""
        try:
            return self._free.pop()
        except IndexError:
            return self.cuda.create_event()

    def give_back(self, events: Sequence[EventNumber]) -> None:
        """Keeps events for the next channel, once all their records are done."""
        self._free.extend(events)


class Devices:
    """The devices that this process uses as a client, each opened once."""

    def __init__(self, source: CudaSource) -> None:
        self._source = source
        self._opened: dict[str, OwnEvents] = {}

    def __reduce__(self) -> tuple[type[Devices], tuple[CudaSource]]:
        """In another process nothing is open."""
        return Devices, (self._source,)

    def open(self, uuid: str) -> OwnEvents:
        """Returns the events of the device of that name. Raises `CudaError` where this process does not see it."""
        if uuid not in self._opened:
            self._opened.setdefault(uuid, OwnEvents(self._source.open(uuid)))
        return self._opened[uuid]
