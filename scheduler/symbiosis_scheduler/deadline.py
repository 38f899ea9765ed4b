"""`deadline`: whoever is due first goes first (EDF), by the lanes' targets for tokens.

A forward begins with token ids and makes one token. All of its requests are due when the token is:
`first_token_us` after the forward began where it reads a prompt, `token_us` otherwise. A request of a lane without
targets is due `max_wait_us` after it came; without that, too, it has time until nobody else has anything to do.

Earliest deadline first meets every deadline that can be met by anybody, and says nothing of what happens where not
all can: then everybody is late by about the same. Priorities decide between equal deadlines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from symbiosis_core.config import DaemonConfig
from symbiosis_scheduler.filling import batch, first_ready
from symbiosis_scheduler.known import Known
from symbiosis_scheduler.plan import Decision, Hold
from symbiosis_scheduler.queues import Queues
from symbiosis_scheduler.request import Request

__all__ = ["Deadline"]

_NEVER_US: Final = 1 << 62


class Deadline:
    """Earliest deadline first over the heads of all clients, in chunks, with holding."""

    reads: ClassVar[frozenset[str]] = frozenset(
        {"priority", "chunk_rows", "max_wait_us", "max_hold_us", "first_token_us", "token_us"}
    )

    def __init__(self, config: DaemonConfig) -> None:
        self._max_rows = config.batching.max_rows
        self._exact = config.batching.exact
        self._targets = {
            name: (
                lane.first_token_us or lane.token_us,
                lane.token_us or lane.first_token_us,
                lane.max_wait_us or _NEVER_US,
            )
            for name, lane in config.lanes.items()
        }
        """Of every lane: for a first token, for any other, and for a request where there are no such targets."""

    def plan(self, now_us: int, queues: Queues, known: Known) -> Decision:
        """Returns the batch whose lead is due first of those that are not better held."""
        heads = [head for level in queues.levels for head in level.heads()]
        if not heads:
            return None
        heads.sort(key=self._due(known))
        heads = [head for head in heads if head.lane == heads[0].lane]  # while one is held no other lane goes
        if self._exact:
            return batch(heads[0], queues, self._max_rows, exact=True)
        lead, until_us = first_ready(heads, queues, known, now_us, self._max_rows)
        return Hold(until_us) if lead is None else batch(lead, queues, self._max_rows)

    def _due(self, known: Known) -> Callable[[Request], int]:
        """Returns what says when a request is due."""
        targets, travellers = self._targets, known.travellers.all

        def due_us(request: Request) -> int:
            first_token_us, token_us, max_wait_us = targets[request.lane]
            traveller = travellers.get(request.client)
            if token_us and traveller is not None and traveller.started_us >= 0:
                return traveller.started_us + (first_token_us if traveller.first_token else token_us)
            return request.arrived_us + max_wait_us

        return due_us
