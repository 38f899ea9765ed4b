"""A trace is played again as it was, and what comes of it is what the scheduler would have done."""

from __future__ import annotations

import gc
import random
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from symbiosis_core.config import (
    BatchingConfig,
    ComputeConfig,
    DaemonConfig,
    LaneConfig,
    PolicyConfig,
    RuleConfig,
)
from symbiosis_core.errors import UsageError
from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.events import ClientJoined
from symbiosis_scheduler.policies import policy_names
from symbiosis_scheduler.policy import LatencyFirst
from symbiosis_scheduler.simulation.looks import Looks
from symbiosis_scheduler.simulation.picture import draw
from symbiosis_scheduler.simulation.recorded import Recorded
from symbiosis_scheduler.simulation.recorder import Recorder
from symbiosis_scheduler.simulation.report import RunFigures, figures, quantile
from symbiosis_scheduler.simulation.script import Load, read_load
from symbiosis_scheduler.simulation.service import Service, Way
from symbiosis_scheduler.simulation.tape import Tape
from symbiosis_scheduler.simulation.trace import VERSION, Kind, encode, read_trace, records
from symbiosis_scheduler.simulation.world import World
from symbiosis_scheduler.state import SchedulerState
from tests.scheduler.desk import CONFIG, OPS, Desk, arrival

LAYERS = 8
THINKING_US = 700


def mixed(
    decoding: int = 2, training: int = 1, forwards: int = 20, *, beside: bool = False
) -> list[tuple[Any, ...]]:
    """A trace as if every client had had a device of its own, and thought in between."""
    found: list[tuple[int, tuple[Any, ...]]] = []
    for client in range(decoding + training):
        trains = client >= decoding
        us = 1000 * client + 1
        found.append((0, (Kind.JOIN, 0, client, "training" if trains else "inference", "", "")))
        steps = [(op, 0) for op in range(LAYERS)] + [(op, 1) for op in range(LAYERS - 1, 0, -1)] * trains
        for op, direction in steps * forwards:
            rows = 256 if trains else 1
            done_us = us + 1000 + 20 * rows
            found.append((us, (Kind.ASK, us, client, 0, op, direction, rows, 0)))
            found.append((done_us, (Kind.BATCH, done_us, op, direction, rows, done_us - us, 1, 0, client)))
            found.append((done_us, (Kind.ANSWER, done_us, client, 0, False)))
            us = done_us + THINKING_US
    found.sort(key=lambda each: each[0])
    ops = [(Kind.OP, op, op == 0) for op in range(LAYERS)]
    return [(Kind.HEADER, VERSION, "a model", beside, 1), *ops, *(record for _, record in found)]


def config(policy: str = "latency_first", *, hold_us: int = 0) -> DaemonConfig:
    lanes = {
        "inference": LaneConfig(priority=0, max_wait_us=0, max_hold_us=hold_us),
        "training": LaneConfig(priority=9),
    }
    return DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes)


def played(load: Load, settings: DaemonConfig, **how: int) -> RunFigures:
    requests = how.pop("requests", 0)
    world = World(load, settings, **how)
    world.run(requests)
    for device in world.devices:
        device.state.check()
    return figures(world, "a", settings.policy.name)


def test_a_client_alone_does_again_what_it_did() -> None:
    """Nobody is in its way, so every time is the recorded one, but for what a curve smoothes."""
    trace = mixed(decoding=1, training=0)
    last_us = max(record[1] for record in trace if record[0] == Kind.ANSWER)
    found = played(read_load(trace), config())
    (lane,) = found.lanes
    assert found.requests == 20 * LAYERS
    assert found.seconds == pytest.approx(last_us / 1e6, rel=0.02)
    assert lane.p50_us == pytest.approx(1020, rel=0.02)
    assert lane.forward_p50_us == pytest.approx(LAYERS * 1020 + (LAYERS - 1) * THINKING_US, rel=0.02)


@pytest.mark.parametrize("policy", policy_names())
def test_every_policy_answers_everything(policy: str) -> None:
    load = read_load(mixed())
    found = played(load, config(policy, hold_us=5000))
    assert found.requests == load.requests
    assert {lane.lane: lane.clients for lane in found.lanes} == {"inference": 2, "training": 1}


