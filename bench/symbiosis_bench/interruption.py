"""What a signal does to a command that has started processes: it runs the way out, and leaves no child behind."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Final

__all__ = ["kept_waiting", "leave_in_order"]

_WAYS_OUT: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_in_order() -> None:
    """Lets signals that would end this process at once raise SystemExit instead. Ctrl-C raises already."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _leave)


@contextlib.contextmanager
def kept_waiting() -> Iterator[None]:
    """What raises where a signal comes raises at the end of the block instead.

    A child that is started and not written down yet would be left behind. Blocking signals would not do, for a
    child inherits what is blocked; what handles them in Python it does not. Only the main thread is interrupted.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: handler for number in _WAYS_OUT if callable(handler := signal.getsignal(number))}
    for number in before:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for each in came:
            before[signal.Signals(each)](each, None)


def _leave(number: int, _: object) -> None:
    sys.exit(128 + number)
