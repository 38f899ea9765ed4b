"""Tracks: levels whose plans are computed one after the other, and what of them is in flight.

Usually there is one, with all levels. On a CPU that computes lower lanes beside the first one there are two, each
planned by itself: rows of the first level share no batch with those below it, and while they keep coming wait for
none.
"""

from __future__ import annotations

from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.queues import Queues

__all__ = ["Track", "tracks_over"]


class Track:
    """Some levels, and their plans that run: at most `most`."""

    __slots__ = ("_done_us", "beside", "in_flight", "most", "queues")

    def __init__(self, queues: Queues, most: int, *, beside: bool = False) -> None:
        self.queues = queues
        """What waits in the track's levels."""
        self.most = most
        self.beside = beside
        """Whether it is computed beside the first level."""
        self.in_flight: dict[Plan, int] = {}
        """Every plan that runs, and when it was started."""
        self._done_us = 0

    def __repr__(self) -> str:
        return f"<Track of {len(self.queues.levels)} levels, {len(self.in_flight)} plans in flight>"

    @property
    def free(self) -> bool:
        """Whether another plan may start."""
        return len(self.in_flight) < self.most

    def finish(self, plan: Plan, now_us: int) -> int:
        """Takes a plan out and returns how long it took: one that waited for another began when that was done."""
        took_us = now_us - max(self.in_flight.pop(plan), self._done_us)
        self._done_us = now_us
        return took_us


def tracks_over(queues: Queues, most: int, *, beside: bool) -> tuple[Track, ...]:
    """Returns one track over all levels; or, `beside`, that of the lower levels, and then that of the first."""
    if not beside or len(queues.levels) < 2:
        return (Track(queues, most),)
    return Track(queues.part(1), most, beside=True), Track(queues.part(0, 1), most)
