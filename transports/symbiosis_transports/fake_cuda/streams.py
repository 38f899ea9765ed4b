"""The streams of one fake process: ordered queues, of which somebody chooses the next that moves.

Nothing here takes time or decides: `step` is told which stream moves, so that a seed can decide, and a run can be
repeated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from symbiosis_transports.cuda.seam import Stream

__all__ = ["Queued", "Streams"]


class Queued(NamedTuple):
    """One step of a stream."""

    ready: Callable[[], bool]
    """Whether it can be made: a wait cannot before its event is done."""
    make: Callable[[], None]


class Streams:
    """All streams of one process."""

    def __init__(self) -> None:
        self._queues: dict[Stream, deque[Queued]] = {}

    def __len__(self) -> int:
        """How many steps are queued."""
        return sum(map(len, self._queues.values()))

    def queue(self, stream: Stream, step: Queued) -> None:
        """Puts a step behind all that is queued on the stream."""
        self._queues.setdefault(stream, deque()).append(step)

    def movable(self) -> list[Stream]:
        """The streams whose next step can be made now."""
        return [stream for stream, queue in self._queues.items() if queue and queue[0].ready()]

    def step(self, stream: Stream) -> None:
        """Makes the next step of a movable stream. It is queued no more only when it is made."""
        queue = self._queues[stream]
        queue[0].make()
        queue.popleft()

    def forget(self) -> None:
        """Drops all that is queued: the process died."""
        self._queues.clear()
