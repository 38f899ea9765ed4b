"""Whether a product of few rows is faster with all threads than with one: found out by trying, again and again.

A second thread reads the other half of the weights, which saves a third of the time where it has a core. Where it
has none, because something that the daemon knows nothing of computes, OpenMP's barriers wait for it, for several
times as long as the whole product takes. Nothing tells which of both it will be but how long the last ones took.

Pure: durations are arguments.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ThreadTrial"]

_KNOWN: Final = 4
"""So many plans are computed by one thread before all threads are tried for the same."""
_COMPARED: Final = 32
"""So many plans are computed by all threads before they are judged, and so many weigh in the average."""
_SURE: Final = 3
"""So few are enough where they took twice as long: somebody else has the core."""
_AGAIN: Final = 37
"""Every so many plans one is computed by one thread, to know how long that takes by now. A prime, so that it is
another kind every time, however many there are in a forward."""
_LEAST_PAUSE: Final = 64
_LONGEST_PAUSE: Final = 4096
"""For so many plans one thread is kept when all were slower: more each time, as they may be for good."""


class ThreadTrial:
    """What was seen of one thread and of all. A plan is of a kind: what takes about the same time as another."""

    def __init__(self) -> None:
        self._one_us: dict[object, tuple[int, float]] = {}
        """By kind: how many plans one thread has computed, and how long it took for one, the last ones most."""
        self._ratio = 1.0
        """How long all threads take for what takes one thread 1."""
        self._tried = 0
        self._paused = 0
        """For so many plans all threads are not tried."""
        self._pause = _LEAST_PAUSE
        self._count = 0

    def __repr__(self) -> str:
        return f"<ThreadTrial all threads take {self._ratio:.2f} of one's time, paused for {self._paused}>"

    def all_threads(self, kind: object) -> bool:
        """Whether all threads should compute the next plan of that kind."""
        self._count += 1
        known, _ = self._one_us.get(kind, (0, 0.0))
        return not self._paused and known >= _KNOWN and self._count % _AGAIN != 0

    def took(self, kind: object, us: float, *, all_threads: bool) -> None:
        """A plan of that kind took so long."""
        if all_threads:
            self._compare(us / self._one_us[kind][1])
            return
        self._paused = max(0, self._paused - 1)
        known, mean_us = self._one_us.get(kind, (0, 0.0))
        known += 1
        self._one_us[kind] = known, mean_us + (us - mean_us) / min(known, _COMPARED)

    def _compare(self, ratio: float) -> None:
        self._tried += 1
        self._ratio += (ratio - self._ratio) / min(self._tried, _COMPARED)
        if self._tried < (_SURE if self._ratio >= 2 else _COMPARED):
            return
        if self._ratio >= 1:
            self._paused, self._pause = self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            self._tried = 0
        elif self._tried >= _LEAST_PAUSE:
            self._pause = _LEAST_PAUSE
