"""Writes down what the scheduler is told and what it answers, while somebody fetches it.

Sees every event of the data plane, in its thread. What is not fetched in time is dropped and counted, and a
recording that nobody asks about any more ends by itself: a trace must not grow in the daemon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.events import (
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    Event,
    Instruction,
    PlanDone,
    Run,
    Turn,
)
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.simulation.trace import SLOPES, VERSION, Kind, Sum, encode

__all__ = ["Recorder"]

_MOST_BYTES: Final = 16 << 20
_FORGOTTEN_US: Final = 10_000_000
_DIRECTIONS: Final = frozenset(Direction)


class Recorder:
    """One recording, from `now_us` on."""

    def __init__(self, state: SchedulerState, model: str, now_us: int) -> None:
        self._state = state
        self._starts = state.known.travellers.starts
        self._costs = state.known.costs
        self._began_us = self._asked_us = now_us
        self._ops: set[int] = set()
        self._running: dict[Plan, tuple[int, int, bool]] = {}
        """When each plan began, how long after a look, and whether beside."""
        self._free_us: dict[ClientId, int] = {}
        """When a client could ask at the earliest: it was answered last, or joined, since the recording began."""
        self._looked_us = -1
        """When the look began that the next turn ends, if it has found something."""
        self._looks = True
        """Whether the daemon has looked since the last batch."""
        self._done_us = {True: 0, False: 0}
        """When the last plan beside was done, and the last of the others."""
        self._sum = Sum()
        planner = state.planner
        header = encode(Kind.HEADER, VERSION, model[:128], planner.can_beside, planner.max_in_flight)
        self._data = bytearray(header)
        self.dropped = 0
        """Records that were not fetched in time."""
        for client in state.present:
            self._write(Kind.JOIN, 0, client.id, client.lane, client.user, client.name)

    def forgotten(self, now_us: int) -> bool:
        """Whether nobody has asked for a long time."""
        return now_us - self._asked_us > _FORGOTTEN_US

    def take(self, now_us: int, *, last: bool = False) -> bytes:
        """Returns what was written since the last call, and its checksum, if anything was.

        `last`: the recording ends.
        """
        self._asked_us = now_us
        data, self._data = self._data, bytearray()
        return self._sum.seal(data, last=last) if data or last else b""

    def note(self, event: Event, instructions: Sequence[Instruction], now_us: int) -> None:
        """Writes down what happened now, and what followed."""
        if isinstance(event, Arrived | PlanDone):
            now_us = event.now_us
        us, unknown = now_us - self._began_us, set[int]()
        match event:
            case Arrived():
                self._looked(us)
                for slot, _, call in event.arrivals:
                    op = self._state.number(event.client, call.op)
                    if op is None or call.direction not in _DIRECTIONS:  # it was refused, and is nobody's load
                        unknown.add(slot)
                    else:
                        self._note_op(op)
                        free_us = self._free_us.get(event.client, self._began_us)
                        late_us = now_us - min(now_us, max(call.asked_us, free_us)) if call.asked_us else 0
                        way = self._way(op, call.direction, kept=bool(call.memo))
                        self._write(Kind.ASK, us, event.client, slot, op, way, call.rows, late_us)
            case PlanDone():
                self._note_batch(event, us)
            case ClientJoined():
                self._free_us[event.client] = now_us
                self._write(Kind.JOIN, us, event.client, event.lane, event.user, event.name)
            case ClientLeft():
                self._free_us.pop(event.client, None)
                self._write(Kind.LEAVE, us, event.client)
            case Turn():
                self._looked(event.now_us - self._began_us)
                self._note_turn(instructions, us)
        for each in instructions:
            if isinstance(each, Answer) and each.slot not in unknown:
                self._free_us[each.client] = now_us
                self._write(Kind.ANSWER, us, each.client, each.slot, each.refusal is not None)

    def _looked(self, us: int) -> None:
        if self._looked_us < 0:
            self._looked_us = us

    def _note_op(self, op: int) -> None:
        if op not in self._ops:
            self._ops.add(op)
            self._write(Kind.OP, op, op in self._starts)

    def _note_turn(self, instructions: Sequence[Instruction], us: int) -> None:
        for each in instructions:
            if isinstance(each, Run):
                self._running[each.plan] = (us, us - self._looked_us, each.beside)
        if not self._looks:
            self._write(Kind.LOOK, self._looked_us)
        self._looks, self._looked_us = True, -1

    def _note_batch(self, event: PlanDone, us: int) -> None:
        plan = event.plan
        running = self._running.pop(plan, None)
        if running is None:  # it ran when the recording began
            return
        began_us, lag_us, beside = running
        ended_us = us if event.ended_us is None else event.ended_us - self._began_us
        took_us, clients = ended_us - max(began_us, self._done_us[beside]), len(plan.clients)
        self._done_us[beside] = ended_us
        if beside:
            self._looked(us)  # which is how it was found
        else:
            self._looks, self._looked_us = False, -1  # what was found with it was seen before the next look
        way, kind = self._way(plan.op, plan.direction, kept=plan.kept), Kind.BESIDE if beside else Kind.BATCH
        self._write(kind, us, plan.op, way, plan.rows, took_us, clients, lag_us, plan.lead.client)

    def _way(self, op: OpId, direction: int, *, kept: bool) -> int:
        told_apart = self._costs.told_apart(op, Direction(direction), kept=kept)
        return SLOPES if told_apart else int(direction)

    def _write(self, kind: Kind, *fields: int | str | bool) -> None:
        if len(self._data) > _MOST_BYTES:
            self.dropped += 1
        else:
            self._data += encode(kind, *fields)
