"""What every client of a trace does, told so that it can be done again at another pace.

A client asks because it has answers: so a step is not due at a time, but so long after it has been given so many
answers (and has asked for what came before). That is what makes a trace replayable under another policy: who is
answered sooner, asks sooner.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable
from typing import Any

from symbiosis_core.ids import OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.costs import Costs
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

    def __init__(self, scripts: list[Script], starts: frozenset[int], costs: Costs, strays: list[float]) -> None:
        self.scripts = scripts
        self.starts = starts
        self.costs = costs
        self.strays = strays
        """Of every batch, how its time was to the one that was expected: to be drawn from."""
        self.ops = 1 + max([call[0] for script in scripts for call in script.calls], default=-1)

    @property
    def requests(self) -> int:
        """All steps of all clients."""
        return sum(map(len, self.scripts))

    def times(self, dice: random.Random) -> float:
        """Returns by how much a batch takes longer or shorter than expected."""
        return dice.choice(self.strays) if self.strays else 1.0


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
    scripts: list[Script] = []
    starts: set[int] = set()
    costs, batches = Costs(), []
    for kind, *fields in records:
        match kind:
            case Kind.OP:
                if fields[1]:
                    starts.add(fields[0])
            case Kind.JOIN:
                us, client, lane, user = fields
                scripts.append(Script(lane, user, us))
                clients[client] = _Watched(scripts[-1])
            case Kind.LEAVE:
                clients.pop(fields[1], None)
            case Kind.ASK:
                us, client, _, op, direction, rows = fields
                _note_ask(clients.get(client), us, (OpId(op), Direction(direction), rows))
            case Kind.ANSWER:
                us, client, _ = fields
                if (watched := clients.get(client)) is not None and watched.script.calls:
                    watched.answers += 1
                    watched.ready_us = us
            case Kind.BATCH:
                _, op, direction, rows, took_us, _ = fields
                costs.learn(OpId(op), Direction(direction), rows, took_us)
                batches.append((OpId(op), Direction(direction), rows, took_us))
    expected = [costs.expected_us(op, direction, rows) for op, direction, rows, _ in batches]
    strays = [batch[3] / us for batch, us in zip(batches, expected, strict=True) if us]
    return Load([script for script in scripts if len(script)], frozenset(starts), costs, strays)


def _note_ask(watched: _Watched | None, us: int, call: tuple[OpId, Direction, int]) -> None:
    if watched is None:
        return
    script = watched.script
    if not script.calls:
        script.joins_us = us  # what it did before it first asked is no part of the load
        watched.ready_us = us
    script.calls.append(call)
    script.needs.append(watched.answers)
    script.delays_us.append(max(0, us - watched.ready_us))
    watched.ready_us = us
