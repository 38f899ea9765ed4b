"""One client's memory on the device, and the events that tell of it: made by the daemon, which also frees it.

So the death of a client frees the client's mapping, and the daemon's own memory is the daemon's to free. The other
way round a client that was killed would take the daemon's mappings with it.
"""

from __future__ import annotations

import contextlib

from symbiosis_core.ids import SlotIndex
from symbiosis_transports.cuda.seam import Cuda, CudaError, EventNumber, Pointer
from symbiosis_transports.cuda_ipc.handles import device_slot_bytes
from symbiosis_transports.ports import DeviceRows

__all__ = ["DeviceArena"]


class DeviceArena:
    """Plain device memory for all slots of one client, and per slot the event of the daemon's answer."""

    def __init__(self, cuda: Cuda, slots: int, slot_bytes: int) -> None:
        """Takes memory and events. Raises `CudaError` when there are none left, and then keeps nothing."""
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._cuda = cuda
        self._stride = device_slot_bytes(slot_bytes)
        self.nbytes = slots * self._stride
        self.pointer: Pointer = cuda.allocate(self.nbytes)
        self.answered: list[EventNumber] = []
        try:
            for _ in range(slots):
                self.answered.append(cuda.create_event())
        except CudaError:
            self.free()
            raise

    def __repr__(self) -> str:
        return f"<DeviceArena {self.slots} x {self.slot_bytes} bytes>"

    def rows(self, slot: SlotIndex) -> DeviceRows:
        """The rows of a slot."""
        return self._cuda.rows(self.pointer, slot * self._stride, self.slot_bytes)

    def at_rest(self) -> bool:
        """Whether all that was queued for answers is done."""
        try:
            return all(map(self._cuda.done, self.answered))
        except CudaError:
            return True  # the device is lost, and nothing is queued any more

    def free(self) -> None:
        """Gives everything back. Once it is at rest, and the client has closed it or died."""
        for event in self.answered:
            with contextlib.suppress(CudaError):
                self._cuda.destroy_event(event)
        self.answered.clear()
        with contextlib.suppress(CudaError):
            self._cuda.free(self.pointer)
