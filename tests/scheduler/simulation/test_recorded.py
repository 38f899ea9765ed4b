"""What was recorded is told in the figures of what is simulated: rows, latencies, refusals, losses."""

from __future__ import annotations

from typing import Any

import pytest

from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.trace import VERSION, Kind
from symbiosis_scheduler.simulation.trace_file import records
from tests.scheduler.desk import Desk, arrival
from tests.scheduler.simulation.loads import config, mixed, played, recorded


def test_what_was_recorded_is_told_in_the_same_figures() -> None:
    """A client alone: what the simulator makes of a trace is what the trace tells."""
    trace = mixed(decoding=1, training=0)
    real, found = Recorded(trace).figures(), played(read_load(trace), config())
    assert real.lanes[0].clients == 1 and real.occupancy == 1
    for name in ("requests", "p50_us", "p99_us", "mean_us", "forward_p50_us", "rows_per_s"):
        assert getattr(found.lanes[0], name) == pytest.approx(getattr(real.lanes[0], name), rel=0.02), name
    assert found.busy == pytest.approx(real.busy, rel=0.02)


def test_who_is_refused_was_not_served_and_what_nobody_may_ask_is_no_load() -> None:
    desk = Desk()
    recorder = recorded(desk)
    desk.join(1)
    desk.now_us = 10
    desk.arrive(1, arrival(slot=0, op=9), arrival(slot=1, rows=41), arrival(slot=2, rows=3))
    (plan,) = desk.turn()
    desk.now_us = 80
    desk.done(plan)
    trace = records(recorder.take(100, last=True))
    assert [record for record in trace if record[0] in (Kind.ASK, Kind.ANSWER)] == [
        (Kind.ASK, 10, 1, 1, 0, 0, 41, 0),
        (Kind.ASK, 10, 1, 2, 0, 0, 3, 0),
        (Kind.ANSWER, 10, 1, 1, True),
        (Kind.ANSWER, 80, 1, 2, False),
    ]
    real = Recorded(trace)
    assert (real.figures().holds, real.figures().held_saved_s) == (None, None), "a trace does not tell"
    (lane,) = real.figures().lanes
    assert (lane.requests, lane.refused) == (1, 1)
    assert lane.rows_per_s == pytest.approx(3e6 / 70)
    assert real.latencies_us("training") == [70]


def test_a_forward_that_was_refused_is_none() -> None:
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, True),
        (Kind.JOIN, 0, 1, "inference", "", ""),
    ]
    for us, refused in ((1000, False), (2000, True), (3000, False), (4000, False)):
        trace += [(Kind.ASK, us, 1, 0, 0, 0, 1, 0), (Kind.ANSWER, us + 50, 1, 0, refused)]
        if not refused:
            trace += [(Kind.ASK, us + 60, 1, 0, 1, 0, 1, 0), (Kind.ANSWER, us + 100, 1, 0, False)]
    (lane,) = Recorded(trace).figures().lanes
    assert lane.forward_p50_us == lane.forward_p99_us == 100


def test_ids_that_come_in_several_requests_begin_one_forward() -> None:
    """In what was recorded and in what is played: each is answered before the next is asked for."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        *((Kind.OP, 0, True), (Kind.OP, 1, False)),
        (Kind.JOIN, 0, 1, "inference", "", ""),
    ]
    for began_us in (1000, 2000, 3000):
        for us, op in ((began_us, 0), (began_us + 100, 0), (began_us + 200, 1)):
            trace += [(Kind.ASK, us, 1, 0, op, 0, 8, 0), (Kind.BATCH, us + 50, op, 0, 8, 50, 1, 0, 1)]
            trace += [(Kind.ANSWER, us + 50, 1, 0, False)]
    (real,), (found,) = Recorded(trace).figures().lanes, played(read_load(trace), config()).lanes
    assert real.forward_p50_us == real.forward_p99_us == 250
    assert found.forward_p50_us == found.forward_p99_us == pytest.approx(250, rel=0.02)


def test_what_is_recorded_of_others_counts_though_records_were_lost() -> None:
    """Nobody has told who 7 is; and two came as 1, one after the other."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, False),
        (Kind.JOIN, 0, 1, "training", "", ""),
        *((Kind.ASK, 10, 1, 0, 0, 0, 64, 0), (Kind.ANSWER, 20, 1, 0, False)),
        *((Kind.ASK, 30, 7, 0, 0, 0, 64, 0), (Kind.ANSWER, 40, 7, 0, False)),
        (Kind.JOIN, 50, 1, "inference", "", ""),
        *((Kind.ASK, 60, 1, 0, 0, 0, 1, 0), (Kind.ANSWER, 90, 1, 0, False)),
    ]
    real = Recorded(trace)
    assert [(lane.lane, lane.clients, lane.requests) for lane in real.figures().lanes] == [
        ("inference", 1, 1),
        ("training", 1, 1),
    ]
    assert real.latencies_us("training") == [10] and real.latencies_us("inference") == [30]


def test_two_who_came_one_after_the_other_were_no_faster_than_the_lane() -> None:
    """Each had 100 rows in 1000 us, the second after the first: the lane did 200 in 2000, and not in 1000."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, False),
        *((Kind.JOIN, 0, client, "training", "", "") for client in (0, 1)),
    ]
    for client, us in ((0, 1000), (1, 2000)):
        trace += [(Kind.ASK, us, client, 0, 0, 0, 100, 0), (Kind.BATCH, us + 1000, 0, 0, 100, 1000, 1, 0, client)]
        trace += [(Kind.ANSWER, us + 1000, client, 0, False)]
    (real,), (found,) = Recorded(trace).figures().lanes, played(read_load(trace), config()).lanes
    for lane in (real, found):
        assert lane.rows_per_s == pytest.approx(100_000) and lane.fairness == pytest.approx(1)
