"""`deadline`: whoever is due first goes first (EDF), by the lanes' targets for tokens.

A forward begins with token ids and makes one token. All of its requests are due when the token is:
`first_token_us` after the forward began where it reads a prompt, `token_us` otherwise. In a lane without targets a
client's next request is due `max_wait_us` after its turn began: when it came, or when rows of that client were led
last. Without that, too, it has time until nobody else has anything to do.

That is for clients who do as said. A forward that has had half of its target's time of the daemon for itself has
had its share: what is left of it is due a target from then on, as often as need be (the constant bandwidth server
of Abeni and Buttazzo, 1998, of half the daemon). So nobody goes first for ever by never ending a forward, another
that asks for little is in time beside it, and of several such each has a turn. Who is late because of others keeps
its place. Who begins no forward has turns, too. A batch is charged to its lead, by the lead's rows.

Could batches be interrupted, this order would meet every deadline that any order meets. They cannot: who is due
may wait for one batch that began before, a chunk, which leaving the daemon idle would have avoided. Where not all
can be in time, all are late by about the same. Priorities decide between equal deadlines.

A plan costs what has come since and the batch, whatever else waits: whoever waits has an entry in a heap, due no
later than the client is, which is brought up to date when it comes to the top. What a client asks for is looked at
when it comes only if that may be due before the client's entry: after a prompt, whose token has another target.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from itertools import chain
from typing import ClassVar, Final

from symbiosis_core.config import DaemonConfig, LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.bounds import of_deadlines
from symbiosis_scheduler.decisions.filling import batch, first_ready
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.levels import Lane
from symbiosis_scheduler.decisions.plan import Decision, Hold, Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Traveller

__all__ = ["Deadline"]

_NEVER_US: Final = 1 << 62
_NO_ENTRY: Final = 1 << 63
_SHARE: Final = 0.5
"""Of its target: what a forward may have of the daemon's time before it is due later."""
_LEAST_KEPT: Final = 64
"""So many clients are known before those that are gone are looked for."""
_Due = tuple[int, int, int, ClientId]
"""When, its level's rank and the ticket of a request; and whose."""


class _Standing:
    """What counts of a client."""

    __slots__ = ("since_us", "spent_us", "started_us", "turn_us")

    def __init__(self) -> None:
        self.started_us = -1
        """When the forward began of which the next two are told."""
        self.since_us = -1
        """From when on its target counts."""
        self.spent_us = 0.0
        """What of the daemon's time it has had since."""
        self.turn_us = 0
        """When rows of the client were led last."""


_Owed = tuple[Plan, _Standing, int, int]
"""A plan, the standing of its lead's client, the target of its forward, and when it was planned."""


