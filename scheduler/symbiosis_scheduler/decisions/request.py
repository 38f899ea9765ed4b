"""What was admitted: one call of one client, checked, waiting for its rows to be computed.

A request never changes. How many of its rows have been planned is the queues' business, how many have been
computed the state's; so a request can be held by a queue, by several plans in flight and by the executor at
the same time. Two requests are equal only if they are the same object, which makes them cheap keys.
"""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction

__all__ = ["Request"]


class Request(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One admitted call. Compared by identity."""

    client: ClientId
    slot: SlotIndex
    generation: Generation
    lane: str
    op: OpId
    direction: Direction
    rows: int
    arrived_us: int
    in_offset: int
    """Bytes from the slot's start to the rows that the client wrote."""
    out_offset: int
    """Bytes from the slot's start to where the daemon writes its rows."""
    memo: int = 0
    """The client's number for what may be kept from a forward for its backward; 0: nothing."""
