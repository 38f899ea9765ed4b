"""What is usual of a time that varies, from the last few of them.

Means would do where times only scatter. These do more: a client computes for 2 ms, is put aside by the operating
system for 6, and reads a human's next message after a minute. A mean that took the minute in would be wrong for
the next thirty tokens; the middle of the last nine is wrong for none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

__all__ = ["Estimate"]

_KEPT: Final = 9
_NOTHING: Final = (-1.0,)


class Estimate:
    """Of times in microseconds, by the last nine. Negative until something was added."""

    __slots__ = ("_latest", "_sorted")

    def __init__(self) -> None:
        self._latest: deque[float] = deque(maxlen=_KEPT)
        self._sorted: list[float] | None = None
        """The latest in order; None: not since one was added."""

    def __repr__(self) -> str:
        return f"<Estimate {self.usual:.0f} +- {self.deviation:.0f} us>" if self.known else "<Estimate of nothing>"

    @property
    def known(self) -> bool:
        """Whether there is anything to go by."""
        return bool(self._latest)

    @property
    def usual(self) -> float:
        """The middle one."""
        ordered = self._sorted or self._in_order()
        return ordered[len(ordered) // 2]

    @property
    def deviation(self) -> float:
        """How far from the usual the middle half lies, at most; half of the first while there is one."""
        if len(self._latest) == 1:
            return self._latest[0] / 2
        usual = self.at(0.5)
        return max(usual - self.at(0.25), self.at(0.75) - usual)

    def add(self, us: float) -> None:
        """Takes one more time into account."""
        self._latest.append(us)
        self._sorted = None

    def at(self, share: float) -> float:
        """Returns the time that this share of the latest did not exceed."""
        ordered = self._sorted or self._in_order()
        return ordered[int(share * (len(ordered) - 1) + 0.5)]

    def _in_order(self) -> Sequence[float]:
        if not self._latest:
            return _NOTHING
        self._sorted = ordered = sorted(self._latest)
        return ordered