class Deadline:
    """Earliest deadline first over the heads of all clients, in chunks, with holding."""

    reads: ClassVar[frozenset[str]] = frozenset(
        {"priority", "chunk_rows", "max_wait_us", "max_hold_us", "first_token_us", "token_us"}
    )
    explain = staticmethod(of_deadlines)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        self._targets = {name: _targets(lane) for name, lane in config.lanes.items()}
        self._queues: Queues | None = None
        self._dues: list[_Due] = []
        """A heap. Who waits has an entry, due no later than the client is."""
        self._entered: dict[ClientId, int] = {}
        """When each is due by its entry; others of that client say nothing any more."""
        self._sure: set[ClientId] = set()
        """Of whose entry it is known that no later request of theirs is due before it."""
        self._standings: dict[ClientId, _Standing] = {}
        self._most = _LEAST_KEPT
        self._owed: list[_Owed] = []
        """What was planned, and of which shares are not counted yet."""

    def settle(self, known: Known) -> None:
        """See `Policy`: counts what forwards have had."""
        for plan, standing, target_us, now_us in self._owed:
            rows = plan.rows
            share = plan.parts[0].rows / rows
            standing.spent_us += share * known.likely_us(plan, rows)
            if standing.spent_us > _SHARE * target_us:
                standing.since_us, standing.spent_us = now_us, 0.0
        self._owed.clear()

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the batch whose lead is due first of those that are not better held."""
        if self._owed:
            self.settle(known)
        self._note(queues, known)
        lead = self._first(queues, known)
        if lead is None:
            return None
        lane = queues.lane(lead.lane)
        if not self._exact and lane.config.max_hold_us:
            in_order = chain([lead], self._others(lead, lane, known))
            lead, until_us = first_ready(in_order, queues, known, now_us, self._max_rows)
            if lead is None:  # while one is held no other lane goes
                return Hold(until_us)
        plan = batch(lead, queues, self._max_rows, exact=self._exact)
        self._charge(plan, now_us, known)
        return plan

    def _note(self, queues: Queues, known: Known) -> None:
        """Enters who has asked since the last plan and may be due before its entry, or has none."""
        if fresh := queues is not self._queues:
            self._queues, self._dues, self._entered, self._sure = queues, [], {}, set()
        if len(self._dues) > self._most or len(self._standings) > self._most:
            self._forget(queues, known)
        sure, entered, travellers = self._sure, self._entered, known.travellers.all
        for level in queues.levels:
            for client in level.turns if fresh else level.arrived:  # the hot loop
                if client in sure or (head := level.turns.get(client)) is None:
                    continue
                due_us, soonest_us = self._due_us(head, travellers)
                if due_us < entered.get(client, _NO_ENTRY):
                    entered[client] = due_us
                    heappush(self._dues, (due_us, level.rank, queues.lane(head.lane).waiting[head], client))
                    if due_us <= soonest_us:
                        sure.add(client)

    def _forget(self, queues: Queues, known: Known) -> None:
        """Forgets who is gone or does not wait, so that looking for them costs O(1) a client."""
        here, waiting = known.travellers.all, {client for level in queues.levels for client in level.turns}
        self._standings = {each: standing for each, standing in self._standings.items() if each in here}
        self._entered = {each: due_us for each, due_us in self._entered.items() if each in waiting}
        self._sure &= waiting
        self._dues = [due for due in self._dues if self._entered.get(due[3]) == due[0]]
        heapify(self._dues)
        self._most = 2 * max(len(self._dues), len(self._standings), _LEAST_KEPT)

    def _first(self, queues: Queues, known: Known) -> Request | None:
        """Returns the oldest request of the client that is due first; None where nothing waits."""
        dues, entered, sure, travellers = self._dues, self._entered, self._sure, known.travellers.all
        top = queues.levels[0].rank
        while dues:
            entry_us, rank, _, client = dues[0]
            if entered.get(client) != entry_us:
                heappop(dues)
                continue
            head = queues.levels[rank - top].turns.get(client)
            if head is None:
                heappop(dues)
                del entered[client]
                sure.discard(client)
                continue
            due_us, soonest_us = self._due_us(head, travellers)
            if due_us <= entry_us:
                return head
            entered[client] = due_us
            heapreplace(dues, (due_us, rank, queues.lane(head.lane).waiting[head], client))
            if due_us > soonest_us:
                sure.discard(client)
            else:
                sure.add(client)
        return None

    def _others(self, lead: Request, lane: Lane, known: Known) -> Iterator[Request]:
        """Yields what else the lane's clients ask for first, who is due first first."""
        travellers = known.travellers.all
        heads = [head for head in lane.level.heads() if head is not lead and head.lane == lane.name]
        left = [(self._due_us(head, travellers)[0], turn, head) for turn, head in enumerate(heads)]
        heapify(left)
        while left:
            yield heappop(left)[2]

    def _due_us(self, request: Request, travellers: Mapping[ClientId, Traveller]) -> tuple[int, int]:
        """Returns when a client's oldest request is due, and how soon one that comes after it may be."""
        first_token_us, token_us, soonest_us = self._targets[request.lane]
        client = request.client
        standing = self._standings.get(client)
        if first_token_us and (traveller := travellers.get(client)) is not None:
            since_us = traveller.started_us
            if since_us >= 0:
                if standing is not None and standing.started_us == since_us:
                    since_us = standing.since_us
                target_us = first_token_us if traveller.first_token else token_us
                return since_us + target_us, since_us + soonest_us
        since_us = request.arrived_us
        if standing is not None and standing.turn_us > since_us:
            since_us = standing.turn_us
        return since_us + token_us, since_us + soonest_us

    def _charge(self, plan: Plan, now_us: int, known: Known) -> None:
        """The lead's turn is over, and its forward will have its share of the batch."""
        lead = plan.lead
        standing = self._standings.get(lead.client)
        if standing is None:
            standing = self._standings[lead.client] = _Standing()
        standing.turn_us = now_us
        first_token_us, token_us, _ = self._targets[lead.lane]
        traveller = known.travellers.all.get(lead.client)
        if not first_token_us or traveller is None or traveller.started_us < 0:
            return
        if standing.started_us != traveller.started_us:
            standing.started_us = standing.since_us = traveller.started_us
            standing.spent_us = 0.0
        self._owed.append((plan, standing, first_token_us if traveller.first_token else token_us, now_us))


def _targets(lane: LaneConfig) -> tuple[int, int, int]:
    """Returns a lane's targets: for a first token, 0: it has none; for any other; and the lesser of the two."""
    first_us, token_us = lane.first_token_us or lane.token_us, lane.token_us or lane.first_token_us
    if token_us:
        return first_us, token_us, min(first_us, token_us)
    return 0, lane.max_wait_us or _NEVER_US, lane.max_wait_us or _NEVER_US
