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

What a round will take is foretold from what it takes now, which is not what it takes in company where clients and
daemon share their processors. So now and then all who keep pace go together whatever was foretold, or each
goes by itself, and what their forwards took decides how they go on (`convoy_trial`).

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
from symbiosis_scheduler.decisions.convoy_trial import ConvoyTrial, Way
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.holds import Holds
from symbiosis_scheduler.decisions.levels import Cell, Level
from symbiosis_scheduler.decisions.meetings import LOOKED_AT, Scene, best_meeting, joint_meeting, prospect
from symbiosis_scheduler.decisions.plan import Plan
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
        self._trials: dict[str, dict[int, ConvoyTrial]] = {}
        """By lane, and by how many clients of it are active."""
        self._trial: dict[str, ConvoyTrial] = {}
        """Of so many as there are now, by lane."""
        self._busy_us: dict[str, int] = {}
        """For how long batches were computed whose lead was of that lane."""

    def __repr__(self) -> str:
        return f"<Convoys of {len(self._travellers.all)}: {self.missed} missed>"

    def left(self, client: ClientId) -> None:
        """A client is about to go, and the travellers know it still. Nobody waits for it."""
        self.holds.left(client)
        traveller = self._travellers.all.get(client)
        if traveller is None or (lane := traveller.lane) not in self._trials:
            return
        if self._travellers.count((lane,)) == 1:
            for kept in (self._trials, self._trial, self._busy_us):
                kept.pop(lane, None)
        elif lane in self._trial:
            self._trial[lane].resumed()

    def adopted(self) -> None:
        """Another configuration and policy hold: what was seen of ways was seen under the one before."""
        self._trials.clear()
        self._trial.clear()
        self._busy_us.clear()

    def arrived(self, request: Request) -> None:
        """A client wants something. The travellers know it already."""
        traveller = self._travellers.all[request.client]
        if traveller.trip or (trials := self._trials.get(request.lane)) is None:
            return
        count = len(self._travellers.active((request.lane,), LOOKED_AT, request.arrived_us))
        trial = trials.get(count)
        if trial is None:
            trial = trials[count] = ConvoyTrial(count)
        if self._trial.get(request.lane) is not trial:
            self._trial[request.lane] = trial
            trial.resumed()
        if count > 1 and traveller.forward_us is not None:
            trial.forward(
                request.client, traveller.forward_us, request.arrived_us, self._busy_us.get(request.lane, 0)
            )

    def finished(self, plan: Plan, took_us: int) -> None:
        """A plan is computed. The costs do not know it yet."""
        if (lane := plan.lead.lane) in self._trials:
            self._busy_us[lane] = self._busy_us.get(lane, 0) + took_us
        self.holds.finished(plan, took_us, self._costs.curve(plan.op, plan.direction, kept=plan.kept))

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
        way = self._way(lead.lane)
        if way is Way.APART:
            return None
        found = prospect(Scene(lead, level.lane_names, here, now_us), self._costs, self._travellers)
        if found is None or (latest_us := _latest_us(cell, level)) <= now_us:
            return None
        if way is Way.TOGETHER:
            meeting = joint_meeting(found, cell.rows, latest_us, max_rows, self._travellers)
        elif found.round_us <= found.alone_us:
            return None  # there is time for each by itself
        else:
            meeting = best_meeting(found, cell.rows, latest_us, max_rows, self._travellers.lasting)
            if not held and meeting is not None and not self.holds.allowed():
                return None
        if meeting is None:
            return None
        began_us = now_us if held is None else held.began_us
        until_us = int(min(latest_us, began_us + meeting.patience_us))
        if until_us <= now_us:
            self._give_up(meeting.joining, here)
            return None
        self.holds.hold(lead, now_us, until_us, here, meeting)
        return until_us

    @property
    def together(self) -> tuple[str, ...]:
        """The lanes whose clients all go together for now."""
        return tuple(sorted(lane for lane, trial in self._trial.items() if trial.way is Way.TOGETHER))

    def _way(self, lane: str) -> Way:
        """Returns how the active clients of a lane go for now."""
        trial = self._trial.get(lane)
        if trial is None:
            self._trials.setdefault(lane, {})
            return Way.FORETOLD
        return trial.way

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
    latest_us = min([each.arrived_us + most_us[each.lane] for each in waiting])
    if len(cell.parts) > LOOKED_AT:  # of the others none came before the first of its lane
        firsts = [next(iter(lane.waiting)) for lane in level.lanes if lane.waiting]
        latest_us = min(latest_us, *[each.arrived_us + most_us[each.lane] for each in firsts])
    return latest_us
