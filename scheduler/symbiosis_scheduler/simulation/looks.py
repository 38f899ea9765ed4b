"""How late a daemon looks for what its clients have asked: in a trace, and drawn from that in virtual time.

On a machine with fewer cores than processes this is no small matter. Who is woken waits for a core, and the core
is free when another client has asked, too: so two requests are found at once, and one waits for the other's batch.
"""

from __future__ import annotations

from symbiosis_scheduler.simulation.tape import Tape

__all__ = ["Looks"]


class Looks:
    """Of one trace: noted first, and then drawn from."""

    def __init__(self) -> None:
        self._after_batch_us: list[float] = []
        self._woken_us: list[float] = []
        self._done_us = -1
        """When the latest batch was done, if nobody has looked since."""
        self._found_us = -1

    def __repr__(self) -> str:
        return f"<Looks {len(self._after_batch_us)} after batches, {len(self._woken_us)} when woken>"

    def note_batch(self, done_us: int) -> None:
        """The thread that looks has computed a batch."""
        self._done_us = done_us

    def note_found(self, us: int, asked_us: int) -> None:
        """It has found a request. Of those of one look the first that was asked has woken it, if it slept."""
        if self._done_us < 0:
            late_us: float = us - asked_us
            if us == self._found_us:
                late_us = max(late_us, self._woken_us.pop())
            self._woken_us.append(late_us)
            self._found_us = us

    def note_look(self, us: int) -> None:
        """It has looked for the first time after a batch, and has found what came before this."""
        if self._done_us >= 0:
            self._after_batch_us.append(us - self._done_us)
        self._done_us = -1

    def after_batch_us(self, tape: Tape) -> float:
        """Returns how long after a batch it looks."""
        return tape.next(self._after_batch_us, 0)

    def woken_us(self, tape: Tape) -> float:
        """Returns how long after it was asked it looks, where it had nothing to do."""
        return tape.next(self._woken_us, 0)
