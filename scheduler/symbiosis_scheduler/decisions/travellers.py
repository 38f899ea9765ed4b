"""Where every client is on its way through the model, how long it thinks between two requests, and when it is due.

A client's *place* is the op and direction that it was answered last. Thinking differs by place (a client that has
its logits samples a token; one between two blocks computes attention), so it is estimated per place, and overall
for places that were seen too seldom. How far predictions were off is kept as well: who uses them must know.

Pure: `now` is an argument, and all that is kept is a few numbers per client and place.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, islice
from operator import attrgetter
from typing import Final

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.estimates import Estimate
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.request import Request

__all__ = ["Place", "Traveller", "Travellers", "begins_forward"]

_PLACES: Final = 512
"""Places kept per client; a model has about two per layer."""
_USUALLY_LASTS: Final = 32.0
"""Trips for which company is thought to last before any has ended: about a forward."""
_LASTS_LEAST: Final = 8
_LASTS_MOST: Final = 128
"""What a company that lasted for less or more counts as: those who meet by chance do not last, whatever they would
if they were held."""
_FIRST_DISTRUST: Final = 8
_LONGEST_DISTRUST: Final = 1024
_LASTING_STEP: Final = 1 / 64
"""How much one company that ended counts."""
_ACTIVE_US: Final = 100_000
"""For how long after a request or its answer a client counts among those who want the daemon."""
_UNKNOWN_US: Final = 1000
"""How long somebody is thought to think of whom nothing is known yet."""

_SEEN_US: Final = attrgetter("seen_us")

Place = tuple[OpId, Direction]


def begins_forward(takes_ids: bool, *, after_ids: bool) -> bool:
    """Whether a request begins a forward: it takes token ids, and its client's request before did not.

    So the ids of one prompt may come in several requests. Where forwards are counted, all go by this.
    """
    return takes_ids and not after_ids


class Traveller:
    """What is known of one client."""

    __slots__ = (
        "_distrust",
        "answered_us",
        "by_place",
        "client",
        "company",
        "distrusted",
        "expected_us",
        "first_token",
        "forward_us",
        "forwards",
        "lane",
        "pace",
        "place",
        "rows",
        "rows_before",
        "seen_us",
        "start_rows",
        "started_us",
        "takes_ids",
        "thinking",
        "thought_us",
        "together",
        "trip",
        "trip_of",
        "trips",
    )

    def __init__(self, client: ClientId, lane: str) -> None:
        self.client = client
        self.lane = lane
        self.company: frozenset[ClientId] = frozenset()
        """Who was answered together with it last, itself included."""
        self.together = 0
        """Trips for which it has had company without a break."""
        self.distrusted = 0
        """For how many more requests nobody waits for it, after it kept somebody waiting in vain."""
        self._distrust = _FIRST_DISTRUST
        self.forwards = 0
        """How many it began."""
        self.forward_us: int | None = None
        """How long the forward before this one took; None: it had other rows than the one before it."""
        self.trip = 0
        """How many requests of its forward came before its last one."""
        self.trips = 0
        """Requests of its last whole forward."""
        self.trip_of: dict[Place, tuple[int, int]] = {}
        """In which forward, and as which trip of it, it last asked for what."""
        self.seen_us = 0
        """When it asked or was answered last."""
        self.answered_us = -1
        """When its last request was answered; -1: it is waiting for an answer."""
        self.expected_us = 0.0
        """When its next request was expected as it was answered."""
        self.place: Place | None = None
        self.rows = 1
        """Of its last request."""
        self.thinking = Estimate()
        """From an answer to the next request."""
        self.pace = self.thinking
        """The same where it was answered last, as far as it was there before."""
        self.thought_us: int | None = None
        """The same before its last request; None: that was its first, or an earlier one was not answered."""
        self.by_place: dict[Place, Estimate] = {}
        self.started_us = -1
        """When its forward began."""
        self.start_rows = self.rows_before = 0
        """Of the token ids of its forward, and of those of the one before."""
        self.takes_ids = False
        """Whether its last request took token ids."""
        self.first_token = True
        """Whether its forward reads a prompt: the first one, or one with more rows than the one before."""

    def trips_to(self, place: Place) -> int | None:
        """Returns as which of its next requests it will ask for this, from 1; None: that is not known."""
        visit = self.trip_of.get(place)
        if visit is None or self.forwards - visit[0] > 1 or not self.thinking.known:
            return None  # it was never there, or has come by another way since
        trips = visit[1] - self.trip
        if trips > 0:
            return trips
        return trips + self.trips if self.trips > self.trip else None

    def distrust(self) -> None:
        """It was waited for in vain: for a while nobody does, and twice as long each time until it has company."""
        self.distrusted = self._distrust
        self._distrust = min(2 * self._distrust, _LONGEST_DISTRUST)

    def answered(self, place: Place, now_us: int) -> None:
        """Its request for this was answered."""
        self.answered_us = now_us
        self.place = place
        self.pace = pace = self.by_place.get(place) or self.thinking
        self.expected_us = now_us + (pace.usual if pace.known else _UNKNOWN_US)

    def trust(self) -> None:
        """It has come."""
        self._distrust = _FIRST_DISTRUST

    def due_us(self, now_us: int, service_us: float) -> float:
        """Returns when its next request is expected; what it waits for takes `service_us`."""
        if self.answered_us < 0:
            return now_us + service_us + (self.thinking.usual if self.thinking.known else _UNKNOWN_US)
        if self.expected_us > now_us or not self.pace.known:
            return self.expected_us
        return now_us + self.pace.deviation  # overdue: any moment now


_NOBODY: Final[dict[ClientId, Traveller]] = {}


class Travellers:
    """All clients that have asked for anything."""

    def __init__(self) -> None:
        self.starts: Final[set[OpId]] = set()
        """Ops that take token ids, so that a forward begins with them."""
        self.all: Final[dict[ClientId, Traveller]] = {}
        self._latest: dict[str, dict[ClientId, Traveller]] = {}
        """The same by lane. Who asked or was answered last comes last."""
        self.error = Estimate()
        """By how much predicted arrivals were off."""
        self.lasting = _USUALLY_LASTS
        """For how many trips who was answered together comes back together."""
        self.pause = Estimate()
        """How long clients think, all together: what the error is to be measured by."""

    def __repr__(self) -> str:
        return f"<Travellers {len(self.all)}>"

    def arrived(self, request: Request) -> None:
        """A client wants something."""
        traveller = self.all.get(request.client)
        if traveller is None:
            traveller = self.all[request.client] = Traveller(request.client, request.lane)
        now_us = request.arrived_us
        self._seen(traveller, now_us)
        traveller.thought_us = None
        if traveller.answered_us >= 0:
            traveller.thought_us = now_us - traveller.answered_us
            self._thought(traveller, traveller.thought_us)
            traveller.answered_us = -1
        traveller.rows = request.rows
        traveller.distrusted = max(0, traveller.distrusted - 1)
        traveller.trip += 1
        takes_ids = self._takes_ids(request.op, request.direction)
        if begins_forward(takes_ids, after_ids=traveller.takes_ids):
            alike = traveller.start_rows == traveller.rows_before > 0
            traveller.forward_us = now_us - traveller.started_us if alike else None
            traveller.started_us = now_us
            traveller.rows_before, traveller.start_rows = traveller.start_rows, 0
            traveller.trip, traveller.trips = 0, traveller.trip
            traveller.forwards += 1
        traveller.takes_ids = takes_ids
        if takes_ids:
            traveller.start_rows += request.rows
            traveller.first_token = traveller.start_rows > traveller.rows_before
        traveller.trip_of[request.op, request.direction] = traveller.forwards, traveller.trip

    def begins(self, client: ClientId, op: OpId, direction: Direction) -> bool:
        """Whether such a request, if it is the client's next one, begins a forward."""
        known = self.all.get(client)
        return begins_forward(self._takes_ids(op, direction), after_ids=known is not None and known.takes_ids)

    def answered(self, plan: Plan, clients: frozenset[ClientId], now_us: int) -> None:
        """Requests of these clients were answered by that plan; all of them travel on."""
        place = (plan.op, plan.direction)
        for client in clients:
            traveller = self.all.get(client)
            if traveller is None:
                continue
            self._seen(traveller, now_us)
            traveller.answered(place, now_us)
            if len(clients) > 1:
                traveller.trust()
            if len(clients & traveller.company) > 1:
                traveller.together += 1
            elif len(traveller.company) > 1:
                lasted = min(max(traveller.together, _LASTS_LEAST), _LASTS_MOST)
                self.lasting += (lasted - self.lasting) * _LASTING_STEP
                traveller.together = 0
            traveller.company = clients

    def left(self, client: ClientId) -> None:
        """A client is gone."""
        traveller = self.all.pop(client, None)
        if traveller is None:
            return
        latest = self._latest[traveller.lane]
        del latest[client]
        if not latest:
            del self._latest[traveller.lane]

    def count(self, lanes: Sequence[str]) -> int:
        """Returns how many of these lanes have ever asked, and are here."""
        return sum([len(self._latest.get(lane, _NOBODY)) for lane in lanes])

    def active(self, lanes: Sequence[str], most: int, now_us: int) -> list[Traveller]:
        """Returns who of these lanes asked or was answered a moment ago: `most` at most, the latest first."""
        latest = self._latest.get(lanes[0], _NOBODY)
        found = list(islice(reversed(latest.values()), most))
        if len(lanes) > 1:
            others = [islice(reversed(self._latest.get(lane, _NOBODY).values()), most) for lane in lanes[1:]]
            found = sorted(chain(found, *others), key=_SEEN_US, reverse=True)[:most]
        since_us = now_us - _ACTIVE_US
        if found and found[-1].seen_us < since_us:
            found = [traveller for traveller in found if traveller.seen_us >= since_us]
        return found

    def active_until_us(self, client: ClientId) -> int:
        """Returns from when on an active client is none any more, unless it asks or is answered."""
        return self.all[client].seen_us + _ACTIVE_US + 1

    def _takes_ids(self, op: OpId, direction: Direction) -> bool:
        return direction is Direction.FORWARD and op in self.starts

    def _seen(self, traveller: Traveller, now_us: int) -> None:
        traveller.seen_us = now_us
        latest = self._latest.get(traveller.lane)
        if latest is None:
            latest = self._latest[traveller.lane] = {}
        latest.pop(traveller.client, None)  # else it would keep its old place in the order
        latest[traveller.client] = traveller

    def _thought(self, traveller: Traveller, us: int) -> None:
        place = traveller.place
        assert place is not None  # it was answered
        known = traveller.by_place.get(place)
        if known is None:
            if len(traveller.by_place) >= _PLACES:
                traveller.by_place.clear()
                traveller.trip_of.clear()
            known = traveller.by_place[place] = Estimate()
        elif known.known:
            self.error.add(abs(us - known.usual))
            self.pause.add(us)
        known.add(us)
        traveller.thinking.add(us)
