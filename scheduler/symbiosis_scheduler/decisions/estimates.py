"""What is usual of a time that varies, from the last few of them.

Means would do where times only scatter. These do more: a client computes for 2 ms, is put aside by the operating
system for 6, and reads a human's next message after a minute. A mean that took the minute in would be wrong for
the next thirty tokens; the middle of the last nine is wrong for none.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from typing import Final

__all__ = ["Estimate"]

_KEPT: Final = 9


class Estimate:
    """Of times in microseconds, by the last nine.

    It is asked far more often than it learns, by every decision about everybody: so answers are attributes.
    """

    __slots__ = ("_latest", "_ordered", "known", "usual")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._ordered: list[float] = []
        self.known = False
        """Whether there is anything to go by."""
        self.usual = -1.0
        """The middle one. Negative until something was added."""

    def __repr__(self) -> str:
        return f"<Estimate {self.usual:.0f} +- {self.deviation:.0f} us>" if self.known else "<Estimate of nothing>"

    @property
    def deviation(self) -> float:
        """How far from the usual the middle half lies, at most; half of the first while there is one."""
        if len(self._latest) == 1:
            return self._latest[0] / 2
        usual = self.at(0.5)
        return max(usual - self.at(0.25), self.at(0.75) - usual)

    def add(self, us: float) -> None:
        """Takes one more time into account."""
        ordered = self._ordered
        if len(ordered) == _KEPT:
            del ordered[bisect_left(ordered, self._latest[0])]
        self._latest.append(us)
        insort(ordered, us)
        self.known, self.usual = True, ordered[len(ordered) // 2]

    def at(self, share: float) -> float:
        """Returns the time that this share of the latest did not exceed; as `usual`, where nothing is known."""
        ordered = self._ordered
        return ordered[int(share * (len(ordered) - 1) + 0.5)] if ordered else self.usual
