"""The policies beside `latency_first`: each does what its page says, and none forgets anybody."""

from __future__ import annotations

from collections import Counter as Counts

import pytest

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.plan import Hold
from symbiosis_scheduler.policies import policy_names
from tests.scheduler.counter import Counter, parts, request
from tests.scheduler.desk import OPS, held

FORWARD = Direction.FORWARD
LANES = {"inference": LaneConfig(priority=0, max_wait_us=0), "training": LaneConfig(priority=10)}


def counter(name: str, lanes: dict[str, LaneConfig] | None = None, *, max_rows: int = 512) -> Counter:
    batching = BatchingConfig(max_rows=max_rows)
    return Counter(DaemonConfig(policy=PolicyConfig(name=name), lanes=lanes or LANES, batching=batching))


@pytest.mark.parametrize("name", policy_names())
@pytest.mark.parametrize("exact", [False, True])
def test_every_row_is_planned_once_and_nobody_is_forgotten(name: str, exact: bool) -> None:
    batching = BatchingConfig(max_rows=100, exact=exact)
    bench = Counter(DaemonConfig(policy=PolicyConfig(name=name), lanes=LANES, batching=batching))
    rows = {}
    for client in range(12):
        lane = ("inference", "training")[client % 2]
        rows[client] = 1 + 70 * client
        bench.push(request(client, lane, op=client % 3, rows=rows[client]))
    planned = Counts[int]()
    for plan in bench.drain(now_us=10_000_000):
        assert exact or plan.rows <= 100
        for client, start, stop in parts(plan):
            assert planned[client] == start
            planned[client] = stop
    assert planned == rows
    assert bench.policy.plan(0, bench.queues, bench.known) is None


# -- fifo ------------------------------------------------------------------------------------------------------


def test_fifo_goes_by_arrival_whatever_the_lane() -> None:
    bench = counter("fifo")
    bench.push(request(1, "training", op=1, rows=300), request(2, op=2), request(3, "training", op=2))
    assert [parts(plan) for plan in bench.drain()] == [[(1, 0, 300)], [(2, 0, 1), (3, 0, 1)]]


# -- lockstep --------------------------------------------------------------------------------------------------


def test_lockstep_waits_for_all_and_no_longer_than_a_lane_allows() -> None:
    lanes = {"inference": LaneConfig(priority=0, max_hold_us=1000)}
    bench = counter("lockstep", lanes)
    bench.push(request(1), request(2))
    assert bench.plan().clients == {1, 2}
    bench.push(request(1, arrived_us=10))
    assert bench.policy.plan(20, bench.queues, bench.known) == Hold(1010)
    assert bench.plan(1010).clients == {1}
    bench.push(request(1, arrived_us=2000), request(2, arrived_us=2000))
    assert bench.plan(2000).clients == {1, 2}


def test_lockstep_waits_for_nobody_where_none_may_share_a_batch() -> None:
    batching = BatchingConfig(exact=True)
    lanes = {"inference": LaneConfig(priority=0, max_hold_us=1000)}
    bench = Counter(DaemonConfig(policy=PolicyConfig(name="lockstep"), lanes=lanes, batching=batching))
    bench.push(request(1), request(2))
    assert [plan.clients for plan in bench.drain()] == [{1}, {2}]
    bench.push(request(1, arrived_us=10))
    assert bench.plan(20).clients == {1}


def test_lockstep_waits_for_nobody_who_has_fallen_silent() -> None:
    lanes = {"inference": LaneConfig(priority=0, max_hold_us=900_000)}
    bench = counter("lockstep", lanes)
    bench.push(request(1), request(2), request(3))
    bench.plan()
    bench.push(request(3, arrived_us=40_000))
    bench.push(request(1, arrived_us=50_000))
    # 2 asked for something at 0, so it is at work for a tenth of a second from then on
    assert bench.policy.plan(60_000, bench.queues, bench.known) == Hold(100_001)
    assert bench.plan(100_001).clients == {1, 3}
    bench.push(request(1, arrived_us=200_000))
    assert bench.plan(200_000).clients == {1}, "3 has been silent for long enough, though it is connected"


