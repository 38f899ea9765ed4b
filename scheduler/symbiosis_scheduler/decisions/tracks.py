"""Tracks: levels whose plans are computed one after the other, and what of them is in flight.

Usually there is one, with all levels. On a CPU that computes lower lanes beside the first one there are two, each
planned by itself: rows of the first level share no batch with those below it, and while they keep coming wait for
none.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from symbiosis_core.errors import LocalProtocolError
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.queues import Queues

__all__ = ["Track", "Tracks"]

_LINGERS_US: Final = 100_000
"""For how long the first level counts as at work after its last batch. Who decodes asks every few milliseconds;
where nobody does, lower levels have its thread and its cores, and delay it once by what is in flight."""


class Track:
    """Some levels, and their plans that run: at most `most`."""

    __slots__ = ("_done_us", "beside", "in_flight", "inherited", "most", "queues")

    def __init__(self, queues: Queues, most: int, *, beside: bool = False) -> None:
        self.queues = queues
        """What waits in the track's levels."""
        self.most = most
        self.beside = beside
        """Whether it is computed beside the first level."""
        self.in_flight: dict[Plan, int] = {}
        """Every plan that runs, and when it was started."""
        self.inherited: set[Plan] = set()
        """Those of them that were started in other tracks, where others may have run beside them."""
        self._done_us = 0

    def __repr__(self) -> str:
        return f"<Track of {len(self.queues.levels)} levels, {len(self.in_flight)} plans in flight>"

    def finish(self, plan: Plan, ended_us: int) -> int | None:
        """Takes a plan out and returns how long it took: one that waited for another began when that was done.

        None: that cannot be said.
        """
        took_us = ended_us - max(self.in_flight.pop(plan), self._done_us)
        self._done_us = ended_us
        if plan in self.inherited:
            self.inherited.remove(plan)
            return None
        return took_us


class Tracks:
    """One track over all levels; or, `beside`, that of the lower levels, and then that of the first."""

    def __init__(self, queues: Queues, most: int, *, beside: bool = False) -> None:
        self._first = Track(queues, most)
        self._all: tuple[Track, ...] = (self._first,)
        if beside and len(queues.levels) > 1:
            self._first = Track(queues.part(0, 1), most)
            self._all = Track(queues.part(1), most, beside=True), self._first
        self._first_us = -_LINGERS_US - 1
        """When the first level was last seen at work."""

    def __iter__(self) -> Iterator[Track]:
        return iter(self._all)

    @property
    def in_flight(self) -> int:
        """Plans that run."""
        count = 0
        for track in self._all:
            count += len(track.in_flight)
        return count

    def plans(self) -> Iterator[Plan]:
        """Yields every plan that runs."""
        return chain.from_iterable([track.in_flight for track in self._all])

    def first_is_at_work(self, now_us: int) -> bool:
        """Whether the first level has something to do, or had it a moment ago; False: nothing runs beside it."""
        if len(self._all) == 1:
            return False
        if self._first.queues or self._first.in_flight:
            self._first_us = now_us
        return now_us - self._first_us <= _LINGERS_US

    def finish(self, plan: Plan, now_us: int, ended_us: int | None = None) -> int | None:
        """Takes a plan out and returns for how many microseconds it was computed; None: that cannot be said.

        `ended_us`: when it was, if that was before now. Raises LocalProtocolError if it does not run.
        """
        for track in self._all:
            if plan in track.in_flight:
                if track is self._first:
                    self._first_us = now_us
                return track.finish(plan, now_us if ended_us is None else ended_us)
        raise LocalProtocolError("a plan is done that is not in flight")

    def inherit(self, before: Tracks) -> None:
        """Takes over what runs in the tracks of another configuration."""
        self._first_us = before._first_us
        for track in before:
            heir = self._all[0] if track.beside else self._first
            heir.in_flight |= track.in_flight
            heir.inherited |= track.in_flight.keys()
