"""Keeps clients together that do the same work, so that one reading of the weights serves them all.

A batch of a few rows costs what one row costs: the weights are read once. But independent clients are at different
layers, and taking whatever is ready batches next to nothing (four decoding clients: 1.006 requests a batch). So
batching is made, in two ways, each bounded by the lane's `max_hold_us`:

- *Companions.* Clients that were answered together come back together, each after its own thinking. The first to
  come is held for those of the others whose coming saves more, by the measured curves, than the time until they
  are expected; for nobody else, and never for longer than what there is to save, or than the time by which each of
  them has so far come (mean plus four mean deviations).
- *Rendezvous.* A forward starts with token ids. A client that starts one is held for another that is due to start
  one, too, where forwards beside it, as many as convoys last, would save more than the time until it is due. It is
  paid once; afterwards they are companions.

Who does not come in time is held for no more: it left the convoy, and is only met again by chance, or at a
rendezvous after a pause that doubles with every disappointment. `holds` keeps the books, and ends holding where it
does not pay.

Pure: `now` is an argument, and all that is kept is a few numbers per client.
"""

from __future__ import annotations

from heapq import nsmallest
from typing import Final

from symbiosis_core.ids import ClientId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.costs import Costs
from symbiosis_scheduler.holds import Holds
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.queues import Queues
from symbiosis_scheduler.request import Request
from symbiosis_scheduler.travellers import Traveller, Travellers

__all__ = ["Convoys"]

_LONGEST_PAUSE: Final = 64
"""Forwards after which a client that disappointed is waited for again."""
_AWAITED: Final = 16
"""Of those who are missing, so many are looked at, the soonest first: it bounds what a decision costs."""


