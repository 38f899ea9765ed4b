"""Waiting that a signal ends, so that what is being written is ended in order.

Ctrl-C, SIGTERM and the terminal's hang-up are noted wherever they come and say "enough" at the next wait. The
second one does what it does elsewhere. A signal that the process ignores, as under nohup, stays ignored.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Final

__all__ = ["Patience"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Patience:
    """So many seconds, or until a signal comes."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds
        self._came: SimpleQueue[int] = SimpleQueue()
        """Signals. A handler may put into it wherever the program is."""

    def __repr__(self) -> str:
        return f"<Patience until {self._ends:.1f}>"

    def wait(self, most_s: float) -> bool:
        """Waits for so long at most, and says whether it is enough."""
        left_s = self._ends - time.monotonic()
        try:
            self._came.get(timeout=max(0.0, min(most_s, left_s)))
        except Empty:
            return time.monotonic() >= self._ends
        return True

    @contextmanager
    def heeding_signals(self) -> Iterator[None]:
        """Notes the first signal that comes in the block, and restores what was there. In the main thread only."""
        before = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: now for number, now in before.items() if now not in (None, signal.SIG_IGN)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler)

        def note(number: int, _: object) -> None:
            restore()
            self._came.put(number)

        for number in before:
            signal.signal(number, note)
        try:
            yield
        finally:
            restore()
