"""Who is connected and what of theirs is not answered: what the state keeps of a client."""

from __future__ import annotations

from symbiosis_core.errors import RefusalCode
from symbiosis_core.ids import SlotIndex
from symbiosis_scheduler.decisions.events import Answer, ClientJoined
from symbiosis_scheduler.decisions.request import Request

__all__ = ["OpenRequest", "PresentClient"]


class OpenRequest:
    """A request that has not been answered."""

    __slots__ = ("aged", "refusal", "request", "rows_left")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.rows_left = request.rows
        """Rows that wait or are in plans that run. Once it is refused, only these: none waits any more."""
        self.refusal: RefusalCode | None = None
        self.aged = False


class PresentClient:
    """A client that is connected."""

    __slots__ = (
        "base",
        "here",
        "id",
        "lane",
        "name",
        "open",
        "refused",
        "requests",
        "rows",
        "slot_bytes",
        "user",
    )

    def __init__(self, joined: ClientJoined) -> None:
        self.id = joined.client
        self.lane = joined.lane
        self.slot_bytes = joined.slot_bytes
        self.user = joined.user
        self.base = joined.base
        self.here = joined.here
        self.name = joined.name
        self.open: dict[SlotIndex, OpenRequest] = {}
        self.requests = self.rows = self.refused = 0
        """Answered with rows, the rows of those, and answered with a refusal."""

    def answer(self, entry: OpenRequest) -> Answer:
        """Counts an open request, whose rows have all come back, and returns its answer: it is open no more."""
        request = entry.request
        del self.open[request.slot]
        if entry.refusal is None:
            self.requests += 1
            self.rows += request.rows
        else:
            self.refused += 1
        return Answer(self.id, request.slot, request.generation, entry.refusal, request.arrived_us)
