"""Clients, devices and the scheduler's own state machine, in virtual time.

Every device has a `SchedulerState` as a daemon has, with the same policy; only clock and compute are played. A
batch takes what the trace's batches took, and lower lanes are computed beside the first where they were.
"""

from __future__ import annotations

import heapq
import random
from array import array
from typing import Final, NamedTuple

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import UsageError
from symbiosis_core.ids import ClientId, Generation, OpId, SlotIndex
from symbiosis_core.specs import Direction, DType, Plane
from symbiosis_scheduler.events import Answer, Arrived, ClientJoined, PlanDone, Run, Sleep, Turn
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.policies import make_policy
from symbiosis_scheduler.rules import lane_for
from symbiosis_scheduler.simulation.script import Load, Script
from symbiosis_scheduler.simulation.service import Way
from symbiosis_scheduler.state import SchedulerState
from symbiosis_transports.calls import Arrival, Call

__all__ = ["Device", "Player", "World"]

_SLOT_BYTES: Final = 1 << 40
_OUT_OFFSET: Final = 1 << 39
_ASK, _DONE, _LOOK = range(3)


class _PlayedOp:
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
        "answers",
        "asked_us",
        "at",
        "begins",
        "device",
        "first_us",
        "forwards_us",
        "id",
        "lane",
        "last_us",
        "latencies_us",
        "offset",
        "refused",
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
        self.slots = 0
        self.asked_us: dict[int, tuple[int, int]] = {}
        """When each open request was asked for, and its rows."""
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


class Device:
    """One daemon on one device."""

    __slots__ = ("ended", "looks_us", "running", "state", "unseen")

    def __init__(self, state: SchedulerState) -> None:
        self.state = state
        self.running: Plan | None = None
        self.looks_us = -1
        """When it is to be woken, at the earliest."""
        self.unseen: list[tuple[Player, Arrival]] = []
        """What came while it computed: a daemon on a CPU looks when the batch is done."""
        self.ended: list[Plan] = []
        """What was computed beside, and ended meanwhile."""


class _Ran(NamedTuple):
    """A plan that is done on a device."""

    device: Device
    plan: Plan


