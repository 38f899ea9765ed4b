"""The scheduler as a pure state machine: events in, instructions out, no clock, no socket, no tensor.

    event          meaning                                      instructions
    ClientJoined   a channel is attached                        -
    ClientLeft     it is gone, for whatever reason              -
    Arrived        a channel's `take()` gave these              Answer (refused at once), Drop
    Turn           all that is known has been told: decide      Run..., or else one Sleep
    PlanDone       the rows of a plan are computed, or failed   Answer
    Adopt          another configuration and policy hold now    -
    Drain          nothing new is taken any more                -

Only a `Turn` decides, so that everything that came in the meantime, from all channels, is part of one decision:
the loop tells what came, then gives a turn, runs the plans, tells that they are done, publishes the answers,
looks at its channels again, and gives the next turn. A `Sleep` says how long the loop may wait for an event. What
plans that are done teach about costs and clients is learned before the next event; a loop that asks for it
(`reflect`) once the answers are published has nobody wait for it.

A request is answered exactly once: when its last row is computed, or refused once none of its rows are in flight
any more (the slot belongs to the client again with the answer, so nothing may still be writing to it). Nothing is
answered to a client that left; its rows in flight are computed for nobody. What is kept is what clients hold:
no memory grows with what has been served.

The idea of the table is that of dask.distributed's worker_state_machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import LocalProtocolError, RefusalCode
from symbiosis_core.ids import BaseId, ClientId, OpId
from symbiosis_core.specs import Op
from symbiosis_scheduler.decisions.admission_control import AdmissionControl
from symbiosis_scheduler.decisions.at_work import AtWork
from symbiosis_scheduler.decisions.costs import Costs
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
from symbiosis_scheduler.decisions.invariants import check_rows
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.planner import Planner
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.present import OpenRequest, PresentClient
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.quotas import Reached
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.statistics import SchedulerStatistics
from symbiosis_scheduler.decisions.tallies import Tallies, client_statistics

__all__ = ["SchedulerState"]


class SchedulerState:
    """Everything that the scheduler knows."""

    def __init__(
        self,
        catalogues: Sequence[Sequence[Op]],
        config: DaemonConfig,
        policy: Policy,
        *,
        max_in_flight: int = 1,
        beside: bool = False,
        costs: Costs | None = None,
    ) -> None:
        """`catalogues` has the ops of every base. `costs` are those of earlier daemons, if there are any.

        `beside`: plans of lower levels can be computed beside those of the first, at most `max_in_flight` of each;
        they are where the policy allows it.
        """
        self._known = Known(costs)
        self._lessons: list[tuple[Plan, int, int]] = []
        """Plans that are done, how long each took, and when that was told: nothing was learned of them yet."""
        self._admission = AdmissionControl(len(catalogues), config, self._known.travellers)
        self._queues = Queues(config.lanes)
        self.planner: Final = Planner(config, policy, self._queues, max_in_flight=max_in_flight, can_beside=beside)
        for base, ops in enumerate(catalogues):
            for op in ops:
                self.learn(BaseId(base), op)
        self._clients: dict[ClientId, PresentClient] = {}
        self._at_work = AtWork()
        self._tallies = Tallies(config.lanes, len(catalogues))

    def __repr__(self) -> str:
        draining = ", draining" if self._admission.draining else ""
        return (
            f"<SchedulerState {len(self._clients)} clients, {len(self._queues)} queued, "
            f"{self.planner.tracks.in_flight} in flight{draining}>"
        )

    @property
    def known(self) -> Known:
        """What was learned of ops and clients."""
        self.reflect()
        return self._known

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is in flight: a drained daemon may stop."""
        return not self.planner.tracks.in_flight and not self._queues

    @property
    def waiting(self) -> bool:
        """Whether rows wait that are not in flight."""
        return bool(self._queues)

    @property
    def lanes_in_use(self) -> set[str]:
        """The lanes that clients are in."""
        return {client.lane for client in self._clients.values()}

    @property
    def present(self) -> tuple[PresentClient, ...]:
        """Who is connected, to be looked at."""
        return tuple(self._clients.values())

    def quota_reached(self, client: ClientId, now_us: int) -> Reached | None:
        """Returns the quota that keeps a client from beginning a forward; None: there is none."""
        self.reflect()
        return self._admission.reached(client, now_us)

    def learn(self, base: BaseId, op: Op) -> OpId:
        """From now on a base's clients may ask for `op`, whose id is the number of the base's ops before it.

        Returns the number by which plans name it.
        """
        number = self._admission.learn(base, op)
        self.known.introduce(op, number, base)
        return number

    def number(self, client: ClientId, op: int) -> OpId | None:
        """Returns the number by which plans name an op of a client's base; None: there is no such op or client."""
        known = self._clients.get(client)
        return None if known is None else self._admission.number(known.base, op)

    def handle(self, event: Event) -> list[Instruction]:
        """Returns what is to be done about an event, in this order.

        Raises:
            LocalProtocolError: the event cannot be: a bug in the loop, or in the policy.
        """
        if self._lessons:
            self.reflect()
        return _HANDLERS[type(event)](self, event)

    def reflect(self) -> None:
        """Learns from the plans that are done. Decides nothing, and whenever it is called changes no decision."""
        self.planner.settle(self._known)
        for plan, took_us, now_us in self._lessons:
            self._known.finished(plan, took_us, now_us)
        self._lessons.clear()

    def statistics(self) -> SchedulerStatistics:
        """Counters since the start, and what is held now."""
        clients = client_statistics(self._clients.values(), self._queues)
        return SchedulerStatistics(
            clients,
            self._tallies.lanes(self._queues, Counter([client.lane for client in clients])),
            self._tallies.batches(),
            self.known.hold_status(),
            self._tallies.bases(),
            self.planner.tracks.in_flight,
            self._admission.draining,
        )

    def check(self) -> None:
        """Asserts that every row of every open request is computed, in flight or queued, exactly once."""
        check_rows(self._queues, self.planner.tracks, self._clients.values())

    def _joined(self, event: ClientJoined) -> list[Instruction]:
        if event.client in self._clients or not self._queues.has(event.lane):
            raise LocalProtocolError(f"{event} joins twice or in no lane")
        client = self._clients[event.client] = PresentClient(event)
        self._admission.joined(client)
        self.reflect()
        self.planner.joined(client.id, client.lane, client.user)
        return []

    def _left(self, event: ClientLeft) -> list[Instruction]:
        if self._clients.pop(event.client, None) is not None:
            self._queues.remove(event.client)
            self._admission.left(event.client)
            self._at_work.ended(event.client)
            self.reflect()
            self._known.left(event.client)
            self.planner.left(event.client)
        return []

    def _arrived(self, event: Arrived) -> list[Instruction]:
        client = self._clients.get(event.client)
        if client is None:
            return []
        instructions: list[Instruction] = []
        for arrival in event.arrivals:
            slot = arrival.slot
            if slot in client.open:
                self._left(ClientLeft(client.id))
                instructions.append(Drop(client.id, f"slot {slot} was published before it was answered"))
                break
            request = self._admission.admit(client, arrival, event.now_us)
            if isinstance(request, RefusalCode):
                client.refused += 1
                instructions.append(Answer(client.id, slot, arrival.generation, request, event.now_us))
                continue
            client.open[slot] = OpenRequest(request)
            self._at_work.ended(client.id)
            self._queues.push(request)
            self._known.arrived(request)
        return instructions

    def _turn(self, event: Turn) -> list[Instruction]:
        planner, now_us = self.planner, event.now_us
        idle = not planner.tracks.in_flight
        plans, until_us = planner.decide(now_us, self._known)
        if not plans:
            return [Sleep(until_us)]
        if idle:
            self._tallies.busy(now_us)
        company = None if planner.exact else self._at_work.count(now_us)
        runs: list[Instruction] = []
        for plan, beside in plans:
            if plan.aged:
                self._note_aged(plan.lead)
            runs.append(Run(plan, beside=beside, company=company))
        return runs

    def _note_aged(self, lead: Request) -> None:
        entry = self._clients[lead.client].open[lead.slot]
        if not entry.aged:
            entry.aged = True
            self._tallies.aged(lead.lane)

    def _done(self, event: PlanDone) -> list[Instruction]:
        plan = event.plan
        took_us = self.planner.tracks.finish(plan, event.now_us, event.ended_us)
        if not self.planner.tracks.in_flight:
            self._tallies.idle(event.now_us)
        self._tallies.computed(plan, self._admission.base(plan.op))
        if event.failed or took_us is None:
            self._known.failed(plan, event.now_us)
        else:
            self._lessons.append((plan, took_us, event.now_us))
        answers: list[Instruction] = []
        for part in plan.parts:
            request = part.request
            client = self._clients.get(request.client)
            if client is None:
                continue
            entry = client.open[request.slot]
            entry.rows_left -= part.stop - part.start
            if request in event.failed and entry.refusal is None:
                entry.refusal = event.failed[request]
                entry.rows_left -= self._queues.discard(request)
                self._known.convoys.holds.forget(request)
            if not entry.rows_left:
                answers.append(client.answer(entry))
                if entry.refusal is None:
                    self._tallies.answered(request)
                if client.here and not client.open:
                    self._at_work.answered(client.id, event.now_us)
        return answers

    def _adopt(self, event: Adopt) -> list[Instruction]:
        lanes = event.config.lanes
        if self.lanes_in_use - set(lanes):
            raise LocalProtocolError("somebody's lane is not in the configuration that is to be adopted")
        self._queues = self._queues.moved_to(lanes)
        self._admission.moved_to(event.config, self._clients.values())
        self._tallies.moved_to(lanes)
        self.planner.adopt(event.config, event.policy, self._queues)
        for client in self._clients.values():
            self.planner.joined(client.id, client.lane, client.user)
        self._known.convoys.adopted()
        return []

    def _drain(self, _: Drain) -> list[Instruction]:
        self._admission.draining = True
        return []


_HANDLERS: Final[dict[type[Event], Callable[[SchedulerState, Any], list[Instruction]]]] = {
    ClientJoined: SchedulerState._joined,
    ClientLeft: SchedulerState._left,
    Arrived: SchedulerState._arrived,
    Turn: SchedulerState._turn,
    PlanDone: SchedulerState._done,
    Adopt: SchedulerState._adopt,
    Drain: SchedulerState._drain,
}
