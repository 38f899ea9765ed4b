"""A state that is spoken to in short, and the ops, lanes and calls of tests that do."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig, LimitsConfig
from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.costs import Costs
from symbiosis_scheduler.decisions.estimates import Estimate
from symbiosis_scheduler.decisions.events import (
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    Event,
    Instruction,
    PlanDone,
    Run,
    Sleep,
    Turn,
)
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_transports.ports import Arrival, Call

SLOT_BYTES = 1 << 16
OPS = tuple(OpSpec(OpId(n), OpKind.LINEAR, (f"layer{n}",), 16, (16,), DType.FLOAT32) for n in range(3))
CONFIG = DaemonConfig(
    lanes={
        "inference": LaneConfig(priority=0, max_wait_us=0, chunk_rows=16),
        "training": LaneConfig(priority=10, max_wait_us=50, chunk_rows=4),
        "tuning": LaneConfig(priority=10, max_wait_us=20, chunk_rows=6),
    },
    batching=BatchingConfig(max_rows=16),
    limits=LimitsConfig(max_rows=40),
)


def arrival(slot: int = 0, generation: int = 1, op: int = 0, rows: int = 1, asked_us: int = 0) -> Arrival:
    call = Call(OpId(op), Direction.FORWARD, rows, 0, SLOT_BYTES // 2, asked_us=asked_us)
    return Arrival(SlotIndex(slot), Generation(generation), call)


class Desk:
    """A state that is spoken to in short, with the answers sorted by kind."""

    def __init__(self, policy: Callable[[DaemonConfig], Any] = LatencyFirst, max_in_flight: int = 1) -> None:
        self.state = SchedulerState([OPS], CONFIG, policy(CONFIG), max_in_flight=max_in_flight)
        self.now_us = 0

    def join(self, client: int, lane: str = "training") -> None:
        assert self.tell(ClientJoined(ClientId(client), lane, SLOT_BYTES)) == []

    def leave(self, client: int) -> None:
        assert self.tell(ClientLeft(ClientId(client))) == []

    def arrive(self, client: int, *arrivals: Arrival) -> list[Instruction]:
        return self.tell(Arrived(ClientId(client), list(arrivals), self.now_us))

    def turn(self) -> list[Plan]:
        instructions = self.tell(Turn(self.now_us))
        if instructions == [Sleep(None)]:
            return []
        return [each.plan for each in instructions if isinstance(each, Run)]

    def done(self, plan: Plan, failed: dict[Request, RefusalCode] | None = None) -> list[Answer]:
        instructions = self.tell(PlanDone(plan, self.now_us, failed or {}))
        answers = [each for each in instructions if isinstance(each, Answer)]
        assert answers == instructions
        return answers

    def finish(self) -> list[Answer]:
        """Runs until nothing is left."""
        answers: list[Answer] = []
        while plans := self.turn():
            for plan in plans:
                answers += self.done(plan)
        return answers

    def tell(self, event: Event) -> list[Instruction]:
        instructions = self.state.handle(event)
        self.state.check()
        return instructions


def held(root: object) -> int:
    """Returns how many elements all containers hold that can be reached from `root`.

    What ops cost is not counted: it is learned for good, and there are only so many ops. Nor are the times in an
    estimate, nine at most, which are there twice once somebody has asked what is usual.
    """
    seen: set[int] = set()
    count = 0
    todo = [root]
    while todo:
        each = todo.pop()
        if id(each) in seen or isinstance(each, Costs | Estimate):
            continue
        seen.add(id(each))
        inner: Iterable[Any] = ()
        if isinstance(each, dict):
            inner = [*each.keys(), *each.values()]
        elif isinstance(each, list | tuple | set):
            inner = each
        elif type(each).__module__.startswith("symbiosis_scheduler"):
            slots = getattr(type(each), "__slots__", ())
            inner = (
                [*vars(each).values()] if hasattr(each, "__dict__") else [getattr(each, slot) for slot in slots]
            )
        children = list(inner)
        count += len(children)
        todo += children
    return count