def test_lockstep_lets_who_is_behind_catch_up() -> None:
    bench = counter("lockstep")
    bench.known.travellers.starts.add(OpId(0))
    bench.push(request(1, op=0), request(2, op=5))
    assert [plan.op for plan in bench.drain()] == [5, 0]


# -- weighted_fair ---------------------------------------------------------------------------------------------


def shares(bench: Counter, clients: dict[int, tuple[str, int]], plans: int = 400) -> Counts[int]:
    """Lets every client ask again as soon as it is served, and returns the rows that each was given."""
    given = Counts[int]()
    for client, (lane, rows) in clients.items():
        bench.push(request(client, lane, op=client, rows=rows))
    for _ in range(plans):
        plan = bench.plan()
        bench.known.costs.learn(plan.op, plan.direction, plan.rows, 10 * plan.rows)
        for part in plan.parts:
            given[part.request.client] += part.rows
            if part.stop == part.request.rows:
                again = part.request
                bench.push(request(again.client, again.lane, op=again.op, rows=again.rows))
    return given


def test_lanes_share_by_weight() -> None:
    lanes = {"a": LaneConfig(priority=0, weight=3), "b": LaneConfig(priority=0, weight=1)}
    given = shares(counter("weighted_fair", lanes), {1: ("a", 40), 2: ("b", 40)})
    assert given[1] == pytest.approx(3 * given[2], rel=0.05)


def test_nobody_gets_more_by_asking_for_more_at_once() -> None:
    given = shares(counter("weighted_fair"), {1: ("training", 8), 2: ("training", 256), 3: ("training", 64)}, 3000)
    assert max(given.values()) <= 1.1 * min(given.values())


def test_who_comes_back_gets_its_share_and_not_what_it_did_not_ask_for() -> None:
    bench = counter("weighted_fair")
    shares(bench, {1: ("training", 10)}, plans=100)
    for client in (1, 2):  # client 1 has been given a thousand rows before client 2 first asks
        bench.push(*(request(client, "training", op=10 * client + slot, rows=10, slot=slot) for slot in range(5)))
    leads = Counts(bench.plan().lead.client for _ in range(10))
    assert leads[ClientId(1)] == leads[ClientId(2)] == 5


def test_time_is_shared_as_time_also_before_any_was_measured() -> None:
    """One lane's op was measured, and the other's base was not: its rows are not taken for microseconds."""
    lanes = {"a": LaneConfig(priority=0), "b": LaneConfig(priority=0)}
    bench = counter("weighted_fair", lanes)
    bench.known.costs.introduce(OPS[1], OpId(1), BaseId(1))
    for rows in (1, 100, 256):
        bench.known.costs.learn(OpId(1), FORWARD, rows, 20_000)
    for slot in range(40):
        bench.push(request(1, "a", op=0, rows=100, slot=slot), request(2, "b", op=1, rows=100, slot=slot))
    leads = Counts(bench.plan().lead.lane for _ in range(12))
    assert leads["b"] >= 3, "100 rows that nobody has measured do not count as a tenth of a millisecond"


# -- deadline --------------------------------------------------------------------------------------------------


def test_who_is_due_first_goes_first() -> None:
    lanes = {
        "slow": LaneConfig(priority=0, token_us=500_000, first_token_us=900_000),
        "fast": LaneConfig(priority=1, token_us=100_000, first_token_us=300_000),
        "none": LaneConfig(priority=2, max_wait_us=700_000),
        "never": LaneConfig(priority=0, max_wait_us=0),
    }
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    for client, lane in ((1, "slow"), (2, "fast")):  # each is read a prompt, and then asks for a token
        bench.push(request(client, lane, op=0, rows=9))
        bench.plan()
    bench.push(
        request(5, "never", op=7),
        request(1, "slow", op=0, arrived_us=1000),
        request(3, "none", op=8, arrived_us=1000),
        request(4, "fast", op=0, rows=30, arrived_us=150_000),
        request(2, "fast", op=9, arrived_us=200_000),
    )
    # 2 is still in the forward that began at 0 and reads a prompt: due at 300,000; 4 begins one: due at 450,000,
    # and 1 asks for the same op, so it rides along; 3 ages at 701,000.
    leads = [plan.lead.client for plan in bench.drain(200_000)]
    assert leads == [2, 4, 3, 5]


