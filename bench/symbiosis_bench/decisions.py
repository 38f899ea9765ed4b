"""`symbiosis bench decisions`: what it costs to decide, per plan, for every installed policy.

One process, no model, no socket: the state machine is told that requests wait, and timed from a turn to its plan.
It does not show the plan's computing, nor what the data plane does around it. Requests a plan are told, too: a
policy that puts all into one batch has so many to note, and decides as many times less.
"""

from __future__ import annotations

import gc
import time
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from symbiosis_bench.machine import Machine, this_machine
from symbiosis_core.config import DaemonConfig, LaneConfig, PolicyConfig
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.decisions.events import Arrived, ClientJoined, PlanDone, Run, Turn
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy, policy_names
from symbiosis_transports.calls import Arrival, Call

__all__ = ["decisions"]

_OPS: Final = 16
_QUEUED: Final = (8, 64, 512)
_ROUNDS: Final = 200
_RUNS: Final = 7
"""Of all, in turns. The one of the least median is told: what others do on the machine only adds to it."""
_LANES: Final = {
    "inference": LaneConfig(
        priority=0, max_wait_us=0, max_hold_us=50_000, first_token_us=900_000, token_us=150_000
    ),
    "training": LaneConfig(priority=10),
}


class Decision(msgspec.Struct, frozen=True):
    """Medians of the fastest run of one policy with so many requests that wait."""

    us_per_plan: float
    """From a turn to its plan."""
    p90_us_per_plan: float
    """Nine of ten plans took no longer: the others price several meetings (`convoys`)."""
    requests_per_plan: float


class Decisions(msgspec.Struct, frozen=True):
    """What decisions cost, by policy and requests that wait."""

    machine: Machine
    policies: dict[str, dict[str, Decision]]


def decisions(
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
) -> None:
    """Measure what a decision of the scheduler costs, with 8, 64 and 512 requests waiting."""
    found: dict[str, dict[str, Decision]] = {name: {} for name in policy_names()}
    for _, name, queued in product(range(_RUNS), policy_names(), _QUEUED):
        run, least = _decided(name, queued), found[name].get(str(queued))
        if least is None or run.us_per_plan < least.us_per_plan:
            found[name][str(queued)] = run
    table = Table(title="microseconds per plan: median, nine of ten; and its requests", title_justify="left")
    for heading in ("policy", *(f"{queued} wait" for queued in _QUEUED)):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, by_queued in found.items():
        table.add_row(name, *[_cell(each) for each in by_queued.values()])
    Console().print(table)
    if json is not None:
        report = Decisions(this_machine(), found)
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _cell(told: Decision) -> str:
    return f"{told.us_per_plan:.1f}, {told.p90_us_per_plan:.1f} for {told.requests_per_plan:.0f}"


def _decided(policy: str, queued: int) -> Decision:
    """Every client waits for one of a few ops; who is served asks for the next, so the queue stays as long."""
    config = DaemonConfig(policy=PolicyConfig(name=policy), lanes=_LANES)
    ops = [OpSpec(OpId(0), OpKind.EMBEDDING, ("l0",), 1, (8,), DType.FLOAT32)]
    ops += [OpSpec(OpId(n), OpKind.LINEAR, (f"l{n}",), 8, (8,), DType.FLOAT32) for n in range(1, _OPS)]
    state = SchedulerState([ops], config, make_policy(config))
    asked = [0] * queued

    def ask(client: int, now_us: int) -> None:
        asked[client] += 1
        call = Call(OpId((client + asked[client]) % _OPS), Direction.FORWARD, 1 + client % 4, 0, 1 << 39)
        arrival = Arrival(SlotIndex(0), Generation(asked[client]), call)
        state.handle(Arrived(ClientId(client), [arrival], now_us))

    for client in range(queued):
        state.handle(ClientJoined(ClientId(client), ("inference", "training")[client % 2], 1 << 40))
        ask(client, 0)
    took_ns, requests, now_us = [], [], 1
    gc.disable()
    try:
        for _ in range(_ROUNDS):
            turn = Turn(now_us)
            began = time.perf_counter_ns()
            instructions = state.handle(turn)
            ended = time.perf_counter_ns()
            now_us += 1000
            for each in instructions:
                if isinstance(each, Run):  # else everybody is held, which is no plan
                    took_ns.append(ended - began)
                    requests.append(len(each.plan.parts))
                    state.handle(PlanDone(each.plan, now_us))
                    for client in each.plan.clients:
                        ask(client, now_us)
    finally:
        gc.enable()
    return Decision(median(took_ns) / 1e3, quantiles(took_ns, n=10)[-1] / 1e3, median(requests))
