"""Who plays in virtual time: clients that go through their scripts, and devices that have a daemon each."""

from __future__ import annotations

from array import array
from bisect import insort

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction, DType, Plane
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.simulation.script import Script
from symbiosis_scheduler.simulation.tape import Tape
from symbiosis_transports.calls import Arrival

__all__ = ["Device", "PlayedOp", "Player"]


class PlayedOp:
    """An op of which nothing matters but its number, and whether it takes token ids."""

    def __init__(self, id: int, begins: bool) -> None:
        self.id = OpId(id)
        self.name = f"op {id}"
        self._planes = (Plane(1, DType.INT64 if begins else DType.FLOAT32),)

    def planes_in(self, direction: Direction) -> tuple[Plane, ...]:
        return self._planes

    def planes_out(self, direction: Direction) -> tuple[Plane, ...]:
        return self._planes


class Player:
    """A client that goes through its script, again and again if it is told to."""

    __slots__ = (
        "again",
        "answers",
        "asked_us",
        "asks_us",
        "at",
        "begins",
        "device",
        "due_us",
        "first_us",
        "forwards_us",
        "id",
        "lane",
        "last_us",
        "latencies_us",
        "offset",
        "refused",
        "resumes_us",
        "rows",
        "script",
        "slots",
        "started_us",
        "waiting",
    )

    def __init__(self, id: int, script: Script, lane: str, device: Device) -> None:
        self.id = ClientId(id)
        self.script = script
        self.lane = lane
        self.device = device
        self.at = 0
        self.answers = 0
        self.offset = 0
        """Answers of the rounds before."""
        self.waiting = False
        """Whether its next step is in the calendar."""
        self.asks_us = 0
        """When it is to ask for the step that is in the calendar, or asked for the last one that was."""
        self.slots = 0
        self.asked_us: dict[int, tuple[int, int]] = {}
        """When each open request was asked for, and its step."""
        self.again: list[int] = []
        """Steps that a quota refused, and that are to be asked for once more before any other."""
        self.due_us: dict[int, tuple[int, int]] = {}
        """Of steps that wait for something to arrive: when it does, and how long after its last answer the client
        asks at the soonest. Where there are any it goes through its script once."""
        self.resumes_us = 0
        """Before this it asks for nothing, since it was told when to try again."""
        self.rows = self.refused = 0
        """Rows that were answered; requests that were not."""
        self.first_us = self.last_us = 0
        """The first request, and the last answer."""
        self.latencies_us = array("d")
        self.forwards_us = array("d")
        """From the beginning of a forward to the last answer before the next."""
        self.begins = 0
        """The slot of the request that began the last forward."""
        self.started_us = -1

    @property
    def ready(self) -> bool:
        """Whether it has the answers for its next step, and has one."""
        if self.again:
            return True
        at = self.at
        return at < len(self.script) and self.answers - self.offset >= self.script.needs[at]

    @property
    def over(self) -> bool:
        """Whether it has nothing more to ask for, and nothing more to hear."""
        return self.at == len(self.script) and not self.asked_us and not self.again

    def take(self) -> int:
        """Returns its next step, which is then behind it."""
        if self.again:
            return self.again.pop(0)
        self.at += 1
        return self.at - 1

    def refuse(self, step: int, resumes_us: int) -> None:
        """A quota did not let the step in before that time. What has begun a forward has begun none."""
        self.refused += 1
        self.started_us = -1
        insort(self.again, step)
        self.resumes_us = resumes_us


class Device:
    """One daemon on one device."""

    __slots__ = ("busy_until_us", "ended", "looks_us", "running", "sleeps", "state", "tape", "unseen")

    def __init__(self, state: SchedulerState, tape: Tape) -> None:
        self.state = state
        self.tape = tape
        self.running: Plan | None = None
        """What is computed by the thread that looks: it sees nothing until that is done."""
        self.looks_us = -1
        """When it will look, at the earliest."""
        self.sleeps = True
        """Whether it must be woken."""
        self.unseen: list[tuple[Player, Arrival]] = []
        """What was asked and not found."""
        self.ended: list[Plan] = []
        """What others have computed, and nobody has seen yet."""
        self.busy_until_us = 0
        """When a device of its own will have computed all that it was given."""
