"""What a client has learned of each kind of call: how to wait for it, whether to announce it, and what comes next.

A small call takes some microseconds, and every one passes here. So it is looked up once; the rest are attributes.
"""

from __future__ import annotations

from typing import Final, Protocol

from symbiosis_transports.calls import Call
from symbiosis_transports.habits import Habit
from symbiosis_transports.notices import Notice
from symbiosis_transports.switches import Switches

__all__ = ["Fixed", "Kind", "Kinds", "Way"]

_MOST_KINDS: Final = 4096
"""Then all begin anew, for some will never be seen again."""


class Way(Protocol):
    """How one kind of call is waited for. A `Habit` is one that learns."""

    budget_ns: int
    """Until when to look, from the beginning on; 0: sleep at once."""
    rest_ns: int
    """How long to rest before."""

    def waited(self, took_ns: int) -> None:
        """An answer has come after that time."""

    def overslept(self) -> None:
        """It was there before the rest had ended. Said before `waited`."""


class Fixed:
    """As long as the user said."""

    def __init__(self, budget_ns: int) -> None:
        self.budget_ns = budget_ns
        self.rest_ns = 0

    def waited(self, took_ns: int) -> None:
        """Learns nothing."""

    def overslept(self) -> None:
        """Learns nothing."""


class Kind:
    """Calls that take about the same time: the same function of as many rows, to a factor of two.

    A model has many blocks that do the same: functions of as many bytes in and out learn together how to wait.
    """

    __slots__ = ("following", "notice", "way")

    def __init__(self, way: Way, notice: Notice | None) -> None:
        self.way = way
        self.notice = notice
        """None: such calls are never announced."""
        self.following: Kind | None = None
        """What came after it, the last time."""


class Kinds:
    """All that one client has seen."""

    def __init__(self, fixed: Way | None) -> None:
        """`fixed`: how everything is waited for, and nothing is learned; None: that is learned."""
        self.fixed = None if fixed is None else Kind(fixed, None)
        self._seen: dict[tuple[int, int, int], Kind] = {}
        self._ways: dict[tuple[int, ...], Habit] = {}
        self._latest = Kind(Fixed(0), None)

    def __repr__(self) -> str:
        return f"<Kinds {len(self._seen)}>"

    def lead_us(self) -> int:
        """Returns how long the daemon should look for the call that is probably next; 0: it is not to be woken."""
        following = self._latest.following
        return 0 if following is None or following.notice is None else following.notice.lead_us

    def published(self, call: Call) -> Kind:
        """Returns the kind of a call that comes now, after those before."""
        if self.fixed is not None:
            return self.fixed
        key = call.op, call.direction, call.rows.bit_length()
        kind = self._seen.get(key) or self._begin(key, call)
        self._latest.following = kind
        self._latest = kind
        return kind

    def _begin(self, key: tuple[int, int, int], call: Call) -> Kind:
        if len(self._seen) >= _MOST_KINDS:
            self._forget()
        alike = call.direction, *(n.bit_length() for n in (call.rows, call.in_bytes, call.out_bytes))
        way = self._ways.get(alike)
        if way is None:
            way = self._ways[alike] = Habit(Switches())
        kind = self._seen[key] = Kind(way, Notice())
        return kind

    def _forget(self) -> None:
        """A kind that a slot still has keeps none of those that came after it."""
        for kind in self._seen.values():
            kind.following = None
        self._seen.clear()
        self._ways.clear()
        self._latest = Kind(Fixed(0), None)
