"""What a published slot asks for. Plain data, without a loop or a socket: the scheduler decides over it."""

from __future__ import annotations

from typing import NamedTuple

from symbiosis_core.ids import Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction

__all__ = ["Arrival", "Call"]


class Call(NamedTuple):
    """What a published slot asks for. At the daemon nothing in it may be trusted before it was checked."""

    op: OpId
    direction: Direction
    rows: int
    in_offset: int
    """Bytes from the slot's start to the rows that the client wrote."""
    out_offset: int
    """Bytes from the slot's start to where the daemon writes its rows."""
    memo: int = 0
    """Forward: a number under which the daemon may keep what the backward would otherwise compute again; 0: keep
    nothing. Backward: the number of its forward. Only ever saves time: a memo may be lost at any moment."""


class Arrival(NamedTuple):
    """A call as the daemon takes it from a channel."""

    slot: SlotIndex
    generation: Generation
    call: Call
