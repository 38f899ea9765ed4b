"""`deadline`: whoever is due first goes first (EDF), by the lanes' targets for tokens.

A forward begins with token ids and makes one token. All of its requests are due when the token is:
`first_token_us` after the forward began where it reads a prompt, `token_us` otherwise. A request of a lane without
targets is due `max_wait_us` after it came; without that, too, it has time until nobody else has anything to do.

Earliest deadline first meets every deadline that can be met by anybody, and says nothing of what happens where not
all can: then everybody is late by about the same. Priorities decide between equal deadlines.

When a request is due does not change while it waits. So it is noted once, at the first plan after it came, and a
plan costs what has come since and the batch, whatever else waits.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import ClassVar, Final

from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.bounds import of_deadlines
from symbiosis_scheduler.filling import batch, first_ready
from symbiosis_scheduler.known import Known
from symbiosis_scheduler.plan import Decision, Hold
from symbiosis_scheduler.queues import Queues
from symbiosis_scheduler.request import Request

__all__ = ["Deadline"]

_NEVER_US: Final = 1 << 62
_LEAST_KEPT: Final = 64
"""So many are kept before those that do not wait any more are looked for."""
_Due = tuple[int, int, int, Request]
"""When, its level's rank and its ticket, which no two share; and what."""


class Deadline:
    """Earliest deadline first over the heads of all clients, in chunks, with holding."""

    reads: ClassVar[frozenset[str]] = frozenset(
        {"priority", "chunk_rows", "max_wait_us", "max_hold_us", "first_token_us", "token_us"}
    )
    explain = staticmethod(of_deadlines)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        self._targets = {
            name: (
                lane.first_token_us or lane.token_us,
                lane.token_us or lane.first_token_us,
                lane.max_wait_us or _NEVER_US,
            )
            for name, lane in config.lanes.items()
        }
        """Of every lane: for a first token, for any other, and for a request where there are no such targets."""

        self._queues: Queues | None = None
        self._noted = 0
        """The ticket of the last request that was noted."""
        self._dues: list[_Due] = []
        """A heap of all that waits; also of what does not wait any more, until it comes to the top."""
        self._most = _LEAST_KEPT

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the batch whose lead is due first of those that are not better held."""
        self._note(queues, known)
        dues = self._dues
        while dues and not _waits(dues[0][3], queues):
            heappop(dues)
        if not dues:
            return None
        lead: Request | None = dues[0][3]
        assert lead is not None
        lane = queues.lane(lead.lane)
        if not self._exact and lane.config.max_hold_us:
            in_order = (each for each in _in_order(dues) if each.lane == lane.name and each in lane.waiting)
            lead, until_us = first_ready(in_order, queues, known, now_us, self._max_rows)
            if lead is None:  # while one is held no other lane goes
                return Hold(until_us)
        return batch(lead, queues, self._max_rows, exact=self._exact)

    def _note(self, queues: Queues, known: Known) -> None:
        """Notes when the requests are due that came since the last plan."""
        if queues is not self._queues:
            self._queues, self._noted, self._dues = queues, 0, []
        if len(self._dues) > self._most:
            self._dues = [due for due in self._dues if _waits(due[3], queues)]
            heapify(self._dues)
            self._most = 2 * max(len(self._dues), _LEAST_KEPT)  # so that looking costs O(1) a request
        travellers = known.travellers.all
        for lane in queues.lanes:
            first_token_us, token_us, max_wait_us = self._targets[lane.name]
            for request, ticket in reversed(lane.waiting.items()):
                if ticket <= self._noted:
                    break
                due_us = request.arrived_us + max_wait_us
                if token_us:
                    traveller = travellers.get(request.client)
                    if traveller is not None and traveller.started_us >= 0:
                        due_us = traveller.started_us + (first_token_us if traveller.first_token else token_us)
                heappush(self._dues, (due_us, lane.level.rank, ticket, request))
        self._noted = queues.tickets


def _waits(request: Request, queues: Queues) -> bool:
    return request in queues.lane(request.lane).waiting


def _in_order(dues: list[_Due]) -> Iterator[Request]:
    left = dues[:]
    while left:
        yield heappop(left)[3]
