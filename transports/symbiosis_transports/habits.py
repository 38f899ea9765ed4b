"""Which way of waiting is fastest for one kind of call: found out by trying, again and again.

There are three: sleep at once; look for as long as a wake-up would cost; look for a little longer than answers of
that kind take, or, where that is long, rest first and look for its end. None is best everywhere. Where both sides
have a core, a look saves two wake-ups. Where they share one, and the kernel divides it between sessions or control
groups, giving the core away gives nothing to the other side, and a look takes from the answer what it lasts.
Nothing tells which it is but how long the last answers took.

Pure: times are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from statistics import median_low
from typing import Final

__all__ = ["LONGEST_LOOK_NS", "LONGEST_REST_NS", "SHORT_NS", "Habit"]

SHORT_NS: Final = 20_000
"""A look that costs no more than being woken does."""
LONGEST_LOOK_NS: Final = 400_000
"""Nobody looks from the beginning for what takes longer: a core is much, against what a wake-up takes."""
LONGEST_REST_NS: Final = 2_000_000
"""What takes longer is slept for: against that a wake-up is little."""
_LATE_NS: Final = 70_000
"""A rest may end so late."""
_TIMED: Final = 8
"""So many calls are timed one way, then as many the other way. Medians are compared."""
_SURE: Final = 3
"""So few end a trial where all of them took twice as long."""
_SLICE_NS: Final = 4_000_000
"""Who wants the core as well takes it once in such a time."""
_OVERSLEPT: Final = 27
_LEAST_STINT: Final = 64
_LONGEST_STINT: Final = 4096
"""So many calls pass between two trials: more each time that a trial changes nothing."""


class _Way(IntEnum):
    SLEEP = 0
    SHORT = 1
    FITTED = 2
    """Until a quarter after what is expected; where that is long, from a quarter before it on."""


class Habit:
    """How one kind of call is waited for.

    `switches` says how often whoever waits has lost its core to somebody. A fitted look is for a core that nobody
    else wants. Who `rests` may look late, and so for longer calls.
    """

    def __init__(self, switches: Callable[[], int] = lambda: 0, *, rests: bool = True) -> None:
        self._switches = switches
        self._longest_ns = LONGEST_REST_NS if rests else LONGEST_LOOK_NS
        self._usual = _Way.SHORT
        self._trial: _Way | None = None
        self._turned = False
        """Which of the two others is tried next."""
        self._expected_ns = 0
        self._left = self._stint = _TIMED  # the first are cold
        self._usual_ns: list[int] = []
        self._other_ns: list[int] = []
        self._switched = switches()
        self._crowded = False
        self._shy = _LEAST_STINT
        """So long is the stint after a fitted look for which others had to wait, or that came too late. It doubles
        with each, and halves with each stint of such looks for which nobody had to."""
        self.budget_ns = SHORT_NS
        """Until when to look for the next one, from its beginning on; 0: sleep at once."""
        self.rest_ns = 0
        """How long to rest before that, whatever comes."""
        self._overslept = 0
        """Nine for every rest that was too long, less one for every call."""

    def __repr__(self) -> str:
        return f"<Habit {self._usual.name.lower()} of {self._expected_ns / 1e3:.0f} us>"

    def waited(self, took_ns: int) -> None:
        """One was waited for as `rest_ns` and `budget_ns` said, and came after that time."""
        if self._overslept:
            self._overslept -= 1
        if self._left:
            self._left -= 1
        elif self._trial is None:
            self._usual_ns.append(took_ns)
            if len(self._usual_ns) == _TIMED:
                self._begin_trial()
        else:
            self._other_ns.append(took_ns)
            if len(self._other_ns) == _TIMED or self._hopeless():
                self._judge(self._trial)

    def overslept(self) -> None:
        """A rest has ended when the answer was there. Where that is more than one in nine, nobody rests."""
        self._overslept += 9
        if self._overslept > _OVERSLEPT:
            self._overslept = 0
            self._shy = min(2 * self._shy, _LONGEST_STINT)
            self._settle(_Way.SLEEP, self._shy)

    def _begin_trial(self) -> None:
        self._expected_ns = median_low(self._usual_ns)
        if self._expected_ns > self._longest_ns:
            self._settle(_Way.SLEEP, self._next_stint(_Way.SLEEP))
            return
        looked_ns = (self._stint + _TIMED) * (self._expected_ns - self.rest_ns)
        self._crowded = self._crowd(max(2, looked_ns // _SLICE_NS))
        if self._usual is _Way.FITTED:
            if self._crowded:
                self._shy = min(2 * self._shy, _LONGEST_STINT)
                self._settle(_Way.SHORT, self._shy)
                return
            self._shy = max(self._shy // 2, _LEAST_STINT)
        others = [way for way in _Way if way != self._usual and self._makes_sense(way)]
        self._turned = not self._turned
        self._trial = others[0 if self._turned else -1]
        self._wait_as(self._trial)

    def _hopeless(self) -> bool:
        return len(self._other_ns) >= _SURE and min(self._other_ns) >= 2 * self._expected_ns

    def _judge(self, trial: _Way) -> None:
        """Of two ways the longer look must take off a tenth of what it may last; else the other does as well."""
        crowd = self._crowd(_TIMED // 4)
        times = {self._usual: self._expected_ns, trial: median_low(self._other_ns)}
        less, more = sorted(times)
        crowded = crowd if more is trial else self._crowded
        rest_ns = self._rest_ns(more)
        pays = 10 * (times[less] - times[more]) >= times[less] - rest_ns and not (more is _Way.FITTED and crowded)
        better = more if pays else less
        self._expected_ns = times[better]
        self._settle(better, self._next_stint(better))

    def _next_stint(self, way: _Way) -> int:
        return min(2 * max(self._stint, _LEAST_STINT // 2), _LONGEST_STINT) if way is self._usual else _LEAST_STINT

    def _settle(self, way: _Way, stint: int) -> None:
        """Keeps to that way for so many, until the next trial."""
        self._left = self._stint = stint
        self._switched = self._switches()
        self._usual, self._trial = way, None
        self._usual_ns.clear()
        self._other_ns.clear()
        self._wait_as(way)

    def _wait_as(self, way: _Way) -> None:
        self.budget_ns = (0, SHORT_NS, self._expected_ns * 5 // 4)[way]
        self.rest_ns = self._rest_ns(way)

    def _rest_ns(self, way: _Way) -> int:
        if way is not _Way.FITTED or self._expected_ns <= LONGEST_LOOK_NS:
            return 0
        return self._expected_ns * 3 // 4 - _LATE_NS

    def _makes_sense(self, way: _Way) -> bool:
        return way is not _Way.FITTED or self._expected_ns * 5 // 4 > SHORT_NS

    def _crowd(self, least: int) -> bool:
        """Whether somebody else took the core so often since this was asked last."""
        before, self._switched = self._switched, self._switches()
        return self._switched - before >= least