def test_the_same_seed_plays_the_same_and_another_does_not() -> None:
    dice, trace = random.Random(1), mixed()
    trace = [
        (*record[:5], round(record[5] * dice.uniform(0.7, 1.4)), *record[6:])
        if record[0] == Kind.BATCH
        else record
        for record in trace
    ]
    load = read_load(trace)
    assert played(load, config(), seed=1) == played(load, config(), seed=1) != played(load, config(), seed=2)


def test_inference_before_training_shows_in_the_figures_and_so_does_holding() -> None:
    load = read_load(mixed(decoding=4, training=2))
    first, fifo = played(load, config()), played(load, config("fifo"))
    assert first.lanes[0].p99_us < fifo.lanes[0].p99_us
    held = played(load, config(hold_us=50_000))
    assert held.holds and held.occupancy > first.occupancy


def test_a_thousand_clients_on_eight_devices() -> None:
    """What nobody can try at a desk: the trace's clients many times over, dealt out to devices."""
    load = read_load(mixed())
    found = played(load, config(), clients=1000, devices=8, requests=5000)
    assert sum(lane.clients for lane in found.lanes) == 1000
    assert found.requests >= 5000
    assert found.busy > 0.9


@pytest.mark.long
@pytest.mark.parametrize(("clients", "devices"), [(0, 1), (1000, 8)], ids=["as recorded", "a thousand on eight"])
def test_a_million_requests_take_less_than_a_minute_of_one_core(clients: int, devices: int) -> None:
    load = read_load(mixed(decoding=4, training=2))
    gc.disable()  # as the command does
    try:
        began_s = time.process_time()
        found = played(load, config(hold_us=50_000), clients=clients, devices=devices, requests=1_000_000)
        took_s = time.process_time() - began_s
    finally:
        gc.enable()
    assert found.requests >= 1_000_000
    assert sum(lane.clients for lane in found.lanes) == (clients or 6)
    assert took_s < 60


def test_a_lane_that_the_configuration_lacks_is_told() -> None:
    with pytest.raises(UsageError, match="'inference'"):
        World(read_load(mixed()), DaemonConfig(lanes={"other": LaneConfig(priority=0)}))
    with pytest.raises(UsageError, match="nobody asked"):
        World(read_load([(Kind.HEADER, VERSION, "", False, 1)]), DaemonConfig())


