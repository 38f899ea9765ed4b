"""Clients, devices and the scheduler's own state machine, in virtual time.

Every device has a `SchedulerState` as a daemon has, with the same policy; only clock and compute are played. A
batch takes what the trace's batches took, and lower lanes are computed beside the first where they were.
"""

from __future__ import annotations

import heapq
import random
from typing import Final, NamedTuple

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode, UsageError
from symbiosis_core.ids import Generation, SlotIndex
from symbiosis_scheduler.decisions.events import Answer, Arrived, ClientJoined, PlanDone, Run, Sleep, Turn
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.policies import make_policy
from symbiosis_scheduler.rules import lane_for
from symbiosis_scheduler.simulation.players import Device, PlayedOp, Player
from symbiosis_scheduler.simulation.script import Load, Script
from symbiosis_scheduler.simulation.service import Way
from symbiosis_scheduler.simulation.tape import Tape
from symbiosis_transports.calls import Arrival, Call

__all__ = ["World"]

_THINKS_US: Final = 20_000
"""Who asks again within that time has had its core all the while; who does later has slept, and waited for
something."""
_SLOT_BYTES: Final = 1 << 40
_OUT_OFFSET: Final = 1 << 39
_ASK, _DONE, _LOOK = range(3)
"""What the calendar has. What is at the same time comes in this order: all that is known is found before anybody
decides."""


class _Ran(NamedTuple):
    """A plan that is done on a device."""

    device: Device
    plan: Plan


