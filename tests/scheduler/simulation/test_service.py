"""How long a batch takes in virtual time, and when the daemon looks."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from symbiosis_core.config import BatchingConfig, ComputeConfig
from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.policy import LatencyFirst
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.simulation.looks import Looks, Next
from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.service import Service, Way
from symbiosis_scheduler.simulation.tape import Tape
from symbiosis_scheduler.simulation.trace import SLOPES, VERSION, Kind
from symbiosis_scheduler.simulation.trace_file import records
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.desk import CONFIG, OPS, Desk, arrival
from tests.scheduler.simulation.loads import LAYERS, THINKING_US, config, mixed, played, recorded


def test_who_asks_while_a_batch_runs_beside_is_seen_when_it_asks() -> None:
    """And only what could begin counts as late: not what was held, or waited for its own track."""
    desk = Desk()
    desk.state = SchedulerState([OPS], CONFIG, LatencyFirst(CONFIG), beside=True)
    desk.state.planner.tracks._first_us = 0  # as if the first level had just been at work
    recorder = recorded(desk)
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(2, arrival(op=2, rows=4))
    (training,) = desk.turn()
    for at_us, generation in ((900, 1), (1500, 2)):
        desk.now_us = at_us
        desk.arrive(1, arrival(generation=generation, op=1))
        desk.arrive(2, arrival(slot=generation, op=2))
        desk.now_us += 10
        (inference,) = desk.turn()
        desk.now_us += 90
        desk.done(inference)
        assert desk.turn() == []
    desk.now_us = 1700
    desk.done(training)
    desk.now_us = 1720
    (last,) = desk.turn()
    desk.done(last)
    told = records(recorder.take(3000, last=True))
    batches = [record for record in told if record[0] in (Kind.BATCH, Kind.BESIDE)]
    assert batches == [
        (Kind.BATCH, 1000, 1, 0, 1, 90, 1, 10, 1),
        (Kind.BATCH, 1600, 1, 0, 1, 90, 1, 10, 1),
        (Kind.BESIDE, 1700, 2, 0, 4, 1700, 1, 0, 2),
        (Kind.BESIDE, 1720, 2, 0, 2, 0, 1, 20, 2),
    ]
    inference_script = read_load(told).scripts[0]
    assert list(inference_script.delays_us) == [0, 500]


def test_what_is_seen_with_a_batch_belongs_to_the_look_before_it() -> None:
    """What ended beside meanwhile is answered with the batch: nobody looks before the loop comes round again."""
    desk = Desk()
    desk.state = SchedulerState([OPS], CONFIG, LatencyFirst(CONFIG), beside=True)
    desk.state.planner.tracks._first_us = 0
    recorder = recorded(desk)
    desk.join(1, "inference")
    desk.join(2, "training")
    desk.arrive(2, arrival(op=2, rows=4))
    (training,) = desk.turn()
    desk.now_us = 900
    desk.arrive(1, arrival(op=1))
    (inference,) = desk.turn()
    desk.now_us = 1000
    desk.done(training)
    desk.done(inference)
    for at_us, slot in ((1700, 0), (1710, 1)):
        desk.now_us = at_us
        desk.arrive(2, arrival(slot=slot, generation=2, op=2))
    desk.now_us = 1720
    (last,) = desk.turn()
    desk.done(last)
    told = records(recorder.take(3000, last=True))
    assert [record for record in told if record[0] == Kind.LOOK] == [(Kind.LOOK, 1700)]
    assert [record for record in told if record[0] == Kind.BESIDE][-1] == (Kind.BESIDE, 1720, 2, 0, 2, 0, 1, 20, 2)


def test_a_batch_is_only_late_since_there_was_something_to_begin() -> None:
    """A daemon that had nothing to do when a batch ended is not late with what came long after."""
    desk = Desk()
    desk.now_us = 1000
    recorder = recorded(desk)
    desk.join(1)
    for asked_us in (1000, 1150):
        desk.now_us = asked_us
        desk.arrive(1, arrival(generation=1 + asked_us))
        desk.now_us += 20
        (plan,) = desk.turn()
        desk.now_us += 80
        desk.done(plan)
    lags = [record[7] for record in records(recorder.take(2000, last=True)) if record[0] == Kind.BATCH]
    assert lags == [20, 20]


@pytest.mark.parametrize("beside", [True, False], ids=["a CPU", "a device"])
def test_lower_lanes_are_computed_beside_where_the_daemon_did_it(beside: bool) -> None:
    """On a device a token waits for the batch of training that is on it, which takes six times as long."""
    load, alone_us = read_load(mixed(decoding=1, beside=beside)), LAYERS * 1020 + (LAYERS - 1) * THINKING_US
    found = played(load, config())
    assert (found.lanes[0].forward_p50_us < 1.1 * alone_us) == beside
    off = msgspec.structs.replace(config(), compute=ComputeConfig(beside=False))
    assert played(load, off).lanes[0].forward_p50_us > 2 * alone_us


def test_it_is_told_how_many_batches_are_a_guess() -> None:
    """Nobody has seen how slow training is beside inference, in a trace without it; nor its smaller batches."""
    trace = mixed(decoding=1, training=1)
    assert played(read_load(trace), config()).guessed == 0 and Recorded(trace).figures().guessed is None
    beside = read_load([(Kind.HEADER, VERSION, "", True, 1), *trace[1:]])
    training = 20 * (2 * LAYERS - 1)
    some = played(beside, config()).guessed
    assert some is not None and 0 < some < training / (training + 20 * LAYERS), "as long as inference is at work"
    small = msgspec.structs.replace(config(), batching=BatchingConfig(max_rows=100))
    assert played(read_load(trace), small).guessed == pytest.approx(0.85, abs=0.03)


def test_a_lanes_batches_take_what_its_own_took() -> None:
    """The same op with as many rows: of another lane, and beside, it had other threads and cores."""
    service, tape, batch = Service(), Tape(0), (OpId(1), Direction.FORWARD, 16, False)
    ways = [Way("inference", False), Way("training", True), Way("training", False)]
    for took_us, way in enumerate(ways, 1):
        service.note(way, batch, 1000 * took_us)
    assert [service.took_us(way, batch, tape) for way in ways] == [1000, 2000, 3000]
    assert service.took_us(Way("inference", True), batch, tape) == 1000, "its lane tells more than its thread"
    assert service.took_us(Way("inference", True), (OpId(1), Direction.BACKWARD, 1, False), tape) == 1


def test_a_batch_as_large_as_another_lane_had_takes_what_theirs_took() -> None:
    """A token that leads a convoy of training: drawn out from four rows, it would take four times as long."""
    service, tape, op = Service(), Tape(0), OpId(1)
    inference, training = Way("inference", False), Way("training", False)
    for rows, took_us in ((1, 1000), (4, 1500)):
        service.note(inference, (op, Direction.FORWARD, rows, False), took_us)
    service.note(training, (op, Direction.FORWARD, 256, False), 6120)
    assert service.took_us(inference, (op, Direction.FORWARD, 257, False), tape) == pytest.approx(6120, rel=0.01)
    assert service.took_us(inference, (op, Direction.FORWARD, 4, False), tape) == 1500
    assert service.took_us(training, (op, Direction.FORWARD, 4, False), tape) == 1500
    assert service.took_us(inference, (op, Direction.FORWARD, 40, False), tape) == pytest.approx(1500 * 2.5 / 1.1)


def test_a_forward_that_keeps_slopes_takes_what_such_forwards_took() -> None:
    """And where none was recorded, what those without took."""
    service, tape, way = Service(), Tape(0), Way("training", False)
    plain, kept = (OpId(1), Direction.FORWARD, 16, False), (OpId(1), Direction.FORWARD, 16, True)
    service.note(way, plain, 1000)
    assert not service.knows(way, kept) and service.took_us(way, kept, tape) == 1000
    service.note(way, kept, 3000)
    assert [service.took_us(way, batch, tape) for batch in (plain, kept)] == [1000, 3000]
    assert service.knows(way, kept)


def test_a_client_that_trains_on_a_loss_and_one_that_looks_at_it_are_played_by_two_curves() -> None:
    """As the daemon decides by two: its own state machine learns them in virtual time, too."""
    desk = Desk()
    desk.state.known.costs.tell_apart(OpId(1))
    for client in (1, 2):
        desk.join(client, "inference")
    recorder = recorded(desk)
    for turn in range(40):
        client, took_us = (1, 3000) if turn % 2 else (2, 1000)
        asks = arrival(generation=turn + 1, op=1, rows=4)
        asks = asks._replace(call=asks.call._replace(memo=turn if client == 1 else 0))
        desk.now_us += 500
        desk.arrive(client, asks)
        (plan,) = desk.turn()
        desk.now_us += took_us
        desk.done(plan)
    trace = records(recorder.take(desk.now_us, last=True))
    ways = {record[2]: record[5] for record in trace if record[0] == Kind.ASK}
    assert ways == {1: SLOPES, 2: Direction.FORWARD}
    world = World(read_load(trace), config())
    world.run()
    assert [set(player.latencies_us) for player in world.players] == [{3000.0}, {1000.0}]
    costs = world.devices[0].state.known.costs
    assert costs.expected_us(OpId(1), Direction.FORWARD, 4, kept=True) == pytest.approx(3000)
    assert costs.expected_us(OpId(1), Direction.FORWARD, 4) == pytest.approx(1000)


def test_a_slow_spell_stays_one() -> None:
    """Ten slow batches, one after the other, are one slow forward and not ten that are a little slower."""
    spell = [1.0] * 30 + [9.0] * 10
    tape = Tape(0.5)
    assert [tape.next(spell, 1.0) for _ in range(50)] == [*spell[20:], *spell[:30]]
    assert tape.next((), 7.0) == 7.0
    assert tape.next([1.0, 2.0], 0.0) == 2.0, "another recording is entered at the same time"


def test_what_a_client_asked_counts_from_when_it_asked_and_the_rest_is_the_daemons() -> None:
    """Its request was published at 130 and found at 170: it thought for 30, and the daemon was late by 40."""
    desk = Desk()
    desk.join(1)
    recorder = recorded(desk)
    for asked_us, found_us in ((1000, 1010), (1130, 1170)):
        desk.now_us = found_us
        desk.arrive(1, arrival(generation=found_us, asked_us=asked_us))
        (plan,) = desk.turn()
        desk.now_us = 1100 if asked_us == 1000 else 1200
        desk.done(plan)
        desk.turn()
    trace = records(recorder.take(2000, last=True))
    asks = [(record[1], record[-1]) for record in trace if record[0] == Kind.ASK]
    assert asks == [(1010, 10), (1170, 40)]
    load, tape = read_load(trace), Tape(0)
    assert list(load.scripts[0].delays_us) == [0, 30]
    assert [load.looks.woken_us(tape, "training") for _ in range(3)] == [10, 40, 10]


def test_a_client_cannot_have_asked_before_it_was_answered_or_was_there() -> None:
    """When it asked is its own word: one that says 1 would be late by all the time that the host is up."""
    desk = Desk()
    desk.now_us = 1000
    recorder = recorded(desk)
    desk.now_us = 5000
    desk.join(1)
    for found_us in (5010, 5170):
        desk.now_us = found_us
        desk.arrive(1, arrival(generation=found_us, asked_us=1))
        (plan,) = desk.turn()
        desk.now_us += 90
        desk.done(plan)
    desk.now_us = 6000
    desk.arrive(1, arrival(generation=6000, asked_us=7000))
    asks = [(record[1], record[-1]) for record in records(recorder.take(9000, last=True)) if record[0] == Kind.ASK]
    assert asks == [(4010, 10), (4170, 70), (5000, 0)]


def test_who_asked_while_a_batch_was_computed_is_found_by_the_look_after_it() -> None:
    """And says nothing of how late one looks who is woken."""
    looks, tape = Looks(), Tape(0)
    looks.note_batch(1000, "a", 1)
    looks.note_found(1070, asked_us=300, lane="a", client=2)
    looks.note_look(1070)
    for first_us in (2000, 1990):  # two that one look finds
        looks.note_found(2050, asked_us=first_us, lane="a", client=2)
    assert (looks.after_batch(tape, "a"), looks.woken_us(tape, "a")) == (Next(70, None), 60)


def test_who_was_answered_and_has_asked_again_before_anybody_looked_has_had_the_core() -> None:
    """The daemon looks so long after that, and not so long after its batch."""
    looks, tape = Looks(), Tape(0)
    for done_us, asked_us in ((1000, 1800), (5000, 5300)):
        looks.note_batch(done_us, "a", 1)
        looks.note_found(asked_us + 30, asked_us=done_us - 9, lane="a", client=2)
        looks.note_found(asked_us + 30, asked_us=asked_us, lane="a", client=1)
        looks.note_look(asked_us + 30)
    assert [looks.after_batch(tape, "a") for _ in range(2)] == [Next(830, 30), Next(330, 30)]


def test_every_lane_is_looked_for_as_late_as_it_was_and_one_without_any_as_most_were() -> None:
    looks = Looks()
    for us, lane in ((1000, "a"), (2000, "b"), (3000, "b")):
        looks.note_found(us, asked_us=us - (10 if lane == "a" else 500), lane=lane, client=1)
    assert [looks.woken_us(Tape(0), lane) for lane in ("a", "b", "c")] == [10, 500, 500]
    looks.note_found(4000, asked_us=3990, lane="a", client=1)
    looks.note_found(4000, asked_us=3900, lane="b", client=2)  # who asked first has woken it
    assert [looks.woken_us(Tape(0.9), lane) for lane in ("a", "b")] == [10, 100]


def test_a_client_that_thinks_longer_has_the_core_longer_and_is_found_as_soon_as_it_has_asked() -> None:
    """Recorded with 800 us of thinking and then with 300, each found 30 us after it was asked."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, False),
        (Kind.JOIN, 0, 1, "inference", "", ""),
    ]
    us = 1000
    for thinks_us in (800, 300) * 20:
        trace += [(Kind.ASK, us, 1, 0, 0, 0, 1, 30), (Kind.LOOK, us)]
        trace += [(Kind.BATCH, us + 100, 0, 0, 1, 100, 1, 0, 1), (Kind.ANSWER, us + 100, 1, 0, False)]
        us += 100 + thinks_us + 30
    world = World(read_load(trace), config(), seed=3)  # wherever its tape begins
    world.run()
    assert world.now_us == pytest.approx(us - 1000, abs=1500)
    (player,) = world.players
    assert set(player.latencies_us) == {100.0}


