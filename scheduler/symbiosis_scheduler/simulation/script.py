"""What every client of a trace does, told so that it can be done again at another pace.

A client asks because it has answers: so a step is not due at a time, but so long after it has been given so many
answers (and has asked for what came before). That is what makes a trace replayable under another policy: who is
answered sooner, asks sooner.

A delay ends when the client published its request, and not when the daemon found it: that is the daemon's part,
and may be another under another policy (`looks`).
"""

from __future__ import annotations

from array import array
from collections.abc import Container, Iterable
from typing import Any

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.decisions.travellers import begins_forward
from symbiosis_scheduler.simulation.looks import Looks
from symbiosis_scheduler.simulation.service import Service, Way
from symbiosis_scheduler.simulation.trace import Kind, direction_of

__all__ = ["Load", "Script", "read_load"]


Step = tuple[OpId, Direction, int, bool]
"""Op, direction and rows, and whether slopes are kept where that costs something."""


class Script:
    """The steps of one client, and when it came."""

    __slots__ = ("asked_us", "calls", "delays_us", "joins_us", "lane", "name", "needs", "user")

    def __init__(self, lane: str, user: str, name: str, joins_us: int) -> None:
        self.lane = lane
        self.user = user
        self.name = name
        self.joins_us = joins_us
        self.calls: list[Step] = []
        """What is asked for in every step."""
        self.needs = array("q")
        """Answers that the client has before a step."""
        self.delays_us = array("q")
        """From when it has them, and has asked for the step before, to the step."""
        self.asked_us = array("q")
        """When the step was published, since the recording began."""

    def __len__(self) -> int:
        return len(self.calls)

    def begins_forward(self, step: int, starts: Container[int]) -> bool:
        """Whether a forward begins with that step; `starts` are the ops that take token ids."""
        after_ids = step > 0 and _takes_ids(self.calls[step - 1], starts)
        return begins_forward(_takes_ids(self.calls[step], starts), after_ids=after_ids)

    def prompts(self, starts: Container[int]) -> list[int]:
        """Returns the steps that begin forwards of more rows than the forward before: there a prompt is read.

        The first forward of all may be one, or the first of many alike; it counts where others follow that are.
        """
        found: list[int] = []
        rows_before: int | None = None
        for step in range(len(self.calls)):
            if self.begins_forward(step, starts):
                rows = self.calls[step][2]
                if rows_before is None or rows > rows_before:
                    found.append(step)
                rows_before = rows
        return found if len(found) > 1 else []


class Load:
    """All that a trace tells: who asks for what, what batches take, and how late the daemon looks."""

    def __init__(
        self,
        scripts: list[Script],
        starts: frozenset[int],
        service: Service,
        looks: Looks,
        *,
        beside: bool,
        in_flight: int,
    ) -> None:
        self.scripts = scripts
        self.starts = starts
        self.service = service
        self.looks = looks
        self.beside = beside
        """Whether lanes below the first were computed beside it, where the configuration did not turn it off."""
        self.in_flight = in_flight
        """How many plans were started and not done, at most. One: the thread that looks computes it itself."""
        calls = {call for script in scripts for call in script.calls}
        self.ops = 1 + max([op for op, *_ in calls], default=-1)
        self.told_apart = frozenset([op for op, *_, kept in calls if kept])
        """Ops that take longer where slopes are kept."""

    @property
    def requests(self) -> int:
        """All steps of all clients."""
        return sum(map(len, self.scripts))


class _Watched:
    """A client while its script is written."""

    __slots__ = ("answers", "open", "ready_us", "refused", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.answers = 0
        self.ready_us = script.joins_us
        self.open: dict[int, Step] = {}
        """What it has asked for and has no answer to, by slot."""
        self.refused: list[Step] = []
        """What was refused, in that order, as long as it asks for nothing else."""

    def ask(self, us: int, slot: int, step: Step) -> None:
        """It has asked for a step; or once more for one that was refused, which is still the same step."""
        self.open[slot] = step
        script = self.script
        if self.refused and self.refused[0] == step:
            del self.refused[0]
            self.answers -= 1
        else:
            self.refused.clear()
            if not script.calls:
                script.joins_us = max(0, us)  # what it did before it first asked is no part of the load
                self.ready_us = us
            script.calls.append(step)
            script.needs.append(self.answers)
            script.delays_us.append(max(0, us - self.ready_us))
            script.asked_us.append(us)
        self.ready_us = max(us, self.ready_us)

    def answer(self, us: int, slot: int, *, refused: bool) -> None:
        """It has an answer. Who is refused and does not try again goes on as well."""
        step = self.open.pop(slot, None)
        if refused and step is not None:
            self.refused.append(step)
        if self.script.calls:
            self.answers += 1
            self.ready_us = us


def _takes_ids(step: Step, starts: Container[int]) -> bool:
    op, direction, *_ = step
    return direction is Direction.FORWARD and op in starts


def read_load(records: Iterable[tuple[Any, ...]]) -> Load:
    """Returns what the records of a trace tell."""
    clients: dict[int, _Watched] = {}
    lanes: dict[int, str] = {}
    scripts: list[Script] = []
    starts: set[int] = set()
    service, looks, beside, in_flight = Service(), Looks(), False, 1
    for kind, *fields in records:
        match kind:
            case Kind.HEADER:
                beside, in_flight = fields[2:]
            case Kind.OP:
                if fields[1]:
                    starts.add(fields[0])
            case Kind.JOIN:
                us, client, lane, user, name = fields
                scripts.append(Script(lane, user, name, us))
                clients[client] = _Watched(scripts[-1])
                lanes[client] = lane
            case Kind.LEAVE:
                clients.pop(fields[1], None)
            case Kind.ASK:
                us, client, slot, op, way, rows, late_us = fields
                looks.note_found(us, us - late_us, lanes.get(client, ""), client)
                if (watched := clients.get(client)) is not None:
                    direction, kept = direction_of(way)
                    watched.ask(us - late_us, slot, (OpId(op), direction, rows, kept))
            case Kind.ANSWER:
                us, client, slot, refused = fields
                if (watched := clients.get(client)) is not None:
                    watched.answer(us, slot, refused=refused)
            case Kind.LOOK:
                looks.note_look(fields[0])
            case Kind.BATCH | Kind.BESIDE:
                us, op, way, rows, took_us, _, lag_us, lead = fields
                if in_flight > 1:
                    lag_us = 0  # a device computes the plan before meanwhile
                elif kind == Kind.BATCH:
                    looks.note_batch(us, lanes.get(lead, ""), lead)
                direction, kept = direction_of(way)
                batch = OpId(op), direction, rows, kept
                service.note(Way(lanes.get(lead, ""), kind == Kind.BESIDE), batch, took_us + lag_us)
    asking = [script for script in scripts if len(script)]
    return Load(asking, frozenset(starts), service, looks, beside=beside, in_flight=in_flight)