def test_a_piece_that_was_sent_before_an_answer_came_is_sent_before_it_again() -> None:
    """A client that keeps three requests open: what it asks next depends on how many were answered."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, False),
        (Kind.JOIN, 0, 1, "training", "", ""),
    ]
    trace += [(Kind.ASK, 10 + slot, 1, slot, 0, 0, 64, 0) for slot in range(3)]
    trace += [(Kind.BATCH, 500, 0, 0, 64, 490, 1, 0, 1), (Kind.ANSWER, 500, 1, 0, False)]
    trace += [(Kind.ASK, 600, 1, 0, 0, 0, 64, 0)]
    (script,) = read_load(trace).scripts
    assert list(script.needs) == [0, 0, 0, 1]
    assert list(script.delays_us) == [0, 1, 1, 100]


# -- the file --------------------------------------------------------------------------------------------------


def recorded(desk: Desk) -> Recorder:
    """Returns what notes all that is told from now on."""
    recorder, handle = Recorder(desk.state, "m", desk.now_us), desk.state.handle

    def tell(event: Any) -> Any:
        instructions = handle(event)
        recorder.note(event, instructions, desk.now_us)
        return instructions

    desk.state.handle = tell  # type: ignore[method-assign]
    return recorder


def test_what_the_state_was_told_is_what_the_trace_tells() -> None:
    desk = Desk()
    desk.join(1)
    recorder = recorded(desk)
    desk.join(2, "inference")
    desk.arrive(1, arrival(slot=2, op=1, rows=3))
    desk.now_us = 50
    plans = desk.turn()
    desk.now_us = 80
    for plan in plans:
        desk.done(plan)
    desk.leave(2)
    assert list(records(recorder.take(1100))) == [
        (Kind.HEADER, VERSION, "m", False, 1),
        (Kind.JOIN, 0, 1, "training", "", ""),
        (Kind.JOIN, 0, 2, "inference", "", ""),
        (Kind.OP, 1, False),
        (Kind.ASK, 0, 1, 2, 1, 0, 3, 0),
        (Kind.BATCH, 80, 1, 0, 3, 30, 1, 50, 1),
        (Kind.ANSWER, 80, 1, 2, False),
        (Kind.LEAVE, 80, 2),
    ]
    assert recorder.take(1200) == b"" and not recorder.forgotten(1300)
    assert recorder.forgotten(1200 + 10_000_001)
    assert ClientId(1) in desk.state.known.travellers.all and OpId(1) not in desk.state.known.travellers.starts


def test_who_everybody_is_stands_in_the_trace_also_of_those_who_were_there_before() -> None:
    """However long the names are that the wire lets in: a record has no end at 255 bytes."""
    long = "\N{SNOWMAN}" * 128
    desk = Desk()
    desk.state.handle(ClientJoined(ClientId(1), "training", 1 << 20, "alice", name=long))
    recorder = recorded(desk)
    desk.state.handle(ClientJoined(ClientId(2), "training", 1 << 20, "key:bob", name="short"))
    for client in (1, 2):
        desk.arrive(client, arrival(op=1))
    trace = list(records(recorder.take(1100)))
    assert trace[1] == (Kind.JOIN, 0, 1, "training", "alice", long)
    assert trace[2] == (Kind.JOIN, 0, 2, "training", "key:bob", "short")
    told = [(script.user, script.name) for script in read_load(trace).scripts]
    assert told == [("alice", long), ("key:bob", "short")]


def who(*clients: tuple[str, str, str], forwards: int = 3) -> Load:
    """A load of clients with lane, user and name. Each makes forwards of two times 50 rows, 1 ms apart."""
    trace: list[tuple[Any, ...]] = [(Kind.HEADER, VERSION, "", False, 1)]
    trace += [(Kind.OP, op, op == 0) for op in (0, 1)]
    trace += [(Kind.JOIN, 0, client, *it) for client, it in enumerate(clients)]
    for us in range(1000, 1000 * forwards + 1, 1000):
        for op in (0, 1):
            for client in range(len(clients)):
                at = us + 100 * op
                trace += [(Kind.ASK, at, client, 0, op, 0, 50, 0), (Kind.ANSWER, at + 10, client, 0, False)]
                trace += [(Kind.BATCH, at + 10, op, 0, 50, 10, 1, 0, client)]
    return read_load(trace)


def test_rules_by_name_and_user_put_clients_of_a_trace_into_lanes() -> None:
    """Also by a key, which is in no trace: it fits those who were in the rule's lane when it was recorded."""
    load = who(("a", "alice", "chat-1"), ("a", "bob", "job-7"), ("b", "bob", "job-8"))
    lanes = {lane: LaneConfig(priority=0) for lane in "abc"}

    def placed(*rules: RuleConfig) -> list[str]:
        return [player.lane for player in World(load, DaemonConfig(lanes=lanes, rules=rules)).players]

    assert placed(RuleConfig(lane="c", name="job-*")) == ["a", "c", "c"]
    assert placed(RuleConfig(lane="c", user="alice")) == ["c", "a", "b"]
    assert placed(RuleConfig(lane="b", key="s"), RuleConfig(lane="c")) == ["c", "c", "b"]


def test_clients_of_one_user_share_the_users_quota_in_virtual_time() -> None:
    """Six forwards of 100 rows: two seconds' worth of 50 a second let one in, and each other waits its turn."""
    lanes = {"a": LaneConfig(priority=0, user_rows_per_s=50)}
    one, two = ("a", "alice", ""), ("a", "bob", "")
    together, apart = (played(who(one, other), DaemonConfig(lanes=lanes)) for other in (one, two))
    assert together.requests == apart.requests == 12, "who is refused tries again, and nothing is left out"
    assert apart.seconds == pytest.approx((300 - 100 - 100) / 50, abs=0.1)
    assert together.seconds == pytest.approx((600 - 100 - 100) / 50, abs=2.1), "both may come in at the same time"
    assert together.lanes[0].refused > apart.lanes[0].refused >= 2


