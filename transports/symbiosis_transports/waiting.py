"""How long a side looks for the other's word before it sleeps.

Looking means yielding the core at every look (`sched_yield`): where both sides share a core, a plain spin was
measured 4 times slower than no spin, and a yielding one faster than either (docs/decisions/0002). How long is
learned (`habits`, docs/decisions/0018), unless the user says it. On a machine with one core there is nothing to
look for.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Iterable
from typing import Final, Protocol

from symbiosis_core.errors import UsageError
from symbiosis_transports.calls import Call
from symbiosis_transports.habits import Habit, Missing
from symbiosis_transports.notices import LONGEST_LEAD_US, Notice
from symbiosis_transports.ports import ServerChannel

__all__ = ["SPIN_VARIABLE", "Kind", "Switches", "Watch", "Way", "Ways", "client_ways", "kind_of", "spin_budget_us"]

SPIN_VARIABLE: Final = "SYMBIOSIS_SPIN_US"
_AUTO: Final = "auto"
_LONGEST_US: Final = 10_000
_MOST_KINDS: Final = 4096
"""Then all begin anew, for some will never be seen again."""

Kind = tuple[int, int, int]
"""What takes about the same time: the same function of as many rows, to a factor of two."""


class Way(Protocol):
    """How one kind of call is waited for. A `Habit` is one that learns."""

    budget_ns: int
    """How long to look; 0: sleep at once."""

    def waited(self, took_ns: int) -> None:
        """An answer has come after that time."""


class _Fixed:
    """As long as the user said."""

    def __init__(self, budget_ns: int) -> None:
        self.budget_ns = budget_ns

    def waited(self, took_ns: int) -> None:
        """Learns nothing."""


class Ways:
    """How a client waits for each kind of call, and which kinds it announces."""

    def __init__(self, fixed: Way | None) -> None:
        self._fixed = fixed
        self._learned: dict[Kind, Way] = {}
        self._notices: dict[Kind, Notice] = {}
        self._next: dict[Kind, Notice] = {}
        """Of the kind that came after that one, the last time."""
        self._latest: Kind = (0, 0, 0)

    def of(self, kind: Kind) -> Way:
        """Returns the way for that kind."""
        return self._fixed or self._learned.get(kind) or self._begin(kind)

    def lead_us(self) -> int:
        """Returns how long the daemon should look for the call that is probably next; 0: it is not to be woken."""
        notice = self._next.get(self._latest)
        return notice.lead_us if notice is not None else 0

    def publishes(self, kind: Kind) -> Notice | None:
        """The next call is of that kind. Returns who is to be told how long it took; None: nobody."""
        if self._fixed is not None:
            return None
        notice = self._notices.get(kind)
        if notice is None:
            if len(self._notices) >= _MOST_KINDS:
                self._notices.clear()
                self._next.clear()
            notice = self._notices[kind] = Notice()
        self._next[self._latest] = notice
        self._latest = kind
        return notice

    def _begin(self, kind: Kind) -> Way:
        if len(self._learned) >= _MOST_KINDS:
            self._learned.clear()
        way = self._learned[kind] = Habit(Switches())
        return way


def kind_of(call: Call) -> Kind:
    """Returns what kind of call that is."""
    return call.op, call.direction, call.rows.bit_length()


def spin_budget_us(wanted_us: int) -> int:
    """Returns the microseconds to stay awake: as wanted, but 0 where there is one core."""
    return wanted_us if len(os.sched_getaffinity(0)) > 1 else 0


def client_ways() -> Ways:
    """Returns how a client waits: as the environment says, or as is learned.

    Raises:
        UsageError: the environment variable is neither `auto` nor a number of microseconds.
    """
    text = os.environ.get(SPIN_VARIABLE, _AUTO)
    if text == _AUTO:
        return Ways(None if spin_budget_us(1) else _Fixed(0))
    if not text.isdecimal() or int(text) > _LONGEST_US:
        raise UsageError(f"{SPIN_VARIABLE}={text!r}: write {_AUTO}, or microseconds from 0 to {_LONGEST_US}")
    return Ways(_Fixed(int(text) * 1000))


class Watch:
    """The idle daemon's look for requests, before it sleeps."""

    def __init__(self, spin_us: int, *, learns: bool = True) -> None:
        """`spin_us`: of one look. `learns`: it looks less often where looks miss."""
        self.looks = self.hits = 0
        """How often it looked, and how often something came."""
        self._budget_ns = spin_us * 1000
        self._missing = Missing() if learns else None

    def __repr__(self) -> str:
        return f"<Watch of {self._budget_ns // 1000} us, {self.hits} of {self.looks} hit>"

    def sees(self, channels: Iterable[ServerChannel]) -> bool:
        """Whether something comes while it looks. False at once where no look is due.

        What was announced is looked for as long as its client says, within limits; where nobody looks, not at all.
        """
        if not self._budget_ns:
            return False
        everybody = list(channels)
        lead_ns = _lead_ns(everybody)
        if not lead_ns and self._missing is not None and not self._missing.look_now():
            return False
        self.looks += 1
        end_ns = time.perf_counter_ns() + max(self._budget_ns, lead_ns)
        hit = _look(everybody, end_ns)
        if self._missing is not None and not lead_ns:
            # What is there too late came while this thread was put aside: whoever sent it had to wait for that.
            self._missing.looked(hit=hit and time.perf_counter_ns() <= end_ns)
        if not hit and (lead_ns := _lead_ns(everybody)):  # announced since it began
            hit = _look(everybody, time.perf_counter_ns() + lead_ns)
        self.hits += hit
        return hit


def _lead_ns(channels: list[ServerChannel]) -> int:
    """Returns for how long it is worth looking for what was announced; 0: nothing new was."""
    return 1000 * min(max([channel.announced_us() for channel in channels], default=0), LONGEST_LEAD_US)


def _look(channels: list[ServerChannel], end_ns: int) -> bool:
    while True:
        if any(channel.waiting() for channel in channels):
            return True
        if time.perf_counter_ns() > end_ns:
            return False
        os.sched_yield()


class Switches:
    """How often whoever asks was put aside while it could run. Yielding counts where somebody took the core.

    The kernel counts for each thread: between two of them there is no difference to be taken.
    """

    def __init__(self) -> None:
        self._thread = self._counted = self._total = 0

    def __repr__(self) -> str:
        return f"<Switches {self._total}>"

    def __call__(self) -> int:
        """Returns those that were seen between two questions of one thread, all together."""
        thread, counted = threading.get_native_id(), resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        if thread == self._thread:
            self._total += counted - self._counted
        self._thread, self._counted = thread, counted
        return self._total
