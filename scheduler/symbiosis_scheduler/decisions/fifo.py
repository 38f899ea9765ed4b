"""`fifo`: what came first is computed first, whoever asked. The baseline of servers that know no lanes."""

from __future__ import annotations

from typing import ClassVar

from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.decisions.bounds import of_first_come
from symbiosis_scheduler.decisions.filling import batch, first_come
from symbiosis_scheduler.decisions.known import Known
from symbiosis_scheduler.decisions.plan import Decision
from symbiosis_scheduler.decisions.queues import Queues

__all__ = ["Fifo"]


class Fifo:
    """The oldest request leads, whole up to `batching.max_rows`; what waits for the same rides along."""

    reads: ClassVar[frozenset[str]] = frozenset()
    explain = staticmethod(of_first_come)

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the next batch; None only if nothing waits."""
        lead = first_come(next(iter(lane.waiting.items())) for lane in queues.lanes if lane.waiting)
        if lead is None:
            return None
        return batch(lead, queues, self._max_rows, exact=self._exact, chunked=False)
