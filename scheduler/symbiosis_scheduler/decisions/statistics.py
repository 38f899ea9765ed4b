"""What can be counted of the scheduler, as one consistent look at it."""

from __future__ import annotations

import msgspec

from symbiosis_core.ids import FIRST_BASE, BaseId, ClientId
from symbiosis_core.wire import BatchStatus, HoldStatus, LaneStatus

__all__ = ["BaseStatistics", "ClientStatistics", "SchedulerStatistics"]


class BaseStatistics(msgspec.Struct, frozen=True):
    """What was computed over one base since the start."""

    batches: int
    rows: int


class ClientStatistics(msgspec.Struct, frozen=True):
    """One client's share."""

    id: ClientId
    lane: str
    requests: int
    """Answered with rows."""
    rows: int
    """Of those requests."""
    queued: int
    """Requests with rows that are in no plan yet."""
    refused: int
    """Answered with a refusal."""
    base: BaseId = FIRST_BASE


class SchedulerStatistics(msgspec.Struct, frozen=True):
    """One consistent look at the scheduler."""

    clients: tuple[ClientStatistics, ...]
    """In order of joining."""
    lanes: tuple[LaneStatus, ...]
    """By priority. Here too, `requests` and `rows` are those answered with rows, also of clients that left."""
    batches: BatchStatus
    """Finished ones. `busy_s` is time with at least one plan in flight, from its `Turn` to its `PlanDone`."""
    holds: HoldStatus
    bases: tuple[BaseStatistics, ...]
    """By `BaseId`."""
    in_flight: int
    draining: bool
