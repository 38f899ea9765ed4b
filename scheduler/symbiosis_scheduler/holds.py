"""The ledger of holds: what each was expected to save, and what it did; and whether holding goes on.

A hold begins when a request is first held and ends when it starts. Expected is the saving of the joint batch
less the time until the others were predicted to be there; actual is the saving, as far as they came, less the
time that was really waited. Where the last holds together have cost more than they saved, the predictions are
bad, and nobody is held for a while: for as many occasions as `_FIRST_PAUSE`, and twice as many with every further
trial that fails. A trial that pays makes up for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final

import msgspec

from symbiosis_core.ids import ClientId
from symbiosis_core.wire import HoldStatus
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.request import Request

__all__ = ["Ended", "Holds"]

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


class _Begun:
    __slots__ = ("awaited", "began_us", "expected_us", "missing", "trips", "worth_us")

    def __init__(
        self, began_us: int, wait_us: float, worth_us: float, missing: frozenset[ClientId], trips: float
    ) -> None:
        self.began_us = began_us
        self.expected_us = worth_us - wait_us / trips
        self.worth_us = worth_us
        self.trips = trips
        self.missing = missing
        """Who was awaited when it began."""
        self.awaited = missing
        """Who is awaited now."""


class Holds:
    """All holds since the start, in sums, and the latest of them."""

    def __init__(self) -> None:
        self._begun: dict[Request, _Begun] = {}
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

    def allowed(self, lead: Request) -> bool:
        """Says whether `lead` may be held. Asked once an occasion: while holding is off, it counts them."""
        if lead in self._begun:
            return True
        if self._paused:
            self._paused -= 1
            return False
        return True

    def began_us(self, lead: Request) -> int | None:
        """Returns when a request was first held; None: it was not."""
        begun = self._begun.get(lead)
        return None if begun is None else begun.began_us

    def awaited_elsewhere(self, cell: Iterable[Request]) -> bool:
        """Whether one of those who wait for the same is awaited at another place, and should not be held here."""
        if not self._begun:
            return False
        return any(
            request.client in begun.awaited
            for request in cell
            for held, begun in self._begun.items()
            if (held.op, held.direction) != (request.op, request.direction)
        )

    def missing(self, lead: Request) -> frozenset[ClientId]:
        """Returns who is awaited by a request; nobody if it is not held."""
        begun = self._begun.get(lead)
        return frozenset() if begun is None else begun.awaited

    def hold(
        self,
        lead: Request,
        now_us: int,
        wait_us: float,
        worth_us: float,
        missing: frozenset[ClientId],
        trips: float = 1.0,
    ) -> None:
        """A request is held: joining is worth so much, and the missing are expected after `wait_us`.

        The wait is for so many trips, and counts as one of them.
        """
        begun = self._begun.get(lead)
        if begun is None:
            self._begun[lead] = _Begun(now_us, wait_us, worth_us, missing, trips)
        else:
            begun.awaited = missing

    def forget(self, lead: Request) -> None:
        """A request is not computed any more."""
        self._begun.pop(lead, None)

    def started(self, plan: Plan, now_us: int) -> None:
        """A plan starts: the holds of its requests end."""
        if not self._begun:
            return
        clients: set[ClientId] | None = None
        for part in plan.parts:
            begun = self._begun.pop(part.request, None)
            if begun is not None:
                if clients is None:
                    clients = plan.clients
                self._end(part.request, begun, now_us, clients)

    def left(self, client: ClientId) -> None:
        """A client is gone, and with it what was held of it."""
        for request in [request for request in self._begun if request.client == client]:
            del self._begun[request]

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

    def _end(self, lead: Request, begun: _Begun, now_us: int, clients: set[ClientId]) -> None:
        came = len(begun.missing & clients)
        waited_us = now_us - begun.began_us
        actual_us = begun.worth_us * came / max(1, len(begun.missing)) - waited_us / begun.trips
        self.latest.append(Ended(lead.client, begun.expected_us, actual_us, waited_us, came > 0))
        self.count += 1
        self.hits += came > 0
        self.expected_us += begun.expected_us
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
