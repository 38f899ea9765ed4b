"""What was served since the start, counted: by lane, by base, by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from symbiosis_core.ids import BaseId
from symbiosis_core.wire import BatchStatus, LaneStatus
from symbiosis_scheduler.decisions.plan import Plan
from symbiosis_scheduler.decisions.present import PresentClient
from symbiosis_scheduler.decisions.queues import Queues
from symbiosis_scheduler.decisions.request import Request
from symbiosis_scheduler.decisions.statistics import BaseStatistics, ClientStatistics

__all__ = ["Tallies", "client_statistics"]


class _Served:
    """What a lane has done."""

    __slots__ = ("aged", "requests", "rows")

    def __init__(self) -> None:
        self.requests = self.rows = self.aged = 0


class _Computed:
    """What was computed over a base."""

    __slots__ = ("batches", "rows")

    def __init__(self) -> None:
        self.batches = self.rows = 0


class Tallies:
    """The counters. Those of a lane that is configured away are forgotten with it."""

    def __init__(self, lanes: Iterable[str], bases: int) -> None:
        self._lanes = {lane: _Served() for lane in lanes}
        self._bases = [_Computed() for _ in range(bases)]
        self._batches = self._requests = self._rows = self._clients = 0
        self._busy_us = self._busy_since_us = 0

    def moved_to(self, lanes: Iterable[str]) -> None:
        """From now on there are these lanes."""
        self._lanes = {lane: self._lanes.get(lane) or _Served() for lane in lanes}

    def busy(self, now_us: int) -> None:
        """The first plan starts where none was in flight."""
        self._busy_since_us = now_us

    def idle(self, now_us: int) -> None:
        """The last plan in flight is done."""
        self._busy_us += now_us - self._busy_since_us

    def aged(self, lane: str) -> None:
        """A request of the lane went before one of a lane that goes first by priority."""
        self._lanes[lane].aged += 1

    def computed(self, plan: Plan, base: BaseId) -> None:
        """A plan is done."""
        rows = plan.rows
        self._batches += 1
        self._requests += len(plan.parts)
        self._rows += rows
        self._clients += len(plan.clients)
        computed = self._bases[base]
        computed.batches += 1
        computed.rows += rows

    def answered(self, request: Request) -> None:
        """A request is answered with its rows."""
        lane = self._lanes[request.lane]
        lane.requests += 1
        lane.rows += request.rows

    def lanes(self, queues: Queues, members: Counter[str]) -> tuple[LaneStatus, ...]:
        """Returns what every lane did, and holds now, by priority. `members` has how many clients are in each."""
        return tuple(
            LaneStatus(
                name=lane.name,
                priority=lane.config.priority,
                clients=members[lane.name],
                queued_requests=len(lane.waiting),
                queued_rows=lane.rows,
                requests=served.requests,
                rows=served.rows,
                aged=served.aged,
            )
            for lane in queues.lanes
            for served in (self._lanes[lane.name],)
        )

    def batches(self) -> BatchStatus:
        """Returns what batches held, and how long any was in flight."""
        return BatchStatus(
            count=self._batches,
            requests=self._requests,
            rows=self._rows,
            clients=self._clients,
            busy_s=self._busy_us / 1e6,
        )

    def bases(self) -> tuple[BaseStatistics, ...]:
        """Returns what was computed over each base, by `BaseId`."""
        return tuple([BaseStatistics(each.batches, each.rows) for each in self._bases])


def client_statistics(clients: Iterable[PresentClient], queues: Queues) -> tuple[ClientStatistics, ...]:
    """Returns what every client that is here was answered, and has waiting, in order of joining."""
    return tuple(
        ClientStatistics(
            client.id,
            client.lane,
            client.requests,
            client.rows,
            queues.held_by(client.id),
            client.refused,
            client.base,
        )
        for client in clients
    )
