"""The client's half of the conversation with `listener`."""

from __future__ import annotations

import contextlib
import time

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId, SlotIndex, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import Cuda, CudaError, CudaSource, EventNumber, Pointer
from symbiosis_transports.cuda_ipc import handles
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM

__all__ = ["connect"]

_ANY_CALL = Call(OpId(0), Direction.FORWARD, rows=0, in_offset=0, out_offset=0)
_SLOT = SlotIndex(0)


def connect(source: CudaSource, endpoint: str, token: Token, timeout_s: float) -> CudaClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says: `NO_TRANSPORT` where CUDA will not."""
    deadline = time.monotonic() + timeout_s
    words = POSIX_SHM.connect(endpoint, token, timeout_s)
    try:
        slot = words.lease_nowait()
        assert slot == _SLOT  # the first of a fresh channel; whichever it is, the daemon looks at no other
        _say(words, deadline)
        channel = _open(source, words)
        try:
            _say(words, deadline)
        except BaseException:
            channel.close()
            raise
        words.release(slot)
    except CudaError as error:
        words.close()
        raise RefusedError(RefusalCode.NO_TRANSPORT, f"CUDA IPC is of no use here: {error}") from error
    except BaseException:
        words.close()
        raise
    return channel


def _say(words: ClientChannel, deadline: float) -> None:
    words.publish(_SLOT, _ANY_CALL)
    words.wait(_SLOT, max(0.0, deadline - time.monotonic()))


def _open(source: CudaSource, words: ClientChannel) -> CudaClientChannel:
    """Opens what the daemon made, and makes this side's events."""
    first = words.buffer(_SLOT)
    cuda = source.open(handles.read_name(first))
    slots = [words.buffer(SlotIndex(slot)) for slot in range(words.slots)]
    pointer: Pointer | None = None
    events: list[EventNumber] = []
    try:
        pointer = cuda.open_memory(bytes(first[handles.MEMORY]))
        for slot in slots:
            events.append(cuda.open_event(bytes(slot[handles.ANSWERED])))
        answered = list(events)
        for slot in slots:
            events.append(cuda.create_event())
            slot[handles.WRITTEN] = cuda.event_handle(events[-1])
    except CudaError:
        if _drop(cuda, pointer, events):
            first[handles.LEFT] = b"\1"
        raise
    written = events[len(answered) :]
    return CudaClientChannel(words, cuda, pointer, handles.read_slot_bytes(first), written, answered)


def _drop(cuda: Cuda, pointer: Pointer | None, events: list[EventNumber]) -> bool:
    """Closes what was opened, and returns whether the memory is closed for sure."""
    try:
        if pointer is not None:
            cuda.close_memory(pointer)
    except CudaError:
        return False
    with contextlib.suppress(CudaError):
        for event in events:
            cuda.destroy_event(event)
    return True