def test_a_long_request_is_chunked_for_who_is_due_before_it_ends() -> None:
    lanes = {"fast": LaneConfig(priority=0, token_us=1000, first_token_us=1000), "bulk": LaneConfig(priority=0)}
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    bench.push(request(1, "bulk", op=1, rows=600))
    assert parts(bench.plan()) == [(1, 0, 256)]
    bench.push(request(2, "fast", op=0))
    assert [plan.lead.client for plan in bench.drain()] == [2, 1, 1]


def test_a_forward_that_is_never_over_does_not_go_first_for_ever() -> None:
    """It began once with token ids. Others begin and end theirs, and are in time."""
    lanes = {"a": LaneConfig(priority=0, first_token_us=100_000, token_us=100_000)}
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    for op in range(10):
        bench.known.costs.learn(OpId(op), FORWARD, 1, 1000)
    bench.push(request(1, "a", op=0))
    bench.plan()
    now_us, late, slot = 1000, 0, 0
    for _ in range(100):
        began_us = now_us
        for trip in range(20):
            bench.push(request(2, "a", op=0 if trip == 0 else 1, arrived_us=now_us))
            while bench.queues.held_by(ClientId(2)):
                while bench.queues.held_by(ClientId(1)) < 4:
                    slot += 1
                    bench.push(request(1, "a", op=2 + slot % 8, arrived_us=now_us, slot=slot))
                bench.plan(now_us)
                now_us += 1000
                assert now_us - began_us < 1_000_000, "it starves"
        late += now_us - began_us > 100_000 + 1000
    assert late <= 1, "once at most, before the endless one has had its share for the first time"


def test_a_late_forward_of_somebody_honest_keeps_its_place() -> None:
    """It is late because of others: what it has had itself is little."""
    lanes = {"a": LaneConfig(priority=0, first_token_us=10_000, token_us=10_000)}
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    bench.push(request(1, "a", op=0))
    bench.plan()
    bench.push(request(2, "a", op=0, arrived_us=50_000), request(1, "a", op=1, arrived_us=50_001))
    assert bench.plan(50_002).lead.client == 1


def test_a_shorter_target_is_heeded_though_the_client_was_due_later_before() -> None:
    """After a prompt a token is due earlier than the prompt was."""
    lanes = {"a": LaneConfig(priority=0, first_token_us=9_000_000, token_us=100_000), "b": LaneConfig(priority=1)}
    bench = counter("deadline", lanes)
    bench.known.travellers.starts.add(OpId(0))
    bench.push(request(1, "a", op=0, rows=9), request(3, "b", op=7))
    assert [plan.lead.client for plan in bench.drain()] == [3, 1]
    bench.push(request(1, "a", op=1, arrived_us=10))
    bench.plan(20)
    bench.push(request(1, "a", op=0, arrived_us=1000), request(3, "b", op=8, arrived_us=1000))
    assert [plan.lead.client for plan in bench.drain(2000)] == [1, 3]


def test_nothing_is_kept_of_clients_that_left_though_they_had_all_the_time_in_the_world() -> None:
    """In a lane that is never due, behind one that always is."""
    lanes = {"busy": LaneConfig(priority=0), "never": LaneConfig(priority=1, max_wait_us=0)}
    bench = counter("deadline", lanes)
    kept = []
    for client in range(1, 1000):
        bench.push(request(0, "busy", op=0, slot=client), request(client, "never", op=1))
        bench.plan(client)
        bench.queues.remove(ClientId(client))
        bench.known.left(ClientId(client))
        kept.append(held(bench.policy))
    assert max(kept) <= 2 * max(kept[:200])
