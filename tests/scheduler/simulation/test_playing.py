"""A trace is played again by the very state machine of the daemon, as fast as the machine allows."""

from __future__ import annotations

import gc
import random
import time
from typing import Any

import pytest

from symbiosis_core.config import DaemonConfig, LaneConfig
from symbiosis_core.errors import UsageError
from symbiosis_scheduler.policies import policy_names
from symbiosis_scheduler.simulation.script import read_load
from symbiosis_scheduler.simulation.trace import VERSION, Kind
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.simulation.loads import LAYERS, THINKING_US, config, mixed, played


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
    """Of a core that turns a plain loop ten million times a second; of a slower one as much more."""
    load = read_load(mixed(decoding=4, training=2))
    gc.disable()  # as the command does
    try:
        before_s = ten_million_turns_s()
        began_s = time.process_time()
        found = played(load, config(hold_us=50_000), clients=clients, devices=devices, requests=1_000_000)
        took_s = time.process_time() - began_s
        after_s = ten_million_turns_s()
    finally:
        gc.enable()
    assert found.requests >= 1_000_000
    assert sum(lane.clients for lane in found.lanes) == (clients or 6)
    assert took_s < 60 * max(before_s, after_s)


def ten_million_turns_s() -> float:
    """Returns what a loop takes of a core that looks up and keeps something at every turn."""
    kept: dict[int, tuple[int, int]] = {}
    began_s = time.process_time()
    for turn in range(10_000_000):
        kept[turn & 1023] = (turn, len(kept))
    return time.process_time() - began_s


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