def test_who_is_woken_late_finds_two_and_one_waits_for_the_others_batch() -> None:
    """Both asked within the time that the daemon took to look, so that the second waits, as on a busy machine."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        *((Kind.OP, op, op == 0) for op in (0, 1)),
        *((Kind.JOIN, 0, client, "inference", "", "") for client in (0, 1)),
    ]
    for op in (0, 1):
        trace += [(Kind.ASK, 5000, op, 0, op, 0, 1, 4000 - 1000 * op)]
    for op in (0, 1):
        us = 6000 + 1000 * op
        trace += [(Kind.BATCH, us, op, 0, 1, 1000, 1, 0, op), (Kind.ANSWER, us, op, 0, False), (Kind.LOOK, us)]
    (lane,) = played(read_load(trace), config()).lanes
    assert (lane.mean_us, lane.p99_us) == (1500, 2000)


def test_a_device_is_given_the_next_plan_while_it_computes_one() -> None:
    """So nobody waits for the loop between two of them; and a token waits for two batches of training, not one."""
    asks = [(Kind.ASK, 0, client, 0, client, 0, rows, 0) for client, rows in enumerate((256, 256, 256, 1))]
    asks[3] = (Kind.ASK, 10, *asks[3][2:])
    lanes = ("training", "training", "training", "inference")
    found = {}
    for in_flight in (1, 2):
        trace: list[tuple[Any, ...]] = [
            (Kind.HEADER, VERSION, "", False, in_flight),
            *((Kind.OP, op, False) for op in range(4)),
            *((Kind.JOIN, 0, client, lane, "", "") for client, lane in enumerate(lanes)),
            *asks,
        ]
        for client in (0, 1, 3, 2):
            us = 1000 * (client + 1)
            trace += [(Kind.BATCH, us, client, 0, asks[client][6], 1000, 1, 50, client)]
            trace += [(Kind.ANSWER, us, client, 0, False)]
        found[in_flight] = {lane.lane: lane for lane in played(read_load(trace), config()).lanes}
    assert found[1]["inference"].p99_us == 1050, "seen when the first batch is done"
    assert found[2]["inference"].p99_us == 3 * 1000 - 10, "seen at once, and behind two that the device has"
    assert found[2]["training"].p99_us == 4 * 1000, "one after the other, and none late"
