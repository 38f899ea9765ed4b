"""The ledger of holds: what each was expected to save, and what it did; and whether holding goes on.

A hold begins when a request is first held and ends when its plan is done. Expected is the saving of the joint
batch less the time until the others were predicted to be there. Actual is measured: what those who came would have
taken by themselves, by the curves, less what the joint batch really took and less the time that was really waited.
A hold for which nobody came has cost its wait. A batch counts as no longer than twice what its rows take apart, so
one during which the machine was elsewhere is one bad hold of sixteen and not all of them; one that failed says
nothing.

Where the last holds together have cost more than they saved, predictions or curves are bad, and nobody is held by
them for a while: for as many occasions as `_FIRST_PAUSE`, and twice as many with every further trial that fails.
A trial that pays makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from symbiosis_core.ids import ClientId
from symbiosis_core.wire import HoldStatus
from symbiosis_scheduler.decisions.costs import Curve
from symbiosis_scheduler.decisions.meetings import Meeting
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Traveller

__all__ = ["Held", "Holds"]

_JUDGED: Final = 16
"""Holds after which it is seen whether they paid."""
_FIRST_PAUSE: Final = 32
_LONGEST_PAUSE: Final = 4096
_LONGEST: Final = 2.0
"""In times of what its rows take apart: as no longer than that a joint batch counts."""
_REMEMBERED: Final = 128
"""Holds that the error of predicted arrivals is about."""


class Held:
    """A request that is held, and what for."""

    __slots__ = ("awaited", "began_us", "decided_us", "due_us", "ever_awaited", "first", "here", "until_us")

    def __init__(self, began_us: int, first: Meeting) -> None:
        self.began_us = began_us
        self.first = first
        """What it was held for when it began: that is what was expected, and when."""
        self.ever_awaited: frozenset[ClientId] = frozenset()
        """Whose coming is its merit: where one leaves, the next is awaited in its place."""
        self.answered(began_us, 0, frozenset(), first)

    def answered(self, now_us: int, until_us: int, here: frozenset[ClientId], meeting: Meeting) -> None:
        """It was decided anew, with these clients there."""
        self.awaited = meeting.joining
        self.ever_awaited |= meeting.joining
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


class _Started(NamedTuple):
    """A hold whose plan is under way."""

    meeting: Meeting
    waited_us: int
    came: frozenset[ClientId]
    """Of those who were ever awaited."""


class Holds:
    """All holds since the start, in sums."""

    def __init__(self) -> None:
        self._held: dict[Request, Held] = {}
        self._started: dict[Plan, list[_Started]] = {}
        self.count = self.hits = self.waited_us = 0
        self.expected_us = self.actual_us = 0.0
        self.due_error_us = 0.0
        """By how much those who were awaited came earlier or later than predicted."""
        self._dues = 0
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
        """A plan starts: nobody waits for its requests any more."""
        if not self._held:
            return
        ended = [held for part in plan.parts if (held := self._held.pop(part.request, None)) is not None]
        if ended:
            arrived_us = {part.request.client: part.request.arrived_us for part in plan.parts}
            self._started[plan] = [self._start(held, arrived_us, now_us) for held in ended]

    def finished(self, plan: Plan, took_us: int, curve: Curve) -> None:
        """A plan is computed: the holds of its requests end. `curve` does not know it yet."""
        started = self._started.pop(plan, ())
        hits = sum([bool(each.came) for each in started])
        for meeting, waited_us, came in started:
            saved_us = 0.0
            if came:
                apart_us = _apart_us(plan, came, curve)
                saved_us = (apart_us - min(took_us, _LONGEST * apart_us)) / hits
            self.count += 1
            self.hits += bool(came)
            self.waited_us += waited_us
            self.expected_us += meeting.worth_us - meeting.wait_us / meeting.trips
            self.actual_us += saved_us - waited_us / meeting.trips
            if meeting.foretold:
                self._end(saved_us - waited_us / meeting.trips)

    def failed(self, plan: Plan) -> None:
        """A plan was not computed as it was planned: nothing can be said of its holds."""
        self._started.pop(plan, None)

    def left(self, client: ClientId) -> None:
        """A client is gone, and with it what was held of it."""
        for request in [request for request in self._held if request.client == client]:
            del self._held[request]

    def status(self, error_us: float, pause_us: float, missed: int = 0, cost_error: float = 0.0) -> HoldStatus:
        """Returns what there is to tell."""
        return HoldStatus(
            count=self.count,
            hits=self.hits,
            expected_us=self.expected_us,
            actual_us=self.actual_us,
            prediction_error_us=max(0.0, error_us),
            pause_us=max(0.0, pause_us),
            off=self.off,
            waited_us=self.waited_us,
            missed=missed,
            due_error_us=self.due_error_us,
            cost_error=cost_error,
        )

    def _start(self, held: Held, arrived_us: dict[ClientId, int], now_us: int) -> _Started:
        joining, due_us = held.first.joining, held.began_us + held.first.wait_us
        if joining and joining <= arrived_us.keys():
            self._note_error(abs(max([arrived_us[client] for client in joining]) - due_us))
        elif now_us > due_us:
            self._note_error(now_us - due_us)  # late by that much at least
        return _Started(held.first, now_us - held.began_us, held.ever_awaited & arrived_us.keys())

    def _note_error(self, error_us: float) -> None:
        self._dues = min(self._dues + 1, _REMEMBERED)
        self.due_error_us += (error_us - self.due_error_us) / self._dues

    def _end(self, actual_us: float) -> None:
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


def _apart_us(plan: Plan, came: frozenset[ClientId], curve: Curve) -> float:
    """Returns what a batch would have taken without those who came, and each of these by itself."""
    others, apart_us = 0, 0.0
    for part in plan.parts:
        if part.request.client in came:
            apart_us += curve.expected_us(part.rows) or 0.0
        else:
            others += part.rows
    return apart_us + (curve.expected_us(others) or 0.0)
