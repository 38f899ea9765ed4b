"""Keeps clients together that do the same work, so that one reading of the weights serves them all.

A batch of a few rows costs what one row costs: the weights are read once. But independent clients are at
different layers, and taking whatever is ready batches next to nothing (four decoding clients: 1.1 requests a
batch). So the first to come to a place is held for those who are on their way there, where two comparisons say so:

- *A round.* From one answer to the next a client thinks and is computed. While everybody goes alone, a round takes
  its thinking and its batch; or, where that is longer, the batches of all who are active, one after the other.
  Together it takes the thinking of the slowest, as far as one of so many usually is, and the joint batch. Nobody
  is held where rounds together are not shorter: a daemon that is idle half of the time has nothing to save.
- *The wait.* It is worth as many shorter rounds as company has lasted so far. So clients that are a few trips
  apart meet once, and travel on together; and one that is late, because the operating system had put it aside, is
  waited for rather than lost, for it would have to be met again.

Whoever is awaited goes where it is awaited, and waits for nobody on the way, or all would wait for one another.
Who does not come in time is expected no more for some trips, and each time for twice as many. A lane's
`max_hold_us` bounds every wait. `holds` keeps the books, and ends holding where it does not pay.

Pure: `now` is an argument, and all that is kept is a few numbers per client.
"""

from __future__ import annotations

from itertools import islice
from operator import attrgetter
from typing import Final

from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.holds import Holds
from symbiosis_scheduler.decisions.levels import Cell, Level
from symbiosis_scheduler.decisions.meetings import LOOKED_AT, Scene, best_meeting, prospect
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers

__all__ = ["Convoys"]

_CLIENT: Final = attrgetter("client")
_ARRIVED_US: Final = attrgetter("arrived_us")


class Convoys:
    """Says which requests are better held."""

    def __init__(self, costs: Costs, travellers: Travellers) -> None:
        self._costs = costs
        self._travellers = travellers
        self.holds = Holds()
        self.missed = 0
        """How often somebody was waited for and did not come in time."""

    def __repr__(self) -> str:
        return f"<Convoys of {len(self._travellers.all)}: {self.missed} missed>"

    def left(self, client: ClientId) -> None:
        """A client is gone. Nobody waits for it."""
        self.holds.left(client)

    def hold_until(self, lead: Request, level: Level, now_us: int, max_rows: int) -> int | None:
        """Returns until when a plan led by `lead` is better held; None: start it.

        Only for clients of its `level`: all others are planned by themselves, and never join. Its lane allows
        holds. A plan has at most `max_rows` rows.
        """
        if len(self._travellers.all) < 2:
            return None
        held = self.holds.of(lead)
        if held is None and len(level.cells) == 1 and len(level.turns) == self._travellers.count(level.lane_names):
            return None  # everybody there is waits for the same
        cell = level.cells[lead.op, lead.direction]
        here = frozenset(map(_CLIENT, cell.parts))
        if held is not None and (latest_us := _latest_us(cell, level)) <= now_us:
            self._give_up(held.awaited, here)
            return None
        if self.holds.awaited_elsewhere(here, lead):
            return None
        if held is not None and held.stands(here, now_us, self._travellers.all):
            return min(held.until_us, latest_us)
        found = prospect(Scene(lead, level.lane_names, here, now_us), self._costs, self._travellers)
        if found is None or (latest_us := _latest_us(cell, level)) <= now_us:
            return None
        meeting = best_meeting(found, cell.rows, latest_us, max_rows, self._travellers.lasting)
        if meeting is None or not (held or self.holds.allowed()):
            return None
        until_us = int(min(latest_us, (now_us if held is None else held.began_us) + meeting.patience_us))
        if until_us <= now_us:
            self._give_up(meeting.joining, here)
            return None
        self.holds.hold(lead, now_us, until_us, here, meeting)
        return until_us

    def _give_up(self, clients: frozenset[ClientId], here: frozenset[ClientId]) -> None:
        missed = clients - here
        for client in missed:
            if (traveller := self._travellers.all.get(client)) is not None:
                traveller.distrust()
        self.missed += bool(missed)


def _latest_us(cell: Cell, level: Level) -> int:
    """Returns until when nobody in this cell has waited for longer than its lane allows."""
    waiting = islice(cell.parts, LOOKED_AT)
    if len(level.lanes) == 1:
        oldest_us: int = min(map(_ARRIVED_US, waiting))
        return oldest_us + level.lanes[0].config.max_hold_us
    most_us = {lane.name: lane.config.max_hold_us for lane in level.lanes}
    return min([each.arrived_us + most_us[each.lane] for each in waiting])
