"""The data plane: one thread that owns a loop, all data sockets and the compute.

It sees a request, decides, computes and answers without handing anything to another thread, except for rows that
are computed beside (see `streams`). One turn:

    take what every channel has -> tell the state -> publish what is done -> decide -> compute -> again

and, with nothing left to do, look a little longer (yielding), then ask every client to ring, and sleep. Other
threads come in by `DataPlaneThread.call`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Any, Final

from symbiosis_core.clock import monotonic_us
from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import RefusalCode, RefusedError
from symbiosis_core.ids import BaseId, ClientId, Token
from symbiosis_core.logs import event, get_logger
from symbiosis_core.spared_core import Place, go, return_to, spared_core
from symbiosis_scheduler.core_sharing import CoreSharing
from symbiosis_scheduler.decisions.events import (
    Adopt,
    Answer,
    Arrived,
    ClientJoined,
    ClientLeft,
    Drain,
    Drop,
    Event,
    Instruction,
    PlanDone,
    Run,
    Sleep,
    Turn,
)
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.quotas import Reached
from symbiosis_scheduler.decisions.state import SchedulerState
from symbiosis_scheduler.execution.executor import Executor, Launched
from symbiosis_scheduler.execution.memo import Memo
from symbiosis_scheduler.execution.threads import MANY_ROWS
from symbiosis_scheduler.frozen.lending import UNASKED, Lent, Withheld
from symbiosis_scheduler.grants import Grants
from symbiosis_scheduler.programs.program import Program
from symbiosis_scheduler.reception import Reception
from symbiosis_scheduler.seats import Seat, Seats
from symbiosis_scheduler.simulation.recordings import Recordings
from symbiosis_transports.ports import Grant, Peer, ServerChannel
from symbiosis_transports.waiting import spin_budget_us

__all__ = ["DataPlane"]

log = get_logger(__name__)


class DataPlane:
    """The scheduler's body. Is the `Host` of all listeners."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        state: SchedulerState,
        executor: Executor,
        grants: Grants,
        config: DaemonConfig,
        lent: Callable[[str], Lent | Withheld] = lambda _: UNASKED,
    ) -> None:
        """`lent` says what clients may map of the base of a name; it refuses names that are none."""
        self.seats: Final = Seats(spin_budget_us(config.compute.spin_us))
        self.state = state
        self.recordings: Final = Recordings(state)
        self._loop = loop
        self._executor = executor
        self._reception = Reception(grants, config.lanes, lent)
        self._stream_priorities = sorted({lane.priority for lane in config.lanes.values()})
        """Those that there are streams for, since the start."""
        self._priorities = {name: lane.priority for name, lane in config.lanes.items()}
        """The stream of each lane, by its priority."""
        self._first_lanes = _first_of(config)
        self._sharing = CoreSharing(spared_core())
        self._cores_before: set[int] | None = None
        """Where this thread could compute before it was to stay on one core; None: it may still."""
        self._underway: list[Launched] = []
        self._awake = False
        self._draining: asyncio.Future[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None

    # -- what listeners call ---------------------------------------------------------------------------------

    def redeem(self, token: Token, peer: Peer) -> Grant:
        """See `Host.redeem`."""
        return self._reception.redeem(token, peer)

    def lend(self, peer: Peer, model: str) -> int:
        """See `Host.lend`."""
        return self._reception.lend(peer, model)

    def abandoned(self, grant: Grant) -> None:
        """See `Host.abandoned`."""
        self._reception.abandoned(grant.client)

    def attached(self, channel: ServerChannel) -> None:
        """See `Host.attached`."""
        tenant, grant, here = self._reception.attached(channel.client)
        self.seats.add(Seat(channel, tenant))
        self._executor.attach(channel)
        who = (tenant.lane, grant.slot_bytes, tenant.user, tenant.base)
        self._tell(ClientJoined(channel.client, *who, here=here, name=tenant.name))
        log.info(event("client joined", client=channel.client, name=tenant.name, lane=tenant.lane, pid=tenant.pid))
        self.wake()

    def ready(self, channel: ServerChannel) -> None:
        """See `Host.ready`."""
        self.wake()

    def gone(self, channel: ServerChannel, reason: str) -> None:
        """See `Host.gone`."""
        seat = self.seats.remove(channel.client)
        self._reception.left(channel.client)
        if seat is not None:
            self._executor.detach(channel.client)
            self._sharing.left(channel.client)
            self._tell(ClientLeft(channel.client))
            log.info(event("client left", client=channel.client, name=seat.tenant.name, reason=reason))
            self.wake()

    # -- what the service calls ------------------------------------------------------------------------------

    def drain(self) -> asyncio.Future[None]:
        """Takes nothing new; the future is done when what was taken is answered."""
        if self._draining is None:
            self._draining = self._loop.create_future()
            self._reception.close()
            self._tell(Drain())
            self.wake()
        return self._draining

    def learn(self, base: BaseId, program: Program) -> None:
        """From now on calls of that base's clients may name this segment."""
        self._executor.learn(self.state.learn(base, program.spec), base, program)

    def adopt(self, config: DaemonConfig, policy: Policy) -> None:
        """Holds everybody to another configuration from the next plan on.

        Raises:
            RefusedError: somebody is in a lane that it does not have. Nothing has changed.
        """
        taken = self.state.lanes_in_use | self._reception.lanes_promised
        if missing := sorted(taken - set(config.lanes)):
            raise RefusedError(
                RefusalCode.UNKNOWN_LANE,
                f"clients are in lanes that the configuration lacks: {', '.join(missing)}",
                "keep these lanes until their clients have left",
            )
        self._tell(Adopt(config, policy))
        self._reception.moved_to(config.lanes)
        self._first_lanes = _first_of(config)
        order = sorted({lane.priority for lane in config.lanes.values()})
        last = len(self._stream_priorities) - 1
        self._priorities = {
            name: self._stream_priorities[min(order.index(lane.priority), last)]
            for name, lane in config.lanes.items()
        }
        self.wake()

    def quota_reached(self, client: ClientId, now_us: int) -> tuple[Reached | None, str]:
        """Returns the quota that keeps a client from beginning a forward, and the client's lane."""
        seat = self.seats.get(client)
        return (None, "") if seat is None else (self.state.quota_reached(client, now_us), seat.tenant.lane)

    @property
    def memo(self) -> Memo:
        """What is kept of forwards for their backwards."""
        return self._executor.memo

    def hang_up(self, reason: str) -> None:
        """Ends every channel. Clients see a daemon that is gone, and why."""
        for seat in list(self.seats.values()):
            seat.channel.close(reason)
            self.gone(seat.channel, reason)

    @property
    def draining(self) -> bool:
        """Whether nothing new is taken."""
        return self._draining is not None

    def close(self) -> None:
        """Ends what computes beside. No turn follows."""
        self._executor.close()

    def ended_beside(self) -> None:
        """A batch that was computed beside is done: no look keeps its answer waiting. For the thread beside."""
        self.seats.watch.interrupt()
        self._loop.call_soon_threadsafe(self._hear)

    def _hear(self) -> None:
        self.seats.watch.resume()
        self.wake()

    # -- the turn --------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something has happened that a turn should see."""
        if not self._awake:
            self._awake = True
            self.seats.disarm()
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._gather()
        self._finish()
        running = len(self._underway)
        if not self.state.idle or self.recordings.under_way:  # a recording is told that nothing waits
            self._tell(Turn(monotonic_us()))
        started = len(self._underway) > running
        if started or any(launched.event and not launched.event.rings for launched in self._underway):
            if not started:
                # A device is at work and nothing more can be started: no event of torch wakes a loop, so look
                # again, but let others have the core. Never so on a CPU.
                os.sched_yield()
            self._finish()  # on a CPU it is done: who waits for it need not wait for the loop, too
            if not self._may_rest_at_once():
                self._loop.call_soon(self._turn)
                return
        if self._draining is not None:
            if self.state.idle and not self._draining.done():
                self._draining.set_result(None)
            self._awake = False  # nothing is taken: only a batch that ends beside, or an alarm, has more to do
        else:
            self._rest()

    def _gather(self) -> None:
        if self._draining is not None:
            return
        for came in self.seats.take():
            if isinstance(came, Arrived):
                self._tell(came)
            else:
                channel, breach = came
                self._drop(channel, str(breach))

    def _finish(self) -> None:
        for launched in list(self._underway):
            if launched.event is None or launched.event.done():
                self._underway.remove(launched)
                self._executor.finish(launched)
                self._tell(PlanDone(launched.plan, monotonic_us(), launched.failed, launched.ended_us))
        self.seats.ring()
        self.state.reflect()

    def _may_rest_at_once(self) -> bool:
        """Whether another turn would find nothing: it takes 20 us, for which a client on the same core waits."""
        return self._shares_core and not (self.state.waiting or self.recordings.under_way)

    @property
    def _shares_core(self) -> bool:
        """Whether this thread is on one core with the client that it works for: looking keeps that waiting."""
        return self._cores_before is not None

    def _rest(self) -> None:
        """Nothing to do: look a little longer, then sleep until rung."""
        wanted = bool(self._underway) or self._alarm is not None
        if (self._shares_core or not self.seats.look(briefly=wanted)) and self.seats.arm():
            self._awake = False
        else:
            self._loop.call_soon(self._turn)

    # -- instructions ----------------------------------------------------------------------------------------

    def _tell(self, what: Event) -> None:
        instructions = self.state.handle(what)
        if self.recordings.under_way:
            self.recordings.note(what, instructions, monotonic_us())
        for instruction in instructions:
            _CARRY_OUT[type(instruction)](self, instruction)

    def _run(self, instruction: Run) -> None:
        plan, company = instruction.plan, instruction.company
        priority = self._priorities[plan.lead.lane]
        if self._share_cores(plan, lower=plan.lead.lane not in self._first_lanes, beside=instruction.beside):
            company = None if company is None else max(1, company)  # other threads would stay there, too
        launched = self._executor.launch(plan, priority, beside=instruction.beside, company=company)
        self._underway.append(launched)

    def _share_cores(self, plan: Plan, *, lower: bool, beside: bool) -> bool:
        """Says who is to compute where, and returns whether this thread has only one core for the plan."""
        place, asked = self._sharing.launched(plan.clients, monotonic_us(), lower=lower, beside=beside)
        for client, where in asked:
            self.seats.ask_to(client, where)
        if beside:
            return False
        if plan.rows >= MANY_ROWS or (place is not None and not self.seats.hears_of_place(plan.lead.client)):
            place = None
        self._move(place)
        return self._shares_core

    def _move(self, place: Place | None) -> None:
        if place is None and self._cores_before is not None:
            return_to(self._cores_before)
            self._cores_before = None
        elif place is not None and self._cores_before is None:
            self._cores_before = go(place)

    def _answer(self, answer: Answer) -> None:
        self.seats.answer(answer)

    def _drop_instructed(self, drop: Drop) -> None:
        seat = self.seats.get(drop.client)
        if seat is not None:
            self._drop(seat.channel, drop.reason)

    def _drop(self, channel: ServerChannel, reason: str) -> None:
        log.warning(event("client dropped", client=channel.client, reason=reason))
        channel.close(reason, breach=True)
        self.gone(channel, reason)

    def _sleep(self, sleep: Sleep) -> None:
        if sleep.until_us is not None:
            delay_s = max(0.0, (sleep.until_us - monotonic_us()) / 1e6)
            self._alarm = self._loop.call_later(delay_s, self.wake)


def _first_of(config: DaemonConfig) -> set[str]:
    """Returns the lanes that go first."""
    first = min([lane.priority for lane in config.lanes.values()])
    return {name for name, lane in config.lanes.items() if lane.priority == first}


_CARRY_OUT: Final[Mapping[type[Instruction], Callable[[DataPlane, Any], None]]] = {
    Run: DataPlane._run,
    Answer: DataPlane._answer,
    Drop: DataPlane._drop_instructed,
    Sleep: DataPlane._sleep,
}
