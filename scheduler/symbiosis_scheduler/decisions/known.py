"""What the scheduler has learned by watching: costs, clients' habits, convoys. It outlives any policy.

The state tells it what happens; a policy asks it. So a policy can be replaced between two plans and its successor
knows all that was learned.
"""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import Direction, DType, Op
from symbiosis_core.wire import HoldStatus
from symbiosis_scheduler.decisions.convoys import Convoys
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.travellers import Travellers

__all__ = ["Known"]


class Known:
    """All that was learned. For a policy to read."""

    def __init__(self, costs: Costs | None = None) -> None:
        self.costs = costs or Costs()
        self.travellers = Travellers()
        self.convoys = Convoys(self.costs, self.travellers)

    def __repr__(self) -> str:
        return f"<Known {self.costs}, {self.travellers}>"

    def introduce(self, op: Op, number: OpId, base: BaseId) -> None:
        """There is an op; one that takes token ids begins a forward."""
        self.costs.introduce(op, number, base)
        if op.planes_in(Direction.FORWARD)[0].dtype is DType.INT64:
            self.travellers.starts.add(number)

    def arrived(self, request: Request) -> None:
        """A client wants something."""
        self.travellers.arrived(request)
        self.convoys.arrived(request)

    def started(self, plan: Plan, now_us: int) -> None:
        """A plan starts."""
        self.convoys.holds.started(plan, now_us)

    def finished(self, plan: Plan, took_us: int, now_us: int) -> None:
        """A plan's rows are computed."""
        self.convoys.finished(plan, took_us)
        self.costs.learn(plan.op, plan.direction, plan.rows, took_us, kept=plan.kept)
        self._answered(plan, now_us)

    def failed(self, plan: Plan, now_us: int) -> None:
        """A plan is done, and what it took says nothing: not the rows of every request are, or nobody knows it."""
        self.convoys.holds.failed(plan)
        self._answered(plan, now_us)

    def left(self, client: ClientId) -> None:
        """A client is gone."""
        self.convoys.left(client)
        self.travellers.left(client)

    def likely_us(self, plan: Plan, rows: int) -> float:
        """Returns how long a plan of so many rows will take, by a guess where nothing was measured."""
        kept = self.costs.told_apart(plan.op, plan.direction, kept=True) and plan.kept
        return self.costs.likely_us(plan.op, plan.direction, rows, kept=kept)

    def hold_status(self) -> HoldStatus:
        """Returns what holding has brought, and how good what it rests on is."""
        error_us, pause_us = self.travellers.error.usual, self.travellers.pause.usual
        found = self.convoys.holds.status(error_us, pause_us, self.convoys.missed, self.costs.error)
        return msgspec.structs.replace(found, together=self.convoys.together or msgspec.UNSET)

    def _answered(self, plan: Plan, now_us: int) -> None:
        answered = frozenset([part.request.client for part in plan.parts if part.stop == part.request.rows])
        self.travellers.answered(plan, answered, now_us)
