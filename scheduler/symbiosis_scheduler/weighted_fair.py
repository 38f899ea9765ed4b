"""`weighted_fair`: lanes share the daemon's time by weight, and the clients of a lane share it equally.

Every lane, and within it every client, has an account of the time that was spent on its rows, a lane's divided by
its weight. The one with the least goes next: what it lacks to the others is its deficit. Who had nothing to ask
for does not save up: on coming back its account is lifted to that of who is being served (start-time fair
queueing). The time is what the batch is expected to take by the measured curves, divided among its rows; so nobody
gets more by sending more, bigger or faster requests.

Rows are charged when they are planned. What is kept is a number per lane, and per client that is ahead.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import ClassVar, Final, Generic, TypeVar

from symbiosis_core.config import DaemonConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.filling import batch, first_ready
from symbiosis_scheduler.known import Known
from symbiosis_scheduler.plan import Decision, Hold, Plan
from symbiosis_scheduler.queues import Lane, Queues
from symbiosis_scheduler.request import Request

__all__ = ["WeightedFair"]

K = TypeVar("K", bound=Hashable)
_LEAST_KEPT: Final = 64
"""So many accounts are kept before those that say nothing any more are looked for."""


class _Accounts(Generic[K]):
    """What each has been given, and where the one stands that is being served."""

    __slots__ = ("_given", "_most", "_now")

    def __init__(self) -> None:
        self._given: dict[K, float] = {}
        self._now = 0.0
        self._most = 2 * _LEAST_KEPT

    def standing(self, who: K) -> float:
        """Returns what counts as given: no less than to who is being served."""
        return max(self._given.get(who, 0.0), self._now)

    def serve(self, who: K) -> None:
        self._now = self.standing(who)

    def charge(self, who: K, cost: float) -> None:
        given = self._given.get(who, 0.0)
        self._given[who] = (given if given > self._now else self._now) + cost
        if len(self._given) > self._most:
            self._given = {each: given for each, given in self._given.items() if given > self._now}
            self._most = 2 * max(len(self._given), _LEAST_KEPT)  # so that looking costs O(1) a charge


class WeightedFair:
    """The lane with the largest deficit goes first, and in it the client with the largest."""

    reads: ClassVar[frozenset[str]] = frozenset({"weight", "chunk_rows", "max_hold_us"})

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        self._weights = {name: lane.weight for name, lane in config.lanes.items()}
        self._lanes: _Accounts[str] = _Accounts()
        self._clients: dict[str, _Accounts[ClientId]] = {name: _Accounts() for name in config.lanes}

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the batch of whoever has got least; None only if nothing waits."""
        lanes = sorted(
            (lane for lane in queues.lanes if lane.waiting), key=lambda lane: self._lanes.standing(lane.name)
        )
        if not lanes:
            return None
        heads = self._heads(lanes[0])  # while one of it is held no other lane goes
        if self._exact:
            plan = batch(heads[0], queues, self._max_rows, exact=True)
        else:
            lead, until_us = first_ready(heads, queues, known, now_us, self._max_rows)
            if lead is None:
                return Hold(until_us)
            plan = batch(lead, queues, self._max_rows)
        self._charge(plan, known)
        return plan

    def _heads(self, lane: Lane) -> list[Request]:
        """Returns the heads of the lane's clients, who has got least first."""
        accounts = self._clients[lane.name]
        heads = [head for head in lane.level.heads() if head.lane == lane.name]
        standing = accounts.standing
        return sorted(heads, key=lambda head: standing(head.client))

    def _charge(self, plan: Plan, known: Known) -> None:
        self._lanes.serve(plan.lead.lane)
        self._clients[plan.lead.lane].serve(plan.lead.client)
        whole_us = known.costs.expected_us(plan.op, plan.direction, plan.rows) or float(plan.rows)
        a_row_us = whole_us / plan.rows
        rows: dict[str, int] = {}
        for part in plan.parts:
            request, taken = part.request, part.stop - part.start
            rows[request.lane] = rows.get(request.lane, 0) + taken
            self._clients[request.lane].charge(request.client, taken * a_row_us)
        for lane, taken in rows.items():
            self._lanes.charge(lane, taken * a_row_us / self._weights[lane])
