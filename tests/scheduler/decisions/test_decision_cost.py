"""What a decision costs grows no faster than what waits. Counted in steps of the interpreter, not in time."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.ids import ClientId, OpId
from symbiosis_scheduler.decisions.plan import Part, Plan
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.policies import policy_names
from tests.scheduler.counter import Counter, request

LANES = {
    "inference": LaneConfig(priority=0, max_wait_us=0, max_hold_us=50_000),
    "training": LaneConfig(priority=9),
}


def steps(function: Callable[[], object]) -> int:
    """Returns how many instructions of the interpreter a call takes, all it calls included."""
    count = 0

    def trace(frame: FrameType, what: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += what == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


NOW_US = 400


def one_op(count: int) -> list[Request]:
    return [request(client, op=0, arrived_us=NOW_US) for client in range(count)]


def own_ops(count: int) -> list[Request]:
    return [request(client, op=client, arrived_us=NOW_US) for client in range(count)]


def two_lanes(count: int) -> list[Request]:
    return [
        request(client, ("inference", "training")[client % 2], op=client % 8, rows=40, arrived_us=NOW_US)
        for client in range(count)
    ]


def desk(policy: str, load: Callable[[int], list[Request]], count: int) -> Counter:
    """Returns a policy before so many requests, whose clients all have company that is away."""
    bench = Counter(DaemonConfig(policy=PolicyConfig(name=policy), lanes=LANES))
    bench.known.travellers.starts.add(OpId(0))
    for now_us in (0, 200):
        everybody = [request(client, op=0, arrived_us=now_us) for client in range(2 * count)]
        for each in everybody:
            bench.known.arrived(each)
        plan = Plan(OpId(0), each.direction, tuple([Part(each, 0, 1) for each in everybody]))
        bench.known.finished(plan, 1000, now_us + 100)
    for rows in (1, 2, 4, 8, 64, 256):
        bench.known.costs.learn(OpId(0), each.direction, rows, 1000 + rows)
    bench.push(*load(count))
    assert ClientId(2 * count - 1) in bench.known.travellers.all
    return bench


def decision(policy: str, load: Callable[[int], list[Request]], count: int) -> int:
    """Returns the steps of a new policy's first decision over so many requests."""
    bench = desk(policy, load, count)
    return steps(lambda: bench.policy.plan(NOW_US, bench.queues, bench.known))


def next_decision(policy: str, count: int) -> int:
    """Returns the steps of a decision over so many requests, of which one has come since the last one.

    Each asks for its own op, so that batches are small; nobody is held, which costs the same however many wait.
    """
    bench = desk(policy, own_ops, count)
    now_us = NOW_US + 60_000
    for late in range(4):
        bench.plan(now_us)
        bench.push(request(count + late, op=count + late, arrived_us=now_us))
    return steps(lambda: bench.policy.plan(now_us, bench.queues, bench.known))


@pytest.mark.parametrize("policy", policy_names())
@pytest.mark.parametrize("load", [one_op, own_ops, two_lanes])
def test_twice_as_many_requests_take_at_most_twice_as_many_steps(
    policy: str, load: Callable[[int], list[Request]]
) -> None:
    small, large = decision(policy, load, 128), decision(policy, load, 256)
    assert small > 50, "something was decided"
    assert large <= 2.1 * small


@pytest.mark.parametrize("policy", ["deadline", "fifo", "latency_first"])
def test_what_waited_before_costs_the_next_decision_next_to_nothing(policy: str) -> None:
    """A heap of twice as many is one deeper."""
    small, large = next_decision(policy, 128), next_decision(policy, 256)
    assert small > 50, "something was decided"
    assert large <= 1.15 * small