def test_a_piece_that_a_quota_refused_is_asked_for_again_and_no_other_before_it() -> None:
    """Both pieces of a forward, refused at once: each is computed once, and what follows waits for both."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        *((Kind.OP, op, op == 0) for op in (0, 1)),
        (Kind.JOIN, 0, 1, "a", "", ""),
    ]
    for us in (1000, 2000):
        trace += [(Kind.ASK, us, 1, slot, 0, 0, 90 + slot, 0) for slot in (0, 1)]
        trace += [(Kind.ANSWER, us + 100, 1, slot, False) for slot in (0, 1)]
        trace += [(Kind.ASK, us + 200, 1, 0, 1, 0, 181, 0), (Kind.ANSWER, us + 300, 1, 0, False)]
    world = World(read_load(trace), DaemonConfig(lanes={"a": LaneConfig(priority=0, client_rows_per_s=10)}))
    world.run()
    (player,) = world.players
    assert (world.requests, player.rows, player.refused) == (6, 4 * 181, 2)
    assert world.now_us == pytest.approx((2 * 181 - 2 * 10) * 1e5, rel=0.01)
    assert len(player.forwards_us) == 1 and player.forwards_us[0] < 10_000, "waiting to be let in is no forward"


def test_who_was_refused_and_tried_again_asked_for_one_thing() -> None:
    """Else a quota that the trace was recorded under would be paid again in virtual time, by more requests."""
    trace: list[tuple[Any, ...]] = [
        (Kind.HEADER, VERSION, "", False, 1),
        (Kind.OP, 0, True),
        (Kind.JOIN, 0, 1, "a", "", ""),
        *((Kind.ASK, 1000, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 1010, 1, 0, False)),
        *((Kind.ASK, 1500, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 1500, 1, 0, True)),
        *((Kind.ASK, 9500, 1, 0, 0, 0, 9, 0), (Kind.ANSWER, 9510, 1, 0, False)),
        *((Kind.ASK, 9700, 1, 0, 0, 0, 8, 0), (Kind.ANSWER, 9700, 1, 0, True)),
        *((Kind.ASK, 9900, 1, 0, 0, 0, 7, 0), (Kind.ANSWER, 9910, 1, 0, False)),
    ]
    (script,) = read_load(trace).scripts
    assert [call[2] for call in script.calls] == [9, 9, 8, 7], "who gives up has asked all the same"
    assert list(script.needs) == [0, 1, 2, 3]
    assert list(script.delays_us) == [0, 490, 190, 200]


def test_who_asks_while_a_batch_runs_beside_is_seen_when_it_asks() -> None:
    """And only what could begin counts as late: not what was held, or waited for its own track."""
    desk = Desk()
    desk.state = SchedulerState([OPS], CONFIG, LatencyFirst(CONFIG), beside=True)
    desk.state._tracks._first_us = 0  # as if the first level had just been at work
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
    told = list(records(recorder.take(3000)))
    batches = [record for record in told if record[0] in (Kind.BATCH, Kind.BESIDE)]
    assert batches == [
        (Kind.BATCH, 1000, 1, 0, 1, 90, 1, 10, 1),
        (Kind.BATCH, 1600, 1, 0, 1, 90, 1, 10, 1),
        (Kind.BESIDE, 1700, 2, 0, 4, 1700, 1, 0, 2),
        (Kind.BESIDE, 1720, 2, 0, 2, 0, 1, 20, 2),
    ]
    inference_script = read_load(told).scripts[0]
    assert list(inference_script.delays_us) == [0, 500]


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
    lags = [record[7] for record in records(recorder.take(2000)) if record[0] == Kind.BATCH]
    assert lags == [20, 20]


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
    trace = list(records(recorder.take(100)))
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
        trace += [(Kind.ASK, us, 1, 0, 0, 0, 1, 0), (Kind.ANSWER, us + 100, 1, 0, refused)]
    (lane,) = Recorded(trace).figures().lanes
    assert lane.forward_p50_us == lane.forward_p99_us == 100


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
    service, tape, batch = Service(), Tape(0), (OpId(1), Direction.FORWARD, 16)
    ways = [Way("inference", False), Way("training", True), Way("training", False)]
    for took_us, way in enumerate(ways, 1):
        service.note(way, batch, 1000 * took_us)
    assert [service.took_us(way, batch, tape) for way in ways] == [1000, 2000, 3000]
    assert service.took_us(Way("inference", True), batch, tape) == 1000, "its lane tells more than its thread"
    assert service.took_us(Way("inference", True), (OpId(1), Direction.BACKWARD, 1), tape) == 1


def test_a_batch_as_large_as_another_lane_had_takes_what_theirs_took() -> None:
    """A token that leads a convoy of training: drawn out from four rows, it would take four times as long."""
    service, tape, op = Service(), Tape(0), OpId(1)
    inference, training = Way("inference", False), Way("training", False)
    for rows, took_us in ((1, 1000), (4, 1500)):
        service.note(inference, (op, Direction.FORWARD, rows), took_us)
    service.note(training, (op, Direction.FORWARD, 256), 6120)
    assert service.took_us(inference, (op, Direction.FORWARD, 257), tape) == pytest.approx(6120, rel=0.01)
    assert service.took_us(inference, (op, Direction.FORWARD, 4), tape) == 1500
    assert service.took_us(training, (op, Direction.FORWARD, 4), tape) == 1500
    assert service.took_us(inference, (op, Direction.FORWARD, 40), tape) == pytest.approx(1500 * 2.5 / 1.1)


def test_a_slow_spell_stays_one() -> None:
    """Ten slow batches, one after the other, are one slow forward and not ten that are a little slower."""
    spell = [1.0] * 30 + [9.0] * 10
    tape = Tape(0.5)
    assert [tape.next(spell, 1.0) for _ in range(50)] == [*spell[20:], *spell[:30]]
    assert tape.next((), 7.0) == 7.0
    assert tape.next([1.0, 2.0], 0.0) == 2.0, "another recording is entered at the same time"


# -- looks ---------------------------------------------------------------------------------------------------


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
    trace = list(records(recorder.take(2000)))
    asks = [(record[1], record[-1]) for record in trace if record[0] == Kind.ASK]
    assert asks == [(1010, 10), (1170, 40)]
    load, tape = read_load(trace), Tape(0)
    assert list(load.scripts[0].delays_us) == [0, 30]
    assert [load.looks.woken_us(tape) for _ in range(3)] == [10, 40, 10]


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
    asks = [(record[1], record[-1]) for record in records(recorder.take(9000)) if record[0] == Kind.ASK]
    assert asks == [(4010, 10), (4170, 70), (5000, 0)]


def test_who_asked_while_a_batch_was_computed_is_found_by_the_look_after_it() -> None:
    """And says nothing of how late one looks who is woken."""
    looks, tape = Looks(), Tape(0)
    looks.note_batch(1000)
    looks.note_found(1070, asked_us=300)
    looks.note_look(1070)
    for first_us in (2000, 1990):  # two that one look finds
        looks.note_found(2050, asked_us=first_us)
    assert (looks.after_batch_us(tape), looks.woken_us(tape)) == (70, 60)


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


def test_a_file_is_read_as_it_was_written_and_a_torn_end_is_left_out(tmp_path: Path) -> None:
    trace = mixed(forwards=1)
    data = b"".join(encode(*record) for record in trace)
    path = tmp_path / "a.trace"
    path.write_bytes(data)
    assert read_trace(path) == trace
    path.write_bytes(data[:-3])
    assert read_trace(path) == trace[:-1]
    assert len(data) < 20 * len(trace)


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"{}", b"\x03\x93\x01\x02", b"\x04\x93\x04\x01\xa1x", b"\xff" * 300]
)
def test_what_is_no_trace_is_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.trace"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=r"no trace"):
        read_trace(path)
    with pytest.raises(UsageError, match="cannot be read"):
        read_trace(tmp_path / "none")


def test_a_trace_of_another_version_is_told_by_its_version(tmp_path: Path) -> None:
    """Whatever fields its header has: that of version 1 said nothing of what was computed beside."""
    path = tmp_path / "old.trace"
    headers: list[tuple[int | str | bool, ...]] = [(1, "a model"), (VERSION + 1, "a model", False, "more")]
    for header in headers:
        path.write_bytes(encode(Kind.HEADER, *header) + encode(Kind.OP, 0, True))
        told = f"is a trace of version {header[0]}, and version {VERSION} is wanted"
        with pytest.raises(UsageError, match=told):
            read_trace(path)


def test_a_picture_has_a_line_for_everybody_and_is_svg() -> None:
    drawn = draw("a < b", [("one", [1.0, 10.0, 1000.0]), ("two & three", [5e6]), ("nobody", [])])
    root = ElementTree.fromstring(drawn)
    assert len(root.findall(".//{*}polyline")) == 2
    assert "two & three" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_quantiles() -> None:
    assert [quantile([1, 2, 3, 4], q) for q in (0, 0.5, 0.99, 1)] == [1, 3, 4, 4]
    assert quantile([], 0.5) == 0
