"""How long a side looks for the other's word before it sleeps.

Looking means yielding the core at every look (`sched_yield`): where both sides share a core, a plain spin was
measured 4 times slower than no spin, and a yielding one faster than either (docs/decisions/0002). How long is
learned (`habits`, docs/decisions/0018), unless the user says it. On a machine with one core there is nothing to
look for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection
from typing import Final

from symbiosis_core.errors import UsageError
from symbiosis_transports.habits import SHORT_NS, Habit
from symbiosis_transports.kinds import Fixed, Kinds
from symbiosis_transports.notices import LONGEST_LEAD_US
from symbiosis_transports.ports import ServerChannel
from symbiosis_transports.switches import Switches

__all__ = ["SPIN_VARIABLE", "Watch", "client_kinds", "spin_budget_us"]

SPIN_VARIABLE: Final = "SYMBIOSIS_SPIN_US"
_AUTO: Final = "auto"
_LONGEST_US: Final = 10_000


def spin_budget_us(wanted_us: int) -> int:
    """Returns the microseconds to stay awake: as wanted, but 0 where there is one core."""
    return wanted_us if len(os.sched_getaffinity(0)) > 1 else 0


def client_kinds() -> Kinds:
    """Returns how a client waits for its calls: as the environment says, or as it will have learned.

    Raises:
        UsageError: the environment variable is neither `auto` nor a number of microseconds.
    """
    text = os.environ.get(SPIN_VARIABLE, _AUTO)
    if text == _AUTO:
        return Kinds(None if spin_budget_us(1) else Fixed(0))
    if not text.isdecimal() or int(text) > _LONGEST_US:
        raise UsageError(f"{SPIN_VARIABLE}={text!r}: write {_AUTO}, or microseconds from 0 to {_LONGEST_US}")
    return Kinds(Fixed(int(text) * 1000))


class Watch:
    """The idle daemon's look for requests, before it sleeps."""

    def __init__(self, spin_us: int, *, learns: bool = True) -> None:
        """`spin_us`: of one look. `learns`: longer or not at all, as the next call has come soonest."""
        self.looks = self.hits = 0
        """How often it looked, and how often something came."""
        self._spin_ns = spin_us * 1000
        self._habit = Habit(Switches(), rests=False) if learns and spin_us else None
        self._idle_ns = 0
        """Since when nothing has come, while it waits as the habit says."""
        self._interrupted = False

    def __repr__(self) -> str:
        return f"<Watch of {self._budget_ns() // 1000} us, {self.hits} of {self.looks} hit>"

    def sees(self, channels: Collection[ServerChannel], *, briefly: bool = False) -> bool:
        """Whether something comes while it looks. False at once where no look is due.

        What was announced is looked for as long as its client says, within limits; where nobody looks, not at all.
        `briefly`: others have use for the core, or an alarm is set.
        """
        if not self._spin_ns or self._interrupted:
            return False
        now_ns = time.perf_counter_ns()
        lead_ns = _lead_ns(channels)
        if lead_ns or briefly:
            self._idle_ns = 0
        elif not self._idle_ns:
            self._idle_ns = now_ns
        longest_ns = self._budget_ns()
        if briefly and longest_ns > self._spin_ns:
            longest_ns = self._spin_ns
        if lead_ns > longest_ns:
            longest_ns = lead_ns
        if not longest_ns:
            return False
        self.looks += 1
        hit = self._look(channels, now_ns + longest_ns)
        if not hit and (lead_ns := _lead_ns(channels)):  # announced since it began
            hit = self._look(channels, time.perf_counter_ns() + lead_ns)
        self.hits += hit
        return hit

    def came(self) -> None:
        """Something has come. The daemon says so whether it looked or was woken: both took their time."""
        if self._idle_ns:
            idle_ns, self._idle_ns = self._idle_ns, 0
            if self._habit is not None:
                self._habit.waited(time.perf_counter_ns() - idle_ns)

    def _budget_ns(self) -> int:
        if self._habit is None:
            return self._spin_ns
        budget_ns = self._habit.budget_ns
        return self._spin_ns if budget_ns == SHORT_NS else budget_ns

    def interrupt(self) -> None:
        """Ends the look that is under way, and lets none begin until `resume`. For any thread."""
        self._interrupted = True
        self._idle_ns = 0  # how soon a call would have come, nobody knows

    def resume(self) -> None:
        """Who interrupted was heard."""
        self._interrupted = False

    def _look(self, channels: Collection[ServerChannel], end_ns: int) -> bool:
        while True:
            for channel in channels:
                if channel.waiting():
                    return True
            if time.perf_counter_ns() > end_ns or self._interrupted:
                return False
            os.sched_yield()


def _lead_ns(channels: Collection[ServerChannel]) -> int:
    """Returns for how long it is worth looking for what was announced; 0: nothing new was."""
    longest_us = 0
    for channel in channels:
        if (lead_us := channel.announced_us()) > longest_us:
            longest_us = lead_us
    return 1000 * min(longest_us, LONGEST_LEAD_US) if longest_us else 0
