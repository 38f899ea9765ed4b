"""The client's half of the conversation with `listener`."""

from __future__ import annotations

import time

from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import OpId, SlotIndex, Token
from symbiosis_core.specs import Direction
from symbiosis_transports.cuda.seam import CudaError, EventNumber, Pointer
from symbiosis_transports.cuda_ipc import handles
from symbiosis_transports.cuda_ipc.client import CudaClientChannel
from symbiosis_transports.cuda_ipc.events import Devices, OwnEvents
from symbiosis_transports.ports import Call, ClientChannel
from symbiosis_transports.posix_shm import TRANSPORT as POSIX_SHM

__all__ = ["connect"]

_ANY_CALL = Call(OpId(0), Direction.FORWARD, rows=0, in_offset=0, out_offset=0)
_SLOT = SlotIndex(0)


def connect(devices: Devices, endpoint: str, token: Token, timeout_s: float) -> CudaClientChannel:
    """Opens the client's end. Raises as `Transport.connect` says: `NO_TRANSPORT` where CUDA will not."""
    deadline = time.monotonic() + timeout_s
    words = POSIX_SHM.connect(endpoint, token, timeout_s)
    try:
        slot = words.lease_nowait()
        assert slot == _SLOT  # the first of a fresh channel; whichever it is, the daemon looks at no other
        channel = _opened(devices, words, deadline)
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


def _opened(devices: Devices, words: ClientChannel, deadline: float) -> CudaClientChannel:
    """Has the daemon make its part, opens it, and makes this side's.

    Where that fails the daemon is told, if nothing of its memory is open here; otherwise it keeps it for as long
    as this process lives.
    """
    first = words.buffer(_SLOT)
    left = first[handles.LEFT]
    opening = _Opening()
    try:
        _say(words, deadline)
        opening.open(devices.open(handles.read_name(first)), words)
        return opening.channel(words, handles.read_slot_bytes(first))
    except BaseException:
        if opening.undone():
            left[0] = 1
        raise


class _Opening:
    """What is open so far."""

    def __init__(self) -> None:
        self._own: OwnEvents | None = None
        self._pointer: Pointer | None = None
        self._written: list[EventNumber] = []
        self._answered: list[EventNumber] = []

    def open(self, own: OwnEvents, words: ClientChannel) -> None:
        """Opens all that the handles say, and writes this side's."""
        self._own, cuda = own, own.cuda
        slots = [words.buffer(SlotIndex(slot)) for slot in range(words.slots)]
        self._pointer = cuda.open_memory(bytes(slots[_SLOT][handles.MEMORY]))
        for slot in slots:
            self._answered.append(cuda.open_event(bytes(slot[handles.ANSWERED])))
        for slot in slots:
            self._written.append(own.take())
            slot[handles.WRITTEN] = cuda.event_handle(self._written[-1])

    def channel(self, words: ClientChannel, slot_bytes: int) -> CudaClientChannel:
        """Returns the channel over all of it, whose it is from now on."""
        assert self._own is not None
        assert self._pointer is not None
        return CudaClientChannel(words, self._own, self._pointer, slot_bytes, self._written, self._answered)

    def undone(self) -> bool:
        """Closes what is open. Returns whether the memory is closed for sure."""
        if self._own is None:
            return True
        self._own.give_back(self._written)
        try:
            for event in self._answered:
                self._own.cuda.destroy_event(event)
            if self._pointer is not None:
                self._own.cuda.close_memory(self._pointer)
        except CudaError:
            return False
        return True
