"""One process's use of a fake device: the calls of the seam, with CUDA's semantics.

An event is three words that all processes see: how often it was recorded (as the host called), up to which
record it is done (as a stream came by), and whether it was destroyed. A wait takes the first word when it is
*called*, and waits for the second to reach it: which is how a wait becomes stale. Memory has a page before it
that says whether it was freed; freed memory is filled with 0xFF, and work that touches it is a `fault`. So is
whatever is called for an event that its maker has destroyed.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
import threading
from collections.abc import Callable, Iterator
from random import Random
from typing import Final, NamedTuple

from symbiosis_transports.cuda.seam import HANDLE_BYTES, CudaError, EventNumber, Pointer, Stream
from symbiosis_transports.fake_cuda.board import Board
from symbiosis_transports.fake_cuda.streams import Queued, Streams

__all__ = ["POISON", "FakeCuda"]

POISON: Final = 0xFF
_PAGE: Final = 4096
_FREED: Final = 0
"""Word of a memory's first page."""
_RECORDED, _DONE, _DESTROYED = 0, 1, 2
_EVENT_BYTES: Final = 24
_SPACING: Final = 1 << 40
"""Between the addresses of two pieces of memory: none is ever so large."""


class _Memory(NamedTuple):
    name: str
    words: memoryview
    data: memoryview
    own: bool


class _Event(NamedTuple):
    name: str
    words: memoryview
    own: bool


