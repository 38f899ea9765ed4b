"""`lockstep`: everybody waits for everybody, as in servers that compute all their jobs in rounds. A baseline.

Nothing is computed before all clients that are at work have asked, or the oldest request has waited its lane's
`max_hold_us`. At work is who asked or was answered a moment ago (`Travellers.active`). Those in the middle of a
forward go before those that begin one, so that whoever is behind catches up and all begin the next one together:
for as long as somebody never ends a forward, nobody who begins one is served. With `batching.exact`, where none
shares a batch, nobody is waited for.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar

from symbiosis_core.config import DaemonConfig
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.bounds import of_rounds
from symbiosis_scheduler.decisions.filling import batch, first_come
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold
from symbiosis_scheduler.decisions.queues import Queues

__all__ = ["Lockstep"]


class Lockstep:
    """Rounds of all clients; who is slow makes all others slow, up to `max_hold_us`."""

    reads: ClassVar[frozenset[str]] = frozenset({"chunk_rows", "max_hold_us"})
    explain = staticmethod(of_rounds)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the next batch, or a hold until all are there."""
        lanes = [lane for lane in queues.lanes if lane.waiting]
        if not lanes:
            return None
        oldest = first_come(next(iter(lane.waiting.items())) for lane in lanes)
        assert oldest is not None
        until_us = oldest.arrived_us + queues.lane(oldest.lane).config.max_hold_us
        if until_us > now_us and not self._exact and (away := _away(queues, known, now_us)):
            return Hold(min(until_us, max(known.travellers.active_until_us(client) for client in away)))
        starts = known.travellers.starts
        behind = first_come(
            first
            for lane in lanes
            for first in islice((each for each in lane.waiting.items() if each[0].op not in starts), 1)
        )
        return batch(behind or oldest, queues, self._max_rows, exact=self._exact)


def _away(queues: Queues, known: Known, now_us: int) -> list[ClientId]:
    """Returns who is at work and does not wait."""
    lanes, turns = [lane.name for lane in queues.lanes], [level.turns for level in queues.levels]
    if known.travellers.count(lanes) == sum(map(len, turns)):
        return []
    active = known.travellers.active(lanes, len(known.travellers.all), now_us)
    return [other.client for other in active if not any(other.client in here for here in turns)]
