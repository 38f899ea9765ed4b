"""Who is led by `deadline` is due first of all who wait, whatever its heap was told and when."""

from __future__ import annotations

import random

import pytest

from symbiosis_core.config import LaneConfig
from symbiosis_core.ids import ClientId, OpId
from symbiosis_scheduler.decisions.deadline import Deadline
from symbiosis_scheduler.decisions.request import Request
from tests.scheduler.counter import Counter, request
from tests.scheduler.test_policies import counter

OPS, CLIENTS = 4, 12


def lane(dice: random.Random, priority: int) -> LaneConfig:
    """With targets or without, the first token's the longer one or the shorter."""
    targets = dice.random() < 0.7
    first_us, token_us = (dice.choice([2_000, 900_000]), dice.choice([1_500, 150_000])) if targets else (0, 0)
    return LaneConfig(
        priority=priority,
        max_wait_us=dice.choice([0, 20_000]),
        first_token_us=first_us,
        token_us=token_us,
        chunk_rows=8,
    )


def due_us(bench: Counter, head: Request) -> int:
    assert isinstance(bench.policy, Deadline)
    return bench.policy._due_us(head, bench.known.travellers.all)[0]


@pytest.mark.parametrize("seed", range(40))
def test_the_lead_is_due_first(seed: int) -> None:
    """Clients with several requests, prompts and tokens, in chunks; they come, stay away for long, and leave."""
    dice = random.Random(seed)
    lanes = {name: lane(dice, priority) for name, priority in (("a", 0), ("b", dice.choice([0, 5])), ("c", 9))}
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    lane_of = [dice.choice(list(lanes)) for _ in range(CLIENTS)]
    now_us, op = 1, [0] * CLIENTS
    planned = 0
    for _ in range(300):
        now_us += dice.randint(1, 2_000)
        for client in range(CLIENTS):
            if dice.random() < 0.3 and bench.queues.held_by(ClientId(client)) < 3:
                rows = dice.choice([1, 1, 30])
                bench.push(request(client, lane_of[client], op[client], rows, arrived_us=now_us))
                op[client] = 0 if dice.random() < 0.1 else (op[client] + 1) % OPS
                now_us += 1
        if dice.random() < 0.02:
            gone = ClientId(dice.randrange(CLIENTS))
            bench.queues.remove(gone)
            bench.known.left(gone)
        heads = [head for level in bench.queues.levels for head in level.heads()]
        if not heads:
            continue
        assert isinstance(bench.policy, Deadline)
        bench.policy.settle(bench.known)
        soonest_us = min(due_us(bench, head) for head in heads)
        due_before = {head: due_us(bench, head) for head in heads}
        plan = bench.plan(now_us)
        assert due_before[plan.lead] == soonest_us
        bench.known.finished(plan, dice.randint(50, 5_000), now_us)
        planned += 1
    assert planned > 100
