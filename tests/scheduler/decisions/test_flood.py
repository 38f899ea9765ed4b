"""However much one client asks for, another of the same lane waits for a bounded time, and not for all of it."""

from __future__ import annotations

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.events import Answer, Arrived, ClientJoined, PlanDone, Run, Turn
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy
from symbiosis_transports.calls import Arrival, Call

OPS = tuple(OpSpec(OpId(n), OpKind.LINEAR, (f"l{n}",), 8, (8,), DType.FLOAT32) for n in range(80))
READING_US, ROW_US = 1000, 20
CHUNK_ROWS = 256
BATCH_US = READING_US + ROW_US * 2 * CHUNK_ROWS
"""The longest batch: a chunk of the flood, and what rides with it."""
VICTIM, LANE = 0, "training"
ABOVE, MAX_WAIT_US = 99, 50_000
TURNS = ["latency_first", "weighted_fair", "deadline", "deadline with targets"]


def worst_us(
    policy: str, floods: int, slots: int, rows: int, asks: int = 60, flood_lane: str = LANE, above: bool = False
) -> int:
    """Returns how long a client of one row waits at most, beside others that keep all their slots full.

    `above`: in a lane before theirs there is one more that always asks for a row.
    """
    token_us = 100_000 * ("targets" in policy)
    lane = LaneConfig(priority=1, chunk_rows=CHUNK_ROWS, max_wait_us=MAX_WAIT_US, token_us=token_us)
    config = DaemonConfig(
        policy=PolicyConfig(name=policy.partition(" ")[0]),
        lanes={"above": LaneConfig(priority=0, token_us=token_us), LANE: lane, flood_lane: lane},
    )
    state = SchedulerState([OPS], config, make_policy(config))
    state.handle(ClientJoined(ClientId(ABOVE), "above", 1 << 40))
    for client in range(floods + 1):
        state.handle(ClientJoined(ClientId(client), flood_lane if client else LANE, 1 << 40))
    now_us = generation = worst = answered = 0

    def ask(client: int, slot: int, rows: int) -> None:
        nonlocal generation
        generation += 1
        call = Call(OpId((generation * 7 + slot) % len(OPS)), Direction.FORWARD, rows, 0, 1 << 39)
        state.handle(Arrived(ClientId(client), [Arrival(SlotIndex(slot), Generation(generation), call)], now_us))

    for flood in range(1, floods + 1):
        for slot in range(slots):
            ask(flood, slot, rows)
    if above:
        ask(ABOVE, 0, 1)
    asked_us, plan = 0, None
    ask(VICTIM, 0, 1)
    while answered < asks:
        instructions = state.handle(Turn(now_us))
        runs = [each.plan for each in instructions if isinstance(each, Run)]
        plan = runs[0]
        assert isinstance(plan, Plan)
        now_us += READING_US + ROW_US * plan.rows
        for answer in state.handle(PlanDone(plan, now_us)):
            assert isinstance(answer, Answer)
            if answer.client == VICTIM:
                worst, answered = max(worst, now_us - asked_us), answered + 1
                asked_us = now_us
                ask(VICTIM, 0, 1)
            else:
                ask(int(answer.client), int(answer.slot), 1 if answer.client == ABOVE else rows)
        state.check()
    return worst


@pytest.mark.parametrize("policy", TURNS)
@pytest.mark.parametrize(("slots", "rows"), [(1, 1), (64, 1), (64, 256), (8, 20_000)])
def test_a_flood_delays_another_client_by_its_turn_and_no_more(policy: str, slots: int, rows: int) -> None:
    """More requests, bigger ones, or faster ones: the other one's turn comes after one batch of the flood."""
    assert worst_us(policy, floods=1, slots=slots, rows=rows) <= 2 * BATCH_US


@pytest.mark.parametrize("policy", TURNS)
def test_of_several_floods_each_has_one_turn(policy: str) -> None:
    assert worst_us(policy, floods=5, slots=16, rows=256) <= 6 * BATCH_US


@pytest.mark.parametrize("policy", TURNS)
@pytest.mark.parametrize("above", [False, True])
def test_a_flood_in_another_lane_of_the_same_priority_delays_no_longer(policy: str, above: bool) -> None:
    """Nor where a higher lane always has work, so that only age brings a batch of theirs: each has its turn.

    Were it for the oldest alone, the flood's own requests, which are always old, would go first for ever.
    """
    found = worst_us(policy, floods=1, slots=64, rows=256, flood_lane="bulk", above=above)
    assert found <= (4 * BATCH_US + MAX_WAIT_US if above else 2 * BATCH_US)


def test_a_server_without_turns_is_flooded() -> None:
    """The measure sees what it is there to see."""
    assert worst_us("fifo", floods=1, slots=64, rows=256) > 20 * BATCH_US
