"""Keeps clients together that do the same work, so that one reading of the weights serves them all.

A batch of a few rows costs what one row costs: the weights are read once. But independent clients are at different
layers, and taking whatever is ready batches next to nothing (four decoding clients: 1.006 requests a batch). So
batching is made, in two ways, each bounded by the lane's `max_hold_us`:

- *Companions.* Clients that were answered together come back together, each after its own thinking. The first to
  come is held until the others are there, or until the time by which each of them has so far come (mean plus four
  mean deviations, as TCP waits for its acknowledgements).
- *Rendezvous.* A forward starts with token ids. A client that starts one is held for another that is due to
  start one, too, judged by how long its forwards have taken. It is paid once; afterwards they are companions.

Who does not come in time is held for no more: it left the convoy, and is only met again by chance, or at a
rendezvous after a pause that doubles with every disappointment. Large requests are not held: they are bound by
computing, not by reading.

Pure: `now` is an argument, and all that is kept is a few numbers per client.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from symbiosis_core.ids import ClientId, OpId
from symbiosis_core.specs import Direction
from symbiosis_scheduler.plan import Plan
from symbiosis_scheduler.request import Request

__all__ = ["FEW_ROWS", "Convoys"]

FEW_ROWS: Final = 32
"""Up to this many rows a request is worth holding. Measured: 8 rows cost 1.2 times one row, 256 rows 16 times."""
_LEAST_SLACK_US: Final = 200
"""A client is given at least this much more than it usually takes."""
_LONGEST_PAUSE: Final = 64
"""Forwards after which a client that disappointed is waited for again."""


class _Estimate:
    """A mean and a mean deviation, as in RFC 6298."""

    __slots__ = ("deviation", "mean")

    def __init__(self) -> None:
        self.mean = self.deviation = -1.0

    def add(self, value: float) -> None:
        if self.mean < 0:
            self.mean, self.deviation = value, value / 2
            return
        self.deviation += (abs(value - self.mean) - self.deviation) / 4
        self.mean += (value - self.mean) / 8

    @property
    def late(self) -> float:
        """When to stop waiting; negative if nothing is known."""
        return self.mean + max(4 * self.deviation, _LEAST_SLACK_US) if self.mean >= 0 else -1.0


class _Traveller:
    """What is known of one client."""

    __slots__ = (
        "answered_us",
        "companions",
        "forward",
        "paused",
        "pauses",
        "started_us",
        "starts_with",
        "thinking",
    )

    def __init__(self) -> None:
        self.companions: frozenset[ClientId] = frozenset()
        self.answered_us = -1
        """When its last request was answered; -1: it is waiting for an answer."""
        self.thinking = _Estimate()
        """From an answer to the next request."""
        self.started_us = -1
        self.starts_with: OpId | None = None
        self.forward = _Estimate()
        """From the start of one forward to the start of the next."""
        self.paused = 0
        """Forwards for which nobody waits for it at a rendezvous."""
        self.pauses = 1


class Convoys:
    """Says which requests are better held. Told of every request, plan and departure."""

    def __init__(self) -> None:
        self.starts: Final[set[OpId]] = set()
        """Ops that take token ids, so that a forward begins with them."""
        self._travellers: dict[ClientId, _Traveller] = {}
        self.missed = 0
        """How often somebody was waited for and did not come in time."""

    def __repr__(self) -> str:
        return f"<Convoys of {len(self._travellers)}: {self.missed} missed>"

    def arrived(self, request: Request) -> None:
        """A client wants something."""
        traveller = self._travellers.setdefault(request.client, _Traveller())
        now_us = request.arrived_us
        if traveller.answered_us >= 0:
            traveller.thinking.add(now_us - traveller.answered_us)
            traveller.answered_us = -1
        if request.direction is Direction.FORWARD and request.op in self.starts:
            if traveller.started_us >= 0:
                traveller.forward.add(now_us - traveller.started_us)
            traveller.started_us, traveller.starts_with = now_us, request.op
            traveller.paused = max(0, traveller.paused - 1)

    def finished(self, plan: Plan, now_us: int) -> None:
        """A plan's rows are computed; whose request is complete travels on."""
        answered = frozenset(
            part.request.client
            for part in plan.parts
            if part.stop == part.request.rows and part.request.rows <= FEW_ROWS
        )
        for client in plan.clients:
            traveller = self._travellers.get(client)
            if traveller is not None:
                traveller.answered_us = now_us
                traveller.companions = answered - {client} if client in answered else frozenset()

    def left(self, client: ClientId) -> None:
        """A client is gone. Nobody waits for it."""
        self._travellers.pop(client, None)

    def hold_until(
        self,
        lead: Request,
        present: Collection[ClientId],
        waiting: Collection[ClientId],
        now_us: int,
        most_us: int,
    ) -> int | None:
        """Returns until when a plan led by `lead` is better held; None: start it.

        `present` has the clients whose requests would be in it, `waiting` all that have any request waiting.
        """
        if not most_us or lead.rows > FEW_ROWS or len(self._travellers) < 2:
            return None
        traveller = self._travellers.get(lead.client)
        if traveller is None:
            return None
        latest_us = lead.arrived_us + most_us
        until_us = self._companions_until(traveller, present, waiting, now_us, latest_us)
        if until_us is None and lead.direction is Direction.FORWARD and lead.op in self.starts:
            until_us = self._rendezvous_until(lead, present, now_us, latest_us)
        return until_us

    def _companions_until(
        self,
        traveller: _Traveller,
        present: Collection[ClientId],
        waiting: Collection[ClientId],
        now_us: int,
        latest_us: int,
    ) -> int | None:
        missing = [client for client in traveller.companions if client not in present]
        if not missing:
            return None
        until_us, late = 0, []
        for client in missing:
            other = self._travellers.get(client)
            due_us = -1.0
            if other is not None and client not in waiting and other.answered_us >= 0:
                due_us = other.answered_us + other.thinking.late if other.thinking.mean >= 0 else now_us + 1000
            due = min(int(due_us), latest_us)
            if due <= now_us:
                late.append(client)
            else:
                until_us = max(until_us, due)
        if late:
            traveller.companions -= frozenset(late)
            self.missed += 1
        return until_us or None

    def _rendezvous_until(
        self, lead: Request, present: Collection[ClientId], now_us: int, latest_us: int
    ) -> int | None:
        """Waits for the next one that is due to start what `lead` starts."""
        soonest: int | None = None
        for client, other in self._travellers.items():
            if client in present or other.paused or other.starts_with != lead.op:
                continue
            if other.forward.mean < 0:
                continue
            expected_us = other.started_us + int(other.forward.mean)
            late_us = other.started_us + int(other.forward.late)
            if expected_us > latest_us:
                continue  # too far: next time
            if late_us <= now_us:
                self._disappointed(other)
                continue
            due_us = min(late_us, latest_us)
            if due_us > now_us and (soonest is None or due_us < soonest):
                soonest = due_us
        return soonest

    def _disappointed(self, traveller: _Traveller) -> None:
        traveller.paused = traveller.pauses
        traveller.pauses = min(2 * traveller.pauses, _LONGEST_PAUSE)
        self.missed += 1
