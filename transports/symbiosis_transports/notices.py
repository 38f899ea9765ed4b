"""Whether the daemon is told of one kind of call before it is published, while its rows are being written.

To wake a process on another core takes longer than a small call. Where rows are large the daemon can wake while
they are written, and look for what is announced. Where both sides share a core, or the daemon is awake anyhow, it
brings nothing, or costs what the look lasts. Nothing tells which it is but how long calls take both ways, from the
lease to the answer; so that is tried, again and again, as ways of waiting are (`habits`).

Pure: times are arguments.
"""

from __future__ import annotations

from statistics import median_low
from typing import Final

__all__ = ["LONGEST_LEAD_US", "Notice"]

LONGEST_LEAD_US: Final = 600
"""No daemon looks longer for what was announced."""
_LEAST_FILL_NS: Final = 20_000
"""What is written faster is there before anybody has woken."""
_LONGEST_FILL_NS: Final = 400_000
_LONGEST_WAIT_NS: Final = 400_000
"""Against what takes longer a wake-up is little."""
_TIMED: Final = 8
"""So many calls are timed one way, then as many the other way. Medians are compared."""
_SURE: Final = 3
"""So few end a trial where all of them took twice as long."""
_LEAST_STINT: Final = 64
_LONGEST_STINT: Final = 4096
"""So many calls pass between two trials: more each time that a trial changes nothing."""


class Notice:
    """Of one kind of call."""

    def __init__(self) -> None:
        self._usual = False
        self._trial = False
        self._left = self._stint = _TIMED  # the first are cold
        self._fills_ns: list[int] = []
        self._usual_ns: list[int] = []
        self._other_ns: list[int] = []
        self.lead_us = 0
        """How long the daemon is to look for the next one; 0: it is not announced."""

    def __repr__(self) -> str:
        return f"<Notice {'given' if self._usual else 'not given'}>"

    def answered(self, fill_ns: int, wait_ns: int) -> None:
        """One was written, and answered, in that time; announced as `lead_us` said, if it was the one expected."""
        if self._left:
            self._left -= 1
        elif not self._trial:
            self._fills_ns.append(fill_ns)
            self._usual_ns.append(fill_ns + wait_ns)
            if len(self._usual_ns) == _TIMED:
                self._begin_trial()
        else:
            self._other_ns.append(fill_ns + wait_ns)
            if len(self._other_ns) == _TIMED or self._hopeless():
                self._judge()

    def _begin_trial(self) -> None:
        fill_ns, whole_ns = median_low(self._fills_ns), median_low(self._usual_ns)
        if not _LEAST_FILL_NS <= fill_ns <= _LONGEST_FILL_NS or whole_ns - fill_ns > _LONGEST_WAIT_NS:
            self._settle(given=False)
            return
        self._trial = True
        self.lead_us = 0 if self._usual else self._lead_us()

    def _lead_us(self) -> int:
        """A half longer than it takes: the daemon wakes late, and looks for too long rather than in vain."""
        return min(median_low(self._fills_ns) * 3 // 2000, LONGEST_LEAD_US)

    def _hopeless(self) -> bool:
        return len(self._other_ns) >= _SURE and min(self._other_ns) >= 2 * median_low(self._usual_ns)

    def _judge(self) -> None:
        """A notice must take a tenth off; else there is none."""
        usual_ns, other_ns = median_low(self._usual_ns), median_low(self._other_ns)
        with_ns, without_ns = (usual_ns, other_ns) if self._usual else (other_ns, usual_ns)
        self._settle(given=10 * with_ns <= 9 * without_ns)

    def _settle(self, *, given: bool) -> None:
        """Keeps to that for a stint, until the next trial."""
        as_before = given == self._usual
        self._stint = min(2 * max(self._stint, _LEAST_STINT // 2), _LONGEST_STINT) if as_before else _LEAST_STINT
        self._left = self._stint
        self._usual, self._trial = given, False
        self.lead_us = self._lead_us() if given else 0
        self._fills_ns.clear()
        self._usual_ns.clear()
        self._other_ns.clear()
