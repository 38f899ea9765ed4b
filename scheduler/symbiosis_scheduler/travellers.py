"""Where every client is on its way through the model, how long it thinks between two requests, and when it is due.

A client's *place* is the op and direction that it was answered last. Thinking differs by place (a client that has
its logits samples a token; one between two blocks computes attention), so it is estimated per place, and overall
for places that were seen too seldom. How far predictions were off is kept as well: who uses them must know.

Pure: `now` is an argument, and all that is kept is a few numbers per client and place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.estimates import Estimate
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.request import Request

__all__ = ["Place", "Traveller", "Travellers"]

_PLACES: Final = 512
"""Places kept per client; a model has about two per layer."""
_USUALLY_LASTS: Final = 4.0
"""Forwards for which a convoy is thought to last before any has ended."""
_UNKNOWN_US: Final = 1000
"""How long somebody is thought to think of whom nothing is known yet."""

Place = tuple[OpId, Direction]


class Traveller:
    """What is known of one client."""

    __slots__ = (
        "answered_us",
        "by_place",
        "companions",
        "first_token",
        "forward",
        "gain_us",
        "gaining_us",
        "lane",
        "paused",
        "pauses",
        "place",
        "rows",
        "start_rows",
        "started_us",
        "starts_with",
        "thinking",
        "together",
    )

    def __init__(self, lane: str) -> None:
        self.lane = lane
        self.companions: frozenset[ClientId] = frozenset()
        """Who was answered together with it last, itself included."""
        self.answered_us = -1
        """When its last request was answered; -1: it is waiting for an answer."""
        self.place: Place | None = None
        self.rows = 1
        """Of its last request."""
        self.thinking = Estimate()
        """From an answer to the next request."""
        self.by_place: dict[Place, Estimate] = {}
        self.started_us = -1
        """When its forward began."""
        self.starts_with: OpId | None = None
        self.start_rows = 0
        self.first_token = True
        """Whether its forward reads a prompt: the first one, or one with more rows than the one before."""
        self.forward = Estimate()
        """From the start of one forward to the start of the next."""
        self.gaining_us = 0.0
        """What its forward could have saved so far, had somebody like it been beside it."""
        self.gain_us = 0.0
        """The same of its last whole forward."""
        self.together = -1
        """Forwards gone through in company to the end, without a break; -1: it did not begin in any."""
        self.paused = 0
        """Forwards for which nobody waits for it at a rendezvous."""
        self.pauses = 1

    def due_us(self, now_us: int) -> tuple[float, float]:
        """Returns when its next request is expected, and when it is late. Only for one that was answered."""
        known = self.by_place.get(self.place) if self.place is not None else None
        if known is None or not known.known:
            known = self.thinking
        if not known.known:
            return self.answered_us + _UNKNOWN_US / 2, self.answered_us + _UNKNOWN_US
        expected_us = self.answered_us + known.mean
        if expected_us <= now_us:  # any moment now: as far off as it usually strays
            expected_us = now_us + known.deviation
        return expected_us, self.answered_us + known.late


class Travellers:
    """All clients that have asked for anything."""

    def __init__(self) -> None:
        self.starts: Final[set[OpId]] = set()
        """Ops that take token ids, so that a forward begins with them."""
        self.all: Final[dict[ClientId, Traveller]] = {}
        self.error = Estimate()
        """By how much predicted arrivals were off."""
        self.lasting = _USUALLY_LASTS
        """For how many forwards a convoy lasts."""
        self.pause = Estimate()
        """How long clients think, all together: what the error is to be measured by."""

    def __repr__(self) -> str:
        return f"<Travellers {len(self.all)}>"

    def arrived(self, request: Request) -> None:
        """A client wants something."""
        traveller = self.all.get(request.client)
        if traveller is None:
            traveller = self.all[request.client] = Traveller(request.lane)
        now_us = request.arrived_us
        if traveller.answered_us >= 0:
            self._thought(traveller, now_us - traveller.answered_us)
            traveller.answered_us = -1
        traveller.rows = request.rows
        if request.direction is Direction.FORWARD and request.op in self.starts:
            if traveller.started_us >= 0:
                traveller.forward.add(now_us - traveller.started_us)
            self._note_company(traveller)
            traveller.started_us, traveller.starts_with = now_us, request.op
            traveller.first_token = request.rows > traveller.start_rows
            traveller.start_rows = request.rows
            traveller.gain_us, traveller.gaining_us = traveller.gaining_us, 0.0
            traveller.paused = max(0, traveller.paused - 1)

    def answered(self, plan: Plan, clients: Collection[ClientId], now_us: int) -> None:
        """Requests of these clients were answered by that plan; all of them travel on."""
        place = (plan.op, plan.direction)
        in_company = len(clients) > 1 and plan.op in self.starts
        for client in clients:
            traveller = self.all.get(client)
            if traveller is not None:
                traveller.answered_us, traveller.place = now_us, place
                if in_company and traveller.together < 0:
                    traveller.together = 0

    def left(self, client: ClientId) -> None:
        """A client is gone."""
        self.all.pop(client, None)

    def _note_company(self, traveller: Traveller) -> None:
        """Learns, where a forward begins, how long companions stay together."""
        if len(traveller.companions) > 1:
            traveller.together = max(traveller.together, 0) + 1
        elif traveller.together >= 0:
            self.lasting += (traveller.together - self.lasting) / 8
            traveller.together = -1

    def _thought(self, traveller: Traveller, us: int) -> None:
        place = traveller.place
        assert place is not None  # it was answered
        known = traveller.by_place.get(place)
        if known is None:
            if len(traveller.by_place) >= _PLACES:
                traveller.by_place.clear()
            known = traveller.by_place[place] = Estimate()
        elif known.known:
            self.error.add(abs(us - known.mean))
            self.pause.add(us)
        known.add(us)
        traveller.thinking.add(us)