class World:
    """Made once a run."""

    def __init__(
        self, load: Load, config: DaemonConfig, *, clients: int = 0, devices: int = 1, seed: int = 0
    ) -> None:
        """`clients`: so many, which have the trace's scripts in turn and begin at different times; 0: the trace's.

        Raises:
            UsageError: the trace has nobody, or somebody in a lane that the configuration lacks.
        """
        if not load.scripts:
            raise UsageError("nobody asked for anything in this trace; record while clients work")
        self._load = load
        self._dice = random.Random(seed)
        ops = [_PlayedOp(id, id in load.starts) for id in range(load.ops)]
        beside = load.beside and config.compute.beside
        self.devices = [
            Device(SchedulerState([ops], config, make_policy(config), beside=beside)) for _ in range(devices)
        ]
        count = clients or len(load.scripts)
        self.players = [
            Player(
                number,
                script := load.scripts[number % len(load.scripts)],
                _lane(script, config),
                self.devices[number % devices],
            )
            for number in range(count)
        ]
        self.now_us = 0
        self.requests = 0
        self._order = 0
        self._calendar: list[tuple[int, int, int, object]] = []
        for player in self.players:
            script = player.script
            player.device.state.handle(ClientJoined(player.id, player.lane, _SLOT_BYTES, script.user))
            late_us = script.joins_us
            if player.id >= len(load.scripts):
                late_us += self._dice.randrange(1, 1_000_000)
            self._plan(player, late_us)

    def run(self, requests: int = 0) -> None:
        """Plays until every script is at its end; or, beginning again, until so many requests were answered."""
        calendar = self._calendar
        concerned: dict[Device, None] = {}
        while calendar and not (requests and self.requests >= requests):
            self.now_us = calendar[0][0]
            while calendar and calendar[0][0] == self.now_us:  # all that is known is told before anybody decides
                _, _, what, who = heapq.heappop(calendar)
                concerned[self._tell(what, who, again=bool(requests))] = None
            for device in concerned:
                if device.running is None:
                    self._turn(device)
            concerned.clear()

    def _tell(self, what: int, who: object, *, again: bool) -> Device:
        """Lets happen what the calendar has, and returns the device that it concerns."""
        if what == _ASK:
            assert isinstance(who, Player)
            self._ask(who)
            return who.device
        if what == _DONE:
            assert isinstance(who, _Ran)
            self._finish(who.device, who.plan, again=again)
            return who.device
        assert isinstance(who, Device)
        if who.looks_us == self.now_us:
            who.looks_us = -1
        return who

    def _plan(self, player: Player, delay_us: int) -> None:
        """Puts the player's next step into the calendar, if it has the answers for it."""
        script = player.script
        at = player.at
        if player.waiting or at == len(script) or player.answers - player.offset < script.needs[at]:
            return
        player.waiting = True
        self._put(self.now_us + delay_us, _ASK, player)

    def _ask(self, player: Player) -> None:
        script, at = player.script, player.at
        op, direction, rows = script.calls[at]
        player.at += 1
        player.waiting = False
        begins = direction is Direction.FORWARD and op in self._load.starts and not player.asked_us
        player.slots += 1
        slot = SlotIndex(player.slots)
        player.asked_us[slot] = (self.now_us, rows)
        if begins:
            player.begins = slot
        arrival = Arrival(slot, Generation(1), Call(op, direction, rows, 0, _OUT_OFFSET))
        if player.device.running is None:
            self._see(player, arrival)
        else:
            player.device.unseen.append((player, arrival))
        if player.at < len(script):
            self._plan(player, script.delays_us[player.at])

    def _see(self, player: Player, arrival: Arrival) -> None:
        """The daemon finds a request: from now on it counts as waiting, as in a daemon's status."""
        player.asked_us[arrival.slot] = (self.now_us, arrival.call.rows)
        if not player.first_us:
            player.first_us = self.now_us
        if player.begins == arrival.slot:
            player.started_us = self.now_us
        for instruction in player.device.state.handle(Arrived(player.id, [arrival], self.now_us)):
            assert isinstance(instruction, Answer)  # refused: a quota
            self._answered(player, instruction, again=False)

    def _turn(self, device: Device) -> None:
        instructions = device.state.handle(Turn(self.now_us))
        for instruction in instructions:
            if isinstance(instruction, Run):
                plan = instruction.plan
                if not instruction.beside:
                    device.running = plan
                way = Way(self.players[plan.lead.client].script.lane, instruction.beside)
                batch = plan.op, plan.direction, plan.rows
                drawn_us = self._load.service.took_us(way, batch, self._dice)
                self._put(self.now_us + max(1, round(drawn_us)), _DONE, _Ran(device, plan))
            elif isinstance(instruction, Sleep) and instruction.until_us is not None:
                self._look(device, max(instruction.until_us, self.now_us + 1))
        if device.running is None and any(isinstance(each, Run) for each in instructions):
            self._turn(device)  # as the data plane does: only a turn that starts nothing says until when to sleep

    def _look(self, device: Device, us: int) -> None:
        if device.looks_us < 0 or us < device.looks_us:
            device.looks_us = us
            self._put(us, _LOOK, device)

    def _finish(self, device: Device, plan: Plan, *, again: bool) -> None:
        device.ended.append(plan)
        if device.running not in (None, plan):
            return  # it computes, and will see this when it is done
        device.running = None
        unseen, device.unseen = device.unseen, []
        for player, arrival in unseen:
            self._see(player, arrival)
        ended, device.ended = device.ended, []
        for each in ended:
            for instruction in device.state.handle(PlanDone(each, self.now_us)):
                assert isinstance(instruction, Answer)  # nobody is dropped
                self._answered(self.players[instruction.client], instruction, again=again)

    def _answered(self, player: Player, answer: Answer, *, again: bool) -> None:
        script = player.script
        asked_us, rows = player.asked_us.pop(answer.slot)
        player.answers += 1
        if answer.refusal is None:
            self.requests += 1
            player.rows += rows
            player.last_us = self.now_us
            player.latencies_us.append(self.now_us - asked_us)
        else:
            player.refused += 1
        at = player.at
        if at == len(script) and again and not player.asked_us:
            player.at, player.offset, at = 0, player.answers, 0
        if at == len(script):
            return
        op, direction, _ = script.calls[at]
        if player.started_us >= 0 and direction is Direction.FORWARD and op in self._load.starts:
            player.forwards_us.append(self.now_us - player.started_us)
            player.started_us = -1
        self._plan(player, script.delays_us[at])

    def _put(self, us: int, what: int, who: object) -> None:
        self._order += 1
        heapq.heappush(self._calendar, (us, self._order, what, who))


def _lane(script: Script, config: DaemonConfig) -> str:
    """Returns the lane that a configuration gives a client of the trace."""
    lane = lane_for(config, wish=script.lane, name="", user=script.user, key="")
    if lane not in config.lanes:
        lanes = ", ".join(config.lanes)
        raise UsageError(f"a client of the trace is in the lane {lane!r}; the configuration has {lanes}")
    return lane
