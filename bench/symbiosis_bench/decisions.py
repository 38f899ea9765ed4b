"""`symbiosis bench decisions`: what it costs to decide, per plan, for every installed policy.

One process, no model, no socket: the state machine is told that requests wait, and timed from a turn to its plan.
It does not show the plan's computing, nor what the data plane does around it.
"""

from __future__ import annotations

import gc
import time
from pathlib import Path
from statistics import median
from typing import Annotated, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from symbiosis_bench.machine import Machine, this_machine
from symbiosis_core.config import DaemonConfig, PolicyConfig
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, OpKind, OpSpec
from symbiosis_scheduler.events import Arrived, ClientJoined, PlanDone, Run, Turn
from symbiosis_scheduler.policies import make_policy, policy_names
from symbiosis_scheduler.state import SchedulerState
from symbiosis_transports.calls import Arrival, Call

__all__ = ["decisions"]

_OPS: Final = 16
_QUEUED: Final = (8, 64, 512)
_ROUNDS: Final = 300


class Decisions(msgspec.Struct, frozen=True):
    """Median microseconds from a turn to its plan, by policy and requests that wait."""

    machine: Machine
    us_per_plan: dict[str, dict[str, float]]


def decisions(
    json: Annotated[
        Path | None, typer.Option(help="Write the figures into this file.", show_default=False)
    ] = None,
) -> None:
    """Measure what a decision of the scheduler costs, with 8, 64 and 512 requests waiting."""
    found = {name: {str(queued): _us_per_plan(name, queued) for queued in _QUEUED} for name in policy_names()}
    table = Table(title="microseconds per plan, median", title_justify="left")
    for heading in ("policy", *(f"{queued} wait" for queued in _QUEUED)):
        table.add_column(heading, justify="left" if heading == "policy" else "right")
    for name, by_queued in found.items():
        table.add_row(name, *(f"{us:.1f}" for us in by_queued.values()))
    Console().print(table)
    if json is not None:
        report = Decisions(this_machine(), found)
        json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def _us_per_plan(policy: str, queued: int) -> float:
    """Every client waits for one of a few ops; who is served asks again, so that the queue stays as long."""
    config = DaemonConfig(policy=PolicyConfig(name=policy))
    ops = [OpSpec(OpId(n), OpKind.LINEAR, (f"l{n}",), 8, (8,), DType.FLOAT32) for n in range(_OPS)]
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
    took_ns, now_us = [], 1
    gc.disable()
    try:
        for _ in range(_ROUNDS):
            turn = Turn(now_us)
            began = time.perf_counter_ns()
            instructions = state.handle(turn)
            took_ns.append(time.perf_counter_ns() - began)
            now_us += 1000
            for each in instructions:
                if isinstance(each, Run):
                    state.handle(PlanDone(each.plan, now_us))
                    for client in each.plan.clients:
                        ask(client, now_us)
    finally:
        gc.enable()
    return median(took_ns) / 1e3
