"""`weighted_fair`: lanes share the daemon's time by weight, and the clients of a lane share it equally.

Every lane, and within it every client, has an account of the time that was spent on its rows, a lane's divided by
its weight. The one with the least goes next: what it lacks to the others is its deficit. Who had nothing to ask
for does not save up: on coming back its account is lifted to that of who is being served (start-time fair
queueing). The time is what the batch is expected to take by the measured curves, divided among its rows; so nobody
gets more by sending more, bigger or faster requests. Nor by connecting anew: as far as a client that leaves is
ahead, the next of its user in its lane is, by a second at most: who leads goes ahead by a batch, and for hours of
riding along with others nobody else is made to wait. At a port without keys all are one user.

Rows are charged before the next decision, as soon as nobody waits for that (`settle`), by what was known when
they were planned. What is kept is a number per lane and client, and per client that left and was ahead.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from heapq import heapify, heappop
from itertools import islice, repeat
from typing import ClassVar, Final, Generic, TypeVar

from symbiosis_core.config import DaemonConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.bounds import of_weights
from symbiosis_scheduler.decisions.filling import batch, first_ready
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.levels import Lane
from symbiosis_scheduler.decisions.plan import Decision, Hold, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request

__all__ = ["WeightedFair"]

K = TypeVar("K", bound=Hashable)
_MOST_OWED_US: Final = 1_000_000
"""Of the daemon's time: as far as a client begins ahead of the others at most, for those before it."""


class _Accounts(Generic[K]):
    """What each has been given, and where the one stands that is being served."""

    __slots__ = ("_left", "given", "now")

    def __init__(self) -> None:
        self.given: dict[K, float] = {}
        self.now = 0.0
        self._left: dict[str, list[float]] = {}
        """By user: what those that left had been given."""

    def standing(self, who: K) -> float:
        """Returns what counts as given: no less than to who is being served."""
        return max(self.given.get(who, 0.0), self.now)

    def serve(self, who: K) -> None:
        """It is being served, whatever it costs."""
        self.now = self.standing(who)

    def charge(self, who: K, cost: float) -> None:
        """Adds to what one has been given."""
        self.given[who] = self.standing(who) + cost

    def open(self, who: K, user: str) -> None:
        """Somebody comes, and takes over the account that is furthest ahead of those that his user left."""
        if left := self._ahead(user):
            self.given[who] = min(left.pop(), self.now + _MOST_OWED_US)

    def close(self, who: K, user: str) -> None:
        """Somebody leaves."""
        given = self.given.pop(who, 0.0)
        if given > self.now:
            self._left[user] = sorted([*self._ahead(user), given])

    def _ahead(self, user: str) -> list[float]:
        """Returns what of a user's counts still, the most last. What counts no more, of anybody, is forgotten."""
        ahead = {each: [given for given in left if given > self.now] for each, left in self._left.items()}
        self._left = {each: left for each, left in ahead.items() if left}
        return self._left.get(user, [])


class WeightedFair:
    """The lane with the largest deficit goes first, and in it the client with the largest."""

    reads: ClassVar[frozenset[str]] = frozenset({"weight", "chunk_rows", "max_hold_us"})
    explain = staticmethod(of_weights)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        self._weights = {name: lane.weight for name, lane in config.lanes.items()}
        self._lanes: _Accounts[str] = _Accounts()
        self._clients: dict[str, _Accounts[ClientId]] = {name: _Accounts() for name in config.lanes}
        self._whose: dict[ClientId, tuple[str, str]] = {}
        """The lane and the user of everybody who is here."""
        self._owed: list[Plan] = []
        """What was planned and is not charged yet."""

    def joined(self, client: ClientId, lane: str, user: str) -> None:
        """See `Policy`: opens an account."""
        self._whose[client] = lane, user
        self._clients[lane].open(client, user)

    def left(self, client: ClientId) -> None:
        """See `Policy`: closes an account."""
        lane, user = self._whose.pop(client)
        self._clients[lane].close(client, user)

    def settle(self, known: Known) -> None:
        """See `Policy`: charges what was planned."""
        for plan in self._owed:
            self._charge(plan, known)
        self._owed.clear()

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the batch of whoever has got least; None only if nothing waits."""
        if self._owed:
            self.settle(known)
        lane = min(
            (lane for lane in queues.lanes if lane.waiting),
            key=lambda lane: self._lanes.standing(lane.name),
            default=None,
        )
        if lane is None:
            return None
        heads = self._heads(lane)  # while one of it is held no other lane goes
        if self._exact:
            plan = batch(next(heads), queues, self._max_rows, exact=True)
        else:
            lead, until_us = first_ready(heads, queues, known, now_us, self._max_rows)
            if lead is None:
                return Hold(until_us)
            plan = batch(lead, queues, self._max_rows)
        self._owed.append(plan)
        return plan

    def _heads(self, lane: Lane) -> Iterator[Request]:
        """Yields the heads of the lane's clients, who has got least first, and of equals by turn."""
        accounts = self._clients[lane.name]
        get, now, turns = accounts.given.get, accounts.now, lane.level.turns
        if len(lane.level.lanes) == 1:  # mostly nobody asks for a second one
            had = list(map(get, turns, repeat(now)))
            least = min(had)
            first = had.index(least) if least > now else next(n for n, each in enumerate(had) if each <= now)
            yield next(islice(turns.values(), first, None))
        left = [
            (given if (given := get(client, now)) > now else now, turn, head)
            for turn, (client, head) in enumerate(turns.items())
            if head.lane == lane.name
        ]
        heapify(left)
        if len(lane.level.lanes) == 1:
            heappop(left)
        while left:
            yield heappop(left)[2]

    def _charge(self, plan: Plan, known: Known) -> None:
        lead = plan.lead
        self._lanes.serve(lead.lane)
        self._clients[lead.lane].serve(lead.client)
        rows = plan.rows
        a_row_us = known.likely_us(plan, rows) / rows
        spent_rows: dict[str, int] = {}
        lane = ""
        for part in plan.parts:  # the hot loop: 64 riders are nothing special
            request, rows = part.request, part.stop - part.start
            if request.lane != lane:
                lane = request.lane
                accounts = self._clients[lane]
                given, now = accounts.given, accounts.now
            client = request.client
            before_us = given.get(client, now)
            given[client] = (before_us if before_us > now else now) + rows * a_row_us
            spent_rows[lane] = spent_rows.get(lane, 0) + rows
        for lane, rows in spent_rows.items():
            self._lanes.charge(lane, rows * a_row_us / self._weights[lane])
