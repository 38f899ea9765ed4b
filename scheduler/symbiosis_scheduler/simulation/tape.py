"""Drawing from what was recorded, in its order: a slow spell of a machine lasts for more than one batch.

Drawn one by one, whatever the order, spells would be spread over all: hardly a forward would be as fast as most
were, and none as slow as the slowest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

__all__ = ["Tape"]

T = TypeVar("T")


class Tape:
    """Where a device is in all that was recorded. It begins at a share of the recording, the same for all."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._at: dict[int, int] = {}
        """By the identity of what is drawn from, which the trace keeps."""

    def __repr__(self) -> str:
        return f"<Tape from {self._share:.2f} on>"

    def next(self, recorded: Sequence[T], otherwise: T) -> T:
        """Returns what was recorded after what was returned last, and after the end begins again."""
        if not recorded:
            return otherwise
        at = self._at.get(id(recorded))
        if at is None:
            at = int(self._share * len(recorded))
        self._at[id(recorded)] = (at + 1) % len(recorded)
        return recorded[at]
