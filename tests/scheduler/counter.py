"""Requests and a policy with its queues, without the state: what is planned is taken."""

from __future__ import annotations

from collections.abc import Iterator

from symbiosis_core.config import DaemonConfig
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.policies import make_policy

__all__ = ["Counter", "parts", "request"]


def request(
    client: int,
    lane: str = "inference",
    op: int = 0,
    rows: int = 1,
    direction: Direction = Direction.FORWARD,
    arrived_us: int = 0,
    slot: int = 0,
) -> Request:
    return Request(
        ClientId(client), SlotIndex(slot), Generation(1), lane, OpId(op), direction, rows, arrived_us, 0, 4096
    )


class Counter:
    """The policy that a configuration names, and its queues."""

    def __init__(self, config: DaemonConfig | None = None) -> None:
        config = config or DaemonConfig()
        self.queues = Queues(config.lanes)
        self.policy = make_policy(config)
        self.known = Known()

    def push(self, *requests: Request) -> None:
        for each in requests:
            self.queues.push(each)
            self.known.arrived(each)

    def plan(self, now_us: int = 0) -> Plan:
        plan = self.policy.plan(now_us, self.queues, self.known)
        self.queues.noted()
        assert isinstance(plan, Plan), plan
        self.queues.take(*plan.parts)
        return plan

    def drain(self, now_us: int = 0) -> Iterator[Plan]:
        while len(self.queues):
            yield self.plan(now_us)


def parts(plan: Plan) -> list[tuple[int, int, int]]:
    """Returns the parts as client, start and stop."""
    return [(part.request.client, part.start, part.stop) for part in plan.parts]
