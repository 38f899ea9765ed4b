"""How so many clients get on fastest: each by itself, as is foretold, or all together. Found out by trying.

What `meetings` prices rests on what clients and batches take as they go now. Where clients and daemon share their
processors, that is not what they will take: four that go together leave the cores to the daemon while it computes,
and it to them while they do. Nothing tells how long a forward takes then but how long the last ones took.

Pure: durations are arguments.
"""

from __future__ import annotations

from enum import IntEnum
from math import log
from statistics import median_low
from typing import Final

from symbiosis_core.ids import ClientId

__all__ = ["ConvoyTrial", "Way"]

_TIMED: Final = 12
"""So many forwards are timed one way, then as many another way."""
_TIMED_EACH: Final = 3
"""And so many at least of each client. Its medians are compared."""
_MOST_EACH: Final = 16
"""After so many of each, some are never alike, or have gone quiet: the others are compared."""
_UNSETTLED: Final = 4
"""So many of each are not timed after a change: one was begun before it, in one they came together or apart."""
_FAR: Final = 2
_SURE: Final = 3
"""A trial in which so many forwards took so many times what is usual for their clients is given up."""
_TIE: Final = 0.02
"""By so much a way may be slower that reads the weights less often."""
_LEAST_STINT: Final = 256
_LONGEST_STINT: Final = 8192
"""So many forwards pass between two trials: more each time that a trial changes nothing."""


class Way(IntEnum):
    """How clients of a lane go, in the order of how often the weights are read for them."""

    APART = 0
    """Nobody waits for anybody."""
    FORETOLD = 1
    """Who is to gain by it waits for others."""
    TOGETHER = 2
    """All wait for all who keep pace."""


class ConvoyTrial:
    """What was seen of so many clients of one lane."""

    __slots__ = (
        "_began",
        "_count",
        "_far",
        "_left",
        "_other",
        "_since",
        "_stint",
        "_turned",
        "_usual",
        "_usually",
        "way",
    )

    def __init__(self, count: int) -> None:
        self._count = count
        self.way = self._usually = Way.FORETOLD
        """How they go now. Where that is not how they usually go, it is being tried."""
        self._turned = False
        """Which of the two others is tried next."""
        self._usual: dict[ClientId, list[int]] = {}
        self._other: dict[ClientId, list[int]] = {}
        """What forwards took as they usually go, and as is tried."""
        self._since: dict[ClientId, int] = {}
        """How many forwards of each have ended since they went another way."""
        self._began = (0, 0)
        """When the first of those was timed that usual times are of, and for how long the daemon had computed."""
        self._far = 0
        """Forwards of this trial that took far too long."""
        self._left = 0
        self._stint = _LEAST_STINT // 2

    def __repr__(self) -> str:
        tried = ", tried" if self.way is not self._usually else ""
        return f"<ConvoyTrial of {self._count}, {self.way.name.lower()}{tried}>"

    def resumed(self) -> None:
        """There are so many again, after there were more or fewer: what was being timed is not known."""
        self._forget()
        self._since.clear()
        self._go(self._usually)

    def forward(self, client: ClientId, us: int, now_us: int, busy_us: int) -> None:
        """A client has made one forward, and begins one like it. The daemon has computed for `busy_us` in all."""
        since = self._since[client] = self._since.get(client, -1) + 1
        if not since:
            return
        trying = self.way is not self._usually
        if trying and (usual := self._usual.get(client)) and us > _FAR * median_low(usual):
            self._far += 1
        if self._far == _SURE:
            self._settle(self._usually)
        elif self._left:
            self._left -= 1
        elif since >= _UNSETTLED:
            timed = self._other if trying else self._usual
            if not timed:
                self._began = now_us, busy_us
            timed.setdefault(client, []).append(us)
            if self._enough(timed):
                self._settle(self._better()) if trying else self._try(now_us, busy_us)

    def _enough(self, timed: dict[ClientId, list[int]]) -> bool:
        each = [len(times) for times in timed.values()]
        often = sum(count >= _TIMED_EACH for count in each)
        return (often >= self._count and sum(each) >= _TIMED) or sum(each) >= _MOST_EACH * self._count

    def _try(self, now_us: int, busy_us: int) -> None:
        since_us, before_us = self._began
        if self._usually is not Way.TOGETHER and 2 * (busy_us - before_us) < now_us - since_us:
            self._settle(self._usually)  # the daemon is idle for most of the time, and has time for each by itself
            return
        others = [way for way in Way if way is not self._usually]
        self._turned = not self._turned
        self._go(others[-self._turned])

    def _better(self) -> Way:
        """Returns the faster of two ways, by the mean quotient of medians, each client counting alike.

        That is how they usually go where less than half of them were timed both ways.
        """
        logs = [
            log(max(1, median_low(self._other[who])) / max(1, median_low(self._usual[who])))
            for who in self._usual.keys() & self._other.keys()
            if min(len(self._usual[who]), len(self._other[who])) >= _TIMED_EACH
        ]
        if 2 * len(logs) < self._count:
            return self._usually
        slower = sum(logs) / len(logs)
        tie = log(1 + _TIE)
        return self.way if slower <= (tie if self.way > self._usually else -tie) else self._usually

    def _settle(self, way: Way) -> None:
        """They go that way for so many forwards, until the next trial."""
        self._stint = min(2 * self._stint, _LONGEST_STINT) if way is self._usually else _LEAST_STINT
        self._left, self._usually = self._stint, way
        self._forget()
        self._go(way)

    def _forget(self) -> None:
        self._usual.clear()
        self._other.clear()
        self._far = 0

    def _go(self, way: Way) -> None:
        if way is not self.way:
            self.way = way
            self._since.clear()
