"""What every client of a trace does, told so that it can be done again at another pace.

A client asks because it has answers: so a step is not due at a time, but so long after it has been given so many
answers (and has asked for what came before). That is what makes a trace replayable under another policy: who is
answered sooner, asks sooner.

A daemon that computes on a CPU sees nothing meanwhile. So a request that was found when a batch ended came at some
time while it ran, and its delay is only known between two bounds; it is taken to be the usual one of the client at
that place, within them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from statistics import median
from typing import Any

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.simulation.service import Service, Way
from symbiosis_scheduler.simulation.trace import Kind

__all__ = ["Load", "Script", "read_load"]


class Script:
    """The steps of one client, and when it came."""

    __slots__ = ("calls", "delays_us", "joins_us", "lane", "needs", "user")

    def __init__(self, lane: str, user: str, joins_us: int) -> None:
        self.lane = lane
        self.user = user
        self.joins_us = joins_us
        self.calls: list[tuple[OpId, Direction, int]] = []
        """Op, direction and rows of every step."""
        self.needs = array("q")
        """Answers that the client has before a step."""
        self.delays_us = array("q")
        """From when it has them, and has asked for the step before, to the step."""

    def __len__(self) -> int:
        return len(self.calls)


class Load:
    """All that a trace tells: who asks for what, and what batches take."""

    def __init__(self, scripts: list[Script], starts: frozenset[int], service: Service, *, beside: bool) -> None:
        self.scripts = scripts
        self.starts = starts
        self.service = service
        self.beside = beside
        """Whether lanes below the first were computed beside it, where the configuration did not turn it off."""
        self.ops = 1 + max([call[0] for script in scripts for call in script.calls], default=-1)

    @property
    def requests(self) -> int:
        """All steps of all clients."""
        return sum(map(len, self.scripts))


class _Watched:
    """A client while its script is written."""

    __slots__ = ("answers", "ready_us", "script")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.answers = 0
        self.ready_us = script.joins_us


def read_load(records: Iterable[tuple[Any, ...]]) -> Load:
    """Returns what the records of a trace tell."""
    clients: dict[int, _Watched] = {}
    lanes: dict[int, str] = {}
    unsure: list[_Unsure] = []
    found: list[_Unsure] = []
    scripts: list[Script] = []
    starts: set[int] = set()
    service, beside = Service(), False
    for kind, *fields in records:
        match kind:
            case Kind.HEADER:
                beside = fields[2]
            case Kind.OP:
                if fields[1]:
                    starts.add(fields[0])
            case Kind.JOIN:
                us, client, lane, user = fields
                scripts.append(Script(lane, user, us))
                clients[client] = _Watched(scripts[-1])
                lanes[client] = lane
            case Kind.LEAVE:
                clients.pop(fields[1], None)
            case Kind.ASK:
                us, client, _, op, direction, rows = fields
                if (watched := clients.get(client)) is not None:
                    found.append(_note_ask(watched, us, (OpId(op), Direction(direction), rows)))
            case Kind.ANSWER:
                us, client, _, _ = fields  # who is refused goes on as well
                if (watched := clients.get(client)) is not None and watched.script.calls:
                    watched.answers += 1
                    watched.ready_us = us
            case Kind.BATCH | Kind.BESIDE:
                us, op, direction, rows, took_us, _, lag_us, lead = fields
                if kind == Kind.BATCH:
                    unsure += [ask for ask in found if ask.bound(us - took_us)]
                    found.clear()
                batch = OpId(op), Direction(direction), rows
                service.note(Way(lanes.get(lead, ""), kind == Kind.BESIDE), batch, took_us + lag_us)
    _settle(scripts, unsure)
    return Load([script for script in scripts if len(script)], frozenset(starts), service, beside=beside)


def _note_ask(watched: _Watched, us: int, call: tuple[OpId, Direction, int]) -> _Unsure:
    script = watched.script
    if not script.calls:
        script.joins_us = us  # what it did before it first asked is no part of the load
        watched.ready_us = us
    script.calls.append(call)
    script.needs.append(watched.answers)
    script.delays_us.append(max(0, us - watched.ready_us))
    asked = _Unsure(script, us, watched.ready_us)
    watched.ready_us = us
    return asked


class _Unsure:
    """The latest step of a script, which may have come earlier than it was found."""

    __slots__ = ("found_us", "least_us", "ready_us", "script", "step")

    def __init__(self, script: Script, found_us: int, ready_us: int) -> None:
        self.script = script
        self.step = len(script) - 1
        self.found_us = found_us
        self.ready_us = ready_us
        self.least_us = 0

    def bound(self, began_us: int) -> bool:
        """Whether it was found at the end of a batch that began then: it came no earlier."""
        self.least_us = max(0, began_us - self.ready_us)
        return began_us < self.found_us and self.ready_us < self.found_us


def _settle(scripts: Iterable[Script], unsure: Iterable[_Unsure]) -> None:
    """Sets the delays that are only known between two bounds."""
    hidden = {(id(ask.script), ask.step) for ask in unsure}
    for script in scripts:
        usual: dict[tuple[OpId, Direction, int], list[int]] = {}
        for step, call in enumerate(script.calls):
            if (id(script), step) not in hidden:
                usual.setdefault(call, []).append(script.delays_us[step])
        usual_us = {call: median(delays) for call, delays in usual.items()}
        for ask in unsure:
            if ask.script is script:
                most_us = script.delays_us[ask.step]
                wanted_us = usual_us.get(script.calls[ask.step], (ask.least_us + most_us) / 2)
                script.delays_us[ask.step] = round(min(max(wanted_us, ask.least_us), most_us))
