"""How often a thread was put aside while it could run: whether anybody else wants its core."""

from __future__ import annotations

import resource
import threading

__all__ = ["Switches"]


class Switches:
    """How often whoever asks was put aside while it could run. Yielding counts where somebody took the core.

    The kernel counts for each thread: between two of them there is no difference to be taken.
    """

    def __init__(self) -> None:
        self._thread = self._counted = self._total = 0

    def __repr__(self) -> str:
        return f"<Switches {self._total}>"

    def __call__(self) -> int:
        """Returns those that were seen between two questions of one thread, all together."""
        thread, counted = threading.get_native_id(), resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        if thread == self._thread:
            self._total += counted - self._counted
        self._thread, self._counted = thread, counted
        return self._total
