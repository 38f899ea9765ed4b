"""The calls on a real device. None of this has been run on a GPU yet.

Streams and devices are torch's: its current stream is the one on which a client's and the daemon's work is
queued. Memory and events are the runtime's own. torch is asked for neither: its allocator packs tensors of
everybody into one block, and a handle opens the whole block; with expandable segments or cudaMallocAsync there
is no handle at all.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

import torch

from symbiosis_transports.cuda.library import (
    DISABLE_TIMING,
    INTERPROCESS,
    LAZY_PEER_ACCESS,
    NOT_READY,
    TO_DEVICE,
    TO_HOST,
    Handle,
    Library,
)
from symbiosis_transports.cuda.seam import HANDLE_BYTES, CudaError, EventNumber, Pointer, Stream
from symbiosis_transports.ports import DeviceMemory

__all__ = ["CudaDevice"]


class CudaDevice:
    """One device, used by this process."""

    def __init__(self, library: Library, index: int, uuid: str) -> None:
        self._call = library
        self._index = index
        self.uuid = uuid

    def __repr__(self) -> str:
        return f"<CudaDevice cuda:{self._index} {self.uuid}>"

    def allocate(self, nbytes: int) -> Pointer:
        """See `Cuda`."""
        pointer = ctypes.c_void_p()
        with self._chosen():
            self._call("cudaMalloc", ctypes.byref(pointer), nbytes)
        return Pointer(pointer.value or 0)

    def free(self, pointer: Pointer) -> None:
        """See `Cuda`."""
        with self._chosen():
            self._call("cudaFree", pointer)

    def memory_handle(self, pointer: Pointer) -> bytes:
        """See `Cuda`."""
        handle = Handle()
        with self._chosen():
            self._call("cudaIpcGetMemHandle", ctypes.byref(handle), pointer)
        return bytes(handle)

    def open_memory(self, handle: bytes) -> Pointer:
        """See `Cuda`."""
        pointer = ctypes.c_void_p()
        with self._chosen():
            self._call("cudaIpcOpenMemHandle", ctypes.byref(pointer), _struct(handle), LAZY_PEER_ACCESS)
        return Pointer(pointer.value or 0)

    def close_memory(self, pointer: Pointer) -> None:
        """See `Cuda`."""
        with self._chosen():
            self._call("cudaIpcCloseMemHandle", pointer)

    def create_event(self) -> EventNumber:
        """See `Cuda`."""
        event = ctypes.c_void_p()
        with self._chosen():
            self._call("cudaEventCreateWithFlags", ctypes.byref(event), DISABLE_TIMING | INTERPROCESS)
        return EventNumber(event.value or 0)

    def destroy_event(self, event: EventNumber) -> None:
        """See `Cuda`."""
        self._call("cudaEventDestroy", event)

    def event_handle(self, event: EventNumber) -> bytes:
        """See `Cuda`."""
        handle = Handle()
        self._call("cudaIpcGetEventHandle", ctypes.byref(handle), event)
        return bytes(handle)

    def open_event(self, handle: bytes) -> EventNumber:
        """See `Cuda`."""
        event = ctypes.c_void_p()
        with self._chosen():
            self._call("cudaIpcOpenEventHandle", ctypes.byref(event), _struct(handle))
        return EventNumber(event.value or 0)

    def current_stream(self) -> Stream:
        """torch's, of this thread."""
        return Stream(torch.cuda.current_stream(self._index).cuda_stream)

    def record(self, event: EventNumber, stream: Stream) -> None:
        """See `Cuda`. The default stream has no name of its own: its number means the current device's."""
        with self._chosen():
            self._call("cudaEventRecord", event, stream)

    def wait(self, stream: Stream, event: EventNumber) -> None:
        """See `Cuda`. The stream is this device's, as for `record`."""
        with self._chosen():
            self._call("cudaStreamWaitEvent", stream, event, 0)

    def done(self, event: EventNumber) -> bool:
        """See `Cuda`. Not being ready is no error, and leaves none behind."""
        number = self._call.ask("cudaEventQuery", event)
        if number != NOT_READY:
            self._call.check("cudaEventQuery", number)
            return True
        self._call.ask("cudaGetLastError")
        return False

    def rows(self, pointer: Pointer, at: int, nbytes: int) -> DeviceMemory:
        """See `Cuda`."""
        return DeviceMemory(pointer + at, nbytes, self._index)

    def peek(self, pointer: Pointer, at: int, nbytes: int) -> bytes:
        """See `Cuda`."""
        host = ctypes.create_string_buffer(nbytes)
        with self._chosen():
            self._call("cudaMemcpy", host, pointer + at, nbytes, TO_HOST)
        return host.raw

    def poke(self, pointer: Pointer, at: int, data: bytes) -> None:
        """See `Cuda`."""
        with self._chosen():
            self._call("cudaMemcpy", pointer + at, data, len(data), TO_DEVICE)

    @contextlib.contextmanager
    def _chosen(self) -> Iterator[None]:
        """Memory and events belong to the device that is current; others may have chosen another."""
        with torch.cuda.device(self._index):
            yield


def _struct(handle: bytes) -> Handle:
    if len(handle) != HANDLE_BYTES:
        raise CudaError("handle", f"it has {len(handle)} bytes, not {HANDLE_BYTES}")
    return Handle.from_buffer_copy(handle)
