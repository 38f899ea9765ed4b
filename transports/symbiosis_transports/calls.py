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
    in_bytes: int = 0
    """Bytes that the client wrote from `in_offset` on; 0: all up to the slot's end. For transports that share no
    memory and have to carry them; nobody else reads it."""
    out_bytes: int = 0
    """Bytes that the daemon writes from `out_offset` on; 0: all up to the slot's end. As `in_bytes`."""
    asked_us: int = 0
    """When the client published it, by the clock of this host, as the daemon reads it; 0: unknown, as of another
    host. A client's word, and nothing but a trace goes by it."""


class Arrival(NamedTuple):
    """A call as the daemon takes it from a channel."""

    slot: SlotIndex
    generation: Generation
    call: Call
