"""Lower lanes are computed beside the first: each track is planned by itself, and the first waits for nobody."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.events import Adopt, PlanDone, Run, Sleep, Turn
from symbiosis_scheduler.decisions.fifo import Fifo
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.state import SchedulerState
from tests.scheduler.desk import CONFIG, OPS, Desk, arrival

LONG_US = 1 << 40


def desk(config: DaemonConfig = CONFIG, policy: Any = LatencyFirst) -> Desk:
    made = Desk()
    made.state = SchedulerState([OPS], config, policy(config), beside=True)
    return made


def runs(at: Desk) -> list[Run]:
    return [each for each in at.tell(Turn(at.now_us)) if isinstance(each, Run)]


def test_both_tracks_have_a_plan_and_what_runs_beside_is_handed_over_first() -> None:
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(1, arrival(op=1))
    at.arrive(2, arrival(op=2))
    assert [(run.plan.lead.client, run.beside) for run in runs(at)] == [(2, True), (1, False)]


def test_lower_lanes_have_the_thread_of_the_first_while_that_does_nothing() -> None:
    """It is thought to come back for a tenth of a second after its last batch was seen."""
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    beside = []
    for now_us, asks in ((0, False), (1000, True), (2000, False), (101_000, False), (103_000, False)):
        at.now_us = now_us
        at.arrive(2, arrival(op=2))
        if asks:
            at.arrive(1, arrival(op=1))
        started = runs(at)
        beside.append(started[0].beside)
        for run in started:
            at.done(run.plan)
    assert beside == [False, True, True, True, False]


def test_a_long_batch_of_the_first_level_counts_to_its_end() -> None:
    """Who has just been answered is about to ask again, however long it took."""
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(1, arrival(op=1, rows=16))
    (long,) = at.turn()
    at.now_us = LONG_US
    at.done(long)
    at.arrive(2, arrival(op=2))
    assert [run.beside for run in runs(at)] == [True]


def test_the_first_lane_is_planned_while_a_batch_of_another_runs() -> None:
    """However old the other is: age puts it before its like, and nobody has to wait for it."""
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(2, arrival(rows=20))
    (training,) = at.turn()
    at.now_us = LONG_US
    for generation in range(1, 6):
        at.arrive(1, arrival(generation=generation))
        (inference,) = at.turn()
        assert at.done(inference)[0].client == 1
    assert at.done(training) == []
    assert at.turn()[0].lead.client == 2


def test_rows_of_the_first_level_share_no_batch_with_those_below() -> None:
    at = desk()
    for client, lane in enumerate(("inference", "inference", "training", "tuning")):
        at.join(client, lane)
        at.arrive(client, arrival())
    assert [plan.clients for plan in at.turn()] == [{2, 3}, {0, 1}]


@pytest.mark.parametrize(
    ("config", "policy"),
    [
        (DaemonConfig(lanes=CONFIG.lanes, batching=BatchingConfig(exact=True)), LatencyFirst),
        (CONFIG, Fifo),
        (
            DaemonConfig(lanes={"inference": LaneConfig(priority=0), "training": LaneConfig(priority=0)}),
            LatencyFirst,
        ),
    ],
    ids=["exact", "a policy without strict lanes", "one level"],
)
def test_there_is_one_track(config: DaemonConfig, policy: Any) -> None:
    at = desk(config, policy)
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(1, arrival(op=1))
    at.arrive(2, arrival(op=2))
    assert [run.beside for run in runs(at)] == [False]


@pytest.mark.parametrize("policy", [LatencyFirst, Fifo])
def test_what_runs_is_answered_under_another_configuration(policy: Any) -> None:
    at = desk()
    at.join(2, "training")
    at.arrive(2, arrival(slot=0), arrival(slot=1, op=1))
    (plan,) = at.turn()
    at.tell(Adopt(CONFIG, policy(CONFIG)))
    assert at.turn() == []  # its track is taken
    assert [answer.slot for answer in at.done(plan)] == [0]
    assert [answer.slot for answer in at.finish()] == [1]
    assert at.state.idle


def test_a_batch_beside_took_as_long_as_it_ran_whatever_was_done_meanwhile() -> None:
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(2, arrival(op=2, rows=4))
    (training,) = at.turn()
    at.now_us = 900
    at.arrive(1, arrival(op=1))
    (inference,) = at.turn()
    at.now_us = 1000
    at.done(inference)
    at.done(training)
    costs = at.state.known.costs
    assert costs.expected_us(inference.op, inference.direction, 1) == 100
    assert costs.expected_us(training.op, training.direction, 4) == pytest.approx(1000)
    assert at.state.statistics().batches.busy_s == pytest.approx(1e-3)


def test_a_hold_of_the_first_level_holds_nobody_below() -> None:
    """Two that were answered together: the first to come back is held, and training runs meanwhile.

    Until when it is held is told by the next turn, which starts nothing.
    """
    lanes = {"inference": LaneConfig(priority=0, max_hold_us=50_000), "training": LaneConfig(priority=9)}
    at = desk(DaemonConfig(lanes=lanes))
    for client in (1, 2):
        at.join(client, "inference")
        at.arrive(client, arrival())
    at.join(3, "training")
    for rows in (1, 2):
        at.state.known.costs.learn(OPS[0].id, arrival().call.direction, rows, 1000)
    (together,) = at.turn()
    at.done(together)
    at.now_us = 10
    at.arrive(1, arrival(generation=2))
    at.arrive(3, arrival(op=1))
    assert [plan.clients for plan in at.turn()] == [{3}]
    (sleep,) = at.tell(Turn(at.now_us))
    assert isinstance(sleep, Sleep) and sleep.until_us is not None and sleep.until_us > at.now_us


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2), st.integers(1, 30), st.booleans()), max_size=60))
def test_whatever_comes_the_first_level_waits_for_no_plan_of_another(
    steps: list[tuple[int, int, int, bool]],
) -> None:
    """Each step is a request, and whether a plan beside ends before it; those of the first level end at once."""
    at = desk()
    lanes = ("inference", "training", "tuning")
    for client in range(6):
        at.join(client, lanes[client % 3])
    slots = dict.fromkeys(range(6), 0)
    beside: list[Plan] = []

    def turn() -> None:
        started = runs(at)
        for run in started:
            if run.beside:
                beside.append(run.plan)
            else:
                at.tell(PlanDone(run.plan, at.now_us))
        if not all(run.beside for run in started):
            turn()

    for client, op, rows, ends in steps:
        at.now_us += 25
        if ends and beside:
            at.tell(PlanDone(beside.pop(), at.now_us))
        at.arrive(client, arrival(slots[client], op=op, rows=rows))
        slots[client] += 1
        turn()
        assert not at.state._queues.levels[0].turns and len(beside) <= 1
    while beside:
        at.tell(PlanDone(beside.pop(), at.now_us))
        turn()
    assert at.state.idle


def test_a_batch_took_until_it_was_computed_and_not_until_it_was_seen() -> None:
    at = Desk()
    at.join(1)
    at.arrive(1, arrival(rows=4))
    (plan,) = at.turn()
    at.tell(PlanDone(plan, 900, ended_us=400))
    at.now_us = 1000
    at.arrive(1, arrival(generation=2, op=1, rows=4))
    (plan,) = at.turn()
    at.tell(PlanDone(plan, 1300))
    costs = at.state.known.costs
    assert [costs.expected_us(op, Direction.FORWARD, 4) for op in (OpId(0), OpId(1))] == [400, 300]


def begun_before_another(at: Desk, lanes: tuple[str, str]) -> list[Run]:
    """Two clients do one forward after the other, whose batch costs the same for one and for two; returns what is
    run when one begins its fourth a moment before the other."""
    at.state.known.travellers.starts.add(OPS[0].id)
    for client, lane in enumerate(lanes):
        at.join(client, lane)
    for generation in (1, 2, 3):
        for client in (0, 1):
            at.arrive(client, arrival(generation=generation))
        at.finish()
        at.now_us += 20
    for rows, us in ((1, 1000), (2, 1010)):
        at.state.known.costs.learn(OPS[0].id, arrival().call.direction, rows, us)
    at.arrive(0, arrival(generation=4))
    return runs(at)


@pytest.mark.parametrize(("other", "held"), [("inference", True), ("training", False)])
def test_a_forward_is_held_for_another_of_its_own_track_only(other: str, held: bool) -> None:
    """Who is planned by itself never joins, however well it is known when it begins its next forward."""
    lanes = {"inference": LaneConfig(priority=0, max_hold_us=50_000), "training": LaneConfig(priority=9)}
    at = desk(DaemonConfig(lanes=lanes))
    assert (begun_before_another(at, ("inference", other)) == []) == held


def test_company_of_other_days_is_not_waited_for_across_tracks() -> None:
    """They shared batches under a configuration of one level, and are two tracks now."""
    one = {name: LaneConfig(priority=0, max_hold_us=50_000) for name in ("inference", "training")}
    two = {"inference": one["inference"], "training": LaneConfig(priority=9)}
    for lanes, held in ((one, True), (two, False)):
        at = desk(DaemonConfig(lanes=one))
        for client, lane in enumerate(one):
            at.join(client, lane)
        for generation in (1, 2):
            for client in (0, 1):
                at.arrive(client, arrival(generation=generation))
            (together,) = at.turn()
            at.done(together)
            at.now_us += 10
        for rows, us in ((1, 1000), (2, 1010)):
            at.state.known.costs.learn(OPS[0].id, arrival().call.direction, rows, us)
        at.tell(Adopt(DaemonConfig(lanes=lanes), LatencyFirst(DaemonConfig(lanes=lanes))))
        at.arrive(0, arrival(generation=3))
        assert (runs(at) == []) == held


def test_plans_that_ran_side_by_side_and_are_of_one_track_now_teach_nothing_of_what_they_took() -> None:
    """What they would seem to have taken is what passed from the end of one to that of the other."""
    at = desk()
    at.join(1, "inference")
    at.join(2, "training")
    at.arrive(1, arrival(op=1))
    at.arrive(2, arrival(op=2, rows=4))
    lower, first = [run.plan for run in runs(at)]
    config = DaemonConfig(lanes={name: LaneConfig(priority=0) for name in CONFIG.lanes})
    at.tell(Adopt(config, LatencyFirst(config)))
    at.arrive(1, arrival(op=1, slot=1))
    assert runs(at) == [], "two run, of a track that has one"
    for plan, took_us in ((first, 50_000), (lower, 100)):
        at.now_us += took_us
        assert len(at.done(plan)) == 1
    at.state.check()
    for plan in (first, lower):
        assert at.state.known.costs.curve(plan.op, plan.direction, kept=plan.kept).expected_us(plan.rows) is None
    (run,) = runs(at)
    at.now_us += 700
    at.done(run.plan)
    assert at.state.known.costs.curve(run.plan.op, run.plan.direction, kept=False).expected_us(1) == pytest.approx(
        700
    )
