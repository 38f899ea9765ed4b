"""The memory of one client's slots: page-aligned, in one piece."""

from __future__ import annotations

import contextlib
import mmap

from symbiosis_transports.arena import Arena
from symbiosis_transports.layout import PAGE_BYTES

__all__ = ["Slots"]


class Slots:
    """Views of an arena, one for each slot. Owns the arena."""

    def __init__(self, arena: Arena, slots: int, slot_bytes: int) -> None:
        self._arena = arena
        self.slot_bytes = slot_bytes
        stride = _stride(slot_bytes)
        self.buffers = [arena.view[at : at + slot_bytes] for at in range(0, slots * stride, stride)]

    @classmethod
    def private(cls, slots: int, slot_bytes: int) -> Slots:
        """Slots that nobody else sees."""
        return cls(Arena(mmap.mmap(-1, cls.arena_bytes(slots, slot_bytes))), slots, slot_bytes)

    @staticmethod
    def arena_bytes(slots: int, slot_bytes: int) -> int:
        """How large an arena for so many slots is."""
        return slots * _stride(slot_bytes)

    def __len__(self) -> int:
        return len(self.buffers)

    def close(self) -> None:
        """Frees the memory now, or when the last tensor that views it dies."""
        for view in self.buffers:
            with contextlib.suppress(BufferError):
                view.release()
        with contextlib.suppress(BufferError):
            self._arena.close()


def _stride(slot_bytes: int) -> int:
    return -(-slot_bytes // PAGE_BYTES) * PAGE_BYTES
