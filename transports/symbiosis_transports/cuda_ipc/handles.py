"""What stands in the host's memory of a channel whose rows are on a device: handles, and nothing that is a row.

Calls and words are those of `posix_shm`, in an arena of its own kind, whose slots are small. In the slots stand,
once and for the life of the connection:

    every slot   +0    the event that the client records behind its rows: its handle
                 +64   the event that the daemon records behind its answer: its handle
    slot 0       +128  the device memory of all slots: its handle
                 +192  bytes of a slot on the device, u64
                 +200  1 once the client has closed the device memory
                 +256  the device's name
"""

from __future__ import annotations

import struct
from typing import Final

from symbiosis_transports.cuda.seam import HANDLE_BYTES

__all__ = [
    "ANSWERED",
    "HOST_SLOT_BYTES",
    "LEFT",
    "MEMORY",
    "WRITTEN",
    "device_slot_bytes",
    "read_name",
    "read_slot_bytes",
    "write_name",
    "write_slot_bytes",
]

HOST_SLOT_BYTES: Final = 512
WRITTEN: Final = slice(0, HANDLE_BYTES)
ANSWERED: Final = slice(64, 64 + HANDLE_BYTES)
MEMORY: Final = slice(128, 128 + HANDLE_BYTES)
LEFT: Final = slice(200, 201)
_SLOT_BYTES_AT: Final = 192
_NAME: Final = slice(256, HOST_SLOT_BYTES)
_STEP: Final = 512
"""Of slots on the device: what cudaMalloc itself aligns to is no less than half of it."""


def device_slot_bytes(slot_bytes: int) -> int:
    """Returns the distance between two slots on the device."""
    return -(-slot_bytes // _STEP) * _STEP


def write_slot_bytes(host_slot: memoryview, slot_bytes: int) -> None:
    """Says how large a slot on the device is."""
    struct.pack_into("<Q", host_slot, _SLOT_BYTES_AT, slot_bytes)


def read_slot_bytes(host_slot: memoryview) -> int:
    """Returns how large a slot on the device is."""
    (slot_bytes,) = struct.unpack_from("<Q", host_slot, _SLOT_BYTES_AT)
    return int(slot_bytes)


def write_name(host_slot: memoryview, uuid: str) -> None:
    """Says which device it is; a name that is too long is cut, and then known to nobody."""
    name = uuid.encode()[: _NAME.stop - _NAME.start]
    host_slot[_NAME] = name.ljust(_NAME.stop - _NAME.start, b"\0")


def read_name(host_slot: memoryview) -> str:
    """Returns which device it is."""
    return bytes(host_slot[_NAME]).rstrip(b"\0").decode(errors="replace")
