"""Asks the policy, track by track, and takes the rows of what it decides out of the queues.

Knows what waits and what runs; of clients, and of what becomes of a plan, nothing. A policy that decides what
cannot be carried out is found here.
"""

from __future__ import annotations

from collections.abc import Callable

from symbiosis_core.config import DaemonConfig
from symbiosis_core.errors import LocalProtocolError
from symbiosis_core.ids import ClientId
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Hold, Plan
from symbiosis_scheduler.decisions.policy import Policy
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.tracks import Tracks

__all__ = ["Planner"]


class Planner:
    """One policy over the tracks that it allows."""

    def __init__(
        self, config: DaemonConfig, policy: Policy, queues: Queues, *, max_in_flight: int, can_beside: bool
    ) -> None:
        self.max_in_flight = max_in_flight
        """How many plans of a track may have been started and not be done."""
        self.can_beside = can_beside
        """Whether plans of lower levels can be computed beside those of the first."""
        self._lay(config, policy, queues)

    def __repr__(self) -> str:
        return f"<Planner by {type(self.policy).__name__}, {self.tracks.in_flight} in flight>"

    def adopt(self, config: DaemonConfig, policy: Policy, queues: Queues) -> None:
        """From now on that policy decides over these queues; what runs goes on."""
        before = self.tracks
        self._lay(config, policy, queues)
        self.tracks.inherit(before)

    def settle(self, known: Known) -> None:
        """Lets the policy settle its accounts, if it keeps some, by what is known so far."""
        if self._settle is not None:
            self._settle(known)

    def joined(self, client: ClientId, lane: str, user: str) -> None:
        """Tells the policy, if it wants to know, who is here."""
        if self._joined is not None:
            self._joined(client, lane, user)

    def left(self, client: ClientId) -> None:
        """Tells the policy, if it wants to know, who is gone. Nothing of theirs is to be settled any more."""
        if self._left is not None:
            self._left(client)

    def decide(self, now_us: int, known: Known) -> tuple[list[tuple[Plan, bool]], int | None]:
        """Returns plans that start now, each with whether beside the first level, and when the first hold ends.

        Their rows are taken. There are none where the tracks are full, or nothing waits that is not held.

        Raises:
            LocalProtocolError: the policy decided what cannot be.
        """
        plans: list[tuple[Plan, bool]] = []
        until_us: int | None = None
        beside = self.tracks.first_is_at_work(now_us)
        for track in self.tracks:
            in_flight, queues = track.in_flight, track.queues
            while len(in_flight) < track.most:
                decision = self.policy.plan(now_us, queues, known)
                queues.noted()
                if isinstance(decision, Plan):
                    _check(decision)
                    self._queues.take(*decision.parts)
                    in_flight[decision] = now_us
                    known.started(decision, now_us)
                    plans.append((decision, track.beside and beside))
                    continue
                if isinstance(decision, Hold):
                    until_us = decision.until_us if until_us is None else min(until_us, decision.until_us)
                elif track.queues and not track.in_flight:
                    raise LocalProtocolError("the policy lets requests wait and names no time")
                break
        return plans, until_us

    def _lay(self, config: DaemonConfig, policy: Policy, queues: Queues) -> None:
        """Lays the tracks for what waits. Exact batches come one after the other: bits depend on threads."""
        self.policy = policy
        """Who decides."""
        self._settle: Callable[[Known], None] | None = getattr(policy, "settle", None)
        self._joined: Callable[[ClientId, str, str], None] | None = getattr(policy, "joined", None)
        self._left: Callable[[ClientId], None] | None = getattr(policy, "left", None)
        self.exact = config.batching.exact
        self._queues = queues
        beside = self.can_beside and getattr(policy, "beside", False) and not self.exact
        self.tracks = Tracks(queues, self.max_in_flight, beside=beside)


def _check(plan: Plan) -> None:
    if not plan.parts:
        raise LocalProtocolError("the policy made an empty plan")
    lead = plan.parts[0].request
    if lead.op != plan.op or lead.direction != plan.direction:
        raise LocalProtocolError(f"{lead} does not belong into {plan}")
