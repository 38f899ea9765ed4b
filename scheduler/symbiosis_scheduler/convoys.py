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

from collections.abc import Sequence
from itertools import islice
from typing import Final, NamedTuple

from symbiosis_core.ids import ClientId
from symbiosis_scheduler.costs import Costs
from symbiosis_scheduler.holds import Holds
from symbiosis_scheduler.queues import Cell, Queues
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.travellers import Traveller, Travellers

__all__ = ["Convoys"]

_LOOKED_AT: Final = 16
"""Of the others so many are looked at, those who asked last: it bounds what a decision costs."""


_NEARLY: Final = 0.8
"""A meeting with one more is preferred if it is nearly as good, or who is left behind would wait in vain."""


class _Coming(NamedTuple):
    """Somebody on the way to where the lead is."""

    due_us: float
    client: ClientId
    traveller: Traveller


class _Meeting(NamedTuple):
    """What a lead may be held for."""

    joining: frozenset[ClientId]
    wait_us: float
    """Until the last of them is due."""
    worth_us: float
    """What the joint batch takes less than theirs one after the other."""
    trips: float
    """For how many trips the wait is: where somebody is met anew, as many as company lasts."""
    patience_us: float
    """For how long the lead is held at most."""


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

    def hold_until(self, lead: Request, queues: Queues, now_us: int, most_us: int, max_rows: int) -> int | None:
        """Returns until when a plan led by `lead` is better held; None: start it.

        Only for clients of the lanes that `queues` has: all others are planned by themselves, and never join. A
        plan has at most `max_rows` rows.
        """
        if not most_us or len(self._travellers.all) < 2:
            return None
        cell = queues.lane(lead.lane).level.cells[lead.op, lead.direction]
        latest_us = self._latest_us(cell, queues)
        if latest_us <= now_us:
            self._give_up(self.holds.missing(lead), cell)
            return None
        if self.holds.awaited_elsewhere(cell.parts):
            return None
        meeting = self._best_meeting(lead, cell, queues, now_us, latest_us, max_rows)
        if meeting is None or not self.holds.allowed(lead):
            return None
        began_us = self.holds.began_us(lead)
        until_us = int(min(latest_us, (now_us if began_us is None else began_us) + meeting.patience_us))
        if until_us <= now_us:
            self._give_up(meeting.joining, cell)
            return None
        self.holds.hold(lead, now_us, meeting.wait_us, meeting.worth_us, meeting.joining, meeting.trips)
        return until_us

    def _latest_us(self, cell: Cell, queues: Queues) -> int:
        """Returns until when nobody in this cell has waited for longer than its lane allows."""
        waiting = islice(cell.parts, _LOOKED_AT)
        return min([each.arrived_us + queues.lane(each.lane).config.max_hold_us for each in waiting])

    def _best_meeting(
        self, lead: Request, cell: Cell, queues: Queues, now_us: int, latest_us: int, max_rows: int
    ) -> _Meeting | None:
        """Returns the meeting that saves most, of those with the next one to come, the next two, and so on."""
        traveller = self._travellers.all[lead.client]
        alone_us = self._costs.expected_us(lead.op, lead.direction, lead.rows)
        if alone_us is None or traveller.thought_us is None:
            return None
        lanes = {lane.name for lane in queues.lane(lead.lane).level.lanes}
        travellers = ((client, self._travellers.all[client]) for client in self._travellers.active(now_us))
        active = list(islice((each for each in travellers if each[1].lane in lanes), _LOOKED_AT))
        here, rows = len(cell.parts), cell.rows
        slowest_us = traveller.thinking.usual
        costs_us = {
            rows: self._costs.expected_us(lead.op, lead.direction, rows) or 0.0
            for rows in {other.rows for _, other in active}
        }
        apart_us = max(slowest_us + alone_us, sum([costs_us[other.rows] for _, other in active]))
        saved_us = self._costs.expected_us(lead.op, lead.direction, rows) or 0.0
        best: _Meeting | None = None
        best_us = 0.0
        joining: list[ClientId] = []
        for due_us, client, other in self._coming(lead, active, cell, now_us, alone_us):
            if due_us > latest_us:
                break
            if rows + other.rows > max_rows:
                continue
            rows += other.rows
            joining.append(client)
            together = here + len(joining)
            joint_us = self._costs.expected_us(lead.op, lead.direction, rows)
            assert joint_us is not None  # as `alone_us`
            saved_us += costs_us[other.rows]
            slowest_us = max(slowest_us, other.thinking.at(together / (together + 1)))
            shorter_us = apart_us - max(slowest_us + joint_us, len(active) / together * joint_us)
            patience_us = shorter_us * self._travellers.lasting
            wait_us = due_us - now_us
            if patience_us - wait_us > _NEARLY * best_us:
                best_us = patience_us - wait_us
                trips = 1.0 if traveller.company.issuperset(joining) else self._travellers.lasting
                best = _Meeting(frozenset(joining), wait_us, saved_us - joint_us, trips, patience_us)
        return best

    def _coming(
        self,
        lead: Request,
        active: Sequence[tuple[ClientId, Traveller]],
        cell: Cell,
        now_us: int,
        service_us: float,
    ) -> list[_Coming]:
        """Returns who is on the way to where `lead` is, the soonest first."""
        place = (lead.op, lead.direction)
        company = self._travellers.all[lead.client].company
        here = {request.client for request in cell.parts}
        found = []
        for client, other in active:
            if other.distrusted or client in here or (other.answered_us < 0 and other.lane != lead.lane):
                continue  # what waits in another lane may be planned only after the lead
            trips = other.trips_to(place)
            if trips is None and client in company and other.answered_us >= 0:
                trips = 1  # on its first way through the model it is thought to go where its company goes
            if trips is not None:
                due_us = other.due_us(now_us, service_us) + (trips - 1) * (
                    service_us + max(0.0, other.thinking.usual)
                )
                found.append(_Coming(due_us, client, other))
        return sorted(found)

    def _give_up(self, clients: frozenset[ClientId], cell: Cell) -> None:
        missed = clients - {request.client for request in cell.parts}
        for client in missed:
            if (traveller := self._travellers.all.get(client)) is not None:
                traveller.distrust()
        self.missed += bool(missed)
