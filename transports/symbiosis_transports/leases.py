"""Which slots of a channel its client may write into now. Every client's end keeps one of these.

A slot that two users had, or that the daemon still reads and writes, would give somebody wrong rows without a
word. So what is given back is looked at, in every transport alike.
"""

from __future__ import annotations

from symbiosis_core.errors import BusyError, LocalProtocolError, RefusalCode
from symbiosis_core.ids import SlotIndex

__all__ = ["Leases"]


class Leases:
    """The free slots of a channel, and the leased ones."""

    def __init__(self, slots: int) -> None:
        self._free = [SlotIndex(slot) for slot in reversed(range(slots))]
        self._leased = [False] * slots

    def __repr__(self) -> str:
        return f"<Leases free={len(self._free)}/{len(self._leased)}>"

    def take(self) -> SlotIndex:
        """Leases a slot.

        Raises:
            BusyError: all are leased.
        """
        if not self._free:
            raise BusyError(RefusalCode.QUOTA, f"all {len(self._leased)} slots of this client are in use")
        slot = self._free.pop()
        self._leased[slot] = True
        return slot

    def give_back(self, slot: SlotIndex, *, answered: bool) -> None:
        """Ends a lease. `answered`: nothing that was published in the slot is with the daemon.

        Raises:
            LocalProtocolError: the slot is not leased, or the daemon's.
        """
        if not self._leased[slot]:
            raise LocalProtocolError(f"slot {slot} is not leased; a lease is given back once")
        if not answered:
            raise LocalProtocolError(
                f"slot {slot} is the daemon's until it has answered; wait for that, or close the channel"
            )
        self._leased[slot] = False
        self._free.append(slot)