class Convoys:
    """Says which requests are better held. Told of every plan and departure."""

    def __init__(self, costs: Costs, travellers: Travellers) -> None:
        self._costs = costs
        self._travellers = travellers
        self.holds = Holds()
        self.missed = 0
        """How often somebody was waited for and did not come in time."""

    def __repr__(self) -> str:
        return f"<Convoys of {len(self._travellers.all)}: {self.missed} missed>"

    def finished(self, plan: Plan, answered: frozenset[ClientId]) -> None:
        """A plan's rows are computed. Those whose request is complete travel on together."""
        gains: dict[int, float] = {}
        for part in plan.parts:
            request = part.request
            traveller = self._travellers.all.get(request.client)
            if traveller is None or request.client not in answered:
                continue
            rows = request.rows
            if rows not in gains:
                gains[rows] = max(0.0, self._costs.saving_us(plan.op, plan.direction, rows, rows))
            traveller.gaining_us += gains[rows]
            traveller.companions = answered

    def left(self, client: ClientId) -> None:
        """A client is gone. Nobody waits for it."""
        self.holds.left(client)

    def hold_until(
        self,
        lead: Request,
        queues: Queues,
        now_us: int,
        most_us: int,
        max_rows: int,
    ) -> int | None:
        """Returns until when a plan led by `lead` is better held; None: start it.

        Only for clients of the lanes that `queues` has: all others are planned by themselves, and never join. A
        plan has at most `max_rows` rows.
        """
        travellers = self._travellers.all
        traveller = travellers.get(lead.client)
        if not most_us or traveller is None or len(travellers) < 2:
            return None
        latest_us = lead.arrived_us + most_us
        if latest_us <= now_us:
            return None
        until_us: int | None = None
        if len(traveller.companions) > 1:
            until_us = self._companions_until(lead, traveller, queues, now_us, latest_us, max_rows)
        if until_us is None and lead.direction is Direction.FORWARD and lead.op in self._travellers.starts:
            until_us = self._rendezvous_until(lead, traveller, queues, now_us, latest_us)
        return until_us

    def _companions_until(
        self,
        lead: Request,
        traveller: Traveller,
        queues: Queues,
        now_us: int,
        latest_us: int,
        max_rows: int,
    ) -> int | None:
        missing = self._missing(lead, traveller, queues, now_us)
        rows = queues.lane(lead.lane).level.cells[lead.op, lead.direction].rows
        alone_us = self._costs.expected_us(lead.op, lead.direction, rows)
        if not missing or alone_us is None:
            return None
        apart_us, best_us = alone_us, 0.0
        wait_us = worth_us = late_us = latest_of_all_us = 0.0
        joining: list[ClientId] = []
        for position, (expected_us, other_late_us, client) in enumerate(missing, 1):
            more = self._travellers.all[client].rows
            if rows + more > max_rows:
                break
            rows += more
            other_us = self._costs.expected_us(lead.op, lead.direction, more)
            joint_us = self._costs.expected_us(lead.op, lead.direction, rows)
            assert other_us is not None and joint_us is not None  # as `alone_us`
            apart_us += other_us
            latest_of_all_us = max(latest_of_all_us, other_late_us)
            saving_us = apart_us - joint_us
            if saving_us - (expected_us - now_us) > best_us:
                wait_us, worth_us, late_us = expected_us - now_us, saving_us, latest_of_all_us
                best_us = saving_us - wait_us
                joining = [client for _, _, client in missing[:position]]
        if not joining:
            return None
        return self._held(lead, now_us, min(late_us, latest_us), wait_us, worth_us, frozenset(joining))

    def _missing(
        self, lead: Request, traveller: Traveller, queues: Queues, now_us: int
    ) -> list[tuple[float, float, ClientId]]:
        """Returns who may still come: when it is expected, when it is late, and who; the soonest first."""
        coming, gone = [], []
        waiting = queues.lane(lead.lane).level.turns
        for client in traveller.companions:
            if client == lead.client or client in waiting:
                continue
            other = self._travellers.all.get(client)
            if other is None or other.answered_us < 0 or not queues.has(other.lane):
                continue
            expected_us, late_us = other.due_us(now_us)
            if late_us <= now_us:
                gone.append(client)
            else:
                coming.append((expected_us, late_us, client))
        if gone:
            traveller.companions -= frozenset(gone)
            self.missed += 1
        return nsmallest(_AWAITED, coming)

    def _rendezvous_until(
        self, lead: Request, traveller: Traveller, queues: Queues, now_us: int, latest_us: int
    ) -> int | None:
        """Waits for the next one that is due to start what `lead` starts."""
        op = lead.op
        here = {request.client for request, _ in queues.waiting(op, lead.direction)}
        soonest: tuple[float, float, float, ClientId] | None = None
        for client, other in self._travellers.all.items():
            if other.starts_with != op or other.paused or client in here or not other.forward.known:
                continue
            if not queues.has(other.lane):
                continue
            expected_us = max(float(now_us), other.started_us + other.forward.mean)
            late_us = other.started_us + other.forward.late
            if late_us <= now_us:
                self._disappointed(other)
                continue
            worth_us = min(traveller.gain_us, other.gain_us) * self._travellers.lasting
            if expected_us - now_us < worth_us and (soonest is None or expected_us < soonest[0]):
                soonest = (expected_us, late_us, worth_us, client)
        if soonest is None:
            return None
        expected_us, late_us, worth_us, client = soonest
        return self._held(
            lead, now_us, min(late_us, latest_us), expected_us - now_us, worth_us, frozenset((client,))
        )

    def _held(
        self,
        lead: Request,
        now_us: int,
        until_us: float,
        wait_us: float,
        worth_us: float,
        missing: frozenset[ClientId],
    ) -> int | None:
        """Returns until when, by no more than there is to save; None where that has passed or holding is off."""
        if not self.holds.allowed(lead):
            return None
        began_us = self.holds.began_us(lead)
        until = int(min(until_us, (now_us if began_us is None else began_us) + worth_us))
        if until <= now_us:
            return None
        self.holds.hold(lead, now_us, wait_us, worth_us, missing)
        return until

    def _disappointed(self, traveller: Traveller) -> None:
        traveller.paused = traveller.pauses
        traveller.pauses = min(2 * traveller.pauses, _LONGEST_PAUSE)
        self.missed += 1
