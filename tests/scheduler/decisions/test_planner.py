"""A policy is asked track by track, and what it cannot mean is found before anything is done about it."""

from __future__ import annotations

import pytest

from symbiosis_core.config import BatchingConfig, DaemonConfig, LaneConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision, Hold, Part, Plan
from symbiosis_scheduler.decisions.planner import Planner
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.queues import Queues
from tests.scheduler.counter import request

LANES = {"inference": LaneConfig(priority=0, max_wait_us=0), "training": LaneConfig(priority=9)}


class Always:
    """Decides what it was told, whatever there is."""

    def __init__(self, decision: Decision) -> None:
        self._decision = decision

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        return self._decision


def test_lower_levels_are_asked_about_first_and_run_beside_while_the_first_is_at_work() -> None:
    config, queues = DaemonConfig(lanes=LANES), Queues(LANES)
    planner = Planner(config, LatencyFirst(config), queues, max_in_flight=1, can_beside=True)
    for lane, client in (("inference", 1), ("training", 2)):
        queues.push(request(client, lane, op=client))
    plans, _ = planner.decide(10, Known())
    assert [(plan.op, beside) for plan, beside in plans] == [(2, True), (1, False)]
    assert not queues and planner.tracks.in_flight == 2
    exact = DaemonConfig(lanes=LANES, batching=BatchingConfig(exact=True))
    planner.adopt(exact, LatencyFirst(exact), queues)
    assert planner.exact and len(list(planner.tracks)) == 1 and planner.tracks.in_flight == 2


def test_a_hold_is_the_last_of_its_track_and_takes_nothing() -> None:
    config, queues = DaemonConfig(lanes=LANES), Queues(LANES)
    planner = Planner(config, Always(Hold(99)), queues, max_in_flight=2, can_beside=False)
    queues.push(request(1))
    assert planner.decide(10, Known()) == ([], 99)
    assert len(queues) == 1 and not planner.tracks.in_flight
    assert not any(level.arrived for level in queues.levels), "the policy has seen it"


def test_what_cannot_be_decided_is_the_policys_fault_and_takes_nothing() -> None:
    config, queues = DaemonConfig(lanes=LANES), Queues(LANES)
    waits = request(1, op=3)
    queues.push(waits)
    strange = Plan(OpId(4), Direction.FORWARD, (Part(waits, 0, waits.rows),))
    for wrong, told in ((Plan(OpId(3), Direction.FORWARD, ()), "empty"), (strange, "belong"), (None, "no time")):
        planner = Planner(config, Always(wrong), queues, max_in_flight=1, can_beside=False)
        with pytest.raises(LocalProtocolError, match=told):
            planner.decide(10, Known())
        assert len(queues) == 1 and not planner.tracks.in_flight
