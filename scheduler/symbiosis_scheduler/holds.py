"""The ledger of holds: what each was expected to save, and what it did; and whether holding goes on.

A hold begins when a request is first held and ends when it starts. Expected is the saving of the joint batch
less the time until the others were predicted to be there; actual is the saving, as far as they came, less the
time that was really waited. Where the last holds together have cost more than they saved, the predictions are
bad, and nobody is held for a while: for as many occasions as `_FIRST_PAUSE`, and twice as many with every further
trial that fails. A trial that pays makes up for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from symbiosis_core.ids import ClientId
from symbiosis_core.wire import HoldStatus
from symbiosis_scheduler.meetings import Meeting
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.travellers import Traveller

__all__ = ["Ended", "Held", "Holds"]

_JUDGED: Final = 16
"""Holds after which it is seen whether they paid."""
_FIRST_PAUSE: Final = 32
_LONGEST_PAUSE: Final = 4096
_TOLD: Final = 32
"""The latest holds, for whoever looks."""


class Ended(msgspec.Struct, frozen=True):
    """One hold, in microseconds."""

    client: ClientId
    expected_us: float
    actual_us: float
    waited_us: int
    hit: bool
    """Whether anybody came who was waited for."""


class Held:
    """A request that is held, and what for."""

    __slots__ = ("awaited", "began_us", "decided_us", "due_us", "first", "here", "until_us")

    def __init__(self, began_us: int, first: Meeting) -> None:
        self.began_us = began_us
        self.first = first
        """What it was held for when it began: that is what the books compare with."""
        self.answered(began_us, 0, frozenset(), first)

    def answered(self, now_us: int, until_us: int, here: frozenset[ClientId], meeting: Meeting) -> None:
        """It was decided anew, with these clients there."""
        self.awaited = meeting.joining
        self.here = here
        """Who was there."""
        self.decided_us = now_us
        self.due_us = now_us + meeting.wait_us
        """When the last of those who are awaited is expected."""
        self.until_us = until_us

    def stands(self, here: frozenset[ClientId], now_us: int, travellers: Mapping[ClientId, Traveller]) -> bool:
        """Whether nothing has happened that the decision rests on.

        Nobody came or went, nobody is late, and of all who are awaited nobody asked or was answered since.
        """
        if now_us >= self.due_us or now_us >= self.until_us or here != self.here:
            return False
        for client in self.awaited:
            other = travellers.get(client)
            if other is None or other.seen_us > self.decided_us:
                return False
        return True


class Holds:
    """All holds since the start, in sums, and the latest of them."""

    def __init__(self) -> None:
        self._held: dict[Request, Held] = {}
        self.latest: Final[deque[Ended]] = deque(maxlen=_TOLD)
        self.count = self.hits = 0
        self.expected_us = self.actual_us = 0.0
        self._balance_us = 0.0
        self._judged = 0
        self._paused = 0
        self._pause = _FIRST_PAUSE

    def __repr__(self) -> str:
        off = ", off" if self.off else ""
        return f"<Holds {self.count}, {self.hits} hit, {self.actual_us:.0f} of {self.expected_us:.0f} us{off}>"

    @property
    def off(self) -> bool:
        """Whether holding has turned itself off for now."""
        return self._paused > 0

    def allowed(self) -> bool:
        """Says whether one more may be held. Asked once an occasion: while holding is off, it counts them."""
        if self._paused:
            self._paused -= 1
            return False
        return True

    def of(self, lead: Request) -> Held | None:
        """Returns how a request is held; None: it is not."""
        return self._held.get(lead)

    def awaited_elsewhere(self, here: frozenset[ClientId], lead: Request) -> bool:
        """Whether somebody who waits here, for the same as `lead`, is awaited elsewhere and should not be held."""
        for request, held in self._held.items():
            if request.op == lead.op and request.direction == lead.direction:
                continue
            if not held.awaited.isdisjoint(here):
                return True
        return False

    def hold(self, lead: Request, now_us: int, until_us: int, here: frozenset[ClientId], meeting: Meeting) -> None:
        """A request is held for others, while these wait with it.

        The wait is for so many trips as the meeting says, and counts as one of them.
        """
        held = self._held.get(lead)
        if held is None:
            held = self._held[lead] = Held(now_us, meeting)
        held.answered(now_us, until_us, here, meeting)

    def forget(self, lead: Request) -> None:
        """A request is not computed any more."""
        self._held.pop(lead, None)

    def started(self, plan: Plan, now_us: int) -> None:
        """A plan starts: the holds of its requests end."""
        if not self._held:
            return
        clients: set[ClientId] | None = None
        for part in plan.parts:
            held = self._held.pop(part.request, None)
            if held is not None:
                if clients is None:
                    clients = plan.clients
                self._end(part.request, held, now_us, clients)

    def left(self, client: ClientId) -> None:
        """A client is gone, and with it what was held of it."""
        for request in [request for request in self._held if request.client == client]:
            del self._held[request]

    def status(self, error_us: float, pause_us: float) -> HoldStatus:
        """Returns what there is to tell."""
        return HoldStatus(
            count=self.count,
            hits=self.hits,
            expected_us=self.expected_us,
            actual_us=self.actual_us,
            prediction_error_us=max(0.0, error_us),
            pause_us=max(0.0, pause_us),
            off=self.off,
        )

    def _end(self, lead: Request, held: Held, now_us: int, clients: set[ClientId]) -> None:
        meeting = held.first
        came = len(meeting.joining & clients)
        waited_us = now_us - held.began_us
        expected_us = meeting.worth_us - meeting.wait_us / meeting.trips
        actual_us = meeting.worth_us * came / max(1, len(meeting.joining)) - waited_us / meeting.trips
        self.latest.append(Ended(lead.client, expected_us, actual_us, waited_us, came > 0))
        self.count += 1
        self.hits += came > 0
        self.expected_us += expected_us
        self.actual_us += actual_us
        self._balance_us += actual_us
        self._judged += 1
        if self._judged >= _JUDGED:
            self._judge()

    def _judge(self) -> None:
        if self._balance_us < 0:
            self._paused = self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        else:
            self._pause = _FIRST_PAUSE
        self._balance_us, self._judged = 0.0, 0
