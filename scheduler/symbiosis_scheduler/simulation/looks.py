"""How late a daemon looks for what its clients have asked: in a trace, and drawn from that in virtual time.

On a machine with fewer cores than processes this is no small matter. Who is woken waits for a core, and the core
is free when another client has asked, too: so two requests are found at once, and one waits for the other's batch.
And who answers a client may lose its core to it: then it looks again when that client has asked for more and
sleeps, however long it thought, and finds what it asked.

All of it is another matter for each lane: a client that decodes has one core and gives it away when it has asked,
one that trains may have several requests open.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from symbiosis_scheduler.simulation.tape import Tape

__all__ = ["Looks", "Next"]

T = TypeVar("T")


class Next(NamedTuple):
    """The first look after a batch."""

    after_us: float
    """From the end of the batch."""
    asked_us: float | None
    """From when the client for whose sake it was had asked again; None: it had not."""


class _Batch(NamedTuple):
    """What was computed last, if nobody has looked since."""

    done_us: int
    lane: str
    client: int


class Looks:
    """Of one trace: noted first, and then drawn from."""

    def __init__(self) -> None:
        self._after_batch: dict[str, list[Next]] = {}
        """By the lane of the batch."""
        self._woken_us: dict[str, list[float]] = {}
        """By the lane of who has woken it."""
        self._batch: _Batch | None = None
        self._asked_again_us: int | None = None
        """When the client of that batch has asked for more, if that was found."""
        self._found_us = -1
        self._woke: list[float] = []
        """Where the lateness of the look at that time was noted."""

    def __repr__(self) -> str:
        after, woken = (sum(map(len, each.values())) for each in (self._after_batch, self._woken_us))
        return f"<Looks {after} after batches, {woken} when woken>"

    def note_batch(self, done_us: int, lane: str, client: int) -> None:
        """The thread that looks has computed a batch, for the sake of that client."""
        self._batch, self._asked_again_us = _Batch(done_us, lane, client), None

    def note_found(self, us: int, asked_us: int, lane: str, client: int) -> None:
        """It has found a request. Of those of one look the first that was asked has woken it, if it slept."""
        if self._batch is not None:
            if client == self._batch.client and self._asked_again_us is None:
                self._asked_again_us = asked_us
            return
        late_us = us - asked_us
        if us == self._found_us:
            if late_us <= self._woke[-1]:
                return
            self._woke.pop()
        self._woke = self._woken_us.setdefault(lane, [])
        self._woke.append(late_us)
        self._found_us = us

    def note_look(self, us: int) -> None:
        """It has looked for the first time after a batch, and has found what came before this."""
        if self._batch is not None:
            again_us = self._asked_again_us
            found = Next(us - self._batch.done_us, None if again_us is None else us - again_us)
            self._after_batch.setdefault(self._batch.lane, []).append(found)
        self._batch = None

    def after_batch(self, tape: Tape, lane: str) -> Next:
        """Returns when it looks after a batch for the sake of that lane."""
        return tape.next(_of(self._after_batch, lane), Next(0, None))

    def woken_us(self, tape: Tape, lane: str) -> float:
        """Returns how long after it was asked by somebody of a lane it looks, where it had nothing to do."""
        return tape.next(_of(self._woken_us, lane), 0)


def _of(noted: dict[str, list[T]], lane: str) -> Sequence[T]:
    """Returns what was noted of a lane; of one that has nothing, what was noted most often."""
    return noted.get(lane) or max(noted.values(), key=len, default=())