class FakeCuda:
    """A `Cuda` without a device. Whoever likes makes its steps, by `step`; `motor` is a thread that does."""

    def __init__(
        self, board: Board, uuid: str = "fake-0", *, name: str = "", faults: list[str] | None = None
    ) -> None:
        self.uuid = uuid
        self.faults = [] if faults is None else faults
        """What was done that must not be, and whose outcome CUDA does not define. The list may be given."""
        self._board = board
        self._name = name or secrets.token_hex(4)
        self._numbers = itertools.count(1)
        self._memories: dict[int, _Memory] = {}
        self._events: dict[EventNumber, _Event] = {}
        self._streams = Streams()
        self._current = Stream(0)
        self._lock = threading.RLock()
        self.queued = threading.Condition(self._lock)
        """Notified when there is something to step."""

    def __repr__(self) -> str:
        return f"<FakeCuda {self._name} queued={len(self._streams)} faults={len(self.faults)}>"

    # -- the seam --------------------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Pointer:
        """See `Cuda`."""
        name = f"{self._name}.{next(self._numbers)}"
        return self._hold(name, self._board.make(name, _PAGE + nbytes), own=True)

    def free(self, pointer: Pointer) -> None:
        """See `Cuda`. Waits for nothing, whatever is queued: whoever calls too early is found out."""
        memory = self._memory("cudaFree", pointer, own=True)
        memory.words[_FREED] = 1
        memory.data[:] = bytes([POISON]) * len(memory.data)
        self._board.wipe(memory.name)
        del self._memories[pointer]

    def memory_handle(self, pointer: Pointer) -> bytes:
        """See `Cuda`."""
        return _handle(self._memory("cudaIpcGetMemHandle", pointer, own=True).name)

    def open_memory(self, handle: bytes) -> Pointer:
        """See `Cuda`."""
        name, found = self._find("cudaIpcOpenMemHandle", handle)
        return self._hold(name, found, own=False)

    def close_memory(self, pointer: Pointer) -> None:
        """See `Cuda`."""
        self._memory("cudaIpcCloseMemHandle", pointer, own=False)
        del self._memories[pointer]

    def create_event(self) -> EventNumber:
        """See `Cuda`."""
        number = next(self._numbers)
        name = f"{self._name}.{number}"
        words = self._board.make(name, _EVENT_BYTES).cast("Q")
        self._events[EventNumber(number)] = _Event(name, words, own=True)
        return EventNumber(number)

    def destroy_event(self, event: EventNumber) -> None:
        """See `Cuda`."""
        gone = self._event("cudaEventDestroy", event)
        if gone.own:
            gone.words[_DESTROYED] = 1
            self._board.wipe(gone.name)
        del self._events[event]

    def event_handle(self, event: EventNumber) -> bytes:
        """See `Cuda`."""
        return _handle(self._event("cudaIpcGetEventHandle", event).name)

    def open_event(self, handle: bytes) -> EventNumber:
        """See `Cuda`."""
        name, found = self._find("cudaIpcOpenEventHandle", handle)
        if len(found) != _EVENT_BYTES:
            raise CudaError("cudaIpcOpenEventHandle", "invalid argument (1): that is no event")
        number = EventNumber(next(self._numbers))
        self._events[number] = _Event(name, found.cast("Q"), own=False)
        return number

    def current_stream(self) -> Stream:
        """See `Cuda`."""
        return self._current

    def record(self, event: EventNumber, stream: Stream) -> None:
        """See `Cuda`."""
        words = self._event("cudaEventRecord", event).words
        words[_RECORDED] += 1
        version = words[_RECORDED]

        def make() -> None:
            words[_DONE] = max(words[_DONE], version)

        self._queue(stream, Queued(_always, make))

    def wait(self, stream: Stream, event: EventNumber) -> None:
        """See `Cuda`."""
        words = self._event("cudaStreamWaitEvent", event).words
        version = words[_RECORDED]
        self._queue(stream, Queued(lambda: bool(words[_DONE] >= version or words[_DESTROYED]), _nothing))

    def done(self, event: EventNumber) -> bool:
        """See `Cuda`."""
        words = self._event("cudaEventQuery", event).words
        return bool(words[_DONE] >= words[_RECORDED])

    def rows(self, pointer: Pointer, at: int, nbytes: int) -> memoryview:
        """See `Cuda`. This host sees the device's memory."""
        return self._memory("rows", pointer).data[at : at + nbytes]

    def peek(self, pointer: Pointer, at: int, nbytes: int) -> bytes:
        """See `Cuda`."""
        return bytes(self.rows(pointer, at, nbytes))

    def poke(self, pointer: Pointer, at: int, data: bytes) -> None:
        """See `Cuda`."""
        self.rows(pointer, at, len(data))[:] = data

    # -- what a kernel does, and who makes the steps -----------------------------------------------------------

    def launch(self, work: Callable[[], None], *touches: Pointer) -> None:
        """Queues work on the current stream. Where memory that it touches is freed by then, that is a fault."""
        memories = [self._memory("launch", pointer) for pointer in touches]

        def make() -> None:
            self.faults += [f"work touches {memory.name}, freed" for memory in memories if memory.words[_FREED]]
            work()

        self._queue(self._current, Queued(_always, make))

    @contextlib.contextmanager
    def on(self, stream: Stream) -> Iterator[None]:
        """Makes a stream the current one."""
        before, self._current = self._current, stream
        try:
            yield
        finally:
            self._current = before

    def step(self, random: Random) -> bool:
        """Makes one step of a stream that can move, chosen by `random`. False: none can."""
        with self._lock:
            movable = self._streams.movable()
            if movable:
                self._streams.step(random.choice(movable))
            return bool(movable)

    @property
    def pending(self) -> int:
        """How many steps are queued."""
        return len(self._streams)

    def die(self, random: Random) -> None:
        """Ends this process where it stands. What is queued is never made.

        What a driver does with events whose record is never reached is not documented. Here each is done or never,
        as `random` has it: nobody may rely on either. Memory stays what it is for who has opened it.
        """
        with self._lock:
            self._streams.forget()
            for event in self._events.values():
                if event.own and random.random() < 0.5:
                    event.words[_DONE] = event.words[_RECORDED]
            self._events.clear()
            self._memories.clear()

    # -- inside ------------------------------------------------------------------------------------------------

    def _queue(self, stream: Stream, step: Queued) -> None:
        with self.queued:
            self._streams.queue(stream, step)
            self.queued.notify_all()

    def _hold(self, name: str, found: memoryview, *, own: bool) -> Pointer:
        pointer = Pointer(next(self._numbers) * _SPACING)
        self._memories[pointer] = _Memory(name, found[:_PAGE].cast("Q"), found[_PAGE:], own)
        return pointer

    def _find(self, call: str, handle: bytes) -> tuple[str, memoryview]:
        name = handle.rstrip(b"\0").decode(errors="replace")
        if len(handle) != HANDLE_BYTES or "/" in name or name.startswith(".") or "\0" in name or not name:
            raise CudaError(call, "invalid argument (1)")
        if name.split(".")[0] == self._name:
            raise CudaError(call, "invalid device context (201): this process made it")
        found = self._board.find(name)
        if found is None:
            raise CudaError(call, "invalid argument (1): nobody has it any more")
        return name, found

    def _memory(self, call: str, pointer: Pointer, *, own: bool | None = None) -> _Memory:
        memory = self._memories.get(pointer)
        if memory is None or own not in (None, memory.own):
            raise CudaError(call, "invalid argument (1)")
        return memory

    def _event(self, call: str, event: EventNumber) -> _Event:
        found = self._events.get(event)
        if found is None:
            raise CudaError(call, "invalid resource handle (400)")
        if found.words[_DESTROYED]:
            self.faults.append(f"{call} of {found.name}, destroyed")
        return found


def _handle(name: str) -> bytes:
    return name.encode().ljust(HANDLE_BYTES, b"\0")


def _always() -> bool:
    return True


def _nothing() -> None:
    """What a wait does once it is over."""
