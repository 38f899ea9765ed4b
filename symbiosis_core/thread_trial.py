"""Whether something is faster with all threads than with one: found out by trying, again and again.

A second thread reads the other half of a product's weights, which saves a third of the time where it has a core.
Where it has none, because something that nobody here knows of computes, OpenMP's barriers wait for it, for several
times as long as the whole product takes. Nothing tells which of both it will be but how long the last ones took.

Pure: durations are arguments. For one thread at a time.
"""

from __future__ import annotations

from typing import Final

__all__ = ["ThreadTrial"]

_KNOWN: Final = 4
"""So many of a kind are computed by one thread before all threads are tried for the same; and of so many, the last
ones, the mean is that all threads are held against."""
_AGAIN: Final = 37
"""After so many of a kind by all threads comes one by one thread, to know how long that takes by now."""
_COMPARED: Final = 32
"""So many are computed by all threads before they are judged, and so many weigh in the average."""
_SURE: Final = 3
"""So few are enough where they took twice as long: somebody else has the core."""
_LEAST_PAUSE: Final = 64
_LONGEST_PAUSE: Final = 4096
"""One thread is kept for so many when all were slower: more each time, as they may be for good."""
_MOST_KINDS: Final = 4096
"""Then all begin anew, for some will never be seen again."""


class _Kind:
    """What is known of one kind."""

    __slots__ = ("one_us", "seen", "since")

    def __init__(self) -> None:
        self.seen = 0
        """How often one thread computed it."""
        self.one_us = 0.0
        """How long that took: the least of the first times, which may be cold, then the mean of the last ones."""
        self.since = 0
        """How often all threads have computed it since one did."""


class ThreadTrial:
    """What was seen of one thread and of all. Of one kind is what takes about the same time."""

    def __init__(self) -> None:
        self._kinds: dict[object, _Kind] = {}
        self._ratio = 1.0
        """How long all threads take for what takes one thread 1."""
        self._tried = 0
        self._paused = 0
        """All threads are not tried for so many."""
        self._pause = _LEAST_PAUSE

    def __repr__(self) -> str:
        return f"<ThreadTrial all threads take {self._ratio:.2f} of one's time, paused for {self._paused}>"

    def all_threads(self, kind: object) -> bool:
        """Whether all threads should compute the next of that kind."""
        known = self._kinds.get(kind)
        return known is not None and not self._paused and known.seen >= _KNOWN and known.since < _AGAIN

    def took(self, kind: object, us: float, *, all_threads: bool) -> None:
        """One of that kind took so long. Of a kind for which `all_threads` said so, if all threads did."""
        if all_threads:
            known = self._kinds[kind]
            known.since += 1
            self._compare(us / max(known.one_us, 1.0))
            return
        self._paused = max(0, self._paused - 1)
        if kind not in self._kinds and len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        known = self._kinds.setdefault(kind, _Kind())
        known.seen += 1
        known.since = 0
        if known.seen > _KNOWN:
            known.one_us += (us - known.one_us) / _KNOWN
        else:
            known.one_us = us if known.seen == 1 else min(us, known.one_us)

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
