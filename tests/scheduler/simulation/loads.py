"""Loads, traces and recordings that the tests of the simulation share."""

from __future__ import annotations

import random
from typing import Any

from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_scheduler.simulation.recorder import Recorder
from symbiosis_scheduler.simulation.report import RunFigures, figures
from symbiosis_scheduler.simulation.script import Load, read_load
from symbiosis_scheduler.simulation.trace import VERSION, Kind
from symbiosis_scheduler.simulation.world import World
from tests.scheduler.desk import Desk

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


def served(prompts: int, apart_us: int, tokens: int = 6) -> list[tuple[Any, ...]]:
    """A trace of one client that answers prompts of 32 rows, and one that trains, as if on a device each.

    Prompts arrive about so far apart, some of them while another is answered.
    """
    dice, trace = random.Random(1), mixed(decoding=0, training=1, forwards=prompts * apart_us // 140_000)
    found: list[tuple[int, tuple[Any, ...]]] = [(record[1], record) for record in trace if record[0] in _TIMED]
    us = 0
    for arrives_us in sorted(dice.randrange(1, prompts * apart_us) for _ in range(prompts)):
        us = max(arrives_us, us + THINKING_US)
        for rows in (32, *[1] * (tokens - 1)):
            for op in range(LAYERS):
                done_us = us + 1000 + 20 * rows
                found.append((us, (Kind.ASK, us, 9, 0, op, 0, rows, 0)))
                found.append((done_us, (Kind.BATCH, done_us, op, 0, rows, done_us - us, 1, 0, 9)))
                found.append((done_us, (Kind.ANSWER, done_us, 9, 0, False)))
                us = done_us + THINKING_US
    found.sort(key=lambda each: each[0])
    head = [record for record in trace if record[0] not in _TIMED]
    return [*head, (Kind.JOIN, 0, 9, "inference", "", ""), *(record for _, record in found)]


_TIMED = (Kind.ASK, Kind.BATCH, Kind.ANSWER)


def config(policy: str = "latency_first", *, hold_us: int = 0) -> DaemonConfig:
    lanes = {
        "inference": LaneConfig(priority=0, max_wait_us=0, max_hold_us=hold_us),
        "training": LaneConfig(priority=9),
    }
    return DaemonConfig(policy=PolicyConfig(name=policy), lanes=lanes)


def played(load: Load, settings: DaemonConfig, *, arrivals: float = 0.0, **how: int) -> RunFigures:
    requests = how.pop("requests", 0)
    world = World(load, settings, arrivals=arrivals, **how)
    world.run(requests)
    for device in world.devices:
        device.state.check()
    return figures(world, "a", settings.policy.name)


def recorded(desk: Desk) -> Recorder:
    """Returns what notes all that is told from now on."""
    recorder, handle = Recorder(desk.state, "m", desk.now_us), desk.state.handle

    def tell(event: Any) -> Any:
        instructions = handle(event)
        recorder.note(event, instructions, desk.now_us)
        return instructions

    desk.state.handle = tell  # type: ignore[method-assign]  # listened to
    return recorder


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
