"""Bytes into a slot and out of it, wherever its memory is: the suite does not know, and both its ends ask here."""

from __future__ import annotations

import ctypes

from symbiosis_core.ids import SlotIndex
from symbiosis_core.specs import DType
from symbiosis_transports.ports import ClientChannel, DeviceMemory, DeviceRows, OnDevice, ServerChannel

__all__ = ["address_of", "get", "put"]

_End = ClientChannel | ServerChannel


def put(end: _End, slot: SlotIndex, at: int, data: bytes) -> None:
    """Writes, or queues it on the current stream."""
    rows = _memory(end, slot)
    if isinstance(rows, memoryview):
        rows[at : at + len(data)] = data
    elif data:
        from symbiosis_transports.tensors import view_rows  # needs torch, as who has a GPU does

        given = view_rows(memoryview(bytearray(data)), 0, 1, len(data), DType.UINT8)
        view_rows(rows, at, 1, len(data), DType.UINT8).copy_(given)


def get(end: _End, slot: SlotIndex, at: int, nbytes: int) -> bytes:
    """Reads, after all that is queued on the current stream."""
    rows = _memory(end, slot)
    if isinstance(rows, memoryview):
        return bytes(rows[at : at + nbytes])
    from symbiosis_transports.tensors import view_rows  # as above

    return bytes(view_rows(rows, at, 1, nbytes, DType.UINT8).cpu().numpy()) if nbytes else b""


def address_of(end: _End, slot: SlotIndex) -> int:
    """Where the slot begins."""
    rows = _memory(end, slot)
    return rows.address if isinstance(rows, DeviceMemory) else ctypes.addressof(ctypes.c_char.from_buffer(rows))


def _memory(end: _End, slot: SlotIndex) -> DeviceRows:
    """As `tensors.slot_memory`, which needs torch."""
    return end.device_rows(slot) if isinstance(end, OnDevice) else end.buffer(slot)