class World:
    """Made once a run."""

    def __init__(
        self,
        load: Load,
        config: DaemonConfig,
        *,
        clients: int = 0,
        devices: int = 1,
        seed: int = 0,
        arrivals: float = 0.0,
    ) -> None:
        """`clients`: so many, which have the trace's scripts in turn and begin at different times; 0: the trace's.

        `arrivals`: prompts arrive so many times as often as they were asked for, whoever is answered when; 0: a
        client asks for the next one so long after its answer as it did.

        Raises:
            UsageError: the trace has nobody, or somebody in a lane that the configuration lacks; or no prompts, of
                which there are to be more or fewer.
        """
        if not load.scripts:
            raise UsageError("nobody asked for anything in this trace; record while clients work")
        self._load = load
        self._dice = random.Random(seed)
        ops = [PlayedOp(id, id in load.starts) for id in range(load.ops)]
        beside = load.beside and config.compute.beside

        def daemon() -> SchedulerState:
            policy = make_policy(config)
            state = SchedulerState([ops], config, policy, max_in_flight=load.in_flight, beside=beside)
            for op in load.told_apart:
                state.known.costs.tell_apart(op)
            return state

        self.devices = [Device(daemon(), Tape(self._dice.random())) for _ in range(devices)]
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
        self.guessed = 0
        """Batches like which none was recorded."""
        self._order = 0
        self._calendar: list[tuple[int, int, int, object]] = []
        self._arriving = 0
        """Players to whom more is to arrive."""
        for player in self.players:
            script = player.script
            joined = ClientJoined(player.id, player.lane, _SLOT_BYTES, script.user, name=script.name)
            player.device.state.handle(joined)
            late_us = script.joins_us
            if player.id >= len(load.scripts):
                late_us += self._dice.randrange(1, 1_000_000)
            if arrivals:
                self._let_arrive(player, late_us, arrivals)
            self._plan(player, late_us)
        if arrivals and not self._arriving:
            raise UsageError("nobody in this trace reads one prompt after the other; leave --arrivals out")

    def run(self, requests: int = 0) -> None:
        """Plays until every script is at its end; or, beginning again, until so many requests were answered.

        Where prompts arrive, the others begin again until the last of them is answered.
        """
        calendar, arriving = self._calendar, self._arriving
        while calendar and not (requests and self.requests >= requests) and not (arriving and not self._arriving):
            self.now_us, what, _, who = heapq.heappop(calendar)
            if what == _ASK:
                assert isinstance(who, Player)
                self._ask(who)
            elif what == _DONE:
                assert isinstance(who, _Ran)
                self._finish(who.device, who.plan, again=bool(requests or arriving))
            else:
                assert isinstance(who, Device)
                if who.looks_us == self.now_us:
                    self._look(who, again=bool(requests or arriving))

    def _let_arrive(self, player: Player, joins_us: int, often: float) -> None:
        """Gives every prompt the time at which it arrives: when it was asked for, so many times as soon."""
        script = player.script
        later = script.prompts(self._load.starts)[1:]
        soonest_us = min([script.delays_us[step] for step in later], default=0)
        for step in later:
            after_us = script.asked_us[step] - script.asked_us[0]
            player.due_us[step] = joins_us + round(after_us / often), soonest_us
        self._arriving += bool(later)

    def _plan(self, player: Player, delay_us: int) -> None:
        """Puts the player's next step into the calendar, if it has the answers for it."""
        if player.waiting or not player.ready:
            return
        player.waiting = True
        player.asks_us = max(self.now_us + delay_us, player.resumes_us)
        self._put(player.asks_us, _ASK, player)

    def _ask(self, player: Player) -> None:
        if self.now_us < player.resumes_us:  # it was refused after this was put into the calendar
            self._put(player.resumes_us, _ASK, player)
            return
        script, step = player.script, player.take()
        op, direction, rows, kept = script.calls[step]
        player.waiting = False
        player.slots += 1
        slot = SlotIndex(player.slots)
        player.asked_us[slot] = (self.now_us, step)
        if script.begins_forward(step, self._load.starts):
            player.begins = slot
        call = Call(op, direction, rows, 0, _OUT_OFFSET, memo=int(kept), asked_us=self.now_us)
        arrival = Arrival(slot, Generation(1), call)
        self._wake(player.device, script.lane)
        player.device.unseen.append((player, arrival))
        self._plan_next(player)

    def _see(self, player: Player, arrival: Arrival, *, again: bool) -> None:
        """The daemon finds a request: from now on it counts as waiting, as in a daemon's status."""
        player.asked_us[arrival.slot] = (self.now_us, player.asked_us[arrival.slot][1])
        if not player.first_us:
            player.first_us = self.now_us
        if player.begins == arrival.slot:
            player.started_us = self.now_us
        for instruction in player.device.state.handle(Arrived(player.id, [arrival], self.now_us)):
            assert isinstance(instruction, Answer)  # refused: a quota, or a limit that there was not
            self._answered(player, instruction, again=again)

    def _wake(self, device: Device, lane: str) -> None:
        """There will be something to find. Who is awake, or was woken before, is not there any sooner for that."""
        if device.sleeps:
            device.sleeps = False
            self._look_at(device, self.now_us + round(self._load.looks.woken_us(device.tape, lane)))

    def _look_at(self, device: Device, us: int) -> None:
        if device.looks_us < 0 or us < device.looks_us:
            device.looks_us = us
            self._put(us, _LOOK, device)

    def _look(self, device: Device, *, again: bool) -> None:
        """Finds all that was asked and computed, and decides; as the data plane's turn does."""
        device.looks_us, device.sleeps = -1, False
        if device.running is not None:
            return  # it looks when that is done
        unseen, device.unseen = device.unseen, []
        for player, arrival in unseen:
            self._see(player, arrival, again=again)
        self._see_ended(device, again=again)
        instructions = device.state.handle(Turn(self.now_us))
        for instruction in instructions:
            if isinstance(instruction, Run):
                self._start(device, instruction)
            elif isinstance(instruction, Sleep):
                device.sleeps = True
                if instruction.until_us is not None:
                    self._look_at(device, max(instruction.until_us, self.now_us + 1))
        if device.running is None and any(isinstance(each, Run) for each in instructions):
            self._look_at(device, self.now_us)  # only a turn that starts nothing says until when to sleep

    def _start(self, device: Device, instruction: Run) -> None:
        plan, load = instruction.plan, self._load
        way = Way(self.players[plan.lead.client].script.lane, instruction.beside)
        batch = plan.op, plan.direction, plan.rows, plan.kept
        drawn_us = load.service.took_us(way, batch, device.tape)
        self.guessed += not load.service.knows(way, batch)
        begins_us = self.now_us
        if load.in_flight > 1:  # a device of its own computes one after the other, and nobody waits meanwhile
            begins_us = max(begins_us, device.busy_until_us)
            device.busy_until_us = begins_us + max(1, round(drawn_us))
        elif not instruction.beside:
            device.running = plan
        self._put(begins_us + max(1, round(drawn_us)), _DONE, _Ran(device, plan))

    def _finish(self, device: Device, plan: Plan, *, again: bool) -> None:
        self._wake(device, self.players[plan.lead.client].script.lane)
        device.ended.append(plan)
        if device.running is plan:
            device.running = None
            self._see_ended(device, again=again)  # before it looks: who waits for an answer need not wait for that
            device.looks_us = -1  # an alarm of before finds it awake
            self._look_after(device, self.players[plan.lead.client])

    def _look_after(self, device: Device, player: Player) -> None:
        """A batch for the sake of that client is done: looks soon, or when the client has had the core."""
        after_us, asked_us = self._load.looks.after_batch(device.tape, player.script.lane)
        at_us = self.now_us + after_us
        if asked_us is not None and player.waiting and player.asks_us - self.now_us <= _THINKS_US:
            at_us = player.asks_us + asked_us
        self._look_at(device, round(at_us))

    def _see_ended(self, device: Device, *, again: bool) -> None:
        ended, device.ended = device.ended, []
        for plan in ended:
            for instruction in device.state.handle(PlanDone(plan, self.now_us)):
                assert isinstance(instruction, Answer)  # nobody is dropped
                self._answered(self.players[instruction.client], instruction, again=again)

    def _answered(self, player: Player, answer: Answer, *, again: bool) -> None:
        script = player.script
        asked_us, step = player.asked_us.pop(answer.slot)
        if answer.refusal is RefusalCode.QUOTA:
            reached = player.device.state.quota_reached(player.id, self.now_us)
            player.refuse(step, self.now_us + (reached.retry_us if reached else 1))
            self._plan_next(player)
            return
        player.answers += 1
        if answer.refusal is None:
            self.requests += 1
            player.rows += script.calls[step][2]
            player.last_us = self.now_us
            player.latencies_us.append(self.now_us - asked_us)
        else:
            player.refused += 1
        if player.over and again:
            if player.due_us:
                self._arriving -= 1
            else:
                player.at, player.offset = 0, player.answers
        at = player.at
        if at == len(script):
            return
        if player.started_us >= 0 and script.begins_forward(at, self._load.starts):
            player.forwards_us.append(self.now_us - player.started_us)
            player.started_us = -1
        self._plan_next(player)

    def _plan_next(self, player: Player) -> None:
        """So long after this, answer or request, as it was recorded; or when it was told to try again."""
        at, delays_us = player.at, player.script.delays_us
        delay_us = 0 if player.again or at == len(delays_us) else delays_us[at]
        if at in player.due_us and not player.again:
            due_us, delay_us = player.due_us[at]
            delay_us = max(delay_us, due_us - self.now_us)
        self._plan(player, delay_us)

    def _put(self, us: int, what: int, who: object) -> None:
        self._order += 1
        heapq.heappush(self._calendar, (us, what, self._order, who))


def _lane(script: Script, config: DaemonConfig) -> str:
    """Returns the lane that a configuration gives a client of the trace."""
    lane = lane_for(config, wish=script.lane, name=script.name, user=script.user, key=None)
    if lane not in config.lanes:
        lanes = ", ".join(config.lanes)
        raise UsageError(
            f"a client of the trace is in the lane {lane!r}; the configuration has {lanes}. Add that lane, or a "
            "rule that puts the client into one of these"
        )
    return lane
