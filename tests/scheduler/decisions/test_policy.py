"""`LatencyFirst`: who leads, who rides along, how much of each, and that nobody waits longer than was promised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbiosis_core.config import DEFAULT_LANES, BatchingConfig, DaemonConfig, LaneConfig
from symbiosis_core.ids import ClientId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.request import Request
from tests.scheduler.counter import Counter, parts, request

AGE_US = DEFAULT_LANES["training"].max_wait_us


def config(lanes: dict[str, LaneConfig] | None = None, max_rows: int = 512, exact: bool = False) -> DaemonConfig:
    return DaemonConfig(lanes=lanes or DEFAULT_LANES, batching=BatchingConfig(max_rows=max_rows, exact=exact))


def test_nothing_waits_nothing_is_planned() -> None:
    bench = Counter()
    assert bench.policy.plan(0, bench.queues, bench.known) is None


# -- lead ------------------------------------------------------------------------------------------------------


def test_a_lane_of_lower_number_goes_first_though_it_came_later() -> None:
    bench = Counter()
    bench.push(request(1, "training", op=1), request(2, "inference", op=2))
    assert [plan.op for plan in bench.drain()] == [2, 1]


def test_lanes_of_equal_priority_go_by_arrival() -> None:
    bench = Counter(config({"a": LaneConfig(priority=1), "b": LaneConfig(priority=1)}))
    bench.push(request(1, "b", op=1), request(2, "a", op=2), request(3, "b", op=3))
    assert [plan.op for plan in bench.drain()] == [1, 2, 3]


def test_a_request_goes_before_every_lane_once_it_waited_its_lanes_limit() -> None:
    young, old = Counter(), Counter()
    for bench in (young, old):
        bench.push(request(1, "training", op=1), request(2, "inference", op=2))
    assert young.plan(AGE_US - 1).op == 2
    plan = old.plan(AGE_US)
    assert (plan.op, plan.aged) == (1, True)
    assert not old.plan(AGE_US).aged


def test_age_is_not_the_reason_where_nobody_of_a_higher_lane_waits() -> None:
    bench = Counter()
    bench.push(request(1, "training"))
    assert not bench.plan(AGE_US).aged


def test_of_aged_requests_the_oldest_leads_whatever_its_lane() -> None:
    lanes = {name: LaneConfig(priority=n, max_wait_us=10) for n, name in enumerate(("first", "second", "third"))}
    bench = Counter(config(lanes))
    bench.push(request(1, "third", op=3), request(2, "second", op=2, arrived_us=1), request(3, "first", op=1))
    assert bench.plan(100).op == 3


def test_a_lane_without_ageing_keeps_its_place_however_long_it_waits() -> None:
    bench = Counter(config({"first": LaneConfig(priority=0), "second": LaneConfig(priority=1, max_wait_us=0)}))
    for n in range(50):
        bench.push(request(n, "second", op=1), request(n + 100, "first", op=2, arrived_us=1 << 40))
        assert bench.plan(1 << 41).op == 2


def test_the_first_lane_without_ageing_is_not_aged_at_once() -> None:
    """With `max_wait_us = 0` read as "aged at once", old inference would keep aged training behind it."""
    bench = Counter()
    bench.push(request(1, "inference", op=2), request(2, "training", op=1))
    assert bench.plan(AGE_US).op == 1


def test_clients_of_a_lane_take_turns_chunk_by_chunk() -> None:
    bench = Counter()
    bench.push(*(request(1, "training", op=op, rows=1000, slot=op) for op in range(4)))
    bench.push(request(2, "training", op=9, rows=600), request(3, "training", op=8, rows=100))
    leads = [plan.lead.client for plan in bench.drain(now_us=0)]
    assert leads[:8] == [1, 2, 3, 1, 2, 1, 2, 1]
    assert leads.count(ClientId(1)) == 16


def test_aged_clients_take_turns_too() -> None:
    bench = Counter()
    bench.push(request(1, "training", op=1, rows=2560), request(2, "training", op=2, rows=2560))
    leads = [bench.plan(AGE_US * 9).lead.client for _ in range(6)]
    assert leads == [1, 2, 1, 2, 1, 2]


def test_where_age_calls_for_a_level_the_turn_decides_whose_request_leads() -> None:
    bench = Counter()
    bench.push(request(1, "training", op=1, rows=600), request(2, "training", op=2, arrived_us=AGE_US - 1))
    assert bench.plan(AGE_US - 1).op == 1  # now it is client 2's turn, though client 1 has waited longer
    bench.push(request(3, "inference", op=3, arrived_us=AGE_US))
    assert bench.plan(AGE_US).op == 3  # it was there when the chunk ended
    bench.push(request(3, "inference", op=4, arrived_us=AGE_US))
    assert bench.plan(AGE_US).op == 2
    assert bench.plan(AGE_US).op == 4
    bench.push(request(3, "inference", op=5, arrived_us=AGE_US))
    assert bench.plan(AGE_US).op == 1


def test_riding_along_again_and_again_does_not_keep_a_clients_other_request_waiting() -> None:
    bench = Counter()
    bench.push(request(1, op=7, slot=1))
    for n in range(1, 6):
        bench.push(request(2, op=1, slot=n), request(2, op=1, slot=n + 10), request(1, op=1, slot=n + 20))
    assert 7 in [bench.plan().op for _ in range(2)]


# -- riders ----------------------------------------------------------------------------------------------------


def test_all_that_waits_for_the_leads_op_and_direction_rides_along_and_nothing_else_does() -> None:
    bench = Counter()
    bench.push(
        request(1),
        request(2, op=1),
        request(3, "training", rows=5),
        request(4, direction=Direction.BACKWARD),
        request(5, rows=7),
    )
    plan = bench.plan()
    assert parts(plan) == [(1, 0, 1), (5, 0, 7), (3, 0, 5)]
    assert (plan.op, plan.direction, plan.rows, plan.clients) == (0, Direction.FORWARD, 13, {1, 3, 5})


def test_riders_take_what_is_left_of_the_batch_inference_before_training() -> None:
    bench = Counter(config(max_rows=20))
    bench.push(request(1, "training", rows=9), request(2, rows=8), request(3, rows=8))
    assert parts(bench.plan()) == [(2, 0, 8), (3, 0, 8), (1, 0, 4)]
    assert parts(bench.plan()) == [(1, 4, 9)]


def test_a_batch_holds_at_most_a_chunk_of_each_lane_however_many_requests_that_is() -> None:
    bench = Counter(
        config({"inference": LaneConfig(priority=0), "training": LaneConfig(priority=1, chunk_rows=10)})
    )
    bench.push(request(1), *(request(n, "training", rows=4) for n in (2, 3, 4)))
    assert parts(bench.plan()) == [(1, 0, 1), (2, 0, 4), (3, 0, 4), (4, 0, 2)]
    assert parts(bench.plan()) == [(4, 2, 4)]


def test_a_large_request_is_computed_in_chunks_of_its_lane() -> None:
    bench = Counter()
    bench.push(request(1, "training", rows=600))
    assert [parts(plan) for plan in bench.drain()] == [[(1, 0, 256)], [(1, 256, 512)], [(1, 512, 600)]]


def test_no_batch_exceeds_max_rows_even_where_chunks_do() -> None:
    bench = Counter(config(max_rows=100))
    bench.push(request(1, "training", rows=250), request(2, "training", rows=1))
    assert [plan.rows for plan in bench.drain()] == [100, 100, 51]


@pytest.mark.parametrize("chunk_rows", [1, 8, 100])
def test_an_aged_training_lead_takes_inference_rows_of_its_op_along(chunk_rows: int) -> None:
    training = LaneConfig(priority=1, chunk_rows=chunk_rows, max_wait_us=10)
    bench = Counter(config({"inference": LaneConfig(priority=0), "training": training}, max_rows=8))
    bench.push(request(1, "training", rows=100), *(request(n, arrived_us=9) for n in range(2, 6)))
    plan = bench.plan(10)
    assert plan.lead.client == 1
    assert {2, 3, 4, 5} < plan.clients


def test_an_aged_lead_gets_a_row_even_where_a_batch_is_one_row() -> None:
    bench = Counter(config(max_rows=1))
    bench.push(request(1, "training", rows=2), request(2, arrived_us=AGE_US))
    assert parts(bench.plan(AGE_US)) == [(1, 0, 1)]


def test_exact_batching_computes_each_request_alone_and_whole() -> None:
    bench = Counter(config(max_rows=4, exact=True))
    bench.push(request(1, "training", rows=1000), request(2), request(3), request(4, "training", rows=2))
    assert [parts(plan) for plan in bench.drain()] == [[(2, 0, 1)], [(3, 0, 1)], [(1, 0, 1000)], [(4, 0, 2)]]


# -- one chunk -------------------------------------------------------------------------------------------------


def test_aged_training_leads_once_and_again_only_when_those_it_delayed_are_served() -> None:
    bench = Counter()
    bench.push(*(request(n, "training", op=n, rows=256) for n in (1, 2, 3)))
    bench.push(*(request(n, "inference", op=n, arrived_us=AGE_US) for n in (11, 12)))
    assert [bench.plan(AGE_US).op for _ in range(3)] == [1, 11, 12]
    bench.push(request(11, "inference", op=13, arrived_us=AGE_US))  # it has not waited for a chunk yet
    assert [bench.plan(AGE_US).op for _ in range(3)] == [2, 13, 3]


def test_training_rides_with_inference_only_while_nobody_who_was_delayed_stays_behind() -> None:
    bench = Counter()
    bench.push(request(1, "training", op=1, rows=300), request(2, "training", op=2, rows=300))
    bench.plan()
    bench.push(request(11, op=1), request(12, op=2), request(13, op=1))
    # All three came while the chunk was computed. Client 12 would wait for a second chunk if one rode along now.
    assert parts(bench.plan()) == [(11, 0, 1), (13, 0, 1)]
    assert parts(bench.plan()) == [(12, 0, 1), (2, 0, 256)]


def test_who_comes_to_empty_queues_was_not_delayed_by_what_ran_before() -> None:
    bench = Counter()
    bench.push(request(1, "training", op=1))
    bench.plan()
    assert bench.policy.plan(0, bench.queues, bench.known) is None
    bench.push(request(11, op=1), request(12, op=2), request(1, "training", op=1))
    assert parts(bench.plan()) == [(11, 0, 1), (1, 0, 1)]


def test_the_delayed_lane_leads_in_the_stead_of_an_aged_lower_one() -> None:
    """Else a middle lane that never gets its turn would keep the lowest, which ages, from its own."""
    bench = Counter(
        config(
            {
                "high": LaneConfig(priority=0, max_wait_us=0),
                "middle": LaneConfig(priority=1, max_wait_us=0),
                "low": LaneConfig(priority=2, max_wait_us=5),
            }
        )
    )
    bench.push(request(1, "low", op=1, rows=600), request(2, "middle", op=2))
    ops = []
    for now_us in range(5, 25):
        if not any(lane.name == "high" and lane.waiting for lane in bench.queues.lanes):
            bench.push(request(3, "high", op=3, arrived_us=now_us))
        ops.append(bench.plan(now_us).op)
    assert ops[:7] == [1, 3, 2, 3, 1, 3, 1]


LANE = st.builds(
    LaneConfig,
    priority=st.integers(0, 2),
    chunk_rows=st.integers(1, 12),
    max_wait_us=st.sampled_from([0, 1, 5, 20]),
)


@settings(max_examples=150, deadline=None)
@given(
    lanes=st.lists(LANE, min_size=2, max_size=4),
    max_rows=st.integers(1, 16),
    exact=st.booleans(),
    steps=st.lists(
        st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 30)), max_size=4), max_size=25
    ),
)
def test_a_request_waits_for_one_batch_of_lower_lanes_at_most(
    lanes: list[LaneConfig], max_rows: int, exact: bool, steps: list[list[tuple[int, int, int]]]
) -> None:
    """For any lanes and any arrivals, each of which may come while a batch is computed.

    Counts, for every request, the batches with rows of lower lanes that ran or started while it waited, other
    than the one that finished it; and checks the limits of every batch.
    """
    by_name = {f"lane{n}": lane for n, lane in enumerate(lanes)}
    bench = Counter(config(by_name, max_rows, exact))
    delays: dict[Request, int] = {}
    now_us = slot = 0

    def lowest(plan: Plan) -> int:
        return max(by_name[part.request.lane].priority for part in plan.parts)

    def advance(arrivals: list[tuple[int, int, int]]) -> None:
        nonlocal now_us, slot
        decision = bench.policy.plan(now_us, bench.queues, bench.known)
        assert (decision is None) == (not delays)
        if isinstance(decision, Plan):
            bench.queues.take(*decision.parts)
            for part in decision.parts:
                if part.stop == part.request.rows:
                    del delays[part.request]
            within_limits(decision)
        for client, op, rows in arrivals:
            slot += 1
            lane = f"lane{client % len(lanes)}"
            new = request(client, lane, op, rows, arrived_us=now_us, slot=slot)
            bench.push(new)
            delays[new] = 0
        if isinstance(decision, Plan):
            for waiting in delays:
                delays[waiting] += by_name[waiting.lane].priority < lowest(decision)
        assert max(delays.values(), default=0) <= 1
        now_us += 1

    def within_limits(plan: Plan) -> None:
        assert {(part.request.op, part.request.direction) for part in plan.parts} == {(plan.op, plan.direction)}
        if exact:
            assert parts(plan) == [(plan.lead.client, 0, plan.lead.rows)]
            return
        assert plan.rows <= max_rows
        for name, lane in by_name.items():
            rows = sum(part.rows for part in plan.parts if part.request.lane == name)
            assert rows <= lane.chunk_rows

    for arrivals in steps:
        advance(arrivals)
    while delays:
        advance([])


# -- nothing starves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inference_clients", [1, 3, 8])
@pytest.mark.parametrize("exact", [False, True])
def test_training_is_served_within_a_bound_under_endless_inference(inference_clients: int, exact: bool) -> None:
    """Every batch takes 1 ms, every inference client is back at once, and no two ever want the same op."""
    bench = Counter(config(exact=exact))
    bench.push(request(0, "training", op=0, rows=1024))
    now_us = batches = 0
    while bench.queues.lane("training").waiting:
        for client in range(1, inference_clients + 1):
            if not bench.queues.held_by(ClientId(client)):
                bench.push(request(client, op=client, arrived_us=now_us))
        bench.plan(now_us)
        now_us += 1000
        batches += 1
        assert batches <= AGE_US // 1000 + 4 * (inference_clients + 1)
    assert batches > AGE_US // 1000


@settings(max_examples=60, deadline=None)
@given(
    chunks=st.integers(1, 5),
    clients=st.integers(1, 5),
    slots=st.integers(1, 4),
    ops=st.lists(st.integers(0, 3), min_size=1, max_size=20),
)
def test_training_starves_behind_no_pattern_of_inference(
    chunks: int, clients: int, slots: int, ops: list[int]
) -> None:
    """Inference keeps every slot of every client published, for ops that come round in any order."""
    bench = Counter()
    bench.push(request(0, "training", op=9, rows=256 * chunks))
    step = batches = 0
    while bench.queues.held_by(ClientId(0)):
        for client in range(1, clients + 1):
            while bench.queues.held_by(ClientId(client)) < slots:
                step += 1
                bench.push(request(client, op=ops[step % len(ops)], arrived_us=batches, slot=step))
        bench.plan(AGE_US + batches)
        batches += 1
        assert batches <= 1 + chunks * (clients * slots + 1)
