"""What a channel has besides where its slots are memory of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from symbiosis_core.ids import SlotIndex

__all__ = [
    "DeviceMemory",
    "DeviceRows",
    "OnDevice",
    "ServesOnDevice",
]


@dataclass(frozen=True)
class DeviceMemory:
    """Memory on a GPU, with the array interface of CUDA. No tuple: torch would take that for values."""

    address: int
    nbytes: int
    device: int
    """Its number in this process."""

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        """Version 3, bytes. No stream is named: who uses it orders its work by the channel's events."""
        return {"shape": (self.nbytes,), "typestr": "|u1", "data": (self.address, False), "version": 3}


DeviceRows = DeviceMemory | memoryview
"""Memory of a slot on a device. A device that is none, as in tests, has memory that the host sees."""


@runtime_checkable
class OnDevice(Protocol):
    """What a channel has besides, on either end, where its slots are memory of a device.

    Rows are written and read by work that is queued on streams, and the channel keeps the order: `publish` comes
    after what the client had queued on its current stream, and `wait` lets what it queues there afterwards come
    after the answer.
    """

    def device_rows(self, slot: SlotIndex) -> DeviceRows:
        """The slot's memory on the device, the same at every call. Valid until `close`."""


@runtime_checkable
class ServesOnDevice(OnDevice, Protocol):
    """The daemon's end of such a channel."""

    def computed(self, slot: SlotIndex) -> None:
        """Says that all for this slot's answer is queued on the current stream. Before `answer`."""
