"""The few calls of CUDA that move rows between two processes on one device, and what may be relied on.

A `Cuda` is one process's use of one device. Memory and events are numbers that mean something in this process
only; a *handle* is 64 bytes that another process turns into a number of its own. Four traps of CUDA are part of
the promises, because everything above has to live with them:

- **Streams are ordered, and late.** What is queued happens some time, in the order of its stream; streams know
  nothing of each other.
- **Waits can be stale.** `wait` and `done` speak of the latest `record` *that was called before*. Of an event that
  was not recorded yet, or whose next record is still to come, they speak of the past, and return at once. So a
  record must be known to the other process before that asks.
- **Nobody opens what it made.** A handle is for other processes.
- **Freed memory is gone for everybody**, whoever has it open, and whatever is queued on it.
"""

from __future__ import annotations

from typing import Final, NewType, Protocol

from symbiosis_core.errors import SymbiosisError
from symbiosis_transports.ports import DeviceRows

__all__ = ["HANDLE_BYTES", "Cuda", "CudaError", "CudaSource", "EventNumber", "Pointer", "Stream"]

HANDLE_BYTES: Final = 64
"""Of a handle, of memory or of an event."""

Pointer = NewType("Pointer", int)
"""An address on the device, in this process."""
EventNumber = NewType("EventNumber", int)
"""An event, in this process."""
Stream = NewType("Stream", int)
"""A stream of this process; 0 is the default one."""


class CudaError(SymbiosisError, RuntimeError):
    """CUDA refused a call. A `RuntimeError` as torch's are: whoever computes treats both alike."""

    def __init__(self, call: str, reason: str) -> None:
        self.call = call
        self.reason = reason
        super().__init__(call, reason)

    def __str__(self) -> str:
        return f"{self.call}: {self.reason}"


class Cuda(Protocol):
    """One process's use of a device. Any call may raise `CudaError`; none but `free` waits for the device."""

    @property
    def uuid(self) -> str:
        """The device's own name, the same for all processes, whatever number they know it by."""

    def allocate(self, nbytes: int) -> Pointer:
        """Returns memory of its own, which no allocator shares with anybody. The caller owes a `free`."""

    def free(self, pointer: Pointer) -> None:
        """Gives memory back. Not before who opened it has closed it or died, and what is queued is done."""

    def memory_handle(self, pointer: Pointer) -> bytes:
        """Returns what another process opens the memory by."""

    def open_memory(self, handle: bytes) -> Pointer:
        """Returns another process's memory. Takes milliseconds: once per connection. The caller owes a close."""

    def close_memory(self, pointer: Pointer) -> None:
        """Lets go of another process's memory."""

    def create_event(self) -> EventNumber:
        """Returns an event that other processes may open. It lives until `destroy_event`, also for them."""

    def destroy_event(self, event: EventNumber) -> None:
        """Lets go of an event, opened or made. Made: who has it open elsewhere may not touch it any more."""

    def event_handle(self, event: EventNumber) -> bytes:
        """Returns what another process opens the event by."""

    def open_event(self, handle: bytes) -> EventNumber:
        """Returns another process's event. The caller owes a `destroy_event`."""

    def current_stream(self) -> Stream:
        """Returns the stream on which this thread's work is queued now."""

    def record(self, event: EventNumber, stream: Stream) -> None:
        """Queues the event: it is done once all that was queued on the stream before is done."""

    def wait(self, stream: Stream, event: EventNumber) -> None:
        """Has what is queued on the stream from now on wait for the latest record that was called until now."""

    def done(self, event: EventNumber) -> bool:
        """Whether the latest record that was called until now is done. True where there was none."""

    def rows(self, pointer: Pointer, at: int, nbytes: int) -> DeviceRows:
        """Returns memory for `tensors.view_rows`. It must not outlive `free` or `close_memory`."""

    def peek(self, pointer: Pointer, at: int, nbytes: int) -> bytes:
        """Copies to the host, now, in the order of no stream."""

    def poke(self, pointer: Pointer, at: int, data: bytes) -> None:
        """Copies from the host, now, in the order of no stream."""


class CudaSource(Protocol):
    """How a process gets at a device. Can be pickled: a child process opens the same device for itself."""

    def obstacle(self) -> str:
        """Why this process can use no device; empty: it can. Takes no memory on a device."""

    def uuids(self) -> tuple[str, ...]:
        """The devices that this process sees."""

    def open(self, uuid: str) -> Cuda:
        """Opens the device of that name for this process."""
