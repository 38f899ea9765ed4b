"""What stands where in an arena, and who writes it.

    +0      control   words that both sides read: one writer each, one cache line each
    +256    slots     per slot: the client's request line, then the daemon's answer line
    +...    rows      per slot `slot_bytes`, from a page boundary on

Every word is an aligned u64 with exactly one writer. A side writes what it has to say first and the word that
announces it last; on x86-64 (total store order) the other side then reads them in that order. Elsewhere pure
Python cannot order two plain stores, so `WORDS_ARE_ORDERED` is false and every message rings the doorbell: the
system call orders.
"""

from __future__ import annotations

import platform
import struct
import threading
from typing import Final, NamedTuple

from symbiosis_core.errors import RefusalCode, RemoteProtocolError
from symbiosis_core.ids import SlotIndex
from symbiosis_core.spared_core import Place
from symbiosis_core.specs import Direction
from symbiosis_transports.ports import Call

__all__ = [
    "ALIGNMENT",
    "ANNOUNCED",
    "CLIENT_SLEEPS",
    "DAEMON_SLEEPS",
    "PAGE_BYTES",
    "PLACE",
    "PUBLISHED",
    "WORDS_ARE_ORDERED",
    "Layout",
    "announcement",
    "code_of",
    "fence",
    "lead_us_of",
    "pack_call",
    "place_of",
    "place_word",
    "refusal_of",
    "unpack_call",
]

WORDS_ARE_ORDERED: Final = platform.machine() in {"x86_64", "AMD64"}
PAGE_BYTES: Final = 4096
ALIGNMENT: Final = 64
_WORD: Final = 8
_LINE: Final = 64

# Indices of control words, in u64.
PUBLISHED: Final = 0
"""Written by the client: how many calls it has published. Unchanged means: nothing to look for."""
DAEMON_SLEEPS: Final = 1 * _LINE // _WORD
"""Written by the daemon: 1 while it wants to be rung."""
PLACE: Final = DAEMON_SLEEPS + 1
"""Written by the daemon: where the client is asked to compute, as `place_word` packs it; 0: anywhere."""
CLIENT_SLEEPS: Final = 2 * _LINE // _WORD
"""Written by the client: 1 while it wants to be rung."""

ANNOUNCED: Final = PUBLISHED + 1
"""Written by the client: that it is writing a call, as `announcement` packs it; 0: it has published that."""

_LEAD_BITS: Final = 16
_WORD_MASK: Final = (1 << 64) - 1
_SLOTS_AT: Final = 256
_SLOT_HEADER: Final = 2 * _LINE
_CALL: Final = struct.Struct("<IIIIQQQ")  # op, direction, rows, memo, in_offset, out_offset, asked_us

_DIRECTIONS: Final = tuple(Direction)
_CODES: Final = tuple(RefusalCode)
_fence_lock = threading.Lock()


def fence() -> None:
    """Orders this thread's earlier stores before its later loads (x86 allows that one reordering)."""
    with _fence_lock:
        pass


class Layout(NamedTuple):
    """The positions in an arena of `slots` slots of `slot_bytes` bytes each."""

    slots: int
    slot_bytes: int

    @property
    def rows_at(self) -> int:
        """Where slot 0's rows start."""
        return _round_up(_SLOTS_AT + self.slots * _SLOT_HEADER, PAGE_BYTES)

    @property
    def arena_bytes(self) -> int:
        """Bytes of the whole arena."""
        return self.rows_at + self.slots * _round_up(self.slot_bytes, PAGE_BYTES)

    def slot_at(self, slot: SlotIndex) -> int:
        """Where the rows of `slot` start."""
        return self.rows_at + slot * _round_up(self.slot_bytes, PAGE_BYTES)

    def request_word(self, slot: SlotIndex) -> int:
        """Index of the generation that the client published last in `slot`."""
        return (_SLOTS_AT + slot * _SLOT_HEADER) // _WORD

    def answer_word(self, slot: SlotIndex) -> int:
        """Index of the generation that the daemon answered last in `slot`; the next word is its code."""
        return self.request_word(slot) + _LINE // _WORD

    def call_at(self, slot: SlotIndex) -> int:
        """Where the call of `slot` is described, in bytes."""
        return self.request_word(slot) * _WORD + _WORD


def place_word(place: Place | None) -> int:
    """Returns the word that says where a client is asked to compute."""
    return 0 if place is None else (place.core + 1) << 1 | place.leave


def place_of(word: int) -> Place | None:
    """Returns what that word says."""
    return Place((word >> 1) - 1, bool(word & 1)) if word else None


def announcement(number: int, lead_us: int) -> int:
    """Returns the word that says how long the call that is being written is worth looking for, by its number."""
    return number << _LEAD_BITS & _WORD_MASK | lead_us


def lead_us_of(word: int) -> int:
    """Returns how long that is."""
    return word & ((1 << _LEAD_BITS) - 1)


def pack_call(arena: memoryview, at: int, call: Call, now_us: int) -> None:
    """Writes `call` into the request line, and that it is published now."""
    op, direction, rows, in_offset, out_offset, memo, _, _, _ = call
    _CALL.pack_into(arena, at, op, direction, rows, memo, in_offset, out_offset, now_us)


def unpack_call(arena: memoryview, at: int) -> Call:
    """Copies the call out of memory that the client can still change, then gives it its types.

    Raises:
        RemoteProtocolError: there is no such direction.
    """
    op, direction, rows, memo, in_offset, out_offset, asked_us = _CALL.unpack_from(arena, at)
    if direction >= len(_DIRECTIONS):
        raise RemoteProtocolError(f"direction {direction} in a call; 0 is forward and 1 backward")
    # Not by its constructor, which is Python and takes about as long as all the rest of this.
    return tuple.__new__(Call, (op, _DIRECTIONS[direction], rows, in_offset, out_offset, memo, 0, 0, asked_us))


def code_of(refusal: RefusalCode | None) -> int:
    """Returns the number that stands for an answer in the arena; 0 is success."""
    return 0 if refusal is None else _CODES.index(refusal) + 1


def refusal_of(code: int) -> RefusalCode | None:
    """Returns what an answer's number stands for. A number of a newer daemon counts as `FAILED`."""
    if code == 0:
        return None
    return _CODES[code - 1] if code <= len(_CODES) else RefusalCode.FAILED


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
